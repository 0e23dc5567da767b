//! Objects in parts, in a directory: a folder under `.tmp/` with a file a part, put together at completion.
//!
//! That writes everything twice. The place of a part in the object is not known before the size of all parts is, and
//! objects in parts are rare in a local archive.

use std::path::PathBuf;

use super::write::temp_name;
use super::{Error, ErrorKind, Key, Part, PutMode, Root, Upload};
use crate::long_write;

impl Root {
    pub(super) fn begin_upload(&self, key: &Key) -> Result<Upload, Error> {
        self.check("begin upload")?;
        let upload = Upload {
            key: key.clone(),
            id: temp_name("upload"),
        };
        let folder = self.folder(&upload);
        let make = || {
            self.make_durable(&self.temp_dir(key))?;
            self.below.make_directory(self.inside(&folder), 0o700)
        };
        make().map_err(|error| self.write_error("begin upload", &folder, &error))?;
        Ok(upload)
    }

    /// Written beside and renamed: an abandoned attempt at the same part may still be writing.
    pub(super) fn put_part(&self, upload: &Upload, number: u32, body: &[u8]) -> Result<Part, Error> {
        let path = self.part(upload, number);
        let beside = self.folder(upload).join(temp_name("tmp"));
        let write = || {
            let file = self.below.create(self.inside(&beside), 0o600)?;
            long_write::write_all(&file, body)?;
            self.below.rename(self.inside(&beside), self.inside(&path))
        };
        write().map_err(|error| self.read_error("put part", &path, &error))?;
        let crc32c = crc32c::crc32c(body);
        Ok(Part {
            number,
            tag: format!("{crc32c:08x}"),
            bytes: body.len() as u64,
            crc32c,
        })
    }

    pub(super) fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        mode: PutMode,
    ) -> Result<(), Error> {
        self.check("complete upload")?;
        let temp = self
            .temp(&upload.key)
            .map_err(|error| self.write_error("complete upload", &self.temp_dir(&upload.key), &error))?;
        for part in parts {
            let bytes = self.read_part(upload, part)?;
            long_write::write_all(&temp.file, &bytes)
                .map_err(|error| self.write_error("complete upload", &temp.path, &error))?;
        }
        self.publish(temp, &upload.key, mode)?;
        // The object is there. Parts that cannot be removed are for the sweep.
        let _ = self.abort_upload(upload);
        Ok(())
    }

    fn read_part(&self, upload: &Upload, part: &Part) -> Result<Vec<u8>, Error> {
        let path = self.part(upload, part.number);
        let read = self.below.read(self.inside(&path), part.bytes);
        let bytes = read.map_err(|error| self.read_error("complete upload", &path, &error))?;
        if bytes.len() as u64 == part.bytes && crc32c::crc32c(&bytes) == part.crc32c {
            return Ok(bytes);
        }
        let message = format!(
            "{} bytes that are not the {} bytes stored",
            bytes.len(),
            part.bytes
        );
        Err(Error::new(
            ErrorKind::Damaged,
            "complete upload",
            path.display().to_string(),
            message,
        ))
    }

    pub(super) fn abort_upload(&self, upload: &Upload) -> Result<(), Error> {
        let folder = self.folder(upload);
        let removed = self.below.remove_tree(self.inside(&folder));
        removed.map_err(|error| self.write_error("abort upload", &folder, &error))
    }

    fn folder(&self, upload: &Upload) -> PathBuf {
        self.temp_dir(&upload.key).join(&upload.id)
    }

    fn part(&self, upload: &Upload, number: u32) -> PathBuf {
        self.folder(upload).join(format!("{number:05}"))
    }
}
