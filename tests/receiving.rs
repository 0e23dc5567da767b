//! What `pg_receivewal` asks of a directory, below FUSE: a `.partial` that is laid out, filled in, synced over and over,
//! found again by the next process, and renamed when it is full. Whatever a sync has acknowledged stays (promise W1).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::runtime::Runtime;
use walfs::mount::error::Error;
use walfs::mount::fs::Opening;
use walfs::store::ErrorKind;

use crate::common::below::{Below, LONG};
use crate::common::scripted::{Fault, Scripted};
use crate::common::wal;

// What others have of the segment meanwhile.
mod others;

const SYSTEM: u64 = 7_300_000_000_000_000_001;
const SEGMENT_BYTES: u32 = 1 << 20;
const WHOLE: usize = SEGMENT_BYTES as usize;

/// One receiver's view of a segment.
struct Receiving<'a> {
    below: &'a Below,
    partial: String,
    handle: u64,
    content: Arc<Vec<u8>>,
    at: usize,
}

impl<'a> Receiving<'a> {
    /// As `pg_receivewal` begins: with a file that is there, or one that it lays out, and syncs through a descriptor of
    /// its own.
    async fn begin(below: &'a Below, content: Arc<Vec<u8>>) -> Result<Self, Error> {
        let partial = format!("{}.partial", name());
        let handle = match below.lookup(&partial).await {
            Ok(found) => {
                assert_eq!(found.bytes, WHOLE as u64, "pg_receivewal would refuse to go on");
                let handle = below.fs.open_for(found.ino, Opening::Write, None).await?;
                below.fs.fsync(handle, None).await?;
                handle
            }
            Err(Error::NotFound) => {
                let handle = below.start(&partial, None).await?;
                for block in 0..WHOLE / 8192 {
                    below.write(handle, (block * 8192) as u64, &[0; 8192]).await?;
                }
                sync(below, &partial).await?;
                handle
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            below,
            partial,
            handle,
            content,
            at: 0,
        })
    }

    /// Takes what comes next, up to that byte.
    async fn take(&mut self, up_to: usize) -> Result<(), Error> {
        while self.at < up_to {
            let end = up_to.min(self.at + 100_000);
            let fragment = &self.content[self.at..end];
            self.below.write(self.handle, self.at as u64, fragment).await?;
            self.at = end;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        self.below.fs.fsync(self.handle, None).await
    }

    async fn close(&self) -> Result<(), Error> {
        let closed = self.below.fs.flush(self.handle, None, None).await;
        self.below.fs.release(self.handle).await;
        closed
    }

    /// The rest, and `durable_rename`.
    async fn end(mut self) -> Result<(), Error> {
        self.take(WHOLE).await?;
        self.close().await?;
        sync(self.below, &self.partial).await?;
        self.below.rename(&self.partial, &name(), true).await?;
        sync(self.below, &name()).await
    }
}

fn name() -> String {
    wal::segment_name(1, 3, SEGMENT_BYTES)
}

fn content(seed: u64) -> Arc<Vec<u8>> {
    Arc::new(wal::segment(&name(), SYSTEM, SEGMENT_BYTES, seed))
}

async fn open(backend: &Arc<Scripted>) -> Below {
    Below::open(backend.store(), LONG)
        .await
        .expect("open the archive")
}

/// Opens without truncating, syncs, closes.
async fn sync(below: &Below, name: &str) -> Result<(), Error> {
    let found = below.lookup(name).await?;
    let handle = below.fs.open_for(found.ino, Opening::Write, None).await?;
    below.fs.fsync(handle, None).await?;
    below.fs.flush(handle, None, None).await?;
    below.fs.release(handle).await;
    Ok(())
}

fn fragments(backend: &Scripted) -> BTreeMap<String, usize> {
    let objects = backend.objects().into_iter();
    let fragments = objects.filter(|(key, _)| key.starts_with("receiving/"));
    fragments.map(|(key, bytes)| (key, bytes.len())).collect()
}

/// Waits for what is deleted in the background.
async fn fragments_go(backend: &Scripted) {
    fragments_go_but(backend, 0).await;
}

/// So many may stay. Removing them is in nobody's way, so a busy machine may be late with it.
async fn fragments_go_but(backend: &Scripted, most: usize) {
    for _ in 0..1000 {
        if fragments(backend).len() <= most {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("they stay: {:?}", fragments(backend));
}

async fn listed(below: &Below) -> Vec<String> {
    let listed = below.list().await.expect("list");
    listed.into_iter().map(|(name, _)| name).collect()
}

/// What there is of the segment, complete or not: read as an operator would.
async fn found(below: &Below) -> Vec<u8> {
    match below.read(&name()).await {
        Ok(whole) => whole,
        Err(Error::NotFound) => match below.read(&format!("{}.partial", name())).await {
            Err(Error::NotFound) => vec![0; WHOLE],
            partial => partial.expect("read what was received"),
        },
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn assert_begins_with(found: &[u8], content: &[u8], bytes: usize) {
    assert!(found.len() == WHOLE, "{} bytes", found.len());
    assert!(
        found[..bytes] == content[..bytes],
        "what was synced is not there: {bytes} bytes"
    );
    let rest = bytes
        + found[bytes..]
            .iter()
            .zip(&content[bytes..])
            .take_while(|(a, b)| a == b)
            .count();
    assert!(
        found[rest..].iter().all(|byte| *byte == 0),
        "neither received nor zeros"
    );
}

/// W1, W6: a synced part survives the process and is found by the next one, which goes on to the end.
#[tokio::test(flavor = "multi_thread")]
async fn w1_what_was_received_and_synced_stays() {
    for honours_conditions in [true, false] {
        let backend = Scripted::map(honours_conditions);
        let content = content(1);
        let partial = format!("{}.partial", name());
        for synced in [0, 100, 8192, 8193, 300_000, 700_001] {
            let below = open(&backend).await;
            let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
            receiving.take(synced).await.unwrap();
            receiving.sync().await.unwrap();
            // Not synced: it may be lost.
            receiving.take(synced + 5000).await.unwrap();
            let other = open(&backend).await;
            assert_eq!(listed(&other).await, std::slice::from_ref(&partial));
            assert_begins_with(&found(&other).await, &content, synced);
            let absent = other
                .fs
                .lookup(walfs::mount::node::ROOT, ".absent".as_ref(), None)
                .await
                .unwrap();
            let proof = other.fs.lookup(absent.ino, partial.as_ref(), None).await;
            assert!(matches!(proof, Err(Error::NotFound)), "it is there");
        }
        let below = open(&backend).await;
        Receiving::begin(&below, content.clone())
            .await
            .unwrap()
            .end()
            .await
            .unwrap();
        let other = open(&backend).await;
        assert_eq!(listed(&other).await, [name()]);
        assert!(other.read(&name()).await.unwrap() == **content);
        fragments_go(&backend).await;
        assert!(matches!(other.lookup(&partial).await, Err(Error::NotFound)));
        assert_eq!(
            backend
                .objects()
                .keys()
                .filter(|key| key.starts_with("wal/"))
                .count(),
            1
        );
    }
}

/// S2: "kill -9 of walfs at any moment": after each call to the store that its death could follow.
#[test]
fn s2_a_receiver_that_dies_at_any_call_loses_nothing_synced() {
    let syncs = [0, 20_000, 30_000, 300_000, 310_000, 900_000];
    for done in [false, true] {
        for calls in 0.. {
            let backend = Scripted::map(true);
            let (content, synced) = (content(1), Mutex::new(None));
            let receive = async {
                let below = open(&backend).await;
                let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
                for up_to in syncs {
                    receiving.take(up_to).await.unwrap();
                    receiving.sync().await.unwrap();
                    *synced.lock().unwrap() = Some(up_to);
                }
                receiving.end().await.unwrap();
                *synced.lock().unwrap() = Some(WHOLE);
            };
            backend.die_after(calls, done);
            let lived = runtime().block_on(async {
                tokio::select! {
                    () = receive => true,
                    () = backend.dead() => false,
                }
            });
            backend.die_after(usize::MAX / 2, false);
            runtime().block_on(async {
                let below = open(&backend).await;
                let synced = *synced.lock().unwrap();
                if let Some(synced) = synced {
                    assert_begins_with(&found(&below).await, &content, synced);
                    assert!(!listed(&below).await.is_empty(), "where to go on is not known");
                }
                if below.lookup(&name()).await.is_err() {
                    Receiving::begin(&below, content.clone())
                        .await
                        .unwrap()
                        .end()
                        .await
                        .unwrap();
                }
                assert!(below.read(&name()).await.unwrap() == **content);
                assert_eq!(listed(&below).await, [name()]);
            });
            if lived {
                break;
            }
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A sync says what the store says: no success without it, and the next one makes up for it.
#[tokio::test(flavor = "multi_thread")]
async fn w1_a_sync_that_the_store_refuses_fails() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    receiving.take(50_000).await.unwrap();
    let refused = [0, 1, 2, 3].map(|call| (call, Fault::Fails(ErrorKind::Denied)));
    backend.arm(&refused);
    assert_eq!(receiving.sync().await.unwrap_err().errno(), libc::EACCES);
    backend.arm(&[(0, Fault::LosesAnswer(ErrorKind::Transient))]);
    receiving.sync().await.unwrap();
    backend.disarm();
    assert_begins_with(&found(&open(&backend).await).await, &content, 50_000);
    // So does the last one.
    receiving.take(WHOLE).await.unwrap();
    backend.arm(&[0, 1, 2, 3, 4, 5].map(|call| (call, Fault::Fails(ErrorKind::Denied))));
    receiving.sync().await.unwrap_err();
    backend.disarm();
    receiving.end().await.unwrap();
    assert!(open(&backend).await.read(&name()).await.unwrap() == **content);
}

/// Bounded: a commit a moment does not store the segment anew each time, nor leave an object each time.
#[tokio::test(flavor = "multi_thread")]
async fn w7_many_syncs_store_little() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    backend.answers();
    let mut syncs = 0;
    for step in (0..).map(|number| 100 + number * 37 % 3000) {
        let up_to = receiving.at + step;
        if up_to > WHOLE {
            break;
        }
        receiving.take(up_to).await.unwrap();
        receiving.sync().await.unwrap();
        syncs += 1;
        fragments_go_but(&backend, 40).await;
    }
    let answers = backend.answers();
    let puts: Vec<_> = answers
        .iter()
        .filter(|answer| answer.operation == "put")
        .collect();
    assert_eq!(
        puts.len(),
        syncs + 1,
        "one put a sync, and one that ties the archive to its cluster"
    );
    let written: u64 = puts.iter().map(|answer| written(&answer.target)).sum();
    let once = written as f64 / WHOLE as f64;
    assert!(
        once < 15.0,
        "each byte was stored {once:.1} times by {syncs} syncs"
    );
    assert_begins_with(&found(&open(&backend).await).await, &content, receiving.at);
    receiving.end().await.unwrap();
    fragments_go(&backend).await;
}

/// Plain bytes of a fragment, by its key.
fn written(key: &str) -> u64 {
    let range = key
        .strip_prefix("receiving/")
        .and_then(|name| name.split('.').nth(1));
    range.map_or(0, |range| {
        let (from, to) = range.split_once('-').expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        number(to) - number(from)
    })
}

/// W4: what was acknowledged does not change, for a commit rests on it.
#[tokio::test(flavor = "multi_thread")]
async fn w4_other_bytes_than_those_synced_are_refused() {
    let backend = Scripted::map(true);
    let (below, right) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, right.clone()).await.unwrap();
    receiving.take(50_000).await.unwrap();
    receiving.close().await.unwrap();
    let before = fragments(&backend);
    let mut other = Receiving::begin(&below, content(2)).await.unwrap();
    let refused = other.take(50_000).await.unwrap_err();
    assert_eq!(refused.errno(), libc::EEXIST, "{refused}");
    other.close().await.unwrap();
    let partial = format!("{}.partial", name());
    let removed = below.fs.unlink(below.wal, partial.as_ref()).await;
    assert_eq!(removed.unwrap_err().errno(), libc::EPERM);
    assert_eq!(fragments(&backend), before);
    assert_begins_with(&found(&below).await, &right, 50_000);
}

/// W5: what is kept of a segment is of the archive's cluster, and ties an empty one to its own.
#[tokio::test(flavor = "multi_thread")]
async fn w5_another_clusters_bytes_are_not_kept() {
    let backend = Scripted::map(true);
    let below = open(&backend).await;
    let mut receiving = Receiving::begin(&below, content(1)).await.unwrap();
    receiving.take(50_000).await.unwrap();
    receiving.close().await.unwrap();
    assert!(backend.objects().contains_key("cluster.json"));
    let next = wal::segment_name(1, 4, SEGMENT_BYTES);
    let foreign = wal::segment(&next, SYSTEM + 1, SEGMENT_BYTES, 1);
    let handle = below.start(&format!("{next}.partial"), None).await.unwrap();
    below.write(handle, 0, &[0; WHOLE]).await.unwrap();
    below.fs.fsync(handle, None).await.unwrap();
    let refused = below.write(handle, 0, &foreign[..9000]).await.unwrap_err();
    assert_eq!(refused.errno(), libc::EINVAL, "{refused}");
    assert!(below.fs.fsync(handle, None).await.is_err());
}

/// Only what follows from the beginning on can be kept; a gap is not taken for zeros.
#[tokio::test(flavor = "multi_thread")]
async fn w3_a_gap_is_not_kept() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    receiving.take(10_000).await.unwrap();
    below
        .write(receiving.handle, 20_000, &content[20_000..WHOLE])
        .await
        .unwrap();
    assert_eq!(receiving.sync().await.unwrap_err().errno(), libc::EINVAL);
    assert!(receiving.close().await.is_err());
    let partial = format!("{}.partial", name());
    assert!(below.rename(&partial, &name(), true).await.is_err());
    assert!(!backend.objects().keys().any(|key| key.starts_with("wal/")));
}

/// E4: a store may forbid to delete. What stays is in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn e4_fragments_that_cannot_be_deleted_are_passed_over() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    let mut all = BTreeMap::new();
    for up_to in (0..500_000).step_by(9_000) {
        receiving.take(up_to).await.unwrap();
        receiving.sync().await.unwrap();
        all.extend(
            backend
                .objects()
                .into_iter()
                .filter(|(key, _)| key.starts_with("receiving/")),
        );
    }
    let at = receiving.at;
    receiving.close().await.unwrap();
    all.iter()
        .for_each(|(key, bytes)| backend.set(key, Some(bytes.clone())));
    let below = open(&backend).await;
    assert_begins_with(&found(&below).await, &content, at);
    Receiving::begin(&below, content.clone())
        .await
        .unwrap()
        .end()
        .await
        .unwrap();
    all.iter()
        .for_each(|(key, bytes)| backend.set(key, Some(bytes.clone())));
    let below = open(&backend).await;
    assert_eq!(listed(&below).await, [name()]);
    assert!(below.read(&name()).await.unwrap() == **content);
}

/// PostgreSQL archives a timeline's last segment as `.partial` when it is promoted, while `pg_receivewal` still has the
/// same name: both get what is theirs.
#[tokio::test(flavor = "multi_thread")]
async fn w6_an_archived_partial_and_a_received_one_do_not_meet() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    receiving.take(100_000).await.unwrap();
    let partial = format!("{}.partial", name());
    let mut archived = content.to_vec();
    archived[200_000..].fill(0);
    below.copy(&partial, &archived).await.unwrap();
    receiving.take(300_000).await.unwrap();
    sync(&below, &partial).await.unwrap();
    receiving.sync().await.unwrap();
    let other = open(&backend).await;
    assert!(other.read(&partial).await.unwrap() == archived);
    receiving.end().await.unwrap();
    assert!(other.read(&name()).await.unwrap() == **content);
    assert!(
        other.read(&partial).await.unwrap() == archived,
        "what is archived does not change"
    );
}

/// Two machines receive the same server into one archive, an orphan perhaps and its successor: neither takes away what
/// the other has been told is safe.
#[tokio::test(flavor = "multi_thread")]
async fn w1_two_receivers_lose_nothing_of_each_other() {
    let backend = Scripted::map(true);
    let content = content(1);
    let belows = [open(&backend).await, open(&backend).await];
    let mut first = Receiving::begin(&belows[0], content.clone()).await.unwrap();
    let mut second = Receiving::begin(&belows[1], content.clone()).await.unwrap();
    for round in 1..60 {
        first.take(round * 9_000).await.unwrap();
        first.sync().await.unwrap();
        second.take(round * 9_000 + round % 3 * 1_000).await.unwrap();
        second.sync().await.unwrap();
        let synced = first.at.max(second.at);
        assert_begins_with(&found(&open(&backend).await).await, &content, synced);
    }
    first.end().await.unwrap();
    assert_begins_with(&found(&open(&backend).await).await, &content, WHOLE);
    second.end().await.unwrap();
    assert_eq!(listed(&open(&backend).await).await, [name()]);
    fragments_go(&backend).await;
}
