//! The store as the rest of walfs sees it: every request with its patience, every attempt counted.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;

use crate::metrics::Counted;
use crate::metrics::exposition::Exposition;

use super::attempt::{timed, timed_since_leave};
use super::counts::{Counters, count};
use super::retry::{Pace, Wait};
use super::{
    Backend, ByteRange, Claim, Conditions, Counts, Error, ErrorKind, Fetched, Key, Leave, Meta, Page, Part,
    Patience, PutMode, Retention, Upload,
};

/// One archive's place. Cheap to clone; clones share connections and counts.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
    counters: Arc<Counters>,
    pace: Pace,
}

/// How long a hint may take.
const NEARBY_PATIENCE: Duration = Duration::from_secs(5);

/// The most objects that one delete request names (a limit of S3).
const DELETE_BATCH: usize = 1000;

impl Store {
    /// A store over a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            counters: Arc::default(),
            pace: Pace::USUAL,
        }
    }

    /// The archive's place for people: `s3://bucket/prefix` or `/var/lib/walfs`. Never contains a secret.
    pub fn place(&self) -> String {
        self.backend.place()
    }

    /// The directory in which everything lies, if it is one of this machine.
    pub fn directory(&self) -> Option<&Path> {
        self.backend.directory()
    }

    /// Makes sure of the place of a store that was only [reached](super::reach) for.
    ///
    /// # Errors
    /// As [`super::open`].
    pub async fn arrive(&self, patience: Patience) -> Result<(), Error> {
        let target = self.place();
        let arrived = Wait::new("open", &target, patience, self.pace)
            .run(0, || self.backend.arrive())
            .await;
        arrived.map_err(|error| self.advised(error))
    }

    /// Archives near by, each a place with an object `marker`; for whoever mistyped this one.
    pub async fn nearby(&self, marker: &Key) -> Vec<String> {
        let looked = tokio::time::timeout(NEARBY_PATIENCE, self.backend.nearby(marker)).await;
        looked.unwrap_or_default()
    }

    /// Folders right below this place: see [`Backend::folders`].
    ///
    /// # Errors
    /// Those of [`Store::list`].
    pub async fn folders(&self, patience: Patience) -> Result<Vec<String>, Error> {
        let attempt = || {
            count(&self.counters.lists, 1);
            self.backend.folders()
        };
        self.wait("list", "", patience, 0, attempt).await
    }

    /// Has a folder right below this place an object of this name? See [`Backend::has_below`].
    ///
    /// # Errors
    /// Those of [`Store::head`], but for `NotFound`.
    pub async fn has_below(&self, folder: &str, marker: &Key, patience: Patience) -> Result<bool, Error> {
        let attempt = || {
            count(&self.counters.heads, 1);
            self.backend.has_below(folder, marker)
        };
        self.wait("head", folder, patience, 0, attempt).await
    }

    /// The archive that this place lies in, if that can be seen: a place with an object `marker`.
    pub async fn around(&self, marker: &Key) -> Option<String> {
        let looked = tokio::time::timeout(NEARBY_PATIENCE, self.backend.around(marker)).await;
        looked.unwrap_or_default()
    }

    /// The error of a first request, for the person who wrote the address.
    pub(crate) fn advised(&self, mut error: Error) -> Error {
        if let Some(advice) = self
            .backend
            .advice()
            .filter(|_| error.kind == ErrorKind::Transient)
        {
            error.message = format!("{}\nHINT: {advice}", error.message);
        }
        error
    }

    /// How many attempts of requests were made so far.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Stores a whole object; `Ok` means durable.
    ///
    /// # Errors
    /// `AlreadyExists` with [`PutMode::IfAbsent`]: also after an ambiguous failure of this very request, whose retry
    /// met the object of its first try. Compare contents before judging. After any other error but `Denied` and
    /// `ReadOnly` the object may or may not be there.
    pub async fn put(&self, key: &Key, body: Bytes, mode: PutMode, patience: Patience) -> Result<(), Error> {
        let bytes = body.len() as u64;
        let attempt = || {
            count(&self.counters.puts, 1);
            count(&self.counters.bytes_out, bytes);
            self.backend.put(key, body.clone(), mode)
        };
        self.wait("put", key.as_str(), patience, bytes, attempt).await
    }

    /// As [`Store::put`], begun before it is known whether it may be: the object does not appear before `leave` is given.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub async fn put_with_leave(
        &self,
        key: &Key,
        body: Bytes,
        mode: PutMode,
        leave: Leave,
        patience: Patience,
    ) -> Result<(), Error> {
        let bytes = body.len() as u64;
        let attempt = || {
            count(&self.counters.puts, 1);
            count(&self.counters.bytes_out, bytes);
            let put = self
                .backend
                .put_with_leave(key, body.clone(), mode, leave.clone());
            timed_since_leave(&self.counters, put, leave.clone()).boxed()
        };
        let target = format!("{}/{key}", self.place());
        Wait::new("put", &target, patience, self.pace)
            .run(bytes, attempt)
            .await
    }

    /// Reads an object or a part of it.
    ///
    /// # Errors
    /// `NotFound` only if the store said so; `Damaged` if the bytes stay wrong over several attempts.
    pub async fn get(&self, key: &Key, range: ByteRange, patience: Patience) -> Result<Fetched, Error> {
        let bytes = expected_bytes(&range);
        let attempt = || {
            count(&self.counters.gets, 1);
            self.backend.get(key, range.clone())
        };
        let fetched = self.wait("get", key.as_str(), patience, bytes, attempt).await?;
        count(&self.counters.bytes_in, fetched.bytes.len() as u64);
        Ok(fetched)
    }

    /// Reads for somebody who can do without: one attempt, which gets no longer than `allowance`. The bytes may come in
    /// `room`, which had those of an earlier answer, or is empty.
    ///
    /// # Errors
    /// As [`Store::get`], after one attempt.
    pub async fn get_once(
        &self,
        key: &Key,
        range: ByteRange,
        allowance: Duration,
        room: Vec<u8>,
    ) -> Result<Fetched, Error> {
        count(&self.counters.gets, 1);
        let attempt = timed(&self.counters, "get", self.backend.get_into(key, range, room));
        let attempt = tokio::time::timeout(allowance, attempt).await;
        let fetched = attempt.unwrap_or_else(|_| {
            let target = format!("{}/{}", self.place(), key.as_str());
            let message = format!("no answer within {:.1} s", allowance.as_secs_f64());
            Err(Error::new(ErrorKind::Transient, "get", target, message))
        })?;
        count(&self.counters.bytes_in, fetched.bytes.len() as u64);
        Ok(fetched)
    }

    /// Size and time of an object.
    ///
    /// # Errors
    /// `NotFound` only if the store said so.
    pub async fn head(&self, key: &Key, patience: Patience) -> Result<Meta, Error> {
        let attempt = || {
            count(&self.counters.heads, 1);
            self.backend.head(key)
        };
        self.wait("head", key.as_str(), patience, 0, attempt).await
    }

    /// One page of the objects whose keys start with `prefix` and are greater than `after`; see [`Backend::list`].
    ///
    /// # Errors
    /// Never `NotFound`: nothing there is an empty page.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        patience: Patience,
    ) -> Result<Page, Error> {
        let attempt = || {
            count(&self.counters.lists, 1);
            self.backend.list(prefix, after, limit.clamp(1, 1000))
        };
        self.wait("list", prefix, patience, 0, attempt).await
    }

    /// Deletes objects, any number of them; one that is not there is no error.
    ///
    /// # Errors
    /// The first one met; objects before it in `keys` may be gone.
    pub async fn delete(&self, keys: &[Key], patience: Patience) -> Result<(), Error> {
        for batch in keys.chunks(DELETE_BATCH) {
            let attempt = || {
                count(&self.counters.deletes, 1);
                self.backend.delete(batch)
            };
            self.wait("delete", batch[0].as_str(), patience, 0, attempt)
                .await?;
        }
        Ok(())
    }

    /// Deletes an object if it has this content; false if it has another one, or none. A try that is repeated may meet what the
    /// one before it has done.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub async fn delete_if_same(
        &self,
        key: &Key,
        content: &Bytes,
        patience: Patience,
    ) -> Result<bool, Error> {
        let attempt = || {
            count(&self.counters.deletes, 1);
            self.backend.delete_if_same(key, content)
        };
        self.wait("delete", key.as_str(), patience, 0, attempt).await
    }

    /// What time it is by the store's clock; `None`: it tells only of what is stored.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn now(&self, patience: Patience) -> Result<Option<SystemTime>, Error> {
        self.wait("ask", "the time", patience, 0, || self.backend.now())
            .await
    }

    /// Can objects be kept here although their owner deletes them?
    ///
    /// # Errors
    /// As [`Store::arrive`].
    pub async fn can_lock(&self, patience: Patience) -> Result<bool, Error> {
        self.wait("get the lock of", "", patience, 0, || self.backend.can_lock())
            .await
    }

    /// Why this object may not be deleted now, if so.
    ///
    /// # Errors
    /// As [`Store::head`], but none for an object that is not there.
    pub async fn retention(&self, key: &Key, patience: Patience) -> Result<Option<Retention>, Error> {
        if !self.can_lock(patience).await? {
            return Ok(None);
        }
        let attempt = || {
            count(&self.counters.heads, 1);
            self.backend.retention(key)
        };
        self.wait("get", key.as_str(), patience, 0, attempt).await
    }

    /// Forgets uploads that were begun before that and that nobody has completed since. Returns how many.
    ///
    /// # Errors
    /// As [`Store::list`]; `Denied` where uploads may not be listed.
    pub async fn sweep_uploads(&self, before: SystemTime, patience: Patience) -> Result<usize, Error> {
        let attempt = || {
            count(&self.counters.lists, 1);
            self.backend.unfinished_uploads(before)
        };
        let left = self.wait("list uploads", "", patience, 0, attempt).await?;
        for upload in &left {
            self.abort_upload(upload, patience).await?;
        }
        Ok(left.len())
    }

    /// See [`Backend::prepare`].
    ///
    /// # Errors
    /// `Permanent` if the folder must be there and is not, or is not the archive's.
    pub async fn prepare(&self, folder: &Key, claim: &Claim, patience: Patience) -> Result<(), Error> {
        self.wait("prepare", folder.as_str(), patience, 0, || {
            self.backend.prepare(folder, claim)
        })
        .await
    }

    /// See [`Backend::settle`].
    ///
    /// # Errors
    /// As [`Store::head`].
    pub async fn settle(&self, key: &Key, patience: Patience) -> Result<(), Error> {
        self.wait("settle", key.as_str(), patience, 0, || self.backend.settle(key))
            .await
    }

    pub(super) async fn begin_upload(&self, key: &Key, patience: Patience) -> Result<Upload, Error> {
        self.wait("begin upload", key.as_str(), patience, 0, || {
            self.backend.begin_upload(key)
        })
        .await
    }

    pub(super) async fn put_part(
        &self,
        upload: &Upload,
        number: u32,
        body: Bytes,
        patience: Patience,
    ) -> Result<Part, Error> {
        let bytes = body.len() as u64;
        let attempt = || {
            count(&self.counters.parts, 1);
            count(&self.counters.bytes_out, bytes);
            self.backend.put_part(upload, number, body.clone())
        };
        self.wait("put part", upload.key.as_str(), patience, bytes, attempt)
            .await
    }

    pub(super) async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[Part],
        mode: PutMode,
        patience: Patience,
    ) -> Result<(), Error> {
        let attempt = || {
            count(&self.counters.puts, 1);
            self.backend.complete_upload(upload, parts, mode)
        };
        self.wait("complete upload", upload.key.as_str(), patience, 0, attempt)
            .await
    }

    pub(super) async fn abort_upload(&self, upload: &Upload, patience: Patience) -> Result<(), Error> {
        self.wait("abort upload", upload.key.as_str(), patience, 0, || {
            self.backend.abort_upload(upload)
        })
        .await
    }

    pub(super) fn conditions_known(&self) -> Option<Conditions> {
        self.backend.conditions_known()
    }

    async fn wait<T, F>(
        &self,
        operation: &'static str,
        name: &str,
        patience: Patience,
        bytes: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        T: Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let target = format!("{}/{name}", self.place());
        let attempt = || timed(&self.counters, operation, attempt()).boxed();
        Wait::new(operation, &target, patience, self.pace)
            .run(bytes, attempt)
            .await
    }
}

impl Counted for Store {
    fn expose(&self, metrics: &mut Exposition) {
        self.counters.expose(metrics);
    }
}

/// How much a read will bring, as far as the question tells.
fn expected_bytes(range: &ByteRange) -> u64 {
    match range {
        ByteRange::AtMost(_) => 0,
        ByteRange::Span(span) => span.end.saturating_sub(span.start),
        ByteRange::First(bytes) | ByteRange::Last(bytes) => *bytes,
    }
}
