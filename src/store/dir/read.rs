//! Reading files of the archive's directory, and deleting them.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use super::super::{is_same, room_for, too_long};
use super::{ByteRange, Error, ErrorKind, Fetched, Key, Meta, Root, sync_dir};
use crate::beneath::{Kind, kind_of};

/// Things that are no objects, named in the log.
const NAMED_ODD: usize = 1000;

impl Root {
    pub(super) fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        self.get_into(key, range, Vec::new())
    }

    pub(super) fn get_into(&self, key: &Key, range: ByteRange, room: Vec<u8>) -> Result<Fetched, Error> {
        let path = self.file(key);
        let failed = |error: io::Error| self.read_error("get", &path, &error);
        let mut file = self.open_object(key).map_err(failed)?;
        self.check("get")?;
        let meta = meta_of(&file.metadata().map_err(failed)?);
        if let ByteRange::AtMost(most) = range
            && meta.stored_bytes > most
        {
            return Err(self.damaged(&path, too_long(meta.stored_bytes, most)));
        }
        let span = span_of(&range, meta.stored_bytes);
        if span.start > span.end || span.end > meta.stored_bytes {
            return Err(self.damaged(
                &path,
                format!("{span:?} asked for, {} bytes there", meta.stored_bytes),
            ));
        }
        let bytes = read_span(&mut file, &span, room).map_err(failed)?;
        if bytes.len() as u64 != span.end - span.start {
            return Err(self.damaged(
                &path,
                format!("only {} bytes of {span:?} could be read", bytes.len()),
            ));
        }
        Ok(Fetched {
            bytes: bytes.into(),
            meta,
        })
    }

    pub(super) fn head(&self, key: &Key) -> Result<Meta, Error> {
        let found = self.look(key)?;
        self.check("head")?;
        Ok(found)
    }

    fn look(&self, key: &Key) -> Result<Meta, Error> {
        let path = self.file(key);
        let failed = |error: io::Error| self.read_error("head", &path, &error);
        let found = self.below.metadata(Path::new(key.as_str())).map_err(failed)?;
        match kind_of(found.file_type()) {
            Kind::File => Ok(meta_of(&found)),
            kind => Err(failed(no_object(key, kind))),
        }
    }

    /// Opens an object, and nothing else: no directory, no link, nothing that would wait.
    pub(super) fn open_object(&self, key: &Key) -> io::Result<File> {
        let inside = Path::new(key.as_str());
        // A device may say anything to whoever opens it.
        self.below
            .open_file(inside)
            .map_err(|error| match self.below.kind(inside) {
                Ok(Some(kind)) if kind != Kind::File => no_object(key, kind),
                _ => error,
            })
    }

    /// What a listing tells of a name: `None` if it is no object. What lies there and can be none is named once.
    pub(super) fn listed(&self, key: &Key) -> Result<Option<Meta>, Error> {
        match self.look(key) {
            Ok(meta) => Ok(Some(meta)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind == ErrorKind::Damaged => {
                let mut odd = self.odd.lock().expect("no panic inside");
                if odd.len() < NAMED_ODD && odd.insert(self.file(key)) {
                    tracing::warn!(
                        "passed over among the archive's objects: {}: {}",
                        error.target,
                        error.message
                    );
                }
                Ok(None)
            }
            Err(error) => Err(Error {
                operation: "list",
                ..error
            }),
        }
    }

    /// Made durable: what it names may go next.
    pub(super) fn delete_if_same(&self, key: &Key, content: &Bytes) -> Result<bool, Error> {
        let whole = ByteRange::AtMost(content.len() as u64);
        if !is_same(self.get(key, whole), content)? {
            return Ok(false);
        }
        self.delete(key)?;
        let path = self.file(key);
        let folder = path.parent().expect("a key is below the root");
        match sync_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.read_error("delete", folder, &error))
            }
            _ => Ok(true),
        }
    }

    /// Not made durable: a deleted object that is back after a power loss harms nothing.
    pub(super) fn delete(&self, key: &Key) -> Result<(), Error> {
        let path = self.file(key);
        self.check("delete")
            .and_then(|()| self.check_folder("delete", &path))?;
        let removed = self.below.remove_file(Path::new(key.as_str()));
        if removed.map_err(|error| self.read_error("delete", &path, &error))? {
            self.remove_if_empty(path.parent());
        }
        Ok(())
    }

    /// A folder that is no part of every archive goes with the last object in it. In use again it is made again.
    fn remove_if_empty(&self, folder: Option<&Path>) {
        let Some(folder) = folder.filter(|folder| *folder != self.path) else {
            return;
        };
        let stays = self.is_folder(folder) || folder.parent() == Some(&self.path);
        if !stays && fs::remove_dir(folder).is_ok() {
            self.forget_durable();
        }
    }

    fn damaged(&self, path: &Path, message: String) -> Error {
        Error::new(ErrorKind::Damaged, "get", path.display().to_string(), message)
    }
}

/// What is said of a thing that is no file, under a key.
fn no_object(key: &Key, kind: Kind) -> io::Error {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    match kind {
        // `wal` is not there when `wal/x` is. Each object has an extension, and no folder in which there are others.
        Kind::Directory if !name.contains('.') => io::Error::from_raw_os_error(libc::ENOENT),
        Kind::Directory => io::Error::other("it is a directory, a file was expected"),
        Kind::Link => io::Error::other("it is a symbolic link, which is not followed"),
        Kind::Special => io::Error::other("it is a FIFO, socket or device, a file was expected"),
        Kind::File => io::Error::other("it has become a file"),
    }
}

fn meta_of(file: &Metadata) -> Meta {
    Meta {
        stored_bytes: file.len(),
        modified: file.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}

fn span_of(range: &ByteRange, stored_bytes: u64) -> Range<u64> {
    match range {
        ByteRange::AtMost(_) => 0..stored_bytes,
        ByteRange::Span(span) => span.clone(),
        ByteRange::First(bytes) => 0..stored_bytes.min(*bytes),
        ByteRange::Last(bytes) => stored_bytes.saturating_sub(*bytes)..stored_bytes,
    }
}

/// Shorter than the span if the file is.
fn read_span(file: &mut File, span: &Range<u64>, room: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = span.end - span.start;
    let mut bytes = room_for(usize::try_from(length).map_err(io::Error::other)?, room);
    file.seek(SeekFrom::Start(span.start))?;
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}
