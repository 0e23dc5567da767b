//! What a server begins from: its `backup_label`, and its control file.

use super::error::Error;
use super::place::CONTROL;
use crate::archive::tree::TreeName;
use crate::archive::tree::backup::Backup;
use crate::pg::control::{ClusterState, ControlFile};
use crate::pg::label::{self, BackupLabel};

/// Where recovery begins, of a server that was copied while it ran.
pub(super) const LABEL: &str = "backup_label";

/// No backup label is longer, in bytes.
pub(super) const LONGEST_LABEL: u64 = 64 << 10;

/// Is what the server begins from that of the backup that was chosen? The WAL was looked for by the summary, and the server goes
/// by these two. Gives what they say.
///
/// # Errors
/// [`Error::Content`].
pub(super) fn check(
    name: &TreeName,
    backup: &Backup,
    control: &[u8],
    label: Option<&[u8]>,
) -> Result<(Option<BackupLabel>, ControlFile), Error> {
    let wrong = |file: &str, reason: String| Error::Content {
        backup: name.clone(),
        file: file.into(),
        reason,
    };
    let control = ControlFile::parse(control).map_err(|error| wrong(CONTROL, error.to_string()))?;
    let found = control.system_id;
    if let Some(expected) = backup.system_identifier.filter(|expected| *expected != found) {
        let reason = format!("it is of the cluster {found}, but the backup, by its summary, of {expected}");
        return Err(wrong(CONTROL, reason));
    }
    let is_clean = matches!(
        control.state,
        ClusterState::ShutDown | ClusterState::ShutDownInRecovery
    );
    let Some(label) = label else {
        let reason = "it was copied from a running server, and there is no backup_label to start from";
        return match is_clean {
            true => Ok((None, control)),
            false => Err(wrong(CONTROL, reason.into())),
        };
    };
    let label = label::parse(label).map_err(|error| wrong(LABEL, error.to_string()))?;
    let began = (label.start_timeline(), label.start_lsn);
    match backup.start() {
        Some(start) if start != began => {
            let reason = format!(
                "it begins at {} on timeline {}, but the backup, by its summary, at {} on timeline {}",
                began.1, began.0, start.1, start.0
            );
            Err(wrong(LABEL, reason))
        }
        _ => Ok((Some(label), control)),
    }
}
