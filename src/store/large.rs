//! Objects too large for one request: parts from a stream, a few on the way at a time.

use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};

use super::{Error, ErrorKind, Key, Part, Patience, PutMode, Store, Upload};

/// Parts on the way at a time: one on the line while the next is made. Bounds the memory too.
const PARTS_IN_FLIGHT: usize = 2;

/// How long forgetting a failed upload may take. What is left is for the bucket's own lifecycle rule.
const ABORT_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

impl Store {
    /// Stores an object that arrives in parts; nothing is visible before all of it is.
    ///
    /// All parts but the last have the same size, at least 5 MiB; S3 takes 10,000 of them. At most two are held at a time. An error of the
    /// stream, or of the store, forgets the upload. An empty stream stores an empty object.
    ///
    /// Dropping the future leaves the upload behind, invisible: a directory sweeps it when opened a day later, a
    /// bucket needs a lifecycle rule.
    ///
    /// # Errors
    /// As [`Store::put`]; `Permanent` for an error of the stream and for parts of unequal size.
    pub async fn put_large(
        &self,
        key: &Key,
        parts: impl Stream<Item = io::Result<Bytes>> + Send,
        mode: PutMode,
        patience: Patience,
    ) -> Result<(), Error> {
        let upload = self.begin_upload(key, patience).await?;
        let outcome = self.fill_and_complete(&upload, parts, mode, patience).await;
        let Err(mut error) = outcome else { return Ok(()) };
        // Whatever happens here, the first error is the one to tell.
        let _ = self
            .abort_upload(&upload, Patience::for_at_most(ABORT_WITHIN))
            .await;
        if error.kind == ErrorKind::NotFound {
            // The upload vanished, not an object: somebody swept it. A new one may do.
            error.kind = ErrorKind::Transient;
        }
        Err(error)
    }

    async fn fill_and_complete(
        &self,
        upload: &Upload,
        parts: impl Stream<Item = io::Result<Bytes>> + Send,
        mode: PutMode,
        patience: Patience,
    ) -> Result<(), Error> {
        let send = |(index, bytes): (usize, io::Result<Bytes>)| async move {
            let bytes = bytes.map_err(|error| self.source_failed(upload, &error))?;
            self.put_part(upload, index as u32 + 1, bytes, patience).await
        };
        let sent: Vec<Part> = parts
            .enumerate()
            .map(send)
            .buffered(PARTS_IN_FLIGHT)
            .try_collect()
            .await?;
        if sent.is_empty() {
            self.put(&upload.key, Bytes::new(), mode, patience).await?;
            return self.abort_upload(upload, patience).await;
        }
        self.check_sizes(upload, &sent)?;
        let outcome = self.complete_upload(upload, &sent, mode, patience).await;
        self.judge_completion(upload, mode, patience, outcome).await
    }

    fn source_failed(&self, upload: &Upload, error: &io::Error) -> Error {
        self.upload_error(upload, format!("the bytes to store could not be read: {error}"))
    }

    fn upload_error(&self, upload: &Upload, message: String) -> Error {
        let target = format!("{}/{}", self.place(), upload.key);
        Error::new(ErrorKind::Permanent, "put parts", target, message)
    }

    /// Some servers demand it, all others accept it: so a mistake shows everywhere.
    fn check_sizes(&self, upload: &Upload, parts: &[Part]) -> Result<(), Error> {
        let size = parts[0].bytes;
        let (last, rest) = parts.split_last().expect("checked by the caller");
        if rest.iter().all(|part| part.bytes == size) && last.bytes <= size {
            return Ok(());
        }
        Err(self.upload_error(
            upload,
            format!("parts are not all of the first one's {size} bytes"),
        ))
    }

    /// After a lost answer the retried completion may find its upload gone, because the first try did complete it.
    /// With [`PutMode::IfAbsent`] an object under the key is then told as such, for the caller to compare.
    async fn judge_completion(
        &self,
        upload: &Upload,
        mode: PutMode,
        patience: Patience,
        outcome: Result<(), Error>,
    ) -> Result<(), Error> {
        let Err(mut error) = outcome else { return Ok(()) };
        let vanished = error.kind == ErrorKind::NotFound;
        if vanished && mode == PutMode::IfAbsent && self.head(&upload.key, patience).await.is_ok() {
            error.kind = ErrorKind::AlreadyExists;
        }
        Err(error)
    }
}
