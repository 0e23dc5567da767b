//! The rules of an archive, whatever store holds it: what it is, whose it is, and how every object in it is named.
//!
//! An archive is one prefix of a store, and holds (see `docs/format.md`):
//!
//! - `walfs.json`, the [`Marker`]: written once, by the first `walfs` that meets the empty prefix. Format version,
//!   codec, and whether the store honours conditional writes.
//! - `cluster.json`, the [`Cluster`]: written once, by the first segment. System identifier and segment size, so that
//!   a segment of another cluster is refused and the plain size of every segment is known without reading it.
//! - `wal/<name>.<codec's extension>`: one object for each archived file, never rewritten;
//! - `basebackups/<name>.json`, `files/` and `dumps/<name>@<version>.json`, and `trees/<id>/...`: backups, and versions, see
//!   [`tree`];
//! - `verified/...`: what was read back, and when, see [`verified`].
//!
//! This room knows no FUSE, no cache and no clock beyond the patience it is handed. Keys are spelled here only.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec::Compression;
use crate::memory::Memory;
use crate::parts::Form;
use crate::pg::{SegmentName, SegmentSize, SystemId, WalName};
use crate::printable::shortened;
use crate::store::{self, ByteRange, Claim, ErrorKind, Key, Patience, PutMode, Stage, Store};

pub mod below;
pub mod copied;
mod error;
pub mod object;
mod place;
mod plain;
pub mod prune;
pub mod tree;
pub mod turns;
pub mod verified;
pub mod wal;

use tree::page_hashes::PageKey;

pub use below::MAX_ARCHIVES;
pub use error::Error;

/// The one version of the stored format this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// How long a request that waits for the store may take in all, unless told otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(45);

const MARKER: &str = "walfs.json";

/// The longest marker, and the longest `cluster.json`; both have some hundred.
const MARKER_BYTES: u64 = 64 << 10;

const WAL: &str = "wal";

/// How long [`put_first`] waits for other writers, at least.
const SETTLED: Duration = Duration::from_secs(1);

/// ... and how many times as long as its own request took: another one's may take longer.
const SLOWER: u32 = 4;

const CLUSTER: &str = "cluster.json";

/// `walfs.json`: what this archive is. Never rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// [`FORMAT_VERSION`] of the program that made it.
    pub format_version: u32,
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// Extension of the objects, and with it their codec: `lz4` or `zst`.
    pub codec: String,
    /// Did the store honour `If-None-Match` on a single write, when probed?
    pub put_if_absent: bool,
    /// ... and at the completion of a multipart upload?
    pub complete_if_absent: bool,
    /// Version of the program that made it.
    pub created_by: String,
}

/// What an archive and its copies have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Random, so that a cache never takes one archive for another.
    pub archive_id: String,
    /// By what the pages in it are hashed.
    pub page_key: PageKey,
}

impl Identity {
    /// A new one.
    fn random() -> Result<Self, getrandom::Error> {
        Ok(Self {
            archive_id: format!("{:032x}", fastrand::u128(..)),
            page_key: PageKey::random()?,
        })
    }
}

/// `cluster.json`: whose archive this is. Never rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterFile {
    /// As text: JSON readers lose digits of 64-bit numbers.
    system_identifier: String,
    segment_bytes: u64,
    first_file: String,
}

/// The cluster an archive belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Of `pg_controldata`.
    pub system_id: SystemId,
    /// Plain size of every segment.
    pub segment_size: SegmentSize,
}

/// What an opener may ask for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Codec and level for what is written; the archive's own codec with its usual level when absent.
    pub compression: Option<Compression>,
    /// Make a new archive on an empty prefix?
    pub create: bool,
    /// Who a new archive is, if it will be a copy of another one.
    pub identity: Option<Identity>,
    /// What is used of memory on the way to it and from it.
    pub memory: Memory,
}

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    store: Store,
    marker: Marker,
    compression: Compression,
    cluster: OnceLock<Cluster>,
    name_turns: wal::turns::NameTurns,
    memory: Memory,
    /// The last segment that was not there yet: most likely, those after it are not either.
    frontier: Mutex<Option<SegmentName>>,
    /// Segments that are known to lead on.
    leading: wal::Leading,
    is_new: bool,
    /// Did the store show the marker when first asked? Then its other first answers are of the same place.
    is_found_at_once: bool,
}

impl Archive {
    /// Reads the marker, or makes a new archive (probing the store for conditional writes).
    ///
    /// # Errors
    /// [`Error::NotAnArchive`] on an empty prefix without `options.create`, [`Error::Inside`], [`Error::Format`], [`Error::Codec`],
    /// [`Error::Store`] when the store does not answer within `patience`.
    pub async fn open(store: Store, options: &Options, patience: Patience) -> Result<Self, Error> {
        // Asked at the same time; what the second says counts once the first has said what this is.
        let (marker, cluster) = futures::join!(
            read_json::<Marker>(&store, MARKER, patience),
            read_json::<ClusterFile>(&store, CLUSTER, patience)
        );
        let (marker, is_new, is_found_at_once) = match marker {
            Ok(Some(marker)) => (marker, false, true),
            asked => {
                let (marker, is_new) = missed_marker(asked, &store, options, patience).await?;
                (marker, is_new, false)
            }
        };
        if marker.format_version != FORMAT_VERSION {
            return Err(Error::Format {
                place: store.place(),
                found: marker.format_version,
            });
        }
        let cluster = if is_found_at_once { cluster? } else { None };
        claim_folders(&store, &marker, Stage::Opened, patience).await?;
        let compression = choose_compression(&store, &marker, options)?;
        let archive = Self {
            store,
            marker,
            compression,
            cluster: OnceLock::new(),
            name_turns: Default::default(),
            memory: options.memory.clone(),
            frontier: Mutex::default(),
            leading: wal::Leading::default(),
            is_new,
            is_found_at_once,
        };
        match cluster {
            Some(cluster) => archive.learn_cluster(&cluster)?,
            None => archive.cluster(patience).await?,
        };
        Ok(archive)
    }

    /// Was it made when it was opened here?
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The store under it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// What it is.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// What whoever reads or writes it may use of memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Codec and level of what is written.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// By what the pages in it are hashed.
    pub fn page_key(&self) -> PageKey {
        self.marker.identity.page_key
    }

    /// How parts of trees are made.
    pub fn form(&self) -> Form {
        Form {
            compression: self.compression,
            page_key: self.page_key(),
        }
    }

    /// Whose it is, if a first segment has tied it to a cluster.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Marker`].
    pub async fn cluster(&self, patience: Patience) -> Result<Option<Cluster>, Error> {
        if let Some(cluster) = self.cluster.get() {
            return Ok(Some(*cluster));
        }
        let Some(file) = read_json::<ClusterFile>(&self.store, CLUSTER, patience).await? else {
            return Ok(None);
        };
        self.learn_cluster(&file)
    }

    /// Whose WAL is archived; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Marker`], also if it is not known any more.
    pub async fn cluster_of_wal(&self, patience: Patience) -> Result<Option<Cluster>, Error> {
        if let Some(cluster) = self.cluster(patience).await? {
            return Ok(Some(cluster));
        }
        let Some(archived) = self.first_with_pages(patience).await? else {
            return Ok(None);
        };
        // Another writer may have tied it, and archived, since we asked.
        let tied = self.cluster(patience).await?;
        tied.map(Some).ok_or_else(|| self.cluster_missing(archived))
    }

    fn learn_cluster(&self, file: &ClusterFile) -> Result<Option<Cluster>, Error> {
        let cluster = self.parse_cluster(file)?;
        Ok(Some(*self.cluster.get_or_init(|| cluster)))
    }

    /// Whose it is, as far as this process has already learnt.
    pub fn known_cluster(&self) -> Option<Cluster> {
        self.cluster.get().copied()
    }

    /// Ties the archive to a cluster if nobody has, and says to which one it is tied.
    async fn claim(&self, offered: Cluster, name: WalName, patience: Patience) -> Result<Cluster, Error> {
        if let Some(cluster) = self.cluster_of_wal(patience).await? {
            return Ok(cluster);
        }
        let file = ClusterFile {
            system_identifier: offered.system_id.to_string(),
            segment_bytes: offered.segment_size.bytes(),
            first_file: name.to_string(),
        };
        let won = put_first(&self.store, CLUSTER, &file, self.marker.put_if_absent, patience).await?;
        self.learn_cluster(&won)?;
        Ok(self.known_cluster().expect("just learnt"))
    }

    /// The first segment or `.partial` that is archived, or else received. Other files name no cluster: a history may come
    /// before the first segment.
    async fn first_with_pages(&self, patience: Patience) -> Result<Option<WalName>, Error> {
        let (prefix, mut after) = (format!("{WAL}/"), None);
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 1000, patience).await?;
            let names = page.entries.iter().filter_map(|(key, _)| self.wal_name(key));
            if let Some(found) = names.into_iter().find(|name| name.has_pages()) {
                return Ok(Some(found));
            }
            match (page.more, page.entries.last()) {
                (true, Some((key, _))) => after = Some(key.as_str().to_owned()),
                _ => break,
            }
        }
        let received = self.first_received(patience).await?;
        Ok(received.into_values().next().map(WalName::Partial))
    }

    /// Whose the archive is was known, and is not any more.
    fn cluster_missing(&self, archived: WalName) -> Error {
        Error::Marker {
            key: CLUSTER,
            place: self.place(),
            reason: format!(
                "it is missing, although {archived} is archived\n\
                 HINT: bring it back from a copy of the store, or write it anew: {{\"system_identifier\": \"N\", \
                 \"segment_bytes\": BYTES, \"first_file\": \"{archived}\"}}, with N and BYTES as pg_controldata shows them \
                 (\"Database system identifier\", \"Bytes per WAL segment\") of the cluster whose WAL is archived there"
            ),
        }
    }

    fn parse_cluster(&self, file: &ClusterFile) -> Result<Cluster, Error> {
        let broken = |reason: String| Error::Marker {
            key: CLUSTER,
            place: self.place(),
            reason,
        };
        let system_id = file
            .system_identifier
            .parse()
            .map_err(|error| broken(format!("{error}")))?;
        let segment_size = SegmentSize::new(file.segment_bytes).map_err(|error| broken(error.to_string()))?;
        Ok(Cluster {
            system_id: SystemId(system_id),
            segment_size,
        })
    }

    /// The key of an archived file.
    pub fn wal_key(&self, name: WalName) -> Key {
        Key::new(format!("wal/{name}.{}", self.extension(name)))
    }

    /// Small files are always stored in LZ4's frame, uncompressed, so that a listing tells their plain size.
    fn extension(&self, name: WalName) -> &str {
        if name.has_pages() {
            &self.marker.codec
        } else {
            Compression::None.extension()
        }
    }

    /// The file a key of a listing stands for; `None` for objects that are not archived files.
    fn wal_name(&self, key: &Key) -> Option<WalName> {
        let (stem, extension) = key.as_str().strip_prefix("wal/")?.rsplit_once('.')?;
        let name: WalName = stem.parse().ok()?;
        (extension == self.extension(name)).then_some(name)
    }
}

fn choose_compression(store: &Store, marker: &Marker, options: &Options) -> Result<Compression, Error> {
    let usual = [Compression::default(), Compression::Zstd { level: 1 }];
    let usual = usual.into_iter().find(|codec| codec.extension() == marker.codec);
    let usual = usual.ok_or_else(|| Error::Marker {
        key: MARKER,
        place: store.place(),
        reason: format!(
            "its codec is {:?}, expected lz4 or zst\n\
             HINT: it was changed after it was written, or by a newer walfs; bring it back from a copy of the store",
            shortened(&marker.codec, 40)
        ),
    })?;
    let chosen = options.compression.unwrap_or(usual);
    if chosen.extension() != marker.codec {
        return Err(Error::Codec {
            place: store.place(),
            archived: usual.to_string(),
            asked: chosen.to_string(),
        });
    }
    Ok(chosen)
}

/// The marker did not come when it was asked for: because of the archive, or of the place? And was it made then?
async fn missed_marker(
    asked: Result<Option<Marker>, Error>,
    store: &Store,
    options: &Options,
    patience: Patience,
) -> Result<(Marker, bool), Error> {
    if let Err(Error::Store(error)) = asked
        && error.kind == ErrorKind::Transient
    {
        return Err(store.advised(error).into());
    }
    store.arrive(patience).await?;
    match read_json::<Marker>(store, MARKER, patience).await? {
        Some(marker) => Ok((marker, false)),
        None if options.create => Ok((create_marker(store, options, patience).await?, true)),
        None => Err(Error::NotAnArchive {
            place: store.place(),
            nearby: store.nearby(&Key::new(MARKER)).await,
        }),
    }
}

async fn create_marker(store: &Store, options: &Options, patience: Patience) -> Result<Marker, Error> {
    if holds_files(store, patience).await? {
        // Another opener may have made it meanwhile, and archived.
        let made = read_json(store, MARKER, patience).await?;
        return made.ok_or_else(|| Error::Marker {
            key: MARKER,
            place: store.place(),
            reason: "it is missing, although files are archived there\n\
                     HINT: bring it back from a copy of the store; a new one could name another codec"
                .into(),
        });
    }
    if let Some(around) = store.around(&Key::new(MARKER)).await {
        return Err(Error::Inside {
            place: store.place(),
            around,
        });
    }
    let conditions = store::probe(store, patience).await?;
    let identity = match &options.identity {
        Some(identity) => identity.clone(),
        None => Identity::random().map_err(|error| Error::Marker {
            key: MARKER,
            place: store.place(),
            reason: format!("the system has no random numbers for it: {error}"),
        })?,
    };
    let marker = Marker {
        format_version: FORMAT_VERSION,
        identity,
        codec: options.compression.unwrap_or_default().extension().to_owned(),
        put_if_absent: conditions.put,
        complete_if_absent: conditions.complete,
        created_by: concat!("walfs ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    // First: an archive whose folders have no marks yet would be taken for one whose disks are missing.
    claim_folders(store, &marker, Stage::Making, patience).await?;
    let won = put_first(store, MARKER, &marker, conditions.put, patience).await?;
    tracing::info!("{} held no archive: made a new archive there", store.place());
    claim_folders(store, &won, Stage::Made, patience).await?;
    Ok(won)
}

/// Makes sure of the folders that every archive has.
async fn claim_folders(
    store: &Store,
    marker: &Marker,
    stage: Stage,
    patience: Patience,
) -> Result<(), Error> {
    let backups = [
        (tree::BASEBACKUPS, Some(tree::TREES)),
        (tree::TREES, Some(tree::BASEBACKUPS)),
    ];
    for (folder, twin) in std::iter::once((WAL, None)).chain(backups) {
        let claim = Claim {
            archive_id: marker.identity.archive_id.clone(),
            stage,
            needed: folder == WAL,
            twin: twin.map(Key::new),
        };
        store.prepare(&Key::new(folder), &claim, patience).await?;
    }
    Ok(())
}

/// Is this no empty prefix? A new marker could name another codec than the lost one, and every file would be "absent".
async fn holds_files(store: &Store, patience: Patience) -> Result<bool, Error> {
    for prefix in ["wal/", "receiving/", "basebackups/", "files/", "trees/"] {
        if !store.list(prefix, None, 1, patience).await?.entries.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn read_json<T: for<'a> Deserialize<'a>>(
    store: &Store,
    key: &'static str,
    patience: Patience,
) -> Result<Option<T>, Error> {
    let most = ByteRange::AtMost(MARKER_BYTES);
    let fetched = match store.get(&Key::new(key), most, patience).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    serde_json::from_slice(&fetched.bytes)
        .map(Some)
        .map_err(|error| Error::Marker {
            key,
            place: store.place(),
            reason: format!(
                "{error}\nHINT: it was changed or cut after it was written; bring it back from a copy of the store"
            ),
        })
}

/// Writes what is written once in an archive's life, and gives what is there then: another opener may have been quicker.
///
/// A store that keeps no conditions lets the last writer win, and each of two would read back what it wrote itself. So it
/// is asked once more immediately before, and what is there some time later counts: until then, everybody who had found
/// nothing has written.
async fn put_first<T: Serialize + for<'a> Deserialize<'a>>(
    store: &Store,
    key: &'static str,
    value: &T,
    store_judges: bool,
    patience: Patience,
) -> Result<T, Error> {
    let began = Instant::now();
    if !store_judges && let Some(there) = read_json(store, key, patience).await? {
        return Ok(there);
    }
    put_json_if_absent(store, key, value, store_judges, patience).await?;
    if !store_judges {
        tokio::time::sleep(SETTLED.max(SLOWER * began.elapsed())).await;
    }
    read_json(store, key, patience)
        .await?
        .ok_or_else(|| Error::Marker {
            key,
            place: store.place(),
            reason: "it was written and is not there".into(),
        })
}

async fn put_json_if_absent<T: Serialize>(
    store: &Store,
    key: &'static str,
    value: &T,
    store_judges: bool,
    patience: Patience,
) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data becomes JSON");
    text.push(b'\n');
    match store
        .put(
            &Key::new(key),
            Bytes::from(text),
            put_mode(store_judges),
            patience,
        )
        .await
    {
        Err(error) if error.kind != ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// How to write what must not be there yet. A server that does not know conditions may refuse them; then having looked
/// must do.
fn put_mode(store_judges: bool) -> PutMode {
    if store_judges {
        PutMode::IfAbsent
    } else {
        PutMode::Overwrite
    }
}
