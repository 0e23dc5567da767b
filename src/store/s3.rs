//! The archive in an S3 bucket. This file and those of `s3/` alone know the AWS SDK.
//!
//! What is relied on: a PUT is atomic and visible at once; a checksum sent with its algorithm is compared by the
//! server. What is not: that a 404 comes from S3 (a gateway has them too), that a condition is kept (see `probe`),
//! that an answer of success is one (its ETag must be there).
//!
//! The SDK's own retries and its guessing of checksums are off: `retry.rs` repeats, `s3/checksum.rs` computes. Bodies
//! are signed in memory, never as a stream: some servers refuse streamed signatures over plain http.

mod bounded;
mod checksum;
mod client;
mod error;
mod folders;
mod held;
mod kept;
mod listing;
mod multipart;
mod nearby;
mod read;
mod signing;
mod write;

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::DateTime;
use bytes::Bytes;
use tokio::sync::OnceCell;

use self::client::{Connection, Connections};
use super::{
    Backend, ByteRange, Error, ErrorKind, Fetched, Key, Leave, Location, Meta, Options, Page, Part, PutMode,
    Retention, Upload,
};

/// A backend over a bucket and a prefix.
pub(super) struct S3 {
    bucket: String,
    /// Without slashes at its ends; may be empty.
    prefix: String,
    connections: Connections,
    /// Can the bucket lock objects?
    locks: OnceCell<bool>,
}

/// Nothing of the client: its configuration holds credentials.
impl fmt::Debug for S3 {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "S3({})", self.place())
    }
}

impl S3 {
    /// Finds credentials. Asks the server nothing: see [`Backend::arrive`].
    pub(super) async fn reach(bucket: String, prefix: String, options: &Options) -> Result<Self, Error> {
        let target = place(&bucket, &prefix);
        let connections = Connections::reach(target, options).await?;
        Ok(Self {
            bucket,
            prefix,
            connections,
            locks: OnceCell::new(),
        })
    }

    /// Full name of a key, or of the start of one, inside the bucket.
    fn full(&self, key: &str) -> String {
        match self.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// What the archive calls an object of the bucket.
    fn relative<'a>(&self, full: &'a str) -> Option<&'a str> {
        match self.prefix.as_str() {
            "" => Some(full),
            prefix => full.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    fn target(&self, key: &str) -> String {
        format!("{}/{key}", self.place())
    }

    /// An answer, or what its absence means.
    async fn answer<T, E>(
        &self,
        used: &Connection,
        operation: &'static str,
        key: &str,
        outcome: Result<T, SdkError<E, HttpResponse>>,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match outcome {
            Ok(answer) => {
                self.connections.note_answer();
                Ok(answer)
            }
            Err(error) => Err(self
                .connections
                .failed(used, operation, self.target(key), &error)
                .await),
        }
    }

    /// Is an answer of success one? Any gateway can say 200.
    fn check_stored(
        &self,
        operation: &'static str,
        key: &Key,
        e_tag: Option<&str>,
        checksum_agrees: bool,
    ) -> Result<(), Error> {
        if e_tag.is_none_or(str::is_empty) {
            let message = "the answer of success has no ETag: not an S3 server's";
            return Err(self.error(ErrorKind::Transient, operation, key.as_str(), message));
        }
        if !checksum_agrees {
            let message = "the server's checksum of what it stored is another one";
            return Err(self.error(ErrorKind::Damaged, operation, key.as_str(), message));
        }
        Ok(())
    }

    fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        key: &str,
        message: impl Into<String>,
    ) -> Error {
        Error::new(kind, operation, self.target(key), message)
    }
}

fn place(bucket: &str, prefix: &str) -> String {
    Location::S3 {
        bucket: bucket.into(),
        prefix: prefix.into(),
    }
    .to_string()
}

/// A time the server did not tell is the beginning of time: nothing is decided by it.
fn system_time(time: Option<&DateTime>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(*time).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[async_trait]
impl Backend for S3 {
    fn place(&self) -> String {
        place(&self.bucket, &self.prefix)
    }

    async fn arrive(&self) -> Result<(), Error> {
        self.connections.arrive(&self.bucket, &self.prefix).await
    }

    fn advice(&self) -> Option<String> {
        Some(self.connections.advice())
    }

    async fn nearby(&self, marker: &Key) -> Vec<String> {
        self.look_nearby(marker.as_str()).await
    }

    async fn folders(&self) -> Result<Vec<String>, Error> {
        self.list_folders().await
    }

    async fn around(&self, marker: &Key) -> Option<String> {
        self.look_around(marker.as_str()).await
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error> {
        self.put_object(key, body, mode, None).await
    }

    async fn put_with_leave(&self, key: &Key, body: Bytes, mode: PutMode, leave: Leave) -> Result<(), Error> {
        if body.is_empty() {
            // It has no last byte to wait with.
            leave.clone().is_given().await;
        }
        if !leave.is_refused() {
            let outcome = self.put_object(key, body, mode, Some(leave.clone())).await;
            if outcome.is_ok() || !leave.is_refused() {
                return outcome;
            }
        }
        Err(Error::withdrawn(self.target(key.as_str())))
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        self.get_object(key, range, Vec::new()).await
    }

    async fn get_into(&self, key: &Key, range: ByteRange, room: Vec<u8>) -> Result<Fetched, Error> {
        self.get_object(key, range, room).await
    }

    async fn head(&self, key: &Key) -> Result<Meta, Error> {
        self.head_object(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        self.list_objects(prefix, after, limit).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        self.delete_objects(keys).await
    }

    async fn delete_if_same(&self, key: &Key, content: &Bytes) -> Result<bool, Error> {
        self.delete_object_if_same(key, content).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, Error> {
        self.create_multipart(key).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<Part, Error> {
        self.upload_part(upload, number, body).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], mode: PutMode) -> Result<(), Error> {
        self.complete_multipart(upload, parts, mode).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), Error> {
        self.abort_multipart(upload).await
    }

    async fn can_lock(&self) -> Result<bool, Error> {
        self.locks.get_or_try_init(|| self.ask_for_locks()).await.copied()
    }

    async fn retention(&self, key: &Key) -> Result<Option<Retention>, Error> {
        self.object_retention(key).await
    }

    async fn unfinished_uploads(&self, before: SystemTime) -> Result<Vec<Upload>, Error> {
        self.uploads_begun_before(before).await
    }
}
