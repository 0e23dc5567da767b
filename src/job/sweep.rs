//! Taking away what killed `walfs backup` have left (promise B2), never what somebody is still at, nor what was brought
//! through the mount (promise B9): that is for [`super::discard`].

use std::time::SystemTime;

use crate::archive::tree::begun::Maker;
use crate::archive::{Archive, Error};
use crate::store::Patience;

/// Drops every unfinished tree that a dead `walfs backup` has left, and says so in the log. Returns how many.
///
/// # Errors
/// [`Error::Store`]; what was dropped before stays dropped.
pub async fn sweep(archive: &Archive, patience: Patience) -> Result<usize, Error> {
    let mut dropped = 0;
    for tree in archive.unfinished_trees(patience).await? {
        if !tree.may_be_swept() || tree.maker(SystemTime::now()) != Maker::Dead {
            continue;
        }
        match archive.drop_unfinished(&tree.id, patience).await {
            Ok(()) => {
                dropped += 1;
                tracing::warn!(
                    "removed what an unfinished backup named {} had left: {} bytes",
                    tree.id.name(),
                    tree.stored_bytes
                );
            }
            // Committed between the two looks: then it is no leftover.
            Err(Error::TreeExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(dropped)
}
