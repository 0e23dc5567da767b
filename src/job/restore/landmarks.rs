//! Is the archived WAL that of a backup in tar files (promise B2)? In a compressed one nobody has looked for the label and the
//! control file before, so the records that they know are not in the backup's summary.

use super::error::Error;
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::{Method, Summary};
use crate::archive::wal::Sought;
use crate::pg::control::ControlFile;
use crate::pg::label::BackupLabel;
use crate::pg::landmark::{self, Landmark};
use crate::store::Patience;

/// Looks for the records that the label and the control file know.
///
/// # Errors
/// [`Error::OtherWal`], [`Error::Content`], [`Error::Archive`].
pub(super) async fn check(
    archive: &Archive,
    (name, summary): (&TreeName, &Summary),
    (label, control): (Option<BackupLabel>, &ControlFile),
    patience: Patience,
) -> Result<(), Error> {
    let backup = &summary.backup;
    let (Some((_, start)), Some((_, stop))) = (backup.start(), backup.stop()) else {
        return Ok(());
    };
    let of_label = label.map(|label| landmark::of_label(&label, stop));
    let of_control = landmark::of_control(control, start, stop);
    let mut landmarks: Vec<Landmark> = of_label.into_iter().flatten().chain(of_control).collect();
    landmarks.retain(|landmark| summary.method != Method::ByHand || !landmark.is_at_end());
    let seeker = archive.seeker(backup, patience);
    let mut seeker = seeker.map_err(|reason| Error::Content {
        backup: name.clone(),
        file: "its summary".into(),
        reason,
    })?;
    for landmark in landmarks {
        if let Sought::Other(segment, found) = seeker.seek(landmark).await? {
            return Err(Error::OtherWal {
                backup: name.clone(),
                place: archive.place(),
                segment,
                found,
            });
        }
    }
    Ok(())
}
