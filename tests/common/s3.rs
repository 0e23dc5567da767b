//! An S3 server inside the test process.
//!
//! Real where walfs could be wrong: signatures (SigV4), checksums, conditional writes, multipart uploads, ranges and
//! listings are checked as strictly as S3 does. Fast (memory only), and breaks on demand: see [`Rule`] and [`Action`].
//! Runs on threads of its own, so that tests may be synchronous, asynchronous, or processes that a test starts.
//!
//! Not there: versions, tags, encryption, copies, TLS. Stricter than S3: a CompleteMultipartUpload that is repeated
//! after a lost answer gets `NoSuchUpload`.
//!
//! ```ignore
//! let server = S3Server::start();
//! let lost = server.add_rule(Rule::new(Action::LoseAnswer).operation(Operation::Put).key("wal/").times(1));
//! Command::new("walfs").envs(server.env())...
//! assert_eq!(server.hits(lost), 1);
//! assert_eq!(server.count(|request| request.operation == Operation::Put), 2);
//! ```

mod api;
mod checksum;
mod fault;
mod front;
mod listing;
mod memory;
mod net;
mod request;

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

pub(crate) use fault::{Action, Rule, RuleId};
pub(crate) use request::{Logged, Operation};

use checksum::Algorithm;
use fault::Faults;
use front::Front;
pub(crate) use memory::Lock;
use memory::{About, Condition, Memory, Object, Upload};
use net::Port;

const BUCKET: &str = "walfs-test";
const ACCESS_KEY: &str = "AKIAWALFSTEST";
const SECRET_KEY: &str = "walfs-test-secret";

/// A running server with one empty bucket. Ends when dropped.
pub(crate) struct S3Server {
    front: Arc<Front>,
    memory: Arc<Memory>,
    port: Port,
    listening: Mutex<Option<Listening>>,
    runtime: Option<Runtime>,
}

/// Ends the accepting of connections, and tells when it has ended.
struct Listening {
    stop: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl S3Server {
    /// Starts a server on a free port of the loopback interface. It answers when this returns.
    pub(crate) fn start() -> Self {
        let memory = Arc::new(Memory::default());
        let mut service = S3ServiceBuilder::new(api::Api {
            memory: Arc::clone(&memory),
            bucket: BUCKET.to_owned(),
        });
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let front = Front {
            s3: service.build(),
            faults: Faults::new(),
            log: Default::default(),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build();
        let server = Self {
            front: Arc::new(front),
            memory,
            port: Port::reserve().expect("a free port on loopback"),
            listening: Mutex::new(None),
            runtime: Some(runtime.expect("threads for the S3 server")),
        };
        server.resume();
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// The name of the only bucket.
    pub(crate) fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// The only access key that is known.
    pub(crate) fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// Its secret.
    pub(crate) fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The environment of a process that is to use this server.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }
}

/// What is stored, without HTTP, faults or log.
impl S3Server {
    /// Be like Garage: take `If-None-Match` and `If-Match`, and overwrite all the same.
    pub(crate) fn ignore_conditions(&self, ignore: bool) {
        self.memory.ignore_conditions(ignore);
    }

    /// The keys that start with `prefix`, ascending.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = Vec::new();
        self.memory.visit(prefix, |key, _object| {
            let ours = key.starts_with(prefix);
            keys.extend(ours.then(|| key.to_owned()));
            ours
        });
        keys
    }

    /// An object's bytes.
    pub(crate) fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.memory.get(key).ok().map(|object| object.bytes.to_vec())
    }

    /// Stores an object, over an old one too.
    pub(crate) fn put_object(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        let object = Object::new(bytes.into().into(), None, About::default());
        self.memory
            .put(key, object, &Condition::default())
            .expect("a put without a condition");
    }

    /// Damages an object as a disk would: its checksum and entity tag stay those of the right bytes.
    ///
    /// # Panics
    /// If there is no such object.
    pub(crate) fn corrupt(&self, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
        assert!(
            self.memory.corrupt(key, change),
            "there is no object {key} to corrupt"
        );
    }

    /// Removes an object; was there one?
    pub(crate) fn remove(&self, key: &str) -> bool {
        self.memory.remove(key)
    }

    /// Locks every object whose key has this part, as Object Lock does. What is deleted is hidden all the same.
    pub(crate) fn lock(&self, part: &str, lock: Option<Lock>) {
        self.memory.lock(part, lock);
    }

    /// Begins a multipart upload that nobody completes.
    pub(crate) fn begin_upload(&self, key: &str) {
        self.memory.begin_upload(Upload {
            key: key.to_owned(),
            algorithm: Algorithm::Crc64Nvme,
            composite: false,
            parts: Default::default(),
            about: About::default(),
            begun: SystemTime::now(),
        });
    }

    /// Makes the multipart uploads under way older.
    pub(crate) fn age_uploads(&self, by: Duration) {
        self.memory.age_uploads(by);
    }

    /// The keys of the multipart uploads under way, ascending.
    pub(crate) fn uploads_in_progress(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .memory
            .uploads()
            .into_values()
            .map(|upload| upload.key)
            .collect();
        keys.sort();
        keys
    }
}

/// What was asked.
impl S3Server {
    /// All requests so far, in the order of their arrival.
    pub(crate) fn requests(&self) -> Vec<Logged> {
        self.front.log.all()
    }

    /// Forgets the requests so far.
    pub(crate) fn clear_requests(&self) {
        self.front.log.clear();
    }

    /// How many requests so far are such?
    pub(crate) fn count(&self, mut such: impl FnMut(&Logged) -> bool) -> usize {
        self.requests().iter().filter(|request| such(request)).count()
    }

    /// Waits until `n` requests are such; a request that hangs counts from when its head has come.
    /// Blocks the thread: an asynchronous test needs `flavor = "multi_thread"`, or its client stands still too.
    ///
    /// # Panics
    /// After half a minute.
    pub(crate) fn wait_for(&self, n: usize, mut such: impl FnMut(&Logged) -> bool) {
        self.front
            .log
            .wait(|requests| requests.iter().filter(|request| such(request)).count() >= n);
    }
}

/// Faults. They hold on connections that are open already as on new ones.
impl S3Server {
    /// Puts a rule in force. Of several, the first that hits a request decides alone.
    pub(crate) fn add_rule(&self, rule: Rule) -> RuleId {
        self.front.faults.add(rule)
    }

    /// Ends a rule; requests that it made hang see a reset. Returns how many requests it hit.
    pub(crate) fn remove_rule(&self, id: RuleId) -> u64 {
        self.front.faults.remove(id)
    }

    /// Ends all rules.
    pub(crate) fn clear_rules(&self) {
        self.front.faults.clear();
    }

    /// How many requests a rule in force has hit.
    pub(crate) fn hits(&self, id: RuleId) -> u64 {
        self.front.faults.hits(id)
    }

    /// Takes connections and requests and never answers; `false` ends that with a reset for all who wait.
    pub(crate) fn blackhole(&self, on: bool) {
        self.front.faults.blackhole(on);
    }

    /// Resets all connections and refuses new ones. The objects stay. Done when it returns.
    pub(crate) fn stop(&self) {
        let listening = self
            .listening
            .lock()
            .expect("no holder of the lock panics")
            .take();
        if let Some(Listening { stop, ended }) = listening {
            drop(stop);
            // The sender is dropped when the task has ended.
            let _ = ended.recv();
        }
    }

    /// Takes connections again, on the same port.
    pub(crate) fn resume(&self) {
        let mut listening = self.listening.lock().expect("no holder of the lock panics");
        if listening.is_some() {
            return;
        }
        let runtime = self.runtime.as_ref().expect("there until the drop");
        let _context = runtime.enter();
        let listener = self.port.listen().expect("the reserved port");
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let front = Arc::clone(&self.front);
        runtime.spawn(async move {
            net::run(front, listener, stopped).await;
            drop::<mpsc::Sender<()>>(end);
        });
        *listening = Some(Listening { stop, ended });
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
        // Not by waiting: that would panic inside another runtime, where asynchronous tests live.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
