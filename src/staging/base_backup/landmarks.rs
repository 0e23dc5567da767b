//! Is the archived WAL that of the backup? One that brings no segments, or brings them in compressed tar files, is known by
//! records alone (promise B2).

use super::{Candidate, Error};
use crate::archive::tree::backup::Backup;
use crate::archive::tree::landmarks::Unsettled;
use crate::archive::tree::summary::Method;
use crate::pg::SegmentName;
use crate::pg::landmark::Landmark;

impl Candidate<'_> {
    /// Looks for the records that the backup knows, in segments that are archived already; it keeps the others.
    ///
    /// # Errors
    /// [`Error::NoBackup`] if something else is there; [`Error::Tree`].
    pub(super) async fn settle_landmarks(&self, backup: &mut Backup) -> Result<(), Error> {
        let is_by_hand = self.0.method() == Method::ByHand;
        if is_by_hand {
            let is_boundary = |landmark: &Landmark| matches!(landmark, Landmark::Boundary { .. });
            backup.landmarks.retain(|landmark| !is_boundary(landmark));
        }
        let archive = self.0.archive();
        let awaited: Vec<SegmentName> = backup.awaited.iter().map(|own| own.segment).collect();
        let settled = archive.settle_landmarks(backup, &awaited, self.0.patience());
        settled.await.map_err(|unsettled| match unsettled {
            Unsettled::Archive(error) => error.into(),
            Unsettled::Other(segment, found) => Error::no_backup(format!(
                "{segment} in {} is another server's WAL, and this backup would not recover: {found}.\n\
                 HINT: pg_stat_archiver shows since when this server's WAL is refused; give it an archive of its own",
                archive.place()
            )),
        })?;
        if is_by_hand {
            backup.landmarks.retain(|landmark| !landmark.is_at_end());
        }
        Ok(())
    }
}
