//! A store for tests that obeys a script: it fails, hangs or loses its answer at the n-th call, dies after some
//! number of calls, notes every answer it gave, and shows what it holds without being asked through its interface.
//!
//! Underneath is a map in memory, with or without conditional writes, or a real local directory.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Notify;
use walfs::store::{
    self, Backend, ByteRange, Conditions, Error, ErrorKind, Fetched, Key, Location, Meta, Page, Part,
    Patience, PutMode, Store, Upload,
};

/// What happens instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and an error of this kind is the answer.
    Fails(ErrorKind),
    /// It is done, and an error of this kind is the answer.
    LosesAnswer(ErrorKind),
    /// Nothing is done, and no answer comes.
    Hangs,
    /// It is done, and no answer comes.
    DoesAndHangs,
}

/// One call, as it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `put`, `get`, `head`, `list`, `delete`.
    pub operation: &'static str,
    /// The object, or the prefix of a listing.
    pub target: String,
    /// The kind of the error, if it was one.
    pub error: Option<ErrorKind>,
}

/// A backend that obeys.
#[derive(Debug)]
pub struct Scripted {
    under: Under,
    script: Mutex<Script>,
    /// Told when the last call of a dying store has been made.
    died: Notify,
}

#[derive(Debug, Default)]
struct Script {
    calls: usize,
    /// The faults to come, by number of the call.
    faults: BTreeMap<usize, Fault>,
    fired: Vec<Fault>,
    death: Option<Death>,
    answers: Vec<Answer>,
}

/// The last call that counts.
#[derive(Debug, Clone, Copy)]
struct Death {
    at: usize,
    /// Is that call still done, without an answer?
    done: bool,
}

/// What becomes of a call.
enum Turn {
    Lives(Option<Fault>),
    Dies { done: bool },
}

#[derive(Debug)]
enum Under {
    Map {
        objects: Mutex<BTreeMap<String, (Bytes, SystemTime)>>,
        honours_conditions: bool,
    },
    Directory {
        path: PathBuf,
        store: Store,
    },
}

impl Scripted {
    /// An empty map.
    pub fn map(honours_conditions: bool) -> Arc<Self> {
        Self::over(Under::Map {
            objects: Mutex::default(),
            honours_conditions,
        })
    }

    /// A local directory, through the real backend.
    pub async fn directory(path: &Path) -> Arc<Self> {
        let location = Location::Dir(path.to_owned());
        let store = store::open(&location, &store::Options::default())
            .await
            .expect("open the directory");
        let path = path.to_owned();
        Self::over(Under::Directory { path, store })
    }

    fn over(under: Under) -> Arc<Self> {
        Arc::new(Self {
            under,
            script: Mutex::default(),
            died: Notify::new(),
        })
    }

    /// A store of its own over it, as a new process would have.
    pub fn store(self: &Arc<Self>) -> Store {
        Store::new(self.clone())
    }

    /// Arms faults; each is counted in calls from now, 0 is the next one.
    pub fn arm(&self, faults: &[(usize, Fault)]) {
        let mut script = self.script();
        let calls = script.calls;
        script.faults = faults.iter().map(|&(at, fault)| (calls + at, fault)).collect();
        script.fired.clear();
    }

    /// Ends all faults, and says which have been met since they were armed.
    pub fn disarm(&self) -> Vec<Fault> {
        let mut script = self.script();
        script.faults.clear();
        std::mem::take(&mut script.fired)
    }

    /// After the next `calls` none is answered any more. `done`: the first of those is still done.
    pub fn die_after(&self, calls: usize, done: bool) {
        let mut script = self.script();
        let at = script.calls + calls;
        script.death = Some(Death { at, done });
    }

    /// Answers again.
    pub fn revive(&self) {
        self.script().death = None;
    }

    /// Until somebody makes a call of a dead store.
    pub async fn dead(&self) {
        self.died.notified().await;
    }

    /// The answers given since the last time this was asked.
    pub fn answers(&self) -> Vec<Answer> {
        std::mem::take(&mut self.script().answers)
    }

    /// Everything it holds, looked at from behind.
    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        match &self.under {
            Under::Map { objects, .. } => {
                let objects = objects.lock().expect("no panic while held");
                objects
                    .iter()
                    .map(|(key, (bytes, _))| (key.clone(), bytes.clone()))
                    .collect()
            }
            Under::Directory { path, .. } => files(path),
        }
    }

    /// Changes or removes what it holds, from behind.
    pub fn set(&self, key: &str, bytes: Option<Bytes>) {
        match (&self.under, bytes) {
            (Under::Map { objects, .. }, bytes) => {
                let mut objects = objects.lock().expect("no panic while held");
                match bytes {
                    Some(bytes) => objects.insert(key.to_owned(), (bytes, SystemTime::now())),
                    None => objects.remove(key),
                };
            }
            (Under::Directory { path, .. }, Some(bytes)) => {
                fs::write(path.join(key), bytes).expect("write an object");
            }
            (Under::Directory { path, .. }, None) => {
                fs::remove_file(path.join(key)).expect("remove an object");
            }
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("no panic while held")
    }

    fn turn(&self) -> Turn {
        let mut script = self.script();
        let call = script.calls;
        script.calls += 1;
        if let Some(death) = script.death.filter(|death| call >= death.at) {
            let done = death.done && call == death.at;
            return Turn::Dies { done };
        }
        let fault = script.faults.remove(&call);
        script.fired.extend(fault);
        Turn::Lives(fault)
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        target: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let fault = match self.turn() {
            Turn::Lives(fault) => fault,
            Turn::Dies { done } => {
                if done {
                    let _ = work.await;
                }
                self.died.notify_one();
                return pending().await;
            }
        };
        let answer = match fault {
            None => work.await,
            Some(Fault::Fails(kind)) => Err(said(kind, operation, target)),
            Some(Fault::LosesAnswer(kind)) => {
                let _ = work.await;
                Err(said(kind, operation, target))
            }
            Some(Fault::Hangs) => pending().await,
            Some(Fault::DoesAndHangs) => {
                let _ = work.await;
                pending().await
            }
        };
        self.script().answers.push(Answer {
            operation,
            target: target.to_owned(),
            error: answer.as_ref().err().map(|error| error.kind),
        });
        answer
    }
}

fn said(kind: ErrorKind, operation: &'static str, target: &str) -> Error {
    Error {
        kind,
        operation,
        target: target.to_owned(),
        message: format!("the script says {kind:?}"),
    }
}

/// All objects of a local archive. Temporary files are none.
pub fn files(root: &Path) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list the archive") {
            let path = entry.expect("list the archive").path();
            let key = path.strip_prefix(root).expect("below the root");
            let key = key.to_str().expect("keys are ASCII").to_owned();
            if key == ".tmp" || key.ends_with("/.archive_id") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(key, fs::read(&path).expect("read an object").into());
            }
        }
    }
    found
}

/// The real store has no faults of its own here; this is for a machine that is very busy.
fn patience() -> Patience {
    Patience::for_at_most(Duration::from_secs(60))
}

#[async_trait]
impl Backend for Scripted {
    fn place(&self) -> String {
        match &self.under {
            Under::Map { .. } => "the test's map".into(),
            Under::Directory { path, .. } => path.display().to_string(),
        }
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error> {
        self.call("put", key.as_str(), async {
            match &self.under {
                Under::Directory { store, .. } => store.put(key, body, mode, patience()).await,
                Under::Map {
                    objects,
                    honours_conditions,
                } => {
                    let mut objects = objects.lock().expect("no panic while held");
                    let refuses = *honours_conditions && mode == PutMode::IfAbsent;
                    if refuses && objects.contains_key(key.as_str()) {
                        return Err(said(ErrorKind::AlreadyExists, "put", key.as_str()));
                    }
                    objects.insert(key.to_string(), (body, SystemTime::now()));
                    Ok(())
                }
            }
        })
        .await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        self.call("get", key.as_str(), async {
            match &self.under {
                Under::Directory { store, .. } => store.get(key, range, patience()).await,
                Under::Map { objects, .. } => {
                    let (bytes, modified) = find(objects, "get", key)?;
                    let length = bytes.len() as u64;
                    let span = match range {
                        ByteRange::AtMost(_) => 0..length,
                        ByteRange::Span(span) => span,
                        ByteRange::First(first) => 0..length.min(first),
                        ByteRange::Last(last) => length.saturating_sub(last)..length,
                    };
                    if span.start > span.end || span.end > length {
                        return Err(said(ErrorKind::Damaged, "get", key.as_str()));
                    }
                    let meta = Meta {
                        stored_bytes: length,
                        modified,
                    };
                    let bytes = bytes.slice(span.start as usize..span.end as usize);
                    Ok(Fetched { bytes, meta })
                }
            }
        })
        .await
    }

    async fn head(&self, key: &Key) -> Result<Meta, Error> {
        self.call("head", key.as_str(), async {
            match &self.under {
                Under::Directory { store, .. } => store.head(key, patience()).await,
                Under::Map { objects, .. } => {
                    let (bytes, modified) = find(objects, "head", key)?;
                    Ok(Meta {
                        stored_bytes: bytes.len() as u64,
                        modified,
                    })
                }
            }
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        self.call("list", prefix, async {
            match &self.under {
                Under::Directory { store, .. } => store.list(prefix, after, limit, patience()).await,
                Under::Map { objects, .. } => {
                    let objects = objects.lock().expect("no panic while held");
                    let mut wanted = objects
                        .iter()
                        .filter(|(key, _)| key.starts_with(prefix))
                        .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
                    let entries = wanted.by_ref().take(limit).map(|(key, (bytes, modified))| {
                        let meta = Meta {
                            stored_bytes: bytes.len() as u64,
                            modified: *modified,
                        };
                        (Key::new(key.clone()), meta)
                    });
                    let entries = entries.collect();
                    let more = wanted.next().is_some();
                    Ok(Page { entries, more })
                }
            }
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        self.call("delete", keys[0].as_str(), async {
            match &self.under {
                Under::Directory { store, .. } => store.delete(keys, patience()).await,
                Under::Map { objects, .. } => {
                    let mut objects = objects.lock().expect("no panic while held");
                    keys.iter().for_each(|key| drop(objects.remove(key.as_str())));
                    Ok(())
                }
            }
        })
        .await
    }

    // Segments of these tests are far below the size that goes up in parts; only the probe asks.

    async fn begin_upload(&self, key: &Key) -> Result<Upload, Error> {
        Err(said(ErrorKind::Permanent, "begin upload", key.as_str()))
    }

    async fn put_part(&self, upload: &Upload, _: u32, _: Bytes) -> Result<Part, Error> {
        Err(said(ErrorKind::Permanent, "put part", upload.key.as_str()))
    }

    async fn complete_upload(&self, upload: &Upload, _: &[Part], _: PutMode) -> Result<(), Error> {
        Err(said(ErrorKind::Permanent, "complete upload", upload.key.as_str()))
    }

    async fn abort_upload(&self, _: &Upload) -> Result<(), Error> {
        Ok(())
    }

    fn conditions_known(&self) -> Option<Conditions> {
        match &self.under {
            Under::Directory { .. } => Some(Conditions {
                put: true,
                complete: true,
            }),
            Under::Map { .. } => None,
        }
    }
}

fn find(
    objects: &Mutex<BTreeMap<String, (Bytes, SystemTime)>>,
    operation: &'static str,
    key: &Key,
) -> Result<(Bytes, SystemTime), Error> {
    let objects = objects.lock().expect("no panic while held");
    let found = objects.get(key.as_str()).cloned();
    found.ok_or_else(|| said(ErrorKind::NotFound, operation, key.as_str()))
}
