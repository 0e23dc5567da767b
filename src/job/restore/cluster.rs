//! Is the backup of the archive's cluster (promise W5)? The archive may have had no WAL, and so no owner, when it was stored.

use super::error::Error;
use super::place::CONTROL;
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::pg::SystemId;
use crate::store::Patience;

/// `own` is its cluster by its control file.
///
/// # Errors
/// [`Error::Content`], [`Error::Archive`].
pub(super) async fn check(
    archive: &Archive,
    name: &TreeName,
    own: SystemId,
    patience: Patience,
) -> Result<(), Error> {
    let cluster = archive
        .cluster_of_wal(patience)
        .await?
        .map(|cluster| cluster.system_id);
    match cluster {
        Some(cluster) if own != cluster => {
            let place = archive.place();
            Err(Error::Content {
                backup: name.clone(),
                file: CONTROL.into(),
                reason: format!(
                    "it is of the cluster {own}, and {place} has the WAL of {cluster}: it would not recover"
                ),
            })
        }
        _ => Ok(()),
    }
}
