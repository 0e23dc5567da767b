//! The directories that a set-up needs, made by root: that of an archive on this machine, the mount point, that of
//! configurations. What is there is left as it is.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use super::Failed;
use super::draft::Draft;
use crate::cli::out::report;
use crate::cli::settings;
use crate::linux::kernel::Owner;

/// Makes those that are missing; who is not root makes none.
pub(super) fn make(draft: &Draft) -> Result<(), Failed> {
    let Some(user) = &draft.user else {
        return Ok(());
    };
    make_one(Path::new(settings::DIRECTORY), 0o755, None)?;
    if let Some(directory) = &draft.directory {
        if let Some(data) = directory
            .ancestors()
            .find(|above| above.join("PG_VERSION").exists())
        {
            return Err(Failed::Deed(format!(
                "{} is in the data directory of a server, {}, with which it would be lost.\nHINT: a directory elsewhere.",
                directory.display(),
                data.display()
            )));
        }
        make_one(directory, 0o700, Some(user.owner))?;
    }
    if let Some(mountpoint) = &draft.mountpoint {
        // A mount point stays root's and closed: while nothing is mounted, `cp` into it has to fail.
        make_one(mountpoint, 0o555, None)?;
    }
    Ok(())
}

fn make_one(path: &Path, mode: u32, owner: Option<Owner>) -> Result<(), Failed> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let make = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)?;
        // By its handle: below a directory of somebody else the name may lead elsewhere by now.
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let made = File::options().read(true).custom_flags(flags).open(path)?;
        if let Some(Owner { uid, gid }) = owner {
            fchown(&made, Some(uid), Some(gid))?;
        }
        made.set_permissions(Permissions::from_mode(mode))
    };
    make().map_err(|error| Failed::Deed(format!("cannot make directory {}: {error}", path.display())))?;
    report(&format_args!("made directory {}", path.display()));
    Ok(())
}
