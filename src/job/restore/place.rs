//! The directory that is restored to: what is in it, and the mark of an unfinished restore.
//!
//! The mark is a file, written before anything else and removed when all but `global/pg_control` is in place and durable.
//! A data directory without that file is one that no server starts, so an interrupted restore is known by the mark, and by
//! nothing that could be taken for a cluster. With `pg_control` in place the mark means nothing: the restore was complete.
//!
//! Directories outside of it, of tablespaces and of the WAL, have a mark of their own, which says whose they are as long as the
//! restore is unfinished: that the data directory's mark names them proves nothing of what is in them later.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::archive::Archive;
use crate::beneath::{Kind, Root};
use crate::linux::process;
use crate::pg::SystemId;
use crate::pg::control::ControlFile;

/// Name of the mark.
pub(super) const MARK: &str = "walfs-restore.json";

/// Where the mark is written, before it takes its name: at every moment there is a whole one, or none.
pub(super) const NEW_MARK: &str = "walfs-restore.json.new";

/// Name of the mark in a directory outside of the data directory. Another one: nobody goes on with a restore *to* there.
pub(super) const PLACE_MARK: &str = "walfs-restore-place.json";

/// Where that is written, before it takes its name.
pub(super) const NEW_PLACE_MARK: &str = "walfs-restore-place.json.new";

/// What a file system has at its top: a mount point with nothing else is empty.
pub(super) use crate::beneath::LOST_AND_FOUND;

/// What a container waits on that starts the server: it comes and goes without the restore.
pub(super) use crate::pg::exclude::START_LOCK;

/// No mark and no `postmaster.pid` is longer, in bytes.
const LONGEST_NOTE: u64 = 1 << 20;

/// How long a server's socket may take to accept a connection.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// The control file, which is put in place last.
pub(super) const CONTROL: &str = "global/pg_control";

/// Where it is written, in the same directory, before it takes that name.
pub(super) const NEW_CONTROL: &str = ".walfs-pg_control";

/// What an unfinished restore says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Which restore it is, by a random name; absent in the marks of earlier versions.
    #[serde(default)]
    pub restore: Option<String>,
    /// The archive that it restores from.
    pub archive_id: String,
    /// The backup.
    pub backup: String,
    /// The cluster, where the backup says it: as text, because JSON readers lose digits.
    pub system_identifier: Option<String>,
    /// Directories of tablespaces that it writes to.
    pub tablespaces: Vec<PathBuf>,
    /// The directory that `pg_wal` is a link to.
    #[serde(default)]
    pub waldir: Option<PathBuf>,
}

/// What a directory of an unfinished restore, outside of the data directory, says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlaceMark {
    /// That of [`Mark`].
    pub restore: String,
    /// The data directory, for people.
    pub directory: PathBuf,
}

/// A name for a restore that no other has.
pub(super) fn fresh_restore() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// There is none.
    Absent,
    /// Nothing.
    Nothing,
    /// A restore that was not finished.
    Unfinished(Mark),
    /// Something else.
    Files,
}

/// Looks what is there. Of a data directory, a `pg_wal` that is empty, or a link, is no content.
pub(super) fn look(root: Option<&Root>) -> Result<Holds, Error> {
    let Some(root) = root else {
        return Ok(Holds::Absent);
    };
    if is_empty(root).map_err(Error::at("read", root.path()))? {
        return Ok(Holds::Nothing);
    }
    let mark = Path::new(MARK);
    let text = match root.read(mark, LONGEST_NOTE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holds::Files),
        Err(error) => return Err(Error::at("read", &root.path().join(MARK))(error)),
        Ok(text) => text,
    };
    // Below a link there is nothing that this restore has made.
    if root.kind(Path::new(CONTROL)).is_ok_and(|found| found.is_some()) {
        return Ok(Holds::Files);
    }
    match serde_json::from_slice(&text) {
        Ok(mark) => Ok(Holds::Unfinished(mark)),
        Err(error) => Err(Error::at("read", &root.path().join(MARK))(error.into())),
    }
}

fn is_empty(root: &Root) -> io::Result<bool> {
    for (name, kind) in root.list(Path::new(""))? {
        let is_nothing = match (name.to_str(), kind) {
            // A mark that was never finished is nothing yet.
            (Some(NEW_MARK | NEW_PLACE_MARK), Kind::File) | (Some(LOST_AND_FOUND), Kind::Directory) => true,
            (Some(START_LOCK), Kind::File) => true,
            // Where it leads is looked at on its own.
            (Some("pg_wal"), Kind::Link) => true,
            (Some("pg_wal"), Kind::Directory) => {
                let inside = root.list(Path::new("pg_wal"))?;
                inside.iter().all(|(name, _)| name == LOST_AND_FOUND)
            }
            _ => false,
        };
        if !is_nothing {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses a directory whose server runs.
pub(super) fn check_no_server(data: &Root) -> Result<(), Error> {
    const PID: &str = "postmaster.pid";
    let text = match data.read(Path::new(PID), LONGEST_NOTE) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::at("read", &data.path().join(PID))(error)),
    };
    let (pid, socket) = named_in(&text);
    // In another container its number means nothing here, but its socket may be seen.
    let directory = || data.path().to_owned();
    if process::is_alive(pid) {
        return Err(Error::ServerRuns {
            directory: directory(),
            pid,
        });
    }
    match socket.map(|socket| (answer(&socket), socket)) {
        Some((Answer::Taken, _)) => Err(Error::ServerRuns {
            directory: directory(),
            pid,
        }),
        Some((Answer::None, socket)) => Err(Error::ServerSilent {
            directory: directory(),
            socket,
            seconds: ANSWER_WAIT.as_secs(),
        }),
        Some((Answer::Refused, _)) | None => Ok(()),
    }
}

/// The process and the socket that a `postmaster.pid` names. Its lines: process, data directory, start time, port, socket
/// directory (miscadmin.h); the number of a process that serves nobody else is negative.
fn named_in(text: &str) -> (u32, Option<PathBuf>) {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pid = lines.first().and_then(|line| line.parse::<i32>().ok());
    let socket = match (
        lines.get(3).and_then(|port| port.parse::<u16>().ok()),
        lines.get(4),
    ) {
        (Some(port), Some(directory)) => Some(Path::new(directory).join(format!(".s.PGSQL.{port}"))),
        _ => None,
    };
    (
        pid.and_then(i32::checked_abs).map_or(0, i32::unsigned_abs),
        socket,
    )
}

/// Refuses a directory that the server of another data directory uses, or that lies in one, or that holds one: a tablespace of
/// it, or its WAL, behind one of its links. Servers are known by their working directory, as far as this user may see it. Paths
/// are without links.
pub(super) fn check_not_used(directory: &Path, real: &Path, data: &Path) -> Result<(), Error> {
    let servers = process::all().filter(|pid| process::name(*pid).is_none_or(|name| name == "postgres"));
    for (pid, server) in servers.filter_map(|pid| Some((pid, process::working_directory(pid)?))) {
        if data != server && server.join(CONTROL).is_file() && uses(&server, real) {
            let directory = directory.to_owned();
            return Err(Error::Used {
                directory,
                server,
                pid,
            });
        }
    }
    Ok(())
}

/// Is it, or is in it, or does it hold, one of the server's directories?
fn uses(server: &Path, directory: &Path) -> bool {
    let mut own = elsewhere(server).chain([server.to_owned()]);
    own.any(|own| own.starts_with(directory) || directory.starts_with(&own))
}

/// What the links of a data directory lead to: tablespaces, and the WAL.
fn elsewhere(data: &Path) -> impl Iterator<Item = PathBuf> {
    let tablespaces = fs::read_dir(data.join("pg_tblspc"));
    let tablespaces = tablespaces.into_iter().flatten().flatten();
    let links = tablespaces.map(|entry| entry.path()).chain([data.join("pg_wal")]);
    links.filter_map(|link| link.canonicalize().ok())
}

/// Refuses a directory that lies in another cluster's data directory, whether its server runs or not. Paths are without links.
/// What `data` itself has there already, by a link, stays where it is, unless that cluster has it, too.
pub(super) fn check_not_in_cluster(directory: &Path, real: &Path, data: &Path) -> Result<(), Error> {
    let is_file = |path: PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let is_cluster = |above: &Path| is_file(above.join("PG_VERSION")) && is_file(above.join(CONTROL));
    for cluster in real.ancestors().skip(1).filter(|above| *above != data) {
        if !is_cluster(cluster) {
            continue;
        }
        let is_linked = |from: &Path| elsewhere(from).any(|to| to == real);
        if is_linked(data) && !is_linked(cluster) {
            continue;
        }
        return Err(Error::InCluster {
            directory: directory.to_owned(),
            cluster: cluster.to_owned(),
        });
    }
    Ok(())
}

/// What a socket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// Somebody listens.
    Taken,
    /// Nobody does.
    Refused,
    /// Somebody listens who takes no connection, and as many wait as may.
    None,
}

/// Connects, within a bound: the kernel waits as long as the queue is full.
fn answer(socket: &Path) -> Answer {
    if !fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        return Answer::Refused;
    }
    let (sender, receiver) = mpsc::channel();
    let socket = socket.to_owned();
    // Left behind if it waits: it holds nothing.
    std::thread::spawn(move || sender.send(UnixStream::connect(socket).is_ok()));
    match receiver.recv_timeout(ANSWER_WAIT) {
        Ok(true) => Answer::Taken,
        Ok(false) => Answer::Refused,
        Err(_) => Answer::None,
    }
}

/// Refuses a directory in the archive's own, and one that the archive lies in: what is too much in it would be removed.
pub(super) fn check_outside(archive: &Archive, directory: &Path, real: &Path) -> Result<(), Error> {
    let Some(own) = archive.store().directory() else {
        return Ok(());
    };
    let own_real = own.canonicalize().unwrap_or_else(|_| own.to_owned());
    if !own_real.starts_with(real) && !real.starts_with(&own_real) {
        return Ok(());
    }
    Err(Error::InArchive {
        directory: directory.to_owned(),
        archive: own.to_owned(),
    })
}

/// Refuses files that are not those of this cluster.
pub(super) fn check_same_cluster(data: &Root, expected: SystemId) -> Result<(), Error> {
    let not = |reason: String| Error::NotACluster {
        directory: data.path().to_owned(),
        reason,
    };
    let bytes = data.read(Path::new(CONTROL), LONGEST_NOTE);
    let bytes = bytes.map_err(|error| not(format!("{CONTROL}: {error}")))?;
    let found = ControlFile::parse(&bytes)
        .map_err(|error| not(error.to_string()))?
        .system_id;
    if found == expected {
        return Ok(());
    }
    Err(Error::Foreign {
        directory: data.path().to_owned(),
        found,
        expected,
    })
}

impl Mark {
    /// Writes it, durably.
    pub(super) fn write(&self, data: &Root) -> Result<(), Error> {
        write_mark(self, data, NEW_MARK, MARK)
    }
}

impl PlaceMark {
    /// Writes it, durably.
    pub(super) fn write(&self, root: &Root) -> Result<(), Error> {
        write_mark(self, root, NEW_PLACE_MARK, PLACE_MARK)
    }

    /// The one that is there; `None`: there is none, or nothing that walfs has written.
    pub(super) fn read(root: &Root) -> Result<Option<Self>, Error> {
        match root.read(Path::new(PLACE_MARK), LONGEST_NOTE) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::at("read", &root.path().join(PLACE_MARK))(error)),
        }
    }
}

fn write_mark(mark: &impl Serialize, root: &Root, new: &str, name: &str) -> Result<(), Error> {
    let (new, name, top) = (Path::new(new), Path::new(name), Path::new(""));
    let text = serde_json::to_vec_pretty(mark).expect("plain data becomes JSON");
    let written = root.create(new, 0o600).and_then(|mut file| {
        file.write_all(&text)?;
        file.sync_all()
    });
    written
        .and_then(|()| root.rename(new, name))
        .and_then(|()| root.sync_directory(top))
        .map_err(Error::at("write", &root.path().join(name)))
}

/// Refuses if the bytes that go to each place do not fit. Places in one file system are added up.
pub(super) fn check_room(needed: &[(&Root, u64)]) -> Result<(), Error> {
    let mut devices: Vec<(u64, &Root, u64)> = Vec::new();
    for (root, bytes) in needed {
        let found = root.metadata(Path::new(""));
        let device = found.map_err(Error::at("look at", root.path()))?.dev();
        match devices.iter_mut().find(|(known, ..)| *known == device) {
            Some((_, _, sum)) => *sum = sum.saturating_add(*bytes),
            None => devices.push((device, root, *bytes)),
        }
    }
    for (_, root, needed_bytes) in devices {
        let free_bytes = root.free_bytes().map_err(Error::at("look at", root.path()))?;
        if free_bytes < needed_bytes {
            return Err(Error::NoRoom {
                directory: root.path().to_owned(),
                needed_bytes,
                free_bytes,
            });
        }
    }
    Ok(())
}

/// The directory, or the nearest one above it that exists.
pub(super) fn existing(directory: &Path) -> &Path {
    let exists = directory.ancestors().find(|above| above.exists());
    exists.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_numbers_of_a_pid_file_are_claims() {
        let of = |text: &str| named_in(text);
        let socket = Some(PathBuf::from("/run/postgresql/.s.PGSQL.5432"));
        assert_eq!(of("77\n/data\n1000\n5432\n/run/postgresql\n"), (77, socket));
        assert_eq!(of("-77\n"), (77, None));
        for text in [
            "-2147483648\n",
            "",
            "x\n",
            "99999999999\n",
            "-2147483648\n/\n1\n/../x\n/run\n",
        ] {
            assert_eq!(of(text), (0, None), "{text}");
        }
    }
}
