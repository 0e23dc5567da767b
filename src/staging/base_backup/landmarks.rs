//! Is the archived WAL that of the backup? One that brings no segments, or brings them in compressed tar files, is known by
//! records alone (promise B2).

use super::{Candidate, Error};
use crate::archive::tree::backup::Backup;
use crate::pg::control::ControlFile;
use crate::pg::label::BackupLabel;
use crate::pg::{Lsn, SegmentSize, landmark};

/// What a server begins from, as far as it is known.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) label: Option<BackupLabel>,
    pub(super) control: Option<ControlFile>,
}

impl Candidate<'_> {
    /// Looks for the records that the backup knows, in segments that are archived already.
    ///
    /// # Errors
    /// [`Error::NoBackup`] if something else is there; [`Error::Tree`].
    pub(super) async fn check_landmarks(&self, backup: &Backup, beginning: &Beginning) -> Result<(), Error> {
        let segments = backup.segments().map_err(Error::NoBackup)?;
        let size = SegmentSize::new(backup.segment_bytes).map_err(Error::no_backup)?;
        let stop = backup.stop().map_or(Lsn(0), |(_, stop)| stop);
        let landmarks = landmark::of_backup(beginning.label.as_ref(), beginning.control.as_ref(), stop);
        let archive = self.0.archive();
        let missed = archive.missed_landmark(&landmarks, &segments, size, self.0.patience());
        match missed.await? {
            None => Ok(()),
            Some((segment, found)) => Err(Error::no_backup(format!(
                "{segment} in {} is another server's WAL, and this backup would not recover: {found}.\n\
                 HINT: pg_stat_archiver shows since when this server's WAL is refused; give it an archive of its own",
                archive.place()
            ))),
        }
    }
}
