//! Is the data directory that is to be read the one of the server that was asked? The files are read from this
//! machine's disk, so a server elsewhere, or a standby of the same cluster, would give a mixture of two.

use std::io::{self, Read};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Error;
use super::places::open_target;
use super::reading;
use crate::pg::control::{CONTROL_FILE_BYTES, ClusterState, ControlFile};
use crate::server::Facts;

/// Between the moment in `postmaster.pid` and the one that the server tells lies its start: shared memory, libraries.
const START_SECONDS: i64 = 300;

/// How often a control file that is just being written is read again.
const CONTROL_READS: u32 = 20;

/// Where the control file is.
const CONTROL: &str = "global/pg_control";

/// More bytes than any `postmaster.pid` has.
const PID_BYTES: u64 = 4096;

/// Checks that the server's files are here and can be read.
///
/// # Errors
/// [`Error::NotHere`], [`Error::Read`], [`Error::Control`].
pub(super) fn check(facts: &Facts) -> Result<ControlFile, Error> {
    let root = &facts.data_directory;
    let not_here = |reason: String| Error::NotHere {
        data_directory: root.clone(),
        reason,
    };
    let (_, control) = match control_file(root) {
        Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(not_here("there is no such data directory on this machine".into()));
        }
        other => other?,
    };
    if control.system_id != facts.system_id {
        return Err(not_here(format!(
            "the one here is of system identifier {}, the server's is {}",
            control.system_id, facts.system_id
        )));
    }
    let recovering = control.state == ClusterState::InArchiveRecovery;
    if recovering != facts.in_recovery {
        let (here, there) = if recovering {
            ("a standby's", "a primary")
        } else {
            ("a primary's", "a standby")
        };
        return Err(not_here(format!("the one here is {here}, the server is {there}")));
    }
    check_postmaster(root, facts.started_seconds).map_err(not_here)?;
    Ok(control)
}

/// `postmaster.pid` has, in its third line, when its server began (`CreateDataDirLockFile` of `miscinit.c`).
fn check_postmaster(root: &Path, started_seconds: i64) -> Result<(), String> {
    let text = head_of(&root.join("postmaster.pid"))
        .map_err(|error| format!("the one here belongs to no running server: postmaster.pid: {error}"))?;
    let began: i64 = text
        .lines()
        .nth(2)
        .and_then(|line| line.trim().parse().ok())
        .ok_or("the postmaster.pid in it cannot be read")?;
    if (0..START_SECONDS).contains(&(started_seconds - began)) {
        Ok(())
    } else {
        Err(format!(
            "the server of the one here began at second {began} of the epoch, the one that was asked at \
             {started_seconds}"
        ))
    }
}

/// The text of a small file.
fn head_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    open_target(path)?.take(PID_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The bytes of the control file, whole, and what they say. It is written while it is read, so it may take several
/// attempts.
pub(super) fn control_file(root: &Path) -> Result<(Vec<u8>, ControlFile), Error> {
    let path = root.join(CONTROL);
    let mut attempts = 0;
    loop {
        let mut bytes = vec![0; CONTROL_FILE_BYTES];
        // What is behind a link here must prove itself: it has a checksum, and the server's number.
        let read = path.canonicalize().and_then(|target| open_target(&target));
        let read = read.and_then(|file| reading::read_at(&file, &mut bytes, 0));
        let read = read.map_err(|source| Error::read(&path, source))?;
        attempts += 1;
        match ControlFile::parse(&bytes[..read]) {
            Ok(control) => return Ok((bytes, control)),
            Err(_) if attempts < CONTROL_READS => thread::sleep(Duration::from_millis(50)),
            Err(source) => return Err(Error::Control { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_servers_directory_is_told_by_its_start() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            check_postmaster(root.path(), 1000)
                .unwrap_err()
                .contains("no running server")
        );
        fs::write(root.path().join("postmaster.pid"), "77\n/data\n1000\n5432\n").unwrap();
        assert_eq!(check_postmaster(root.path(), 1003), Ok(()));
        for other in [999, 1000 + START_SECONDS] {
            assert!(check_postmaster(root.path(), other).is_err());
        }
    }
}
