//! Every file of the copy, read and summed up, and the manifest that says so.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::SystemTime;

use super::error::{Error, at};
use super::place::Place;
use crate::job::backup::pages::{Findings, Rules, Verifier, check_length};
use crate::pg::backup_manifest::{Checksum, FileLine, ManifestVersion, WalRange, Writer};
use crate::pg::control::ControlFile;

/// Threads that read: the mount answers several at a time.
const READERS: usize = 4;

/// A whole number of data pages of every size.
const BUFFER_BYTES: usize = 1 << 20;

/// Permission bits of the manifest.
const MANIFEST_MODE: u32 = 0o600;

/// A file of the backup.
#[derive(Debug)]
pub(super) struct Summed {
    /// From the directory, in bytes.
    path: OsString,
    /// Its length.
    pub(super) bytes: u64,
    modified: SystemTime,
    crc32c: u32,
}

/// Reads all of them, several at a time, and looks at their data pages (promise B4).
///
/// # Errors
/// [`Error::Io`].
pub(super) fn sum_up(
    place: &Place,
    paths: &[OsString],
    rules: Rules,
) -> Result<(Vec<Summed>, Findings), Error> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::with_capacity(paths.len()), Findings::default()));
    thread::scope(|scope| {
        let work = || -> Result<(), Error> {
            let mut buffer = vec![0; BUFFER_BYTES];
            let mut found = Findings::default();
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let summed = sum_up_one(place, path, &mut buffer, (rules, &mut found))?;
                done.lock().expect("no panic while held").0.push(summed);
            }
            done.lock().expect("no panic while held").1.add(found);
            Ok(())
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(work)).collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("reading does not panic"))
    })?;
    let (mut files, found) = done.into_inner().expect("no panic while held");
    files.sort_by(|left: &Summed, right| left.path.cmp(&right.path));
    Ok((files, found))
}

fn sum_up_one(
    place: &Place,
    inside: &OsStr,
    buffer: &mut [u8],
    (rules, found): (Rules, &mut Findings),
) -> Result<Summed, Error> {
    let path = place.shown(inside);
    let failed = at("read", &path);
    let mut file = place.backup.open_file(Path::new(inside)).map_err(&failed)?;
    let modified = file.metadata().and_then(|meta| meta.modified());
    let modified = modified.map_err(&failed)?;
    let (mut bytes, mut crc32c) = (0, 0);
    let pages = Verifier::of(Some(rules), inside.as_bytes());
    loop {
        let read = fill(&mut file, buffer).map_err(&failed)?;
        crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
        if let Some(pages) = &pages {
            pages.check(&mut buffer[..read], bytes, &file, found);
        }
        bytes += read as u64;
        if read < buffer.len() {
            break;
        }
    }
    check_length(rules, (inside.as_bytes(), &file), bytes, found);
    Ok(Summed {
        path: inside.to_owned(),
        bytes,
        modified,
        crc32c,
    })
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes the manifest, and gives it its name, which commits the backup.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn write_manifest(
    place: &Place,
    control: &ControlFile,
    files: &[Summed],
    wal: WalRange,
) -> Result<(), Error> {
    let major = control.major_version().unwrap_or(0);
    let mut writer = Writer::new(ManifestVersion::of_postgres(major, control.system_id));
    let (temporary, last) = (Path::new("backup_manifest.tmp"), Path::new("backup_manifest"));
    let write = || -> io::Result<()> {
        let mut out = place.backup.create(temporary, MANIFEST_MODE)?;
        for file in files {
            writer.file(&FileLine {
                path: file.path.as_bytes(),
                bytes: file.bytes,
                modified: file.modified,
                checksum: Some(&Checksum::crc32c(file.crc32c)),
            });
            out.write_all(&writer.take())?;
        }
        out.write_all(&writer.finish(&[wal]))?;
        out.sync_all()
    };
    write().map_err(at("write", &place.shown(temporary)))?;
    place.backup.rename(temporary, last).map_err(|source| Error::Io {
        what: "commit",
        path: place.shown(last),
        source,
        hint: "\nHINT: the log of walfs mount has the reason.",
    })
}
