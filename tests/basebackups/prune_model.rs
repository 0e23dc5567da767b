//! Random histories of an archive, pruned by random rules, against what a recovery would read (promise K3): backups that
//! build on each other, timelines that fork and go on, lost segments and histories, pins, unfinished backups, prunes that
//! die at any call. Without a server: what counts are names, parts and WAL.
//!
//! `PROPTEST_CASES` raises the number of histories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::Value;
use walfs::archive::tree::backup::{Backup, WalRange};
use walfs::archive::tree::begun::Process;
use walfs::archive::tree::catalogue::{Begun, By};
use walfs::archive::tree::ended::{Ended, KnownFrom};
use walfs::archive::tree::pin::Pin;
use walfs::archive::tree::summary::{Description, Method};
use walfs::archive::tree::{Attributes, Content, Entry, Extent, Part, Tree, TreeId, TreeKind, TreeName};
use walfs::archive::{self, Archive};
use walfs::codec::{Compression, pack_all, unpack_all};
use walfs::job::progress::{Progress, Silent};
use walfs::job::prune::{Plan, Prune, Rules};
use walfs::parts::volume::Bundle;
use walfs::pg::{Lsn, Timeline};
use walfs::store::Patience;

use crate::common::below::LONG;
use crate::common::made_up;
use crate::common::packed;
use crate::common::scripted::Scripted;
use crate::common::wal;

const MIB: u64 = 1 << 20;

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

#[derive(Debug, Clone)]
enum Step {
    /// So many segments.
    Archive(u64),
    /// A backup over so many segments, in which these files have changed.
    Backup {
        segments: u64,
        changed: u8,
    },
    /// A server is restored so many segments before the end of a timeline, and archives from now on; perhaps without its
    /// history.
    Fork {
        of: usize,
        back: u64,
        with_history: bool,
    },
    /// The server of another timeline archives from now on.
    Switch(usize),
    /// An archived segment or history is lost.
    Lose(usize),
    Pin(usize),
    Unpin(usize),
    /// A backup is begun, builds on the newest, and is left like that.
    LeaveUnfinished,
    /// These are given up.
    DropUnfinished,
    Prune(Wanted),
    /// It dies after so many calls, of which the last may be done.
    PruneDies(Wanted, usize, bool),
}

#[derive(Debug, Clone)]
struct Wanted {
    last: Option<u32>,
    days: Option<u32>,
    daily: Option<u32>,
    monthly: Option<u32>,
    pitr_days: Option<u32>,
}

impl Wanted {
    fn rules(&self) -> Rules {
        Rules {
            last: self.last,
            days: self.days,
            daily: self.daily,
            monthly: self.monthly,
            pitr_days: self.pitr_days,
            ..Rules::default()
        }
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let some = |most: u32| prop::option::weighted(0.4, 0..most);
    let all = (
        prop::option::weighted(0.8, 0..4u32),
        some(20),
        some(4),
        some(3),
        prop::option::weighted(0.3, 0..10u32),
    );
    all.prop_map(|(last, days, daily, monthly, pitr_days)| Wanted {
        last,
        days,
        daily,
        monthly,
        pitr_days,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64).prop_map(Step::Archive),
        8 => (0..3u64, any::<u8>()).prop_map(|(segments, changed)| Step::Backup { segments, changed }),
        2 => (any::<usize>(), 0..5u64, prop::bool::weighted(0.85))
            .prop_map(|(of, back, with_history)| Step::Fork { of, back, with_history }),
        2 => any::<usize>().prop_map(Step::Switch),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Pin),
        1 => any::<usize>().prop_map(Step::Unpin),
        1 => Just(Step::LeaveUnfinished),
        1 => Just(Step::DropUnfinished),
        4 => wanted().prop_map(Step::Prune),
        3 => (wanted(), 0..120usize, any::<bool>())
            .prop_map(|(wanted, calls, done)| Step::PruneDies(wanted, calls, done)),
    ]
}

/// A stretch of a line of history: its timeline, and where it begins and ends.
type Stretch = (u32, u64, u64);

#[derive(Debug, Clone)]
struct Line {
    timeline: u32,
    /// From the first timeline to the own one.
    stretches: Vec<Stretch>,
    /// Number of the next segment.
    next: u64,
    has_history: bool,
}

#[derive(Debug, Clone)]
struct Taken {
    name: TreeName,
    id: TreeId,
    timeline: u32,
    start: u64,
    stop: u64,
    ended: Timestamp,
    files: BTreeMap<usize, Vec<u8>>,
}

/// The archive, and what is known of it.
struct World {
    backend: Arc<Scripted>,
    archive: Arc<Archive>,
    lines: Vec<Line>,
    current: usize,
    backups: Vec<Taken>,
    files: BTreeMap<usize, Vec<u8>>,
    /// Where the newest version of each lies.
    places: BTreeMap<TreeId, BTreeMap<usize, (Part, u64)>>,
    pinned: BTreeSet<TreeName>,
    unfinished: Vec<TreeId>,
    made: u32,
    now: Timestamp,
    /// How far the clock is ahead of whoever takes backups.
    ahead: SignedDuration,
}

fn patience() -> Patience {
    Patience::for_at_most(LONG)
}

fn name_of(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number >> 12, number & 0xfff)
}

impl World {
    async fn new() -> World {
        let backend = Scripted::map(true);
        let options = archive::Options {
            create: true,
            ..archive::Options::default()
        };
        let archive = Archive::open(backend.store(), &options, patience())
            .await
            .expect("an archive");
        let cluster = r#"{"system_identifier":"7","segment_bytes":1048576,"first_file":""}"#;
        backend.set("cluster.json", Some(cluster.into()));
        let mut world = World {
            backend,
            archive: Arc::new(archive),
            lines: vec![Line {
                timeline: 1,
                stretches: vec![(1, 0, u64::MAX)],
                next: 1,
                has_history: true,
            }],
            current: 0,
            backups: Vec::new(),
            files: (0..FILES).map(|file| (file, vec![file as u8; 50])).collect(),
            places: BTreeMap::new(),
            pinned: BTreeSet::new(),
            unfinished: Vec::new(),
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
            self.backend.set(&format!("wal/{name}.lz4"), Some(segment(&name)));
        }
        line.next += count;
    }

    /// Of names that are in the store.
    fn stored(&self, folder: &str) -> BTreeSet<String> {
        let objects = self.backend.objects().into_keys();
        objects.filter(|key| key.starts_with(folder)).collect()
    }

    fn exists(&self, backup: &Taken) -> bool {
        let key = format!("basebackups/{}.json", backup.name);
        let Some(text) = self.backend.objects().remove(&key) else {
            return false;
        };
        let summary: Value = serde_json::from_slice(&text).expect("JSON");
        summary["id"] == backup.id.as_str()
    }

    async fn step(&mut self, step: &Step) {
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
                let files: Vec<String> = self.stored("wal/").into_iter().collect();
                let Some(lost) = files.get(which % files.len().max(1)) else {
                    return;
                };
                self.backend.set(lost, None);
                let history = |line: &Line| format!("wal/{:08X}.history.lz4", line.timeline);
                let of_it = self.lines.iter_mut().filter(|line| history(line) == *lost);
                of_it.for_each(|line| line.has_history = false);
            }
            Step::Pin(which) => self.pin(*which).await,
            Step::Unpin(which) => {
                let names: Vec<TreeName> = self.pinned.iter().cloned().collect();
                if let Some(name) = names.get(which % names.len().max(1)) {
                    assert!(self.archive.unpin(name, patience()).await.expect("unpin"));
                    self.pinned.remove(name);
                }
            }
            Step::LeaveUnfinished => {
                let id = self.begin().await;
                self.base(&id).await;
                self.unfinished.push(id);
            }
            Step::DropUnfinished => {
                for id in std::mem::take(&mut self.unfinished) {
                    self.archive
                        .drop_unfinished(&id, patience())
                        .await
                        .expect("drop it");
                }
            }
            Step::Prune(wanted) => self.prune(wanted).await,
            Step::PruneDies(wanted, calls, done) => self.prune_dies(wanted, *calls, *done).await,
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
        self.archive
            .begin_tree(&id, &begun, patience())
            .await
            .expect("begin a tree");
        id
    }

    /// What a new one builds on: the newest whose base may be claimed.
    async fn base(&self, id: &TreeId) -> Option<TreeId> {
        for backup in self.backups.iter().rev().filter(|backup| self.exists(backup)) {
            if self
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
        let committed = made_up::commit(&self.archive, &tree, description, patience()).await;
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
        let packed = bundle.pack(self.archive.compression());
        let key = id.part_key(file as u32, 0, self.archive.compression().extension());
        let stored = self
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
            self.backend
                .set(&format!("wal/{timeline:08X}.history.lz4"), Some(object));
        }
        self.lines.push(Line {
            timeline,
            stretches,
            next: number,
            has_history: with_history,
        });
        self.current = self.lines.len() - 1;
        self.archive_segments(1);
    }

    async fn pin(&mut self, which: usize) {
        let there: Vec<Taken> = self
            .backups
            .iter()
            .filter(|backup| self.exists(backup))
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
        if self
            .archive
            .pin(&backup.id, &pin, patience())
            .await
            .expect("pin it")
        {
            self.pinned.insert(backup.name.clone());
        }
    }

    fn prune_by<'a>(&'a self, rules: &'a Rules, progress: &'a Arc<dyn Progress>) -> Prune<'a> {
        Prune {
            archive: &self.archive,
            rules,
            grace: Duration::ZERO,
            progress,
            deadline: LONG,
        }
    }

    async fn prune(&mut self, wanted: &Wanted) {
        let rules = wanted.rules();
        if !rules.keeps_any() {
            return;
        }
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let reach = self.reach();
        let before = self.backend.objects();
        let prune = self.prune_by(&rules, &progress);
        let planned = prune.plan().await.expect("plan");
        assert_eq!(self.backend.objects(), before, "a plan changed something");
        let done = prune.run().await.expect("prune");
        assert_eq!(going(&planned.0), going(&done.0), "plan and deed");
        assert_eq!(planned.1, done.1, "what was counted, and what was removed");
        self.check_kept(&done.0, &reach, wanted).await;
        self.check_nothing_unneeded(wanted);
        let after = self.backend.objects();
        let again = prune.run().await.expect("prune");
        assert_eq!(going(&again.0), BTreeSet::new());
        assert_eq!(self.backend.objects(), after, "the second run changed something");
    }

    async fn prune_dies(&mut self, wanted: &Wanted, calls: usize, done: bool) {
        let rules = wanted.rules();
        if !rules.keeps_any() {
            return;
        }
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let reach = self.reach();
        let backend = self.backend.clone();
        let prune = self.prune_by(&rules, &progress);
        backend.die_after(calls, done);
        tokio::select! {
            outcome = prune.run() => { outcome.expect("prune"); }
            () = backend.dead() => {}
        }
        backend.revive();
        // Its process is gone, as a kill would leave it.
        for key in self
            .stored("prune/")
            .into_iter()
            .filter(|key| key.ends_with(".order.json"))
        {
            let text = self.backend.objects().remove(&key).expect("the order");
            let mut order: Value = serde_json::from_slice(&text).expect("JSON");
            order["pid_began_ticks"] = 1.into();
            self.backend.set(&key, Some(order.to_string().into()));
        }
        for backup in self.backups.clone().iter().filter(|backup| self.exists(backup)) {
            self.check_backup(backup, &reach, wanted.pitr_days.is_some());
        }
    }

    /// What recovery from each backup that is there could read, along each line: names in their order.
    fn reach(&self) -> BTreeMap<(TreeId, u32), Vec<String>> {
        let stored = self.stored("wal/");
        let mut reach = BTreeMap::new();
        for backup in self.backups.iter().filter(|backup| self.exists(backup)) {
            for line in self.lines_of(backup) {
                let mut read = Vec::new();
                let mut number = backup.start / MIB;
                loop {
                    let known = if line.has_history { line.stretches.len() } else { 1 };
                    let mut stretches = line.stretches.iter().rev().take(known);
                    let found = stretches.find_map(|(timeline, begin, end)| {
                        let key = format!("wal/{}.lz4", name_of(*timeline, number));
                        let is_there = (begin / MIB..=end / MIB).contains(&number);
                        (is_there && stored.contains(&key)).then_some(key)
                    });
                    let Some(key) = found else { break };
                    read.push(key);
                    number += 1;
                }
                reach.insert((backup.id.clone(), line.timeline), read);
            }
        }
        reach
    }

    /// Lines that lead through the end of a backup, and that a server can follow.
    fn lines_of<'a>(&'a self, backup: &'a Taken) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| {
            let is_on = |(timeline, _, end): &Stretch| *timeline == backup.timeline && backup.stop <= *end;
            let can = line.has_history || line.timeline == backup.timeline;
            can && line.stretches.iter().any(is_on)
        })
    }

    #[track_caller]
    fn check_backup(&self, backup: &Taken, reach: &BTreeMap<(TreeId, u32), Vec<String>>, own_only: bool) {
        let objects = self.backend.objects();
        let manifest = &objects[&format!("trees/{}/manifest.lz4", backup.id)];
        let text = unpack_all(manifest).expect("a manifest");
        let mut parts = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if let Some(key) = line["part"]["key"].as_str() {
                let object = objects
                    .get(key)
                    .unwrap_or_else(|| panic!("{key} of {} is gone", backup.name));
                parts.push(unpack_all(object).expect("a part"));
            }
            let Some(path) = line["file"]["path"].as_str() else {
                continue;
            };
            let extent: Vec<usize> =
                serde_json::from_value(line["file"]["extents"][0].clone()).expect("an extent");
            let content = &parts[extent[0]][extent[1]..][..extent[2]];
            let file: usize = path[1..].parse().expect("a number");
            assert_eq!(content, backup.files[&file], "{path} of {}", backup.name);
        }
        let now = self.reach();
        for ((id, line), before) in reach.iter().filter(|((id, _), _)| *id == backup.id) {
            if own_only && *line != backup.timeline {
                continue;
            }
            let read = &now[&(id.clone(), *line)];
            let own = ((backup.stop - 1) / MIB - backup.start / MIB + 1) as usize;
            let needed = if own_only {
                own.min(before.len())
            } else {
                before.len()
            };
            assert!(
                read.len() >= needed && read[..needed] == before[..needed],
                "recovery from {} along {line}: {before:?} before, {read:?} now",
                backup.name
            );
        }
    }

    async fn check_kept(&self, plan: &Plan, reach: &BTreeMap<(TreeId, u32), Vec<String>>, wanted: &Wanted) {
        let goes = going(plan);
        for backup in &self.backups {
            if !self.exists(backup) {
                continue;
            }
            assert!(!goes.contains(backup.name.as_str()));
            // With --pitr-days only some reach beyond their ends.
            self.check_backup(backup, reach, wanted.pitr_days.is_some());
        }
        for name in &self.pinned {
            let pinned = self
                .backups
                .iter()
                .find(|backup| backup.name == *name)
                .expect("it was there");
            assert!(self.exists(pinned), "{name} was pinned");
        }
        // By age: timeline and position.
        let mut left: Vec<&Taken> = self.backups.iter().filter(|backup| self.exists(backup)).collect();
        left.sort_by_key(|backup| (backup.timeline, backup.stop));
        let newest = left.iter().rev().find(|backup| self.is_complete(backup));
        if let Some(days) = wanted.pitr_days.or(wanted.days)
            && let Some(newest) = newest
        {
            // The newest reaches all that it did, and so does what the window begins with.
            let since = self.now - SignedDuration::from_hours(24 * i64::from(days));
            self.check_backup(newest, reach, false);
            for backup in left.iter().filter(|backup| backup.ended > since) {
                self.check_backup(backup, reach, false);
            }
        }
        if !goes.is_empty() {
            assert!(newest.is_some(), "no complete one is left");
        }
    }

    fn is_complete(&self, backup: &Taken) -> bool {
        let stored = self.stored("wal/");
        (backup.start / MIB..=(backup.stop - 1) / MIB)
            .all(|number| stored.contains(&format!("wal/{}.lz4", name_of(backup.timeline, number))))
    }

    /// Each segment is one that recovery from a backup could ask for, and each part one that a manifest names.
    fn check_nothing_unneeded(&self, wanted: &Wanted) {
        let left: Vec<&Taken> = self.backups.iter().filter(|backup| self.exists(backup)).collect();
        let objects = self.backend.objects();
        let mut named = BTreeSet::new();
        for backup in &left {
            let manifest = &objects[&format!("trees/{}/manifest.lz4", backup.id)];
            let text = unpack_all(manifest).expect("a manifest");
            for line in String::from_utf8_lossy(&text).lines() {
                let line: Value = serde_json::from_str(line).expect("JSON");
                named.extend(line["part"]["key"].as_str().map(str::to_owned));
            }
        }
        let parts = self
            .stored("trees/")
            .into_iter()
            .filter(|key| key.contains(".tar."));
        let parts: BTreeSet<String> = parts.collect();
        assert_eq!(parts, named, "parts");
        let has_complete = left.iter().any(|backup| self.is_complete(backup));
        if !self.unfinished.is_empty() || wanted.pitr_days.is_some() || !has_complete {
            return;
        }
        for line in &self.lines {
            // A server may archive there of which there is no complete backup.
            let reaches = |backup: &&&Taken| self.lines_of(backup).any(|end| end.timeline == line.timeline);
            if !left.iter().filter(reaches).any(|backup| self.is_complete(backup)) {
                continue;
            }
            for number in 0..line.next {
                let key = format!("wal/{}.lz4", name_of(line.timeline, number));
                if !objects.contains_key(&key) {
                    continue;
                }
                let is_needed = left.iter().any(|backup| {
                    let lost = !line.has_history && number >= backup.start / MIB;
                    lost || self.lines_of(backup).any(|end| {
                        let has = |(timeline, begin, to): &Stretch| {
                            *timeline == line.timeline && (begin / MIB..=to / MIB).contains(&number)
                        };
                        number >= backup.start / MIB && end.stretches.iter().any(has)
                    })
                });
                assert!(is_needed, "{key} is not needed");
            }
        }
    }
}

fn going(plan: &Plan) -> BTreeSet<String> {
    let going = plan.backups.iter().filter(|planned| planned.goes());
    going.map(|planned| planned.name().to_string()).collect()
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

fn run(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        for step in steps {
            world.step(step).await;
        }
        // Whatever was begun is finished, and what is left is right.
        world.step(&Step::DropUnfinished).await;
        let wanted = Wanted {
            last: Some(1),
            days: None,
            daily: None,
            monthly: None,
            pitr_days: None,
        };
        world.prune(&wanted).await;
    });
}

/// The clock of a host that takes backups may be ahead: what is archived after its backup is not given up for that.
#[test]
fn k3_a_clock_that_is_ahead_gives_up_no_branch() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        let backup = |changed| Step::Backup { segments: 0, changed };
        let archive = Step::Archive(2);
        let fork = Step::Fork {
            of: 0,
            back: 0,
            with_history: true,
        };
        world.step(&backup(0)).await;
        world.step(&archive).await;
        world.step(&fork).await;
        world.ahead = SignedDuration::from_hours(1);
        world.step(&backup(1)).await;
        world.step(&Step::Switch(0)).await;
        world.step(&archive).await;
        let wanted = Wanted {
            last: Some(1),
            days: None,
            daily: None,
            monthly: None,
            pitr_days: None,
        };
        world.prune(&wanted).await;
        assert!(
            world.exists(&world.backups[0]),
            "it alone reaches the end of timeline 1"
        );
    });
}

/// A number of histories that takes seconds, or what `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|text| text.parse().ok()).unwrap_or(usual),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn k3_whatever_happened_before(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}
