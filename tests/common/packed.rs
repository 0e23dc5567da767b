//! Makes a base backup out of a directory, by the library alone: every file of it in parts, small ones bundled, large
//! ones in slices. For tests of who reads backups, whoever will take them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use walfs::archive::Archive;
use walfs::archive::tree::backup::{Backup, Shape, WalRange};
use walfs::archive::tree::begun::Process;
use walfs::archive::tree::catalogue::{Begun, By};
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::layout;
use walfs::archive::tree::summary::{Description, Method};
use walfs::archive::tree::{Attributes, Content, Entry, Extent, Part, Tree, TreeId, TreeKind};
use walfs::parts::part::FinishedPart;
use walfs::parts::volume::{Bundle, VolumeBuilder};
use walfs::pg::{Lsn, Timeline};

use super::below::LONG;
use super::made_up;
use walfs::store::Patience;

/// Stores `directory` as the complete base backup `name`, of the cluster that `backup` describes.
pub async fn pack(archive: &Archive, name: &str, directory: &Path, backup: Backup) -> Tree {
    let patience = Patience::for_at_most(LONG);
    let id = TreeId::fresh(&name.parse().expect("a name for a backup"));
    let began = Timestamp::now();
    let begun = archive.begin_tree(&id, &begun(began), patience).await;
    begun.expect("begin a backup");
    let mut packing = Packing {
        archive,
        id,
        parts: Vec::new(),
        entries: Vec::new(),
        bundle: Bundle::default(),
        bundled: Vec::new(),
        volumes: 0,
    };
    for path in walk(directory) {
        packing.add(directory, &path).await;
    }
    packing.close_bundle().await;
    let tree = Tree::new(packing.id, packing.parts, packing.entries).expect("a tree");
    let description = Description {
        content: TreeKind::BaseBackup,
        began,
        method: Method::Walfs,
        plain_tar: true,
        backup,
    };
    let committed = made_up::commit(archive, &tree, description, patience).await;
    committed.expect("commit the backup");
    tree
}

/// A backup of timeline 1 that needs the WAL between two positions.
pub fn backup(segment_bytes: u64, start: Lsn, end: Lsn) -> Backup {
    Backup {
        shape: Shape::Plain,
        system_identifier: None,
        postgresql_major: None,
        segment_bytes,
        wal: vec![WalRange {
            timeline: Timeline(1),
            start,
            end,
        }],
        label: "packed by a test".into(),
        ended: Ended {
            at: Timestamp::now(),
            known_from: KnownFrom::Server,
        },
        from_standby: false,
        incremental_from: None,
        dump_hash: None,
        plain_file: false,
        own_wal: vec![],
        awaited: vec![],
        landmarks: vec![],
        tablespaces: vec![],
        links: vec![],
        outside: vec![],
        pages: None,
    }
}

/// Who takes a backup: this process, as nobody can tell any more.
pub fn begun(at: Timestamp) -> Begun {
    Begun {
        at,
        content: TreeKind::BaseBackup,
        by: By::Backup,
        process: Process {
            boot_id: "a test's".into(),
            host: "a test's".into(),
            pid: std::process::id(),
            pid_began_ticks: 0,
        },
    }
}

/// The directory itself and everything beneath it.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(&path).expect("look at a file").is_dir() {
            let names = fs::read_dir(&path).expect("list a directory");
            let mut names: Vec<PathBuf> = names.map(|name| name.expect("a name").path()).collect();
            names.sort();
            found.extend(names);
        }
    }
    found
}

struct Packing<'a> {
    archive: &'a Archive,
    id: TreeId,
    parts: Vec<Part>,
    entries: Vec<Entry>,
    /// Small files on their way into one part.
    bundle: Bundle,
    /// Which entries these are, and where the content of each begins.
    bundled: Vec<(usize, u64)>,
    volumes: u32,
}

impl Packing<'_> {
    async fn add(&mut self, directory: &Path, path: &Path) {
        let meta = fs::symlink_metadata(path).expect("look at a file");
        let inside = path.strip_prefix(directory).expect("beneath it");
        let content = if meta.is_dir() {
            Content::Directory
        } else if meta.is_symlink() {
            let target = fs::read_link(path).expect("read a link");
            Content::Symlink(target.as_os_str().as_bytes().into())
        } else {
            let extents = [].into();
            Content::File {
                bytes: meta.len(),
                extents,
            }
        };
        let modified = Timestamp::new(meta.mtime(), meta.mtime_nsec() as i32).expect("a time");
        let entry = Entry {
            path: inside.as_os_str().as_bytes().into(),
            attributes: Attributes {
                mode: meta.mode() & 0o7777,
                uid: meta.uid(),
                gid: meta.gid(),
                modified,
            },
            content,
        };
        if entry.content == Content::Directory || entry.bytes() <= layout::LARGE_BYTES {
            self.bundle(entry, path).await;
        } else {
            self.store_large(entry, path).await;
        }
    }

    async fn bundle(&mut self, entry: Entry, path: &Path) {
        let content = match &entry.content {
            Content::File { bytes, .. } => {
                let content = fs::read(path).expect("read a file");
                assert_eq!(content.len() as u64, *bytes, "{} changes", path.display());
                content
            }
            _ => Vec::new(),
        };
        let offset = self.bundle.add(entry.clone(), content);
        self.bundled.push((self.entries.len(), offset));
        self.entries.push(entry);
        if self.bundle.plain_bytes() > layout::BUNDLE_BYTES {
            self.close_bundle().await;
        }
    }

    async fn close_bundle(&mut self) {
        let bundle = std::mem::take(&mut self.bundle);
        let part = self.store(bundle.pack(self.archive.form()), 0).await;
        self.volumes += 1;
        for (entry, offset) in std::mem::take(&mut self.bundled) {
            if let Content::File { bytes, extents } = &mut self.entries[entry].content
                && *bytes > 0
            {
                let bytes = *bytes;
                *extents = [Extent { part, offset, bytes }].into();
            }
        }
    }

    async fn store_large(&mut self, mut entry: Entry, path: &Path) {
        let content = fs::read(path).expect("read a file");
        let bytes = content.len() as u64;
        let mut extents = Vec::new();
        for slice in 0..layout::slices(bytes) {
            let mut volume = VolumeBuilder::new(self.archive.form());
            let range = volume.begin_slice(slice, &entry);
            let offset = volume.plain_bytes();
            volume.content(&content[range.start as usize..range.end as usize]);
            let part = self.store(volume.finish_slice(slice, bytes), slice as u32).await;
            extents.push(Extent {
                part,
                offset,
                bytes: range.end - range.start,
            });
        }
        self.volumes += 1;
        extents.retain(|extent| extent.bytes > 0);
        let extents = extents.into();
        entry.content = Content::File { bytes, extents };
        self.entries.push(entry);
    }

    async fn store(&mut self, finished: FinishedPart, slice: u32) -> u32 {
        let extension = self.archive.compression().extension();
        let key = self.id.part_key(self.volumes, slice, extension);
        let stored = self
            .archive
            .put_part(&key, finished.object.clone(), Patience::for_at_most(LONG));
        stored.await.expect("store a part");
        self.parts.push(finished.described(key));
        self.parts.len() as u32 - 1
    }
}
