//! What grows with the archive, and what must not (promise S3, S4): a directory of a million segments is gone through
//! page by page, a lookup asks the store as often as with one, and every operation has its number of requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use walfs::mount::asker::Asker;
use walfs::mount::directory::Entry;
use walfs::mount::error::Error as MountError;
use walfs::mount::wal::listing::AHEAD;
use walfs::store::{
    Backend, ByteRange, Conditions, Counts, Error, ErrorKind, Fetched, Key, Meta, Page, Part, PutMode, Store,
    Upload,
};

use crate::common::below::{Below, LONG};
use crate::common::scripted::Scripted;
use crate::common::wal;

const SYSTEM: u64 = 7_300_000_000_000_000_001;

/// A store that says it has any number of segments and makes them up when asked; what else it has is in a map.
#[derive(Debug)]
struct Huge {
    segments: u64,
    rest: Arc<Scripted>,
    /// This many listings are answered, then none.
    listings: AtomicU64,
    /// This many are answered, and the others wait.
    answers: Semaphore,
}

impl Huge {
    async fn with(segments: u64) -> Arc<Self> {
        let rest = Scripted::map(true);
        // One real segment ties the archive to its cluster.
        let name = wal::segment_name(2, 0, wal::SEGMENT_BYTES);
        let below = Below::open(rest.store(), LONG).await.unwrap();
        let content = wal::segment(&name, SYSTEM, wal::SEGMENT_BYTES, 1);
        below.copy(&name, &content).await.unwrap();
        rest.set(&format!("wal/{name}.lz4"), None);
        let listings = AtomicU64::new(u64::MAX);
        Arc::new(Self {
            segments,
            rest,
            listings,
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    /// Lets all listings wait but the next `many`.
    fn answer_only(&self, many: usize) {
        self.answers.forget_permits(Semaphore::MAX_PERMITS);
        self.answers.add_permits(many);
    }

    fn key(&self, number: u64) -> String {
        format!("wal/{}.lz4", wal::segment_name(1, number, wal::SEGMENT_BYTES))
    }

    /// The first segment whose key is greater.
    fn first_after(&self, after: Option<&str>) -> u64 {
        let Some(after) = after else { return 0 };
        let (mut low, mut high) = (0, self.segments);
        while low < high {
            let middle = (low + high) / 2;
            if self.key(middle).as_str() > after {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }
}

const META: Meta = Meta {
    stored_bytes: 5 << 20,
    modified: SystemTime::UNIX_EPOCH,
};

#[async_trait]
impl Backend for Huge {
    fn place(&self) -> String {
        "a huge archive".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error> {
        self.rest.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        self.rest.get(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Meta, Error> {
        let number = self.first_after(Some(key.as_str())).checked_sub(1);
        match number.is_some_and(|number| self.key(number) == key.as_str()) {
            true => Ok(META),
            false => self.rest.head(key).await,
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        if prefix == "receiving/" {
            return self.rest.list(prefix, after, limit).await;
        }
        assert_eq!(prefix, "wal/", "nothing else is listed");
        let answered = self
            .listings
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if answered.is_err() {
            return Err(Error {
                kind: ErrorKind::Denied,
                operation: "list",
                target: prefix.into(),
                message: "no more for now".into(),
            });
        }
        self.answers.acquire().await.expect("never closed").forget();
        let first = self.first_after(after);
        let end = self.segments.min(first + limit as u64);
        let entries = (first..end)
            .map(|number| (Key::new(self.key(number)), META))
            .collect();
        let more = end < self.segments;
        Ok(Page { entries, more })
    }

    async fn delete(&self, keys: &[Key]) -> Result<(), Error> {
        self.rest.delete(keys).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, Error> {
        self.rest.begin_upload(key).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<Part, Error> {
        self.rest.put_part(upload, number, body).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[Part], mode: PutMode) -> Result<(), Error> {
        self.rest.complete_upload(upload, parts, mode).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), Error> {
        self.rest.abort_upload(upload).await
    }

    fn conditions_known(&self) -> Option<Conditions> {
        self.rest.conditions_known()
    }
}

/// What a piece of work asked of the store.
async fn asked<T>(store: &Store, work: impl Future<Output = T>) -> (T, Counts) {
    let before = store.counts();
    let done = work.await;
    let now = store.counts();
    let asked = Counts {
        puts: now.puts - before.puts,
        gets: now.gets - before.gets,
        heads: now.heads - before.heads,
        lists: now.lists - before.lists,
        ..Counts::default()
    };
    (done, asked)
}

/// Goes on from an offset to the end; the entries are handed over page by page, as they come.
async fn go_through(
    below: &Below,
    handle: u64,
    from: u64,
    mut take: impl FnMut(&Entry),
) -> Result<(), MountError> {
    let mut offset = from;
    loop {
        let page = below.fs.read_directory(handle, offset).await?;
        let Some(last) = page.last() else { return Ok(()) };
        offset = last.next_offset;
        page.iter()
            .filter(|entry| !entry.attributes.is_directory())
            .for_each(&mut take);
    }
}

/// Every segment is seen once, in order, in pages of a thousand, and no page is asked for twice.
async fn listing_costs_a_request_a_page(segments: u64) {
    let huge = Huge::with(segments).await;
    let store = Store::new(huge.clone());
    let below = Below::open(store.clone(), LONG).await.unwrap();
    let mut seen = 0;
    let take = |entry: &Entry| {
        // Spelling a name costs more than all the rest: one in a hundred will do.
        if seen % 100 == 0 {
            assert_eq!(entry.name, *wal::segment_name(1, seen, wal::SEGMENT_BYTES));
        }
        seen += 1;
    };
    let work = async {
        let handle = below.fs.open_directory(below.wal).await.unwrap();
        go_through(&below, handle, 0, take).await.unwrap();
        below.fs.release(handle).await;
    };
    let ((), asked) = asked(&store, work).await;
    assert_eq!(seen, segments);
    assert_eq!(
        asked.lists,
        segments.div_ceil(1000) + 1,
        "one for what is received"
    );
    assert_eq!(
        (asked.heads, asked.gets),
        (0, 0),
        "a listing asks nothing about single files"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_hundred_thousand_segments_are_listed_in_pages() {
    listing_costs_a_request_a_page(100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_million_segments_are_listed_in_pages() {
    listing_costs_a_request_a_page(1_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_lookup_costs_the_same_whatever_the_size() {
    for segments in [1, 1_000_000] {
        let store = Store::new(Huge::with(segments).await);
        let below = Below::open(store.clone(), LONG).await.unwrap();
        let there = wal::segment_name(1, segments - 1, wal::SEGMENT_BYTES);
        let (found, one) = asked(&store, below.lookup(&there)).await;
        assert_eq!(found.unwrap().bytes, u64::from(wal::SEGMENT_BYTES));
        let absent = wal::segment_name(1, segments, wal::SEGMENT_BYTES);
        let (found, other) = asked(&store, below.lookup(&absent)).await;
        assert!(matches!(found, Err(MountError::NotFound)));
        for asked in [one, other] {
            assert!(asked.heads + asked.gets <= 2 && asked.lists == 0, "{asked:?}");
        }
    }
}

/// The first names come with the first page, whatever the second one takes; and while it does not come, every answer
/// has one more, so that the kernel lets go of the directory in between.
#[tokio::test(flavor = "multi_thread")]
async fn s4_first_names_need_one_page() {
    const SEGMENTS: u64 = 2_500;
    let huge = Huge::with(SEGMENTS).await;
    let below = Below::open(Store::new(huge.clone()), LONG).await.unwrap();
    huge.answer_only(1);
    let handle = below.fs.open_directory(below.wal).await.unwrap();
    let (mut all, mut offset) = (Vec::new(), 0);
    for answer in 0..8 {
        let entries = below.fs.read_directory(handle, offset).await.unwrap();
        match answer {
            0 => assert!(entries.len() > 500, "{} at once", entries.len()),
            _ => assert_eq!(entries.len(), 1),
        }
        offset = entries.last().expect("an entry").next_offset;
        all.extend(entries);
    }
    huge.answers.add_permits(SEGMENTS as usize);
    go_through(&below, handle, offset, |entry| all.push(entry.clone()))
        .await
        .unwrap();
    let names = all
        .iter()
        .skip(2)
        .map(|entry| entry.name.clone().into_string().unwrap());
    assert!(names.eq((0..SEGMENTS).map(|number| wal::segment_name(1, number, wal::SEGMENT_BYTES))));
}

/// Whoever has opened the directory and reads no further costs so many requests and no more.
#[tokio::test(flavor = "multi_thread")]
async fn s3_few_pages_are_fetched_ahead() {
    let store = Store::new(Huge::with(1_000_000).await);
    let below = Below::open(store.clone(), LONG).await.unwrap();
    let enough = store.counts().lists + 2 + AHEAD as u64;
    let opened = async {
        let handle = below.fs.open_directory(below.wal).await.unwrap();
        while store.counts().lists < enough {
            tokio::task::yield_now().await;
        }
        // Another one would be asked for by now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        below.fs.release(handle).await;
    };
    let ((), asked) = asked(&store, opened).await;
    assert_eq!(asked.lists, 2 + AHEAD as u64);
}

/// The kernel asks again for an offset that it has been past: when its buffer was too small, and after `rewinddir`.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_keep_their_meaning() {
    let below = Below::open(Store::new(Huge::with(102_500).await), LONG)
        .await
        .unwrap();
    let handle = below.fs.open_directory(below.wal).await.unwrap();
    let mut all = Vec::new();
    go_through(&below, handle, 0, |entry| all.push(entry.clone()))
        .await
        .unwrap();
    assert_eq!(all.len(), 102_500);
    // Of pages in hand and of pages long gone, and where they meet; there and back again.
    for index in [
        102_498, 0, 999, 1_000, 101_500, 99_999, 2_345, 100_000, 99_998, 17,
    ] {
        let page = below
            .fs
            .read_directory(handle, all[index].next_offset)
            .await
            .unwrap();
        assert!(!page.is_empty(), "behind entry {index}");
        assert!(page == all[index + 1..][..page.len()], "behind entry {index}");
    }
    let end = below
        .fs
        .read_directory(handle, all[102_499].next_offset)
        .await
        .unwrap();
    assert!(end.is_empty());
    let mut again = Vec::new();
    go_through(&below, handle, 0, |entry| again.push(entry.clone()))
        .await
        .unwrap();
    assert!(again == all, "from the start");
}

/// A page that does not come is an error: of the opening, which waits for the first one, or of the reading, which can go
/// on from there when the store is back.
#[tokio::test(flavor = "multi_thread")]
async fn listing_is_whole_or_an_error() {
    const SEGMENTS: u64 = 105_500;
    let huge = Huge::with(SEGMENTS).await;
    let below = Below::open(Store::new(huge.clone()), Duration::from_secs(20))
        .await
        .unwrap();
    huge.listings.store(0, Ordering::Release);
    let outcome = below.fs.open_directory(below.wal).await;
    assert!(matches!(outcome, Err(MountError::Archive(_))), "{outcome:?}");
    for answered in [1, 2, 99, 101, 103] {
        huge.listings.store(answered, Ordering::Release);
        let handle = below.fs.open_directory(below.wal).await.unwrap();
        let (mut seen, mut offset) = (0, 0);
        let outcome = go_through(&below, handle, 0, |entry| {
            seen += 1;
            offset = entry.next_offset;
        });
        let outcome = outcome.await;
        assert!(
            matches!(outcome, Err(MountError::Archive(_))),
            "{answered}: {outcome:?}"
        );
        huge.listings.store(u64::MAX, Ordering::Release);
        go_through(&below, handle, offset, |_| seen += 1).await.unwrap();
        assert_eq!(seen, SEGMENTS, "after {answered} pages");
        below.fs.release(handle).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_have_their_number_of_requests() {
    for conditions in [true, false] {
        requests_are_counted(conditions).await;
    }
}

/// A copier of which nothing can be seen asks twice before it creates its file. Where the store judges races, the answer
/// serves the upload as well; and the second question, if it is known to be the same thread's. In another pid namespace
/// nobody has a number, and every question is the store's (R1).
#[tokio::test(flavor = "multi_thread")]
async fn w8_a_copier_that_is_not_seen_looks_once_more_at_most() {
    // Nobody's number: nothing is to be seen of it.
    let hidden = Asker::of(4_194_304);
    for (conditions, asker, expected) in [
        (true, &hidden, 1),
        (true, &None, 2),
        (false, &hidden, 2),
        (false, &None, 3),
    ] {
        let store = Scripted::map(conditions).store();
        let below = Below::open(store.clone(), LONG).await.unwrap();
        let names = wal::segment_names(1, 1, 100);
        // A busy machine may be too slow for the moment that an answer is kept.
        let mut least = u64::MAX;
        for name in &names {
            let content = wal::segment(name, SYSTEM, wal::SEGMENT_BYTES, 1);
            let copying = async {
                let found = below.fs.lookup(below.wal, name.as_ref(), asker.as_ref()).await;
                assert!(matches!(found, Err(MountError::NotFound)));
                let handle = below.start(name, asker.as_ref()).await.unwrap();
                below.write(handle, 0, &content).await.unwrap();
                below.fs.release(handle).await;
            };
            let ((), archiving) = asked(&store, copying).await;
            least = least.min(archiving.heads + archiving.gets);
            if least <= expected {
                break;
            }
        }
        assert_eq!(least, expected, "{asker:?}, conditions: {conditions}");
        // It is used up: whoever asks on hears the store.
        let absent = wal::segment_name(1, 900, wal::SEGMENT_BYTES);
        let three = async {
            for _ in 0..3 {
                let found = below.fs.lookup(below.wal, absent.as_ref(), asker.as_ref()).await;
                assert!(matches!(found, Err(MountError::NotFound)));
            }
        };
        let heads = asked(&store, three).await.1.heads;
        assert!(
            heads >= if asker.is_some() { 2 } else { 3 },
            "R1: absence is remembered"
        );
    }
}

/// A new segment: a look and a put, also where the store does not judge races. The same again: a look, and the proof
/// that all of it is there. Reading it: one get; again: none.
async fn requests_are_counted(conditions: bool) {
    let backend = Scripted::map(conditions);
    let store = backend.store();
    let below = Below::open(store.clone(), LONG).await.unwrap();
    let names = wal::segment_names(1, 1, 2);
    let content = |name: &str| wal::segment(name, SYSTEM, wal::SEGMENT_BYTES, 1);
    below.copy(&names[0], &content(&names[0])).await.unwrap();
    let second = content(&names[1]);

    let (outcome, archiving) = asked(&store, below.copy(&names[1], &second)).await;
    outcome.unwrap();
    assert_eq!(archiving.puts, 1);
    // The first is the lookup of a copier that nothing is known of; it may serve the upload as well.
    assert_eq!(archiving.heads, 1, "{archiving:?}");
    assert!(
        archiving.gets <= 1 && (archiving.gets == 1 || conditions),
        "{archiving:?}"
    );
    let (outcome, again) = asked(&store, below.copy(&names[1], &second)).await;
    outcome.unwrap();
    assert_eq!(again.puts, 0, "the same again is not uploaded");
    assert!(again.heads + again.gets <= 4, "{again:?}");

    let below = Below::open(store.clone(), LONG).await.unwrap();
    let (read, first) = asked(&store, below.read(&names[1])).await;
    assert!(read.unwrap() == second);
    assert_eq!((first.gets, first.puts), (1, 0));
    let (read, later) = asked(&store, below.read(&names[1])).await;
    assert!(read.unwrap() == second);
    assert_eq!(later.gets, 0, "it is in memory");
}

/// Ten readers of a segment that nobody has in memory: one request for its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn many_readers_share_one_request() {
    let backend = Scripted::map(true);
    let store = backend.store();
    let below = Below::open(store.clone(), LONG).await.unwrap();
    let name = wal::segment_name(1, 1, wal::SEGMENT_BYTES);
    let content = wal::segment(&name, SYSTEM, wal::SEGMENT_BYTES, 1);
    below.copy(&name, &content).await.unwrap();
    let below = Below::open(store.clone(), LONG).await.unwrap();
    let readers = (0..10u64).map(|reader| below.read_part(&name, reader << 20, 1 << 20));
    let (reads, asked) = asked(&store, futures::future::join_all(readers)).await;
    for (reader, read) in reads.into_iter().enumerate() {
        assert_eq!(read.unwrap(), content[reader << 20..(reader + 1) << 20]);
    }
    assert_eq!(asked.gets, 1);
}
