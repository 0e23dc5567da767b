//! Trees written in every way, against plain buffers written in the same way.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use async_trait::async_trait;
use futures::FutureExt;

use crate::archive;
use crate::archive::tree::summary::tests::sample;
use crate::archive::tree::summary::{Description, Method, Summary};
use crate::archive::tree::{Content, Tree, TreeKind, layout};
use crate::codec::{self, Compression};
use crate::memory::{Memory, Share};
use crate::parts::part::PartBuilder;
use crate::read::base::Candidates;
use crate::read::page_hashes::{FileHashes, PageHashReader};
use crate::read::tree::TreeReader;
use crate::staging;
use crate::store::{self, ByteRange, Location, Patience};

use super::judge::{Signs, Verdict, Written};
use super::sending::{Made, Unmade};
use super::*;

mod sums;

pub(crate) const SLICE: u64 = layout::SLICE_BYTES;

pub(crate) fn patience() -> Patience {
    Patience::for_at_most(Duration::from_secs(45))
}

pub(crate) fn attributes() -> Attributes {
    Attributes {
        mode: 0o600,
        uid: 26,
        gid: 26,
        modified: Timestamp::from_second(1_700_000_000).unwrap(),
    }
}

pub(crate) async fn archive(directory: &Path) -> Arc<Archive> {
    let location = Location::Dir(directory.to_owned());
    let store = store::open(&location, &store::Options::default()).await.unwrap();
    let options = archive::Options {
        create: true,
        ..Default::default()
    };
    Arc::new(Archive::open(store, &options, patience()).await.unwrap())
}

pub(crate) async fn draft(archive: &Arc<Archive>, deadline: Duration, judge: Arc<dyn Judge>) -> TreeDraft {
    let staged = staging::Options {
        memory: Memory {
            frames: Share::new(1 << 20),
            ..Default::default()
        },
        ..Default::default()
    };
    let staging = Staging::new(archive.compression(), &staged);
    let options = Options {
        deadline,
        longest: None,
    };
    let name = "monday".parse().unwrap();
    let trees = TreeReader::alone(archive.clone());
    let begun = TreeDraft::begin(
        archive.clone(),
        staging,
        name,
        attributes(),
        options,
        judge,
        trees,
    )
    .await;
    begun.unwrap()
}

/// Whatever is in it, a tree is complete once its last file has its name.
#[derive(Debug)]
struct Anything;

#[async_trait]
impl Judge for Anything {
    fn kind(&self) -> TreeKind {
        TreeKind::BaseBackup
    }

    fn candidates(&self) -> Candidates<'_> {
        Candidates::Backup(None)
    }

    fn is_enough(&self, _earlier: &TreeName) -> bool {
        false
    }

    fn admit(&self, _tree: &TreeName, _names: &TreeNames, _place: (u32, &[u8])) -> Result<(), Error> {
        Ok(())
    }

    fn is_last(&self, from: (u32, &[u8]), to: (u32, &[u8])) -> bool {
        from == (ROOT, b"last.tmp") && to == (ROOT, b"last")
    }

    fn signs(&self, names: &TreeNames) -> Signs {
        Signs {
            begun: false,
            ending: None,
            claimed: names.child(ROOT, b"last").is_ok(),
        }
    }

    async fn judge(&self, tree: Written<'_>) -> Result<Verdict, Error> {
        Ok(Verdict {
            description: Description {
                content: TreeKind::BaseBackup,
                began: tree.began(),
                method: tree.method(),
                plain_tar: true,
                backup: sample("monday").backup,
            },
            followed: Vec::new(),
        })
    }
}

/// Files and the draft they are written to, the same way.
pub(crate) struct Both {
    pub(crate) draft: TreeDraft,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    numbers: BTreeMap<String, u32>,
}

impl Both {
    async fn begin(archive: &Arc<Archive>) -> Self {
        Self::judged(archive, Arc::new(Anything)).await
    }

    pub(crate) async fn judged(archive: &Arc<Archive>, judge: Arc<dyn Judge>) -> Self {
        Self {
            draft: draft(archive, Duration::from_secs(45), judge).await,
            files: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    async fn create(&mut self, name: &str) {
        let made = self
            .draft
            .create(ROOT, name.as_bytes(), attributes())
            .await
            .unwrap();
        self.numbers.insert(name.into(), made.number);
        self.files.insert(name.into(), Vec::new());
    }

    pub(crate) async fn write(&mut self, name: &str, offset: u64, data: &[u8]) {
        self.draft.write(self.numbers[name], offset, data).await.unwrap();
        let file = self.files.get_mut(name).unwrap();
        let (from, to) = (offset as usize, offset as usize + data.len());
        file.resize(file.len().max(to), 0);
        file[from..to].copy_from_slice(data);
    }

    pub(crate) async fn truncate(&mut self, name: &str, bytes: u64) {
        self.draft.truncate(self.numbers[name], bytes).await.unwrap();
        self.files.get_mut(name).unwrap().resize(bytes as usize, 0);
    }

    pub(crate) async fn close(&self, name: &str) {
        let number = self.numbers[name];
        let change = Change {
            modified: Some(attributes().modified),
            ..Default::default()
        };
        self.draft.set_attributes(number, change).await.unwrap();
        self.draft.close(number, true).await;
    }

    pub(crate) async fn whole(&mut self, name: &str, content: &[u8]) {
        self.create(name).await;
        for (index, piece) in content.chunks(1 << 20).enumerate() {
            self.write(name, (index as u64) << 20, piece).await;
        }
        self.close(name).await;
    }

    pub(crate) async fn reopen(&self, name: &str) {
        self.draft.open(self.numbers[name], true).unwrap();
    }

    async fn check_reading(&self) {
        for (name, content) in &self.files {
            for at in (0..content.len()).step_by(7_654_321) {
                let end = content.len().min(at + 300_000);
                let read = self
                    .draft
                    .read(self.numbers[name], at as u64, 300_000)
                    .await
                    .unwrap();
                assert!(read == content[at..end], "{name} at {at}");
            }
        }
    }

    async fn finish(&mut self) {
        self.whole("last.tmp", b"").await;
        self.end("last.tmp", "last").await;
    }

    /// Gives the last file its name, which completes the tree.
    pub(crate) async fn end(&mut self, from: &str, to: &str) {
        let renamed = self
            .draft
            .rename((ROOT, from.as_bytes()), (ROOT, to.as_bytes()), true)
            .await;
        renamed.unwrap();
        let last = self.files.remove(from).unwrap();
        self.files.insert(to.into(), last);
        let number = self.numbers.remove(from).unwrap();
        self.numbers.insert(to.into(), number);
    }

    pub(crate) fn written(&self) -> Written<'_> {
        Written {
            draft: &self.draft,
            method: Method::Mount,
        }
    }
}

/// What is stored of a complete tree, proved by everything that names it.
pub(crate) async fn stored(archive: &Arc<Archive>) -> (Summary, Tree, BTreeMap<String, Vec<u8>>) {
    let name = "monday".parse().unwrap();
    let summary = archive
        .summary(TreeKind::BaseBackup, &name, patience())
        .await
        .unwrap()
        .unwrap();
    let tree = archive.tree(&name, &summary, patience()).await.unwrap();
    let reader = PageHashReader::new(archive.clone());
    let trees = TreeReader::alone(archive.clone());
    let opened = trees.open(&name, &summary, patience()).await.unwrap();
    let mut parts = Vec::new();
    for part in &tree.parts {
        let object = archive
            .store()
            .get(&part.key, ByteRange::AtMost(u64::MAX), patience())
            .await
            .unwrap();
        let plain = codec::unpack_all(&object.bytes).unwrap();
        assert_eq!(plain.len() as u64, part.plain_bytes);
        assert_eq!(codec::ContentHash::of(&plain), part.hash);
        parts.push(plain);
    }
    let mut files = BTreeMap::new();
    for entry in tree.entries() {
        let Content::File { extents, .. } = &entry.content else {
            continue;
        };
        let mut content = Vec::new();
        for extent in extents {
            let from = extent.offset as usize;
            content.extend_from_slice(&parts[extent.part as usize][from..from + extent.bytes as usize]);
        }
        let file = opened
            .find(&entry.path, patience())
            .await
            .unwrap()
            .unwrap()
            .file();
        let mut hashes = FileHashes::new(&reader, &opened, file.unwrap());
        let found = hashes
            .of_range(0..content.len() as u64, patience())
            .await
            .unwrap();
        let found: Vec<_> = found.into_iter().map(|page| page.map(|(hash, _)| hash)).collect();
        let expected: Vec<_> = archive.page_key().pages(&content).map(Some).collect();
        assert!(
            found == expected,
            "pages of {:?}",
            String::from_utf8_lossy(&entry.path)
        );
        files.insert(String::from_utf8(entry.path.to_vec()).unwrap(), content);
    }
    (summary, (*tree).clone(), files)
}

/// The parts as they lie in the store, read by a tar reader in the order of their names.
async fn as_tar(archive: &Archive, tree: &Tree) -> BTreeMap<String, Vec<u8>> {
    let listed = archive
        .store()
        .list(&tree.id.prefix(), None, 1000, patience())
        .await
        .unwrap();
    let mut stream = Vec::new();
    for (key, _) in listed.entries {
        if key.as_str().contains(".tar.") {
            let object = archive
                .store()
                .get(&key, ByteRange::AtMost(u64::MAX), patience())
                .await
                .unwrap();
            stream.extend(codec::unpack_all(&object.bytes).unwrap());
        }
    }
    let mut archive = tar::Archive::new(&stream[..]);
    archive.set_ignore_zeros(true);
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(path.trim_start_matches("./").to_owned(), content);
        }
    }
    files
}

/// Neither all zeros nor the same anywhere.
pub(crate) fn content(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; bytes];
    for chunk in content.chunks_mut(4096) {
        let value = random.u64(..).to_le_bytes();
        chunk
            .iter_mut()
            .step_by(16)
            .zip(value.iter().cycle())
            .for_each(|(at, byte)| *at = *byte);
    }
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_forward_is_one_tar_stream() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    both.whole("large", &content(3 * SLICE as usize + 12_345, 1))
        .await;
    for (index, bytes) in [0, 1, 511, 512, 100_000, 4 << 20, (4 << 20) + 1]
        .into_iter()
        .enumerate()
    {
        both.whole(&format!("file{index}"), &content(bytes, index as u64))
            .await;
    }
    // Its end falls on the end of a slice: the end of the volume is a slice of its own.
    both.whole("exact", &content(2 * SLICE as usize - 8192, 2)).await;
    both.check_reading().await;
    both.finish().await;
    both.check_reading().await;
    let (summary, tree, files) = stored(&archive).await;
    assert!(files == both.files);
    assert!(summary.plain_tar);
    assert!(as_tar(&archive, &tree).await == both.files);
    let after = both.draft.create(ROOT, b"late", attributes()).await;
    assert!(matches!(after, Err(Error::Complete)), "{after:?}");
}

/// Backwards, over what has been sent, cut and grown again, closed and opened again.
#[tokio::test(flavor = "multi_thread")]
async fn writers_may_come_back() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    both.create("f").await;
    let forward = content(4 * SLICE as usize + 99, 3);
    for (index, piece) in forward.chunks(1 << 20).enumerate() {
        both.write("f", (index as u64) << 20, piece).await;
    }
    both.write("f", SLICE + 5, b"slice 1 has been sent").await;
    both.write("f", 100, b"the first").await;
    both.truncate("f", 3 * SLICE - 8192).await;
    both.truncate("f", 3 * SLICE + 1_000_000).await;
    both.close("f").await;
    both.whole("small", b"one").await;
    both.whole("next", b"makes the first ones go out").await;
    both.reopen("f").await;
    both.write("f", 3 * SLICE + 1_000_000, &[7; 5000]).await;
    both.close("f").await;
    both.check_reading().await;
    both.whole("hole", b"").await;
    both.reopen("hole").await;
    both.write("hole", 2 * SLICE, b"end").await;
    both.close("hole").await;
    both.reopen("small").await;
    both.write("small", 3, b" and more").await;
    both.close("small").await;
    both.check_reading().await;
    both.finish().await;
    let (_, tree, files) = stored(&archive).await;
    assert!(files == both.files);
    assert!(
        as_tar(&archive, &tree).await == both.files,
        "forgotten parts are gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bundled_may_change() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    for index in 0..6 {
        both.whole(&format!("f{index}"), &content(4 << 20, index)).await;
    }
    for name in ["f0", "f1"] {
        both.reopen(name).await;
    }
    both.write("f0", 10, b"changed").await;
    both.truncate("f1", 0).await;
    both.close("f0").await;
    both.close("f1").await;
    both.draft.unlink(ROOT, b"f2").await.unwrap();
    both.files.remove("f2");
    both.check_reading().await;
    both.finish().await;
    let (summary, _, files) = stored(&archive).await;
    assert!(files == both.files);
    assert!(!summary.plain_tar);
}

/// Whoever looks through a backup that is being written reads its small files where they lie in bundles: each of them
/// is fetched once, not once a file.
#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_read_back_by_bundles() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    for index in 0..2500_u32 {
        both.whole(&format!("f{index:04}"), &[index as u8; 5000]).await;
    }
    let before = archive.store().counts();
    both.check_reading().await;
    let gets = archive.store().counts().gets - before.gets;
    assert!(gets <= 5, "{gets} requests");
    both.finish().await;
}

/// `walfs restore` into a mount did it: every file is made and closed, then opened again and filled. The second closing
/// put it into the same bundle twice, which waited for itself for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_closed_twice_is_bundled_once() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let mut both = Both::begin(&archive).await;
    let names: Vec<String> = (0..8).map(|index| format!("f{index}")).collect();
    for name in &names {
        both.whole(name, b"made").await;
    }
    for (index, name) in names.iter().enumerate() {
        both.reopen(name).await;
        both.write(name, 0, &content(4 << 20, index as u64)).await;
        both.close(name).await;
    }
    both.finish().await;
    let (_, _, files) = stored(&archive).await;
    assert!(files == both.files);
}

/// A file has as many slices as its keys have room for, and nobody makes a hole of years of zeros.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_lengths_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let draft = draft(&archive, Duration::from_secs(45), Arc::new(Anything)).await;
    let made = draft.create(ROOT, b"f", attributes()).await.unwrap();
    for offset in [
        file::MOST_HOLE_BYTES + 1,
        layout::MAX_FILE_BYTES,
        200_000_000_000_000_000,
        u64::MAX - 4,
    ] {
        let written = draft.write(made.number, offset, b"x").await;
        assert!(matches!(written, Err(Error::TooLong)), "{offset}: {written:?}");
        let cut = draft.truncate(made.number, offset + 1).await;
        assert!(matches!(cut, Err(Error::TooLong)), "{offset}: {cut:?}");
    }
    assert_eq!(draft.stat(made.number).unwrap().bytes, 0);
    draft.close(made.number, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_upload_stays() {
    let place = tempfile::tempdir().unwrap();
    let archive = archive(place.path()).await;
    let draft = draft(&archive, Duration::from_secs(2), Arc::new(Anything)).await;
    // The folder of the tree is not there any more, and cannot be: every upload fails.
    let folder = place.path().join("trees").join(draft.sender.id.as_str());
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, b"in the way").unwrap();
    let large = content(5 << 20, 1);
    for name in ["a", "b"] {
        let made = draft.create(ROOT, name.as_bytes(), attributes()).await.unwrap();
        draft.write(made.number, 0, &large).await.unwrap();
        draft.close(made.number, true).await;
    }
    draft.sender.settle().await;
    let failed =
        |outcome: Result<(), Error>| assert!(matches!(outcome, Err(Error::Archive(_))), "{outcome:?}");
    let b = draft.lookup(ROOT, b"b").unwrap().number;
    failed(draft.still_sound());
    failed(draft.sync(b).await);
    failed(draft.sync(ROOT).await);
    failed(draft.rename((ROOT, b"a"), (ROOT, b"c"), true).await);
    failed(draft.write(b, 0, b"x").await);
    failed(draft.create(ROOT, b"d", attributes()).await.map(drop));
    // What a failed pg_basebackup does before it ends.
    draft.unlink(ROOT, b"a").await.unwrap();
    draft.unlink(ROOT, b"b").await.unwrap();
    std::fs::remove_file(&folder).unwrap();
    draft.remove().await.unwrap();
    assert_eq!(archive.unfinished_trees(patience()).await.unwrap(), []);
}

/// S4: writers of small files wait for bundles, and slices for gigabytes of others before them.
#[tokio::test]
async fn s4_bundles_do_not_wait_behind_slices() {
    let directory = tempfile::tempdir().unwrap();
    let archive = archive(directory.path()).await;
    let draft = draft(&archive, Duration::from_secs(45), Arc::new(Anything)).await;
    let sender = &draft.sender;
    for slice in 0..8 {
        sender.send(sender.key(1, slice, 0), std::future::pending());
    }
    let make = async {
        let mut builder = PartBuilder::new(Compression::default());
        builder.push(b"small");
        let part = Some(builder.finish(&[]));
        let files = Vec::new();
        Ok(Made { part, files })
    };
    let bundle = Unmade {
        most_bytes: 1 << 10,
        make: make.boxed(),
    };
    let bundle = sender.send_bundle(sender.key(2, 0, 0), 5, std::future::ready(bundle));
    let stored = tokio::time::timeout(Duration::from_secs(20), bundle.arrived()).await;
    stored.expect("it waits behind them").unwrap();
}
