//! What the machine does without walfs, with the same files and under the same load.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lzzzz::lz4f;
use tokio::runtime::Runtime;
use walfs::store::{self, Key, Location, Patience, PutMode, Store};

use crate::common::user::User;
use crate::measure;
use crate::scene::site::{S3, Site, owned};

/// A directory on the archive's disk and, where the archive is in S3, a store beside it.
pub struct Floor {
    dir: PathBuf,
    store: Option<(Runtime, Store)>,
}

impl Floor {
    pub fn new(site: &Site) -> Self {
        let open = |s3: &S3| {
            let runtime = Runtime::new().expect("threads");
            let store = runtime.block_on(opened(s3));
            (runtime, store)
        };
        Self {
            dir: owned(site, "floor"),
            store: site.s3.as_ref().map(open),
        }
    }

    pub fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// A copy with fsync, by a process of its own as `cp` is. It is removed after the clock has stopped.
    pub fn write(&self, segment: &Path) -> Duration {
        let copy = self.dir.join("copy");
        let mut dd = User::postgres().command("dd");
        dd.args([
            &format!("if={}", segment.display()),
            &format!("of={}", copy.display()),
        ]);
        dd.args(["bs=1M", "conv=fsync", "status=none"]);
        let wall = measure::run(&mut dd, None).wall;
        fs::remove_file(&copy).expect("remove the copy");
        wall
    }

    /// Packed by LZ4 and stored by one request.
    pub fn put(&self, segment: &Path) -> Duration {
        let (runtime, store) = self.store.as_ref().expect("a store");
        let name = segment
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a segment has a name");
        let begin = Instant::now();
        let plain = fs::read(segment).expect("read a segment");
        let mut packed = Vec::new();
        lz4f::compress_to_vec(&plain, &mut packed, &lz4f::Preferences::default()).expect("pack a segment");
        let patience = Patience::for_at_most(Duration::from_secs(60));
        let key = Key::new(name);
        let put = store.put(&key, Bytes::from(packed), PutMode::Overwrite, patience);
        runtime.block_on(put).expect("store a segment");
        begin.elapsed()
    }
}

async fn opened(s3: &S3) -> Store {
    let location = Location::parse(&format!("s3://{}/floor", s3.bucket())).expect("a place");
    let options = store::Options {
        endpoint: Some(s3.endpoint()),
        region: Some(s3.region().into()),
        credentials_file: Some(s3.keys.clone()),
        ..store::Options::default()
    };
    store::open(&location, &options).await.expect("open the store")
}
