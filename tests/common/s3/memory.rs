//! The objects of the test server: a sorted map behind one lock.
//!
//! One lock for everything makes each conditional write atomic: of many racing writers exactly one wins. Knows nothing
//! of HTTP; errors are those of S3.

use std::collections::BTreeMap;
use std::ops::Bound::{Included, Unbounded};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use s3s::dto::{ETag, ETagCondition, Metadata};
use s3s::{S3Result, s3_error};

use super::checksum::{self, Algorithm, Sum};

/// All parts but the last have at least this size.
const SMALLEST_PART_BYTES: usize = 5 << 20;

/// A stored object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) sum: Sum,
    pub(crate) about: About,
    pub(crate) lock: Option<Lock>,
}

/// What keeps an object that is deleted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock {
    Until(SystemTime),
    Hold,
}

impl Object {
    /// An object of one put. Like S3 today, one without a checksum of the client gets a CRC64NVME.
    pub(crate) fn new(bytes: Bytes, sum: Option<Sum>, about: About) -> Self {
        let sum = sum.unwrap_or_else(|| Sum::of(Algorithm::Crc64Nvme, &bytes));
        Self {
            etag: checksum::etag(&bytes),
            modified: SystemTime::now(),
            bytes,
            sum,
            about,
            lock: None,
        }
    }
}

/// What a client may say of an object besides its bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: Option<Metadata>,
}

/// One part of an upload.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) bytes: Bytes,
    pub(crate) etag: String,
    pub(crate) sum: Option<Sum>,
}

/// A multipart upload under way.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) algorithm: Algorithm,
    /// The object's checksum is to be made of those of the parts.
    pub(crate) composite: bool,
    pub(crate) parts: BTreeMap<i32, Part>,
    pub(crate) about: About,
    pub(crate) begun: SystemTime,
}

/// When a write may happen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Condition {
    pub(crate) if_none_match: Option<ETagCondition>,
    pub(crate) if_match: Option<ETagCondition>,
}

/// What the client demands of a completed upload.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demand {
    /// Number and entity tag of each part, in the client's order.
    pub(crate) parts: Vec<(i32, Option<String>)>,
    pub(crate) sum: Option<(Algorithm, String)>,
    pub(crate) size_bytes: Option<i64>,
    pub(crate) condition: Condition,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    next_upload: u64,
    /// Has any object ever been locked? Then the bucket says that it can.
    locks: bool,
}

/// The bucket of the test server.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    state: Mutex<State>,
    ignore_conditions: AtomicBool,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Locks every object whose key has this part, or frees it.
    pub(crate) fn lock(&self, part: &str, lock: Option<Lock>) {
        let mut state = self.state();
        state.locks = true;
        for (_, object) in state.objects.iter_mut().filter(|(key, _)| key.contains(part)) {
            object.lock = lock;
        }
    }

    pub(crate) fn locks(&self) -> bool {
        self.state().locks
    }

    /// Makes all uploads under way older.
    pub(crate) fn age_uploads(&self, by: Duration) {
        for upload in self.state().uploads.values_mut() {
            upload.begun -= by;
        }
    }

    /// Take conditions and overwrite all the same, as Garage 2.5 does?
    pub(crate) fn ignore_conditions(&self, ignore: bool) {
        self.ignore_conditions.store(ignore, SeqCst);
    }

    fn check(&self, state: &State, key: &str, condition: &Condition) -> S3Result {
        if self.ignore_conditions.load(SeqCst) {
            return Ok(());
        }
        let old = state.objects.get(key);
        if let (Some(old), Some(unwanted)) = (old, &condition.if_none_match)
            && matches(unwanted, &old.etag)
        {
            return Err(s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions did not hold"
            ));
        }
        match (old, &condition.if_match) {
            (None, Some(_)) => Err(s3_error!(NoSuchKey)),
            (Some(old), Some(wanted)) if !matches(wanted, &old.etag) => Err(s3_error!(PreconditionFailed)),
            _ => Ok(()),
        }
    }

    /// Stores an object, if the condition holds.
    pub(crate) fn put(&self, key: &str, object: Object, condition: &Condition) -> S3Result {
        let mut state = self.state();
        self.check(&state, key, condition)?;
        state.objects.insert(key.to_owned(), object);
        Ok(())
    }

    /// The object under a key.
    pub(crate) fn get(&self, key: &str) -> S3Result<Object> {
        self.state()
            .objects
            .get(key)
            .cloned()
            .ok_or_else(|| s3_error!(NoSuchKey, "No such key: {key}"))
    }

    /// Removes an object; was there one?
    pub(crate) fn remove(&self, key: &str) -> bool {
        self.state().objects.remove(key).is_some()
    }

    /// Changes an object's bytes and nothing else: checksum, entity tag and time stay those of the old ones.
    pub(crate) fn corrupt(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state();
        let Some(object) = state.objects.get_mut(key) else {
            return false;
        };
        let mut bytes = object.bytes.to_vec();
        change(&mut bytes);
        object.bytes = bytes.into();
        true
    }

    /// Calls `visit` with every object from `start` on, ascending, until it says `false`.
    pub(crate) fn visit(&self, start: &str, mut visit: impl FnMut(&str, &Object) -> bool) {
        let state = self.state();
        for (key, object) in state.objects.range::<str, _>((Included(start), Unbounded)) {
            if !visit(key, object) {
                return;
            }
        }
    }

    /// Begins an upload; returns its name.
    pub(crate) fn begin_upload(&self, upload: Upload) -> String {
        let mut state = self.state();
        state.next_upload += 1;
        let id = format!("upload-{}", state.next_upload);
        state.uploads.insert(id.clone(), upload);
        id
    }

    /// The uploads under way, by name.
    pub(crate) fn uploads(&self) -> BTreeMap<String, Upload> {
        self.state().uploads.clone()
    }

    /// The upload of that name and key.
    pub(crate) fn upload(&self, id: &str, key: &str) -> S3Result<Upload> {
        let found = self
            .state()
            .uploads
            .get(id)
            .filter(|upload| upload.key == key)
            .cloned();
        found.ok_or_else(|| s3_error!(NoSuchUpload, "No such upload: {id}"))
    }

    /// Stores one part; a second one of the same number replaces the first.
    pub(crate) fn put_part(&self, id: &str, key: &str, number: i32, part: Part) -> S3Result {
        let mut state = self.state();
        let upload = state.uploads.get_mut(id).filter(|upload| upload.key == key);
        upload
            .ok_or_else(|| s3_error!(NoSuchUpload))?
            .parts
            .insert(number, part);
        Ok(())
    }

    /// Forgets an upload and its parts.
    pub(crate) fn abort(&self, id: &str, key: &str) -> S3Result {
        self.upload(id, key)?;
        self.state().uploads.remove(id);
        Ok(())
    }

    /// Makes an object of an upload. A refused one stays, so that the client can try again or abort it.
    pub(crate) fn complete(&self, id: &str, key: &str, demand: &Demand) -> S3Result<Object> {
        let mut state = self.state();
        let upload = state.uploads.get(id).filter(|upload| upload.key == key);
        let object = assemble(upload.ok_or_else(|| s3_error!(NoSuchUpload))?, demand)?;
        self.check(&state, key, &demand.condition)?;
        state.uploads.remove(id);
        state.objects.insert(key.to_owned(), object.clone());
        Ok(object)
    }
}

fn matches(condition: &ETagCondition, etag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.strong_cmp(&ETag::Strong(etag.to_owned())),
    }
}

fn assemble(upload: &Upload, demand: &Demand) -> S3Result<Object> {
    let parts = chosen_parts(upload, demand)?;
    let bytes: Bytes = parts.concat().into();
    let sum = match upload.composite {
        true => Sum::composite(upload.algorithm, parts.iter().map(|part| &part[..])),
        false => Sum::of(upload.algorithm, &bytes),
    };
    if let Some((algorithm, value)) = &demand.sum
        && (*algorithm != sum.algorithm || *value != sum.value)
    {
        return Err(s3_error!(
            BadDigest,
            "The {} of the whole object did not match.",
            algorithm.name()
        ));
    }
    if demand.size_bytes.is_some_and(|size| size != bytes.len() as i64) {
        return Err(s3_error!(
            InvalidRequest,
            "The x-amz-mp-object-size did not match."
        ));
    }
    let etag = checksum::multipart_etag(parts.iter().map(|part| &part[..]));
    Ok(Object {
        bytes,
        etag,
        modified: SystemTime::now(),
        sum,
        about: upload.about.clone(),
        lock: None,
    })
}

/// The parts that the client names, if they are there, in order, and large enough.
fn chosen_parts(upload: &Upload, demand: &Demand) -> S3Result<Vec<Bytes>> {
    if demand.parts.is_empty() {
        return Err(s3_error!(MalformedXML, "You must specify at least one part"));
    }
    if !demand.parts.is_sorted_by(|one, next| one.0 < next.0) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut chosen = Vec::new();
    for (number, etag) in &demand.parts {
        let part = upload
            .parts
            .get(number)
            .filter(|part| etag.as_deref() == Some(&part.etag));
        chosen.push(
            part.ok_or_else(|| s3_error!(InvalidPart, "Part {number}"))?
                .bytes
                .clone(),
        );
    }
    let (_last, others) = chosen.split_last().expect("at least one part, see above");
    if others.iter().any(|part| part.len() < SMALLEST_PART_BYTES) {
        return Err(s3_error!(EntityTooSmall));
    }
    Ok(chosen)
}
