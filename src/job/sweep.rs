//! Taking away what killed `walfs backup` and `walfs files` have left (promise B2), never what somebody is still at, nor what was brought
//! through the mount, nor what may be a complete backup without its summary (promise B9): that is for [`super::discard`].

use std::time::SystemTime;

use crate::archive::tree::begun::Maker;
use crate::archive::{Archive, Error};
use crate::store::Patience;

/// Drops every unfinished tree that a dead `walfs backup` or `walfs files` has left, and says so in the log. Returns how many. A maker that
/// cannot be seen from here is dead when something else was stored a day after its last object, and our own clock agrees.
///
/// # Errors
/// [`Error::Store`]; what was dropped before stays dropped.
pub async fn sweep(archive: &Archive, patience: Patience) -> Result<usize, Error> {
    let mut dropped = 0;
    let trees = archive.unfinished_trees(patience).await?;
    // The store's clock, as far as it is known: ours may be a day ahead of it, and so may be the time of one object.
    let newest = trees.iter().map(|tree| tree.last_stored).max();
    let now = newest.map_or_else(SystemTime::now, |newest| newest.min(SystemTime::now()));
    for tree in trees {
        let maker = tree.maker(now);
        if tree.may_have_lost_its_summary(maker) {
            tracing::warn!(
                "{} may be a complete backup whose summary, {}, is missing: it stays.\n\
                 HINT: bring the summary back from a copy of the store, or remove the rest by `walfs backup-discard {}`.",
                tree.id.prefix(),
                tree.id.name().summary_key(tree.kind()),
                tree.id.name()
            );
        }
        if !tree.may_be_swept() || maker != Maker::Dead {
            continue;
        }
        match archive.drop_unfinished(&tree.id, patience).await {
            Ok(()) => {
                dropped += 1;
                tracing::warn!(
                    "removed what an unfinished backup, version of files or dump, named {} had left: {} bytes",
                    tree.id.name(),
                    tree.stored_bytes
                );
            }
            // Committed between the two looks, or nobody can tell any more: then it is no leftover.
            Err(Error::TreeExists { .. } | Error::TreeDamaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(dropped)
}
