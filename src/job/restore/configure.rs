//! Writes what `settings` has decided into the restored data directory, and the file that begins the recovery.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::finish::{Access, LONGEST_TEXT, SIGNALS, describe};
use super::settings::{AUTO, Files, Given, MAIN, Recovery, Settings, commented, plan};
use super::spot::{Roots, Spot};
use super::target::TargetTimeline;
use crate::beneath::Root;
use crate::pg::control::{ControlFile, Limits};

/// The other file without which no server starts.
const HBA: &str = "pg_hba.conf";

/// What was done with the settings.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// Settings that were taken from the server, and why.
    pub set_aside: Vec<String>,
    pub warnings: Vec<String>,
    /// Files without which no server starts, and which the backup does not have.
    pub lacking: Vec<&'static str>,
}

/// Sets up the recovery of a directory whose files are all there. `control`: its control file.
///
/// # Errors
/// [`Error::System`].
pub(super) fn configure(
    roots: &Roots,
    recovery: &Recovery,
    timeline: TargetTimeline,
    control: &[u8],
    access: Access,
) -> Result<Configured, Error> {
    let settings = Settings::read(&roots.bases.data, &Directory(roots));
    let control = ControlFile::parse(control).ok();
    let given = Given {
        settings: &settings,
        recovery,
        timeline,
        postgresql_major: control.and_then(|control| control.major_version()),
        limits: control.map_or(Limits::DEFAULT, |control| control.limits),
        is_here: &|path| path.exists(),
    };
    let auto = spot(roots, Path::new(AUTO));
    let before = roots.read(&auto, LONGEST_TEXT)?.unwrap_or_default();
    let plan = plan(&before, &given);
    for (file, setting) in &plan.comments {
        comment(roots, file, setting, access)?;
    }
    write(roots, &auto, &plan.auto_conf, access)?;
    for signal in SIGNALS {
        roots.on("remove", &spot(roots, Path::new(signal)), Root::remove_file)?;
    }
    write(
        roots,
        &spot(roots, Path::new(recovery.signal_file())),
        b"",
        access,
    )?;
    let mut lacking = Vec::new();
    for file in [MAIN, HBA] {
        // A link leads to settings that are not in the backup, but perhaps on this machine.
        if roots.kind(&spot(roots, Path::new(file)))?.is_none() {
            lacking.push(file);
        }
    }
    Ok(Configured {
        set_aside: plan.set_aside,
        warnings: plan.warnings,
        lacking,
    })
}

fn comment(roots: &Roots, file: &Path, setting: &str, access: Access) -> Result<(), Error> {
    let place = spot(roots, file);
    let text = roots.read(&place, LONGEST_TEXT)?.unwrap_or_default();
    let text = commented(&text, setting);
    write(roots, &place, &text, access)?;
    describe(roots, access, &file.to_string_lossy(), &text)
}

fn write(roots: &Roots, spot: &Spot, content: &[u8], access: Access) -> Result<(), Error> {
    roots.on("write", spot, |root, below| {
        root.write(below, content, access.file())
    })
}

fn spot(roots: &Roots, file: &Path) -> Spot {
    roots.bases.spot(file.as_os_str().as_bytes())
}

/// The restored data directory.
struct Directory<'a>(&'a Roots);

impl Files for Directory<'_> {
    fn read(&self, file: &Path) -> Option<String> {
        let text = self.0.read(&spot(self.0, file), LONGEST_TEXT).ok()??;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn list(&self, directory: &Path) -> Vec<PathBuf> {
        let list = |root: &Root, below: &Path| root.list(below);
        let names = self
            .0
            .on("read", &spot(self.0, directory), list)
            .unwrap_or_default();
        names.into_iter().map(|(name, _)| name.into()).collect()
    }
}
