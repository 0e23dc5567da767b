//! Where objects live: one narrow interface over S3 and a local directory.
//!
//! A store knows keys and bytes, never what the bytes mean. Its contract, which the conformance suite in
//! `tests/store.rs` holds every backend to:
//!
//! - **Whole or nothing.** An object appears under its key in one step, with all its bytes, or not at all. A reader
//!   sees the old state or the new one, never a mixture, and after `put` or `complete_upload` has returned `Ok` every
//!   later `get`, `head` and `list` sees the object.
//! - **Durable.** `Ok` from `put` or `complete_upload` means: the backend has the bytes on stable storage as far as it
//!   can promise that at all, and has itself verified a checksum of them (S3) or has fsynced file and directory
//!   (local directory).
//! - **Absent is a statement.** [`ErrorKind::NotFound`] is given only when the backend itself said that the object is
//!   not there. A time-out, a refused connection, a missing bucket or an unreadable directory is never `NotFound`.
//! - **If absent.** [`PutMode::IfAbsent`] fails with [`ErrorKind::AlreadyExists`] and leaves the old object untouched;
//!   of many racing writers exactly one wins. Some S3 servers accept the condition and ignore it: [`probe()`] finds out.
//!   After an ambiguous failure a retried conditional write may meet its *own* first try: a caller that gets
//!   `AlreadyExists` compares contents before it judges.
//!
//! [`Backend`] is one attempt of one request; [`Store`] adds patience: retries with jitter inside one total deadline.

mod attempt;
mod counts;
mod dir;
mod large;
mod leave;
mod location;
mod nearby;
mod probe;
mod requests;
mod retry;
mod s3;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

pub use counts::Counts;
pub use leave::{Grant, Leave, leave};
pub use location::{Location, LocationError, Options, PathStyle, open, reach};
pub use probe::{Conditions, probe};
pub use requests::Store;

/// Name of an object, relative to the archive's prefix: `wal/000000010000000000000001.lz4`.
///
/// Letters and digits of any script, and `-._:+@=,/`, no empty, `.` or `..` component, at most 400 bytes (Garage takes 479 with its
/// prefix, S3 1024).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A key that the program itself spells.
    ///
    /// # Panics
    /// If it breaks the rules above: that is a bug of the caller, not of anybody's data.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::parse(&text).unwrap_or_else(|| panic!("not a key: {text:?}"))
    }

    /// A key that somebody else spelled (a listing may show foreign objects), if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let sane = text.len() <= MAX_KEY_BYTES && text.split('/').all(is_component);
        sane.then(|| Self(text.to_owned()))
    }

    /// Its text, without the archive's prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Longest key, in bytes, without the archive's prefix.
const MAX_KEY_BYTES: usize = 400;

fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.chars().all(is_plain)
}

/// Has this character no meaning of its own in keys, paths, addresses and shells?
pub(crate) fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || "-._:+@=,".contains(character)
}

/// Whose a folder is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The archive's id.
    pub archive_id: String,
    /// How far the archive is.
    pub stage: Stage,
    /// Must it be there? One that is not, and need not, holds nothing.
    pub needed: bool,
    /// The folder that holds something exactly if this one does.
    pub twin: Option<Key>,
}

/// How far an archive is whose folders are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Being made, perhaps by others too: folders are made, and claimed where nobody has.
    Making,
    /// Just made: folders belong to the one that was, whoever else has tried.
    Made,
    /// There.
    Opened,
}

/// What a listing or a `head` tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Size of the object as stored, in bytes.
    pub stored_bytes: u64,
    /// When the store took it.
    pub modified: SystemTime,
}

/// May a `put` replace what is there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fail with [`ErrorKind::AlreadyExists`] if the key exists.
    IfAbsent,
    /// Replace. Only for objects that are not part of the archive's content (status, probes).
    Overwrite,
}

/// Which bytes of an object to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByteRange {
    /// All of them. An object of more than so many bytes is [`ErrorKind::Damaged`], and is not read.
    AtMost(u64),
    /// From `start` up to, not including, `end`; the range must lie inside the object.
    Span(Range<u64>),
    /// The first `n` bytes, or all if the object is smaller.
    First(u64),
    /// The last `n` bytes, or all if the object is smaller.
    Last(u64),
}

/// Bytes read from an object.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The bytes asked for, complete.
    pub bytes: Bytes,
    /// The whole object's size and time.
    pub meta: Meta,
}

/// One page of a listing, in ascending byte order of keys.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Key (relative to the archive's prefix) and what is known of it.
    pub entries: Vec<(Key, Meta)>,
    /// Are there more after the last entry? Then ask again, `after` it.
    pub more: bool,
}

/// A multipart upload under way.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The key that will exist once it completes.
    pub key: Key,
    /// The backend's own name for it.
    pub id: String,
}

/// Proof of one part, to be handed back at completion.
#[derive(Debug, Clone)]
pub struct Part {
    /// 1-based.
    pub number: u32,
    /// The backend's tag of the part.
    pub tag: String,
    /// Its size, in bytes.
    pub bytes: u64,
    /// CRC32C of its bytes, verified by the backend where it can.
    pub crc32c: u32,
}

/// How long a request may wait, retries and queueing included.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    /// Give up then, with the last error.
    Until(Instant),
    /// Wait for as long as it takes; only an answer of the store ends it.
    Forever,
    /// As `Forever`, but what somebody has to mend is an error at once (`Denied`, `Permanent`): for a person who waits,
    /// and can start again.
    WhileAway,
}

impl Patience {
    /// A deadline `duration` from now.
    pub fn for_at_most(duration: Duration) -> Self {
        Self::Until(Instant::now() + duration)
    }
}

/// By how much longer than a request's deadline its caller waits: the store's own error says more.
pub const GRACE: Duration = Duration::from_secs(2);

/// What keeps an object that its owner would delete (Object Lock of S3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// Until then, by the store's clock.
    Until(SystemTime),
    /// Until somebody takes the hold away.
    Hold,
}

/// What a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store said: there is no such object.
    NotFound,
    /// The store said: there is one already ([`PutMode::IfAbsent`]).
    AlreadyExists,
    /// Credentials missing, refused or expired, or no permission (S3 403).
    Denied,
    /// Nothing is taken there: the file system is mounted read-only.
    ReadOnly,
    /// Network, 5xx, throttling, time-out: may go away by itself.
    Transient,
    /// Bytes that came back are not the bytes that were asked for (checksum, length).
    Damaged,
    /// There is no room for it. Somebody may make some, but not within the seconds that a request has.
    Full,
    /// It will not go away by itself: no such bucket, not a directory, a bad request.
    Permanent,
}

/// An answer of the store that is not success.
#[derive(Debug, Clone)]
pub struct Error {
    /// What a caller can act on.
    pub kind: ErrorKind,
    /// What was tried: `put`, `get`, ...
    pub operation: &'static str,
    /// Full name of the object, bucket, prefix or path: for people.
    pub target: String,
    /// What the backend said, without secrets.
    pub message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.operation, self.target, self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    fn new(
        kind: ErrorKind,
        operation: &'static str,
        target: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            target: target.into(),
            message: message.into(),
        }
    }

    /// Leave to complete a put was refused.
    pub fn withdrawn(target: impl Into<String>) -> Self {
        Self::new(
            ErrorKind::Permanent,
            "put",
            target,
            "withdrawn before it was stored",
        )
    }

    /// What takes several requests, or waits for others too, has not ended in time.
    pub fn late(operation: &'static str, target: impl Into<String>, deadline: Duration, why: &str) -> Self {
        let message = format!("not done within {} s: {why}", deadline.as_secs());
        Self::new(ErrorKind::Transient, operation, target, message)
    }
}

/// What is said of an object that has grown.
fn too_long(bytes: u64, most: u64) -> String {
    format!("it has {bytes} bytes, {most} at most were expected")
}

/// Is what was read this content?
fn is_same(read: Result<Fetched, Error>, content: &Bytes) -> Result<bool, Error> {
    match read {
        Ok(fetched) => Ok(fetched.bytes == *content),
        // Longer, or gone.
        Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Empty room for so many bytes: what somebody has brought along, if it is neither too small nor much too large.
fn room_for(bytes: usize, mut room: Vec<u8>) -> Vec<u8> {
    if !(bytes..=bytes + bytes / 4).contains(&room.capacity()) {
        return Vec::with_capacity(bytes);
    }
    room.clear();
    room
}

/// One attempt of one request against one kind of storage. Implementations do not retry; [`Store`] does.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// The archive's place for people: `s3://bucket/prefix` or `/var/lib/walfs`. Never contains a secret.
    fn place(&self) -> String;

    /// Is the place there, and is it the right address? Where another one is right, that is used from now on.
    async fn arrive(&self) -> Result<(), Error> {
        Ok(())
    }

    /// What to look at where nobody answers.
    fn advice(&self) -> Option<String> {
        None
    }

    /// Other places near by that have an object of this name, as [`Backend::place`] names them. None is as good as an
    /// error: it only helps whoever mistyped this one.
    async fn nearby(&self, marker: &Key) -> Vec<String> {
        let _ = marker;
        Vec::new()
    }

    /// Names of the folders right below this place, in no order, but for links and for what walfs has mounted there. Those
    /// that could not be the first part of a key are passed over.
    async fn folders(&self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    /// Has a folder right below this place, which is no link, an object of this name?
    async fn has_below(&self, folder: &str, marker: &Key) -> Result<bool, Error> {
        let Some(key) = Key::parse(&format!("{folder}/{marker}")) else {
            return Ok(false);
        };
        match self.head(&key).await {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// The nearest place around this one that has an object of this name; as far as it can be asked.
    async fn around(&self, marker: &Key) -> Option<String> {
        let _ = marker;
        None
    }

    /// Stores a whole object. See the module's contract.
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error>;

    /// As [`Backend::put`], but the object must not appear before `leave` is given; what can be done before that, may be.
    /// Refused, it is an error, and nothing is stored.
    async fn put_with_leave(&self, key: &Key, body: Bytes, mode: PutMode, leave: Leave) -> Result<(), Error> {
        if leave.is_given().await {
            return self.put(key, body, mode).await;
        }
        Err(Error::withdrawn(format!("{}/{key}", self.place())))
    }

    /// Reads bytes of an object. A body cut short is [`ErrorKind::Damaged`] or `Transient`, never a short success.
    async fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error>;

    /// The same. `room` had the bytes of an earlier answer, and may be used again: fresh memory costs the kernel time.
    async fn get_into(&self, key: &Key, range: ByteRange, room: Vec<u8>) -> Result<Fetched, Error> {
        drop(room);
        self.get(key, range).await
    }

    /// Size and time of an object.
    async fn head(&self, key: &Key) -> Result<Meta, Error>;

    /// At most `limit` (1 to 1000) objects whose key starts with `prefix` and is greater than `after`, ascending.
    ///
    /// `after` need not exist and is a full key text (so that `wal/0000000100000000` works as a place to start from).
    /// Objects stored or deleted after the first page of a listing may be missing from, or still on, its later pages.
    /// Objects whose names are no [`Key`] are passed over.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error>;

    /// What time it is by the store's clock, told without storing anything; `None`: it does not tell.
    async fn now(&self) -> Result<Option<SystemTime>, Error> {
        Ok(None)
    }

    /// Deletes objects; one that is not there is no error.
    async fn delete(&self, keys: &[Key]) -> Result<(), Error>;

    /// Deletes an object if it has this content; false if it has another one, or none. Where the store takes no condition, another
    /// writer can be quicker between the look and the deletion.
    async fn delete_if_same(&self, key: &Key, content: &Bytes) -> Result<bool, Error> {
        let same = is_same(
            self.get(key, ByteRange::AtMost(content.len() as u64)).await,
            content,
        )?;
        if same {
            self.delete(std::slice::from_ref(key)).await?;
        }
        Ok(same)
    }

    /// Begins an object that arrives in parts. Nothing is visible before [`Backend::complete_upload`].
    async fn begin_upload(&self, key: &Key) -> Result<Upload, Error>;

    /// Stores one part; `NotFound` if there is no such upload. All parts but the last have the same size, at least 5 MiB. May be repeated for a number.
    async fn put_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<Part, Error>;

    /// Makes the object visible, durable and whole. `parts` ascending by number. `NotFound` if there is no such upload.
    async fn complete_upload(&self, upload: &Upload, parts: &[Part], mode: PutMode) -> Result<(), Error>;

    /// Forgets an upload and its parts. One that is not there is no error.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), Error>;

    /// Can objects be kept here although their owner deletes them? Asked once.
    async fn can_lock(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Why this object may not be deleted now, if so.
    async fn retention(&self, key: &Key) -> Result<Option<Retention>, Error> {
        let _ = key;
        Ok(None)
    }

    /// Uploads that were begun before that and are neither completed nor forgotten, as far as the backend does not sweep
    /// them itself.
    async fn unfinished_uploads(&self, before: SystemTime) -> Result<Vec<Upload>, Error> {
        let _ = before;
        Ok(vec![])
    }

    /// Makes sure, where keys have folders (a local directory), that the one of keys that begin with `folder/` is there
    /// and the archive's own. From then on its loss is a loss, and proves no absence.
    async fn prepare(&self, folder: &Key, claim: &Claim) -> Result<(), Error> {
        let _ = (folder, claim);
        Ok(())
    }

    /// Makes sure that an object that was found is on stable storage: its writer may have died before it had made sure
    /// itself.
    async fn settle(&self, key: &Key) -> Result<(), Error> {
        let _ = key;
        Ok(())
    }

    /// The directory in which everything lies, if it is one of this machine.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// What is known, without trying, of [`PutMode::IfAbsent`] here. `None`: [`probe()`] must find out.
    fn conditions_known(&self) -> Option<Conditions> {
        None
    }
}
