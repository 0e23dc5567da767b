//! What a request wants, guessed from its head, and the log of what came and what was answered.
//!
//! The guess is made in front of `s3s`, so that a request that is never let through is known all the same.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use hyper::Request;

/// How long a test waits for a request before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a request asks of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    /// DeleteObjects.
    DeleteMany,
    CreateUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    ListParts,
    ListUploads,
    /// HeadBucket, CreateBucket, ListBuckets.
    Bucket,
    /// None of these.
    Other,
}

/// One request, as it came and as it ended.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    /// `PUT`, `GET`, ...
    pub(crate) method: String,
    pub(crate) operation: Operation,
    /// The key in plain text; of a listing its prefix; empty for requests about the bucket.
    pub(crate) key: String,
    /// The query as it was sent, without the question mark.
    pub(crate) query: String,
    /// The `Range` header.
    pub(crate) range: Option<String>,
    /// Is there an `If-None-Match` or `If-Match` header?
    pub(crate) conditional: bool,
    /// Is the body left out of the request's signature?
    pub(crate) unsigned_body: bool,
    /// Size of the body as received, chunk framing included; 0 until it is there.
    pub(crate) body_bytes: usize,
    /// The status that was sent; none if no answer has been given, or never will be.
    pub(crate) status: Option<u16>,
    id: u64,
}

impl Logged {
    /// What the head of a request tells.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let path = request.uri().path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let operation = operation(request.method().as_str(), bucket, key, query);
        let place = if operation == Operation::List {
            parameter(query, "prefix").unwrap_or("")
        } else {
            key
        };
        Self {
            method: request.method().to_string(),
            operation,
            key: percent_decoded(place),
            query: query.to_owned(),
            range: header("range").map(str::to_owned),
            conditional: header("if-none-match").or(header("if-match")).is_some(),
            unsigned_body: header("x-amz-content-sha256") == Some("UNSIGNED-PAYLOAD"),
            body_bytes: 0,
            status: None,
            id: 0,
        }
    }
}

fn operation(method: &str, bucket: &str, key: &str, query: &str) -> Operation {
    let has = |name: &str| parameter(query, name).is_some();
    match (method, key.is_empty()) {
        _ if bucket.is_empty() => Operation::Bucket,
        ("GET", true) if has("uploads") => Operation::ListUploads,
        ("GET", true) if has("list-type") => Operation::List,
        ("POST", true) if has("delete") => Operation::DeleteMany,
        ("HEAD" | "PUT", true) => Operation::Bucket,
        ("PUT", false) if has("partNumber") => Operation::UploadPart,
        ("PUT", false) => Operation::Put,
        ("GET", false) if has("uploadId") => Operation::ListParts,
        ("GET", false) => Operation::Get,
        ("HEAD", false) => Operation::Head,
        ("DELETE", false) if has("uploadId") => Operation::AbortUpload,
        ("DELETE", false) => Operation::Delete,
        ("POST", false) if has("uploads") => Operation::CreateUpload,
        ("POST", false) if has("uploadId") => Operation::CompleteUpload,
        _ => Operation::Other,
    }
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The name of one entry of the log; good also after the log has been cleared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry(u64);

/// All requests since the start or the last clearing, in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Log {
    state: Mutex<(u64, Vec<Logged>)>,
    changed: Condvar,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, (u64, Vec<Logged>)> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Takes down a request whose head has come.
    pub(crate) fn arrived(&self, request: &Logged) -> Entry {
        let mut state = self.state();
        state.0 += 1;
        let id = state.0;
        state.1.push(Logged {
            id,
            ..request.clone()
        });
        self.changed.notify_all();
        Entry(id)
    }

    /// Takes down what became known of it later.
    pub(crate) fn update(&self, entry: Entry, change: impl FnOnce(&mut Logged)) {
        if let Some(logged) = self.state().1.iter_mut().find(|logged| logged.id == entry.0) {
            change(logged);
        }
        self.changed.notify_all();
    }

    /// A copy of the log.
    pub(crate) fn all(&self) -> Vec<Logged> {
        self.state().1.clone()
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        self.state().1.clear();
    }

    /// Waits until the log satisfies `wanted`.
    ///
    /// # Panics
    /// After half a minute, with the log.
    pub(crate) fn wait(&self, mut wanted: impl FnMut(&[Logged]) -> bool) {
        let unwanted = |state: &mut (u64, Vec<Logged>)| !wanted(&state.1);
        let waited = self.changed.wait_timeout_while(self.state(), PATIENCE, unwanted);
        let (state, late) = waited.expect("no holder of the lock panics");
        let log = state.1.clone();
        drop(state);
        assert!(
            !late.timed_out(),
            "the awaited requests did not come; the log is {log:#?}"
        );
    }
}
