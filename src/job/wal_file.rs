//! One WAL file of a process that has the archive open: put into it, or found in it.

use std::sync::Arc;

use crate::archive::wal::{Behind, WalMeta};
use crate::archive::{self, Archive};
use crate::codec::Compression;
use crate::pg::WalName;
use crate::staging::{Draft, Staging};
use crate::store::Patience;

/// No segment is longer; a bound against mistakes.
pub const LONGEST_BYTES: u64 = 1 << 30;

/// Why a file that is not archived proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The archive cannot be asked.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// Later ones of its timeline are there.
    #[error(transparent)]
    Hole(#[from] archive::wal::Hole),
    /// It was there.
    #[error(transparent)]
    Pruned(#[from] archive::wal::PrunedWal),
}

/// A draft for the content of a file; what has no pages is not compressed.
pub fn draft(staging: &Staging, codec: Compression, name: WalName) -> Draft {
    staging.draft_with(match name.has_pages() {
        true => codec,
        false => Compression::None,
    })
}

/// The file, if it is archived; `None` only if the store says that it is not, and that is the end of its timeline (promise
/// R6). What comes within a moment is found.
///
/// # Errors
/// [`Missing`].
pub async fn find(
    archive: &Arc<Archive>,
    name: WalName,
    patience: Patience,
) -> Result<Option<WalMeta>, Missing> {
    match archive.wal_meta(name, patience).await? {
        Some(meta) => Ok(Some(meta)),
        None => come_meanwhile(archive, name, patience).await,
    }
}

/// The same of a file that the store has just said not to have.
///
/// # Errors
/// [`Missing`].
pub async fn come_meanwhile(
    archive: &Archive,
    name: WalName,
    patience: Patience,
) -> Result<Option<WalMeta>, Missing> {
    match name {
        WalName::Segment(segment) => match archive.settled_behind(segment, || false, patience).await? {
            Behind::End => Ok(None),
            Behind::Come => Ok(archive.wal_meta(name, patience).await?),
            Behind::Hole(hole) => Err(hole.into()),
            Behind::Pruned(pruned) => Err(pruned.into()),
        },
        WalName::History(timeline) => {
            if let Some(lost) = archive.lost_history(timeline, patience).await? {
                tracing::warn!("{lost}");
            }
            Ok(None)
        }
        WalName::Partial(_) | WalName::Backup(..) => Ok(None),
    }
}
