//! Backups of clusters that nobody has: their descriptions are whole, and of their content there is one file.

use jiff::Timestamp;
use walfs::archive::tree::backup::Backup;
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::summary::{Description, Method, Summary};
use walfs::archive::tree::{
    Attributes, Content, Entry, Extent, Part, Tree, TreeId, TreeKind, TreeName, layout,
};
use walfs::archive::{self, Archive};
use walfs::codec::{Compression, ContentHash};
use walfs::parts::part::{FinishedPart, PartBuilder};
use walfs::pg::Lsn;
use walfs::store::Patience;

use super::packed;

const PAGE_BYTES: u64 = 8192;
const GIB: u64 = 1 << 30;

/// Files in a directory: tables of a database.
const FILES_OF_ONE: u32 = 1000;

/// The one file that has content.
pub const REAL: &str = "base/5/16384";

/// What a cluster has.
#[derive(Debug, Clone, Copy)]
pub struct MadeUp {
    /// Files of 100 bytes.
    pub small: u32,
    /// Files of 1 GiB.
    pub large: u32,
    /// Of so many of their pages one has changed since an earlier backup; 0: none.
    pub one_changed_of: u64,
}

/// What a test says of a backup that needs segment 2 of 1 MiB.
pub fn description() -> Description {
    Description {
        content: TreeKind::BaseBackup,
        began: Timestamp::UNIX_EPOCH,
        method: Method::Walfs,
        plain_tar: true,
        backup: Backup {
            postgresql_major: Some(15),
            ended: Ended {
                at: Timestamp::UNIX_EPOCH,
                known_from: KnownFrom::Server,
            },
            ..packed::backup(1 << 20, Lsn(0x20_0028), Lsn(0x20_0100))
        },
    }
}

/// Makes a tree exist whose parts are stored.
pub async fn commit(
    archive: &Archive,
    tree: &Tree,
    description: Description,
    patience: Patience,
) -> Result<Summary, archive::Error> {
    let inventory = archive.store_inventory(tree, patience).await?;
    archive.commit_stored(inventory, description, patience).await
}

/// Stores a backup of that name, and gives the content of [`REAL`], whose every second page lies in another part.
pub async fn store(archive: &Archive, name: &TreeName, made_up: MadeUp, patience: Patience) -> Vec<u8> {
    let mut maker = Maker {
        id: TreeId::fresh(name),
        parts: Vec::new(),
        entries: Vec::new(),
    };
    maker.directories();
    maker.large(made_up);
    maker.small(made_up.small, |maker, _| maker.part(layout::BUNDLE_BYTES));
    let content = maker.real(archive, patience).await;
    let tree = Tree::new(maker.id, maker.parts, maker.entries).expect("a tree");
    let stored = commit(archive, &tree, description(), patience).await;
    stored.expect("a backup");
    content
}

/// A cluster of small files that is backed up over and over. Of its bundles each backup stores one in ten anew and points to
/// earlier ones for the others; one in ten never changes. All parts are there, with next to nothing in them.
#[derive(Debug)]
pub struct Daily {
    files: u32,
    part: FinishedPart,
    taken: Vec<TreeId>,
}

/// Each bundle is stored anew by one of so many backups.
const TURNS: usize = 10;

impl Daily {
    /// None is taken yet.
    pub fn new(files: u32) -> Self {
        Self {
            files,
            part: PartBuilder::new(Compression::default()).finish(&[]),
            taken: Vec::new(),
        }
    }

    /// Stores the next one.
    pub async fn store(
        &mut self,
        archive: &Archive,
        name: &TreeName,
        description: Description,
        patience: Patience,
    ) {
        let id = TreeId::fresh(name);
        let begun = packed::begun(description.began);
        let begun = archive.begin_tree(&id, &begun, patience).await;
        begun.expect("begun");
        self.taken.push(id.clone());
        let mut maker = Maker {
            id,
            parts: Vec::new(),
            entries: Vec::new(),
        };
        maker.directories();
        maker.small(self.files, |maker, bundle| self.bundle(maker, bundle));
        for part in maker.parts.iter().filter(|part| part.tree() == maker.id.as_str()) {
            let stored = archive.put_part(&part.key, self.part.object.clone(), patience);
            stored.await.expect("stored");
        }
        let tree = Tree::new(maker.id, maker.parts, maker.entries).expect("a tree");
        let stored = commit(archive, &tree, description, patience).await;
        stored.expect("a backup");
    }

    /// In the backup that has stored it last.
    fn bundle(&self, maker: &mut Maker, number: u32) -> u32 {
        let (last, bundle) = (self.taken.len() - 1, number as usize);
        let since = if bundle % TURNS == 0 {
            last
        } else {
            (last + bundle / TURNS) % TURNS
        };
        maker.parts.push(Part {
            key: self.taken[last.saturating_sub(since)].part_key(number, 0, "lz4"),
            plain_bytes: layout::BUNDLE_BYTES,
            stored_bytes: self.part.object.len() as u64,
            hash: self.part.hash,
            used_bytes: 0,
        });
        maker.parts.len() as u32 - 1
    }
}

struct Maker {
    id: TreeId,
    parts: Vec<Part>,
    entries: Vec<Entry>,
}

impl Maker {
    fn entry(&mut self, path: &str, content: Content) {
        self.entries.push(Entry {
            path: path.as_bytes().into(),
            attributes: Attributes {
                mode: 0o700,
                uid: 1,
                gid: 1,
                modified: Timestamp::UNIX_EPOCH,
            },
            content,
        });
    }

    fn directory(&mut self, path: &str) {
        self.entry(path, Content::Directory);
    }

    fn directories(&mut self) {
        for path in ["", "base", "base/5", "pg_wal"] {
            self.directory(path);
        }
    }

    fn file(&mut self, path: &str, extents: Vec<Extent>) {
        let bytes = extents.iter().map(|extent| extent.bytes).sum();
        let extents = extents.into();
        self.entry(path, Content::File { bytes, extents });
    }

    /// A part that there is not.
    fn part(&mut self, plain_bytes: u64) -> u32 {
        let number = self.parts.len() as u32;
        self.parts.push(Part {
            key: self.id.part_key(number, 0, "lz4"),
            plain_bytes,
            // So that nothing of it is missing.
            stored_bytes: 0,
            hash: ContentHash::of(&number.to_le_bytes()),
            used_bytes: 0,
        });
        number
    }

    /// Files in bundles, one for each directory: `bundle` gives the part of one.
    fn small(&mut self, files: u32, mut bundle: impl FnMut(&mut Self, u32) -> u32) {
        let mut part = 0;
        for number in 0..files {
            if number % FILES_OF_ONE == 0 {
                self.directory(&format!("base/{}", 100_000 + number / FILES_OF_ONE));
                part = bundle(self, number / FILES_OF_ONE);
            }
            let offset = u64::from(number % FILES_OF_ONE) * 1024 + 512;
            let path = format!("base/{}/{}", 100_000 + number / FILES_OF_ONE, 16_384 + number);
            self.file(
                &path,
                vec![Extent {
                    part,
                    offset,
                    bytes: 100,
                }],
            );
        }
    }

    /// Relations of 1 GiB in slices, and over these pages of a bundle that is full after 2000 of them.
    fn large(&mut self, made_up: MadeUp) {
        let mut chance = fastrand::Rng::with_seed(1);
        let (mut changed, mut offset) = (0, layout::BUNDLE_BYTES);
        for number in 0..made_up.large {
            let mut extents = Vec::new();
            for slice in 0..layout::slices(GIB) {
                let part = self.part(layout::SLICE_BYTES);
                let (range, start) = layout::slice_content(slice, GIB);
                let mut at = range.start;
                for page in range.clone().step_by(PAGE_BYTES as usize) {
                    if made_up.one_changed_of == 0 || chance.u64(..made_up.one_changed_of) > 0 {
                        continue;
                    }
                    if offset + PAGE_BYTES > layout::BUNDLE_BYTES {
                        (changed, offset) = (self.part(layout::BUNDLE_BYTES), 512);
                    }
                    extents.extend(under(part, start, range.start, at..page));
                    extents.push(Extent {
                        part: changed,
                        offset,
                        bytes: PAGE_BYTES,
                    });
                    (offset, at) = (offset + PAGE_BYTES, page + PAGE_BYTES);
                }
                extents.extend(under(part, start, range.start, at..range.end));
            }
            self.file(&format!("base/5/{}", 20_000 + number), extents);
        }
    }

    async fn real(&mut self, archive: &Archive, patience: Patience) -> Vec<u8> {
        let mut content = vec![0; 64 * PAGE_BYTES as usize];
        fastrand::Rng::with_seed(7).fill(&mut content);
        let mut numbers = [0; 2];
        for (which, number) in (0..).zip(&mut numbers) {
            let mut builder = PartBuilder::new(Compression::default());
            let pages = content.chunks(PAGE_BYTES as usize).skip(which).step_by(2);
            pages.for_each(|page| builder.push(page));
            let part = builder.finish(&[]);
            *number = self.parts.len() as u32;
            let key = self.id.part_key(*number, 0, "lz4");
            let stored = archive.put_part(&key, part.object.clone(), patience).await;
            stored.expect("stored");
            self.parts.push(part.described(key));
        }
        let extents = (0..64).map(|page| Extent {
            part: numbers[page % 2],
            offset: page as u64 / 2 * PAGE_BYTES,
            bytes: PAGE_BYTES,
        });
        self.file(REAL, extents.collect());
        content
    }
}

/// Bytes of a file that lie in its slice, whose first byte `first` is at `start`.
fn under(part: u32, start: u64, first: u64, range: std::ops::Range<u64>) -> Option<Extent> {
    (!range.is_empty()).then(|| Extent {
        part,
        offset: start + (range.start - first),
        bytes: range.end - range.start,
    })
}
