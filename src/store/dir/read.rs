//! Reading files of the archive's directory, and deleting them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use super::super::room_for;
use super::{ByteRange, Error, ErrorKind, Fetched, Key, Meta, Root};

impl Root {
    pub(super) fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        self.get_into(key, range, Vec::new())
    }

    pub(super) fn get_into(&self, key: &Key, range: ByteRange, room: Vec<u8>) -> Result<Fetched, Error> {
        let path = self.file(key);
        let failed = |error: io::Error| self.read_error("get", &path, &error);
        // O_NONBLOCK: opening a FIFO that somebody put there would wait for a writer. Files do not notice.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed)?;
        let meta = self.meta_of("get", &path, &file.metadata().map_err(failed)?)?;
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
        let path = self.file(key);
        let meta = fs::metadata(&path).map_err(|error| self.read_error("head", &path, &error))?;
        self.meta_of("head", &path, &meta)
    }

    /// Not made durable: a deleted object that is back after a power loss harms nothing.
    pub(super) fn delete(&self, key: &Key) -> Result<(), Error> {
        let path = self.file(key);
        match fs::remove_file(&path).map_err(|error| self.read_error("delete", &path, &error)) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Ok(()) => {
                self.remove_if_empty(path.parent());
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// A folder that is no part of every archive goes with the last object in it. In use again it is made again.
    fn remove_if_empty(&self, folder: Option<&Path>) {
        let Some(folder) = folder.filter(|folder| *folder != self.path) else {
            return;
        };
        let stays = self.folders.lock().expect("no panic inside").contains(folder)
            || folder.parent() == Some(&self.path);
        if !stays && fs::remove_dir(folder).is_ok() {
            self.forget_durable();
        }
    }

    /// A directory is no object: `wal` is not there when `wal/x` is.
    fn meta_of(&self, operation: &'static str, path: &Path, meta: &Metadata) -> Result<Meta, Error> {
        if meta.is_dir() {
            return Err(self.read_error(operation, path, &io::Error::from_raw_os_error(libc::ENOENT)));
        }
        if !meta.is_file() {
            let message = "neither a file nor a directory";
            return Err(Error::new(
                ErrorKind::Permanent,
                operation,
                path.display().to_string(),
                message,
            ));
        }
        Ok(Meta {
            stored_bytes: meta.len(),
            modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })
    }

    fn damaged(&self, path: &Path, message: String) -> Error {
        Error::new(ErrorKind::Damaged, "get", path.display().to_string(), message)
    }
}

fn span_of(range: &ByteRange, stored_bytes: u64) -> Range<u64> {
    match range {
        ByteRange::Whole => 0..stored_bytes,
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
