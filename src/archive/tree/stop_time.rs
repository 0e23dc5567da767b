//! When a backup ended, as the archive says it.

use super::backup::Backup;
use super::ended::Ended;
use crate::archive::{Archive, Error};
use crate::pg::backup_history;
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::store::Patience;

impl Archive {
    /// When a backup ended: what its summary says, or the `.backup` file in `wal/` where that knows better.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ended(&self, backup: &Backup, patience: Patience) -> Result<Ended, Error> {
        if backup.ended.is_exact() {
            return Ok(backup.ended);
        }
        let Some(name) = history_name(backup) else {
            return Ok(backup.ended);
        };
        let history = match self.read_small(name, patience).await {
            Ok(text) => text.and_then(|text| backup_history::parse(&text).ok()),
            Err(Error::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let stop = backup.stop().map(|(_, lsn)| lsn);
        let own = history.filter(|history| Some(history.stop_lsn) == stop);
        Ok(own.map_or(backup.ended, |history| backup.ended.refined(&history)))
    }
}

/// Name of the `.backup` file that its end left in `wal/`.
fn history_name(backup: &Backup) -> Option<WalName> {
    let (timeline, start) = backup.start()?;
    let size = SegmentSize::new(backup.segment_bytes).ok()?;
    let segment = SegmentName::from_number(timeline, start.0 / size.bytes(), size)?;
    let offset = u32::try_from(start.0 % size.bytes()).ok()?;
    Some(WalName::Backup(segment, offset))
}
