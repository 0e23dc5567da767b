//! What happens to the cluster and to what it archives: lines of history, and backups that build on each other.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use walfs::archive::tree::backup::{Backup, WalRange};
use walfs::archive::tree::begun::Process;
use walfs::archive::tree::catalogue::{Begun, By};
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::pin::Pin;
use walfs::archive::tree::summary::{Description, Method};
use walfs::archive::tree::{Attributes, Content, Entry, Extent, Part, Tree, TreeId, TreeKind, TreeName};
use walfs::codec::{Compression, pack_all};
use walfs::parts::volume::Bundle;
use walfs::pg::{Lsn, Timeline};

use super::place::{Place, patience};
use super::step::Step;
use crate::common::made_up;
use crate::common::packed;
use crate::common::wal;

pub(super) const MIB: u64 = 1 << 20;

/// Files of the cluster.
const FILES: usize = 5;

/// Made once for each name.
static SEGMENTS: LazyLock<Mutex<BTreeMap<String, Bytes>>> = LazyLock::new(Mutex::default);

fn segment(name: &str) -> Bytes {
    let mut made = SEGMENTS.lock().expect("no panic while held");
    let make = || {
        let content = wal::segment(name, 7, MIB as u32, 0);
        pack_all(Compression::Lz4 { acceleration: 1 }, &content).0
    };
    made.entry(name.to_owned()).or_insert_with(make).clone()
}

/// A stretch of a line of history: its timeline, and where it begins and ends.
pub(super) type Stretch = (u32, u64, u64);

#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) timeline: u32,
    /// From the first timeline to the own one.
    pub(super) stretches: Vec<Stretch>,
    /// Number of the next segment.
    pub(super) next: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) name: TreeName,
    pub(super) id: TreeId,
    pub(super) timeline: u32,
    pub(super) start: u64,
    pub(super) stop: u64,
    pub(super) ended: Timestamp,
    pub(super) files: BTreeMap<usize, Vec<u8>>,
}

/// Both archives, and what is known of them.
pub(super) struct World {
    pub(super) original: Place,
    pub(super) copy: Place,
    pub(super) lines: Vec<Line>,
    pub(super) current: usize,
    pub(super) backups: Vec<Taken>,
    files: BTreeMap<usize, Vec<u8>>,
    /// Where the newest version of each lies.
    places: BTreeMap<TreeId, BTreeMap<usize, (Part, u64)>>,
    pub(super) unfinished: Vec<TreeId>,
    /// Has a copy died?
    pub(super) has_leavings: bool,
    made: u32,
    pub(super) now: Timestamp,
    /// How far the clock is ahead of whoever takes backups.
    pub(super) ahead: SignedDuration,
}

pub(super) fn name_of(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number >> 12, number & 0xfff)
}

impl World {
    pub(super) async fn new() -> World {
        let original = Place::new(None).await;
        let copy = Place::new(Some(&original.archive)).await;
        let cluster = r#"{"system_identifier":"7","segment_bytes":1048576,"first_file":""}"#;
        original.backend.set("cluster.json", Some(cluster.into()));
        let mut world = World {
            original,
            copy,
            lines: vec![Line {
                timeline: 1,
                stretches: vec![(1, 0, u64::MAX)],
                next: 1,
            }],
            current: 0,
            backups: Vec::new(),
            files: (0..FILES).map(|file| (file, vec![file as u8; 50])).collect(),
            places: BTreeMap::new(),
            unfinished: Vec::new(),
            has_leavings: false,
            made: 0,
            ahead: SignedDuration::ZERO,
            now: Timestamp::now(),
        };
        world.archive_segments(2);
        world
    }

    fn archive_segments(&mut self, count: u64) {
        let line = &mut self.lines[self.current];
        for number in line.next..line.next + count {
            let name = name_of(line.timeline, number);
            self.original
                .backend
                .set(&format!("wal/{name}.lz4"), Some(segment(&name)));
        }
        line.next += count;
    }

    pub(super) async fn step(&mut self, step: &Step) {
        // Prunes know days, a history has some dozens of steps.
        match step {
            Step::Archive(count) => self.archive_segments(*count),
            Step::Backup { segments, changed } => self.back_up(*segments, *changed).await,
            Step::Fork {
                of,
                back,
                with_history,
            } => self.fork(*of % self.lines.len(), *back, *with_history),
            Step::Switch(to) => self.current = *to % self.lines.len(),
            Step::Lose(which) => {
                let files: Vec<String> = self.original.stored("wal/").into_iter().collect();
                if let Some(lost) = files.get(which % files.len().max(1)) {
                    self.original.backend.set(lost, None);
                }
            }
            Step::Pin(which) => self.pin(*which).await,
            Step::Unpin(which) => {
                let pins: Vec<String> = self.original.stored("pins/").into_iter().collect();
                if let Some(pin) = pins.get(which % pins.len().max(1)) {
                    let name = &pin["pins/".len()..pin.len() - ".json".len()];
                    let name: TreeName = name.parse().expect("a name");
                    let unpinned = self.original.archive.unpin(&name, patience()).await;
                    assert!(unpinned.expect("unpin"));
                }
            }
            Step::LeaveUnfinished => {
                let id = self.begin().await;
                self.base(&id).await;
                self.unfinished.push(id);
            }
            Step::DropUnfinished => {
                for id in std::mem::take(&mut self.unfinished) {
                    self.original
                        .archive
                        .drop_unfinished(&id, patience())
                        .await
                        .expect("drop it");
                }
            }
            Step::Prune(which, wanted) => self.prune(*which, wanted).await,
            Step::PruneDies(which, wanted, calls, done) => {
                self.prune_dies(*which, wanted, *calls, *done).await;
            }
            Step::Copy => self.copy().await,
            Step::CopyDies(which, calls, done) => self.copy_dies(*which, *calls, *done).await,
        }
    }

    async fn begin(&mut self) -> TreeId {
        self.made += 1;
        let id = TreeId::fresh(&format!("b{}", self.made).parse().expect("a name"));
        let begun = Begun {
            at: Timestamp::now(),
            content: TreeKind::BaseBackup,
            by: By::Mount,
            process: Process::this(),
        };
        self.original
            .archive
            .begin_tree(&id, &begun, patience())
            .await
            .expect("begin a tree");
        id
    }

    /// What a new one builds on: the newest whose base may be claimed.
    async fn base(&self, id: &TreeId) -> Option<TreeId> {
        for backup in self
            .backups
            .iter()
            .rev()
            .filter(|backup| self.original.exists(backup))
        {
            if self
                .original
                .archive
                .claim_base(id, &backup.id, patience())
                .await
                .expect("claim it")
            {
                return Some(backup.id.clone());
            }
        }
        None
    }

    async fn back_up(&mut self, segments: u64, changed: u8) {
        let line = self.lines[self.current].clone();
        let (first, last) = (line.next, line.next + segments);
        let id = self.begin().await;
        let base = self.base(&id).await;
        let base = self
            .backups
            .iter()
            .find(|backup| Some(&backup.id) == base.as_ref());
        let base = base.map(|base| (base.files.clone(), self.places[&base.id].clone()));
        self.archive_segments(segments + 1);
        let mut places = BTreeMap::new();
        for file in 0..FILES {
            if changed & (1 << file) != 0 {
                let made = self.made;
                self.files
                    .insert(file, format!("file {file} of backup {made}").into_bytes());
            }
            let place = match &base {
                Some((files, places)) if files[&file] == self.files[&file] => places[&file].clone(),
                _ => self.store(&id, file).await,
            };
            places.insert(file, place);
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut entries = vec![entry("", Content::Directory)];
        for (file, (part, offset)) in &places {
            let number = parts.iter().position(|known| known.key == part.key);
            let number = number.unwrap_or_else(|| {
                parts.push(part.clone());
                parts.len() - 1
            });
            let bytes = self.files[file].len() as u64;
            let extents = [Extent {
                part: number as u32,
                offset: *offset,
                bytes,
            }]
            .into();
            entries.push(entry(&format!("f{file}"), Content::File { bytes, extents }));
        }
        let tree = Tree::new(id.clone(), parts, entries).expect("a tree");
        // Some are a day apart, as far as the rules see.
        let ended = self.now - SignedDuration::from_hours(24 * (60 - i64::from(self.made)).max(0));
        let (start, stop) = (first * MIB + 40, last * MIB + 400);
        let description = Description {
            content: TreeKind::BaseBackup,
            began: Timestamp::now() + self.ahead,
            method: Method::Walfs,
            plain_tar: false,
            backup: Backup {
                wal: vec![WalRange {
                    timeline: Timeline(line.timeline),
                    start: Lsn(start),
                    end: Lsn(stop),
                }],
                ended: Ended {
                    at: ended,
                    known_from: KnownFrom::Server,
                },
                ..packed::backup(MIB, Lsn(start), Lsn(stop))
            },
        };
        let committed = made_up::commit(&self.original.archive, &tree, description, patience()).await;
        committed.expect("a backup");
        self.places.insert(id.clone(), places);
        self.backups.push(Taken {
            name: id.name(),
            id,
            timeline: line.timeline,
            start,
            stop,
            ended,
            files: self.files.clone(),
        });
    }

    async fn store(&self, id: &TreeId, file: usize) -> (Part, u64) {
        let content = self.files[&file].clone();
        let bytes = content.len() as u64;
        let extents = [].into();
        let mut bundle = Bundle::default();
        let offset = bundle.add(
            entry(&format!("f{file}"), Content::File { bytes, extents }),
            content,
        );
        let packed = bundle.pack(self.original.archive.form());
        let key = id.part_key(file as u32, 0, self.original.archive.compression().extension());
        let stored = self
            .original
            .archive
            .put_part(&key, packed.object.clone(), patience())
            .await;
        stored.expect("store a part");
        (packed.described(key), offset)
    }

    fn fork(&mut self, of: usize, back: u64, with_history: bool) {
        let parent = self.lines[of].clone();
        let (_, begin, _) = parent.stretches[parent.stretches.len() - 1];
        let number = parent.next.saturating_sub(1 + back).max(begin / MIB + 1).max(1);
        if number >= parent.next {
            return;
        }
        let at = number * MIB + 1000;
        let timeline = self.lines.iter().map(|line| line.timeline).max().unwrap_or(1) + 1;
        let mut stretches = parent.stretches.clone();
        stretches.last_mut().expect("its own").2 = at;
        stretches.push((timeline, at, u64::MAX));
        if with_history {
            let lines = stretches[..stretches.len() - 1].iter();
            let text: String = lines
                .map(|(timeline, _, end)| format!("{timeline}\t{:X}/{:X}\tmodel\n", end >> 32, *end as u32))
                .collect();
            let object = pack_all(Compression::None, text.as_bytes()).0;
            self.original
                .backend
                .set(&format!("wal/{timeline:08X}.history.lz4"), Some(object));
        }
        self.lines.push(Line {
            timeline,
            stretches,
            next: number,
        });
        self.current = self.lines.len() - 1;
        self.archive_segments(1);
    }

    async fn pin(&mut self, which: usize) {
        let there: Vec<Taken> = self
            .backups
            .iter()
            .filter(|backup| self.original.exists(backup))
            .cloned()
            .collect();
        let Some(backup) = there.get(which % there.len().max(1)) else {
            return;
        };
        let pin = Pin {
            id: backup.id.to_string(),
            at: Timestamp::now(),
            until: None,
            reason: "model".into(),
        };
        let pinned = self.original.archive.pin(&backup.id, &pin, patience()).await;
        assert!(pinned.expect("pin it"), "a prune is at work");
    }
}

fn entry(path: &str, content: Content) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        attributes: Attributes {
            mode: 0o600,
            uid: 1,
            gid: 1,
            modified: Timestamp::UNIX_EPOCH,
        },
        content,
    }
}
