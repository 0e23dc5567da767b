//! A store of any number of segments that has none of them: it answers listings and questions from the numbers in
//! their names, after a delay, and takes new objects in without keeping their bytes. Served as `walfs mount` does, in a
//! process of its own, so that the memory measured is that of a daemon.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use walfs::archive::tree::page_hashes::PageKey;
use walfs::archive::{self, Archive, FORMAT_VERSION, Identity, Marker};
use walfs::cache::Cache;
use walfs::codec::Compression;
use walfs::metrics::Metrics;
use walfs::mount::fs::{self, Fs};
use walfs::mount::serve;
use walfs::read::Reader;
use walfs::staging::Staging;
use walfs::store::{
    Backend, ByteRange, Error, ErrorKind, Fetched, Key, Meta, Page, Part, Patience, PutMode, Store, Upload,
};

use super::{SYSTEM_ID, name, wal};

/// Until SIGTERM.
pub(super) fn serve(mountpoint: &Path, count: u64, delay: Duration) {
    let request = serve::Request {
        mountpoint: mountpoint.to_owned(),
        source: "simulated".into(),
        user: None,
        allow_other: false,
        read_only: false,
    };
    let waiting = serve::mount(&request).expect("mount");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let served = async {
        let fs = Arc::new(open(mountpoint, Simulated::new(count, delay)).await);
        let signals = serve::Signals::new(|| {}).expect("listen for signals");
        waiting.serve(fs, Duration::from_secs(45), signals, || {}).await
    };
    runtime.expect("start threads").block_on(served).expect("serve");
}

async fn open(mountpoint: &Path, backend: Simulated) -> Fs {
    let store = Store::new(Arc::new(backend));
    let patience = Patience::for_at_most(Duration::from_secs(45));
    let archive = Archive::open(store, &archive::Options::default(), patience).await;
    let archive = Arc::new(archive.expect("open the archive"));
    let reader = Reader::new(archive.clone(), Cache::new(96 << 20), None);
    let staging = Staging::new(archive.compression(), &Default::default());
    let options = fs::Options {
        deadline: Duration::from_secs(45),
        longest: None,
        quiet_after: Duration::from_secs(60),
        read_deadline: None,
        read_only: false,
        mountpoint: mountpoint.to_owned(),
    };
    Fs::new(
        archive,
        reader,
        staging,
        Arc::new(Metrics::default()),
        options,
        None,
    )
}

#[derive(Debug)]
struct Simulated {
    count: u64,
    delay: Duration,
    made_at: SystemTime,
    /// `walfs.json` and `cluster.json`.
    markers: BTreeMap<&'static str, Bytes>,
    /// Objects stored since.
    added: Mutex<BTreeMap<Key, u64>>,
}

impl Simulated {
    fn new(count: u64, delay: Duration) -> Self {
        let marker = Marker {
            format_version: FORMAT_VERSION,
            identity: Identity {
                archive_id: "simulated".into(),
                page_key: PageKey::random().expect("there are random numbers"),
            },
            codec: Compression::default().extension().into(),
            put_if_absent: true,
            complete_if_absent: true,
            created_by: "bench".into(),
        };
        let marker = serde_json::to_vec(&marker).expect("plain data becomes JSON");
        let cluster = format!(
            r#"{{"system_identifier": "{SYSTEM_ID}", "segment_bytes": {}, "first_file": "{}"}}"#,
            wal::SEGMENT_BYTES,
            name(0)
        );
        Self {
            count,
            delay,
            made_at: SystemTime::now(),
            markers: [("walfs.json", marker.into()), ("cluster.json", cluster.into())].into(),
            added: Mutex::default(),
        }
    }

    /// A request's time on its way.
    async fn travel(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }

    fn meta(&self, stored_bytes: u64) -> Meta {
        Meta {
            stored_bytes,
            modified: self.made_at,
        }
    }

    fn find(&self, key: &Key) -> Option<Meta> {
        let invented = number_of(key.as_str()).is_some_and(|number| number < self.count);
        let added = || self.added.lock().expect("no panic while held").get(key).copied();
        let bytes = if invented { Some(6 << 20) } else { added() };
        bytes.map(|bytes| self.meta(bytes))
    }

    fn absent(&self, operation: &'static str, key: &Key) -> Error {
        Error {
            kind: ErrorKind::NotFound,
            operation,
            target: key.to_string(),
            message: "no such object".into(),
        }
    }
}

fn key_of(number: u64) -> Key {
    Key::new(format!(
        "wal/{}.{}",
        name(number),
        Compression::default().extension()
    ))
}

/// The number of the segment that a key stands for.
fn number_of(key: &str) -> Option<u64> {
    let name = key.strip_prefix("wal/")?.get(..24)?;
    let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).ok();
    (part(0)? == 1).then_some(part(8)? << 8 | part(16)?)
}

#[async_trait]
impl Backend for Simulated {
    fn place(&self) -> String {
        "simulated".into()
    }

    async fn put(&self, key: &Key, body: Bytes, _mode: PutMode) -> Result<(), Error> {
        self.travel().await;
        self.added
            .lock()
            .expect("no panic while held")
            .insert(key.clone(), body.len() as u64);
        Ok(())
    }

    async fn get(&self, key: &Key, _range: ByteRange) -> Result<Fetched, Error> {
        self.travel().await;
        let bytes = self
            .markers
            .get(key.as_str())
            .ok_or_else(|| self.absent("get", key))?;
        Ok(Fetched {
            bytes: bytes.clone(),
            meta: self.meta(bytes.len() as u64),
        })
    }

    async fn head(&self, key: &Key) -> Result<Meta, Error> {
        self.travel().await;
        self.find(key).ok_or_else(|| self.absent("head", key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        self.travel().await;
        assert_eq!(prefix, "wal/");
        let from = after.map_or(0, |after| number_of(after).expect("a key of ours") + 1);
        let invented = (from..self.count).map(|number| (key_of(number), self.meta(6 << 20)));
        let added = self.added.lock().expect("no panic while held");
        let beyond = after
            .and_then(Key::parse)
            .map_or(Bound::Unbounded, Bound::Excluded);
        let added = added
            .range((beyond, Bound::Unbounded))
            .map(|(key, bytes)| (key.clone(), self.meta(*bytes)));
        let mut entries: Vec<(Key, Meta)> = invented.chain(added).take(limit + 1).collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, more })
    }

    async fn delete(&self, _keys: &[Key]) -> Result<(), Error> {
        unreachable!("nothing here deletes")
    }

    async fn begin_upload(&self, _key: &Key) -> Result<Upload, Error> {
        unreachable!("segments of 16 MiB are stored by one request")
    }

    async fn put_part(&self, _upload: &Upload, _number: u32, _body: Bytes) -> Result<Part, Error> {
        unreachable!("segments of 16 MiB are stored by one request")
    }

    async fn complete_upload(&self, _upload: &Upload, _parts: &[Part], _mode: PutMode) -> Result<(), Error> {
        unreachable!("segments of 16 MiB are stored by one request")
    }

    async fn abort_upload(&self, _upload: &Upload) -> Result<(), Error> {
        unreachable!("segments of 16 MiB are stored by one request")
    }
}
