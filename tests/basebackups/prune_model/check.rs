//! What must hold of either archive, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::Value;
use walfs::archive::tree::TreeId;
use walfs::codec::unpack_all;
use walfs::job::prune::Plan;

use super::history::{Line, MIB, Stretch, Taken, World, name_of};
use super::place::{Place, going};
use super::step::Wanted;

/// What recovery could read, by backup and by the timeline at which it ends.
pub(super) type Reach = BTreeMap<(TreeId, u32), Vec<String>>;

/// One archive of the two.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) world: &'a World,
    pub(super) place: &'a Place,
    /// A copy that died has left parts of backups there.
    pub(super) has_leavings: bool,
}

/// The number of a segment, whatever its timeline, in a key.
fn number_in(key: &str) -> &str {
    &key["wal/00000001".len()..]
}

impl View<'_> {
    pub(super) fn existing(&self) -> impl Iterator<Item = &Taken> {
        let backups = self.world.backups.iter();
        backups.filter(|backup| self.place.exists(backup))
    }

    /// Pinned ones that are there.
    pub(super) fn pinned(&self) -> BTreeSet<String> {
        let pins = self.place.stored("pins/");
        let is_pinned = |backup: &&Taken| pins.contains(&format!("pins/{}.json", backup.name));
        self.existing()
            .filter(is_pinned)
            .map(|backup| backup.name.to_string())
            .collect()
    }

    /// What recovery from each backup that is there could read, along each line: names in their order.
    pub(super) fn reach(&self) -> Reach {
        let stored = self.place.stored("wal/");
        let mut reach = BTreeMap::new();
        for backup in self
            .world
            .backups
            .iter()
            .filter(|backup| self.place.exists(backup))
        {
            for line in self.lines_of(backup) {
                let mut read = Vec::new();
                let mut number = backup.start / MIB;
                loop {
                    let known = if self.place.has_history(line) {
                        line.stretches.len()
                    } else {
                        1
                    };
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
        self.world.lines.iter().filter(move |line| {
            let is_on = |(timeline, _, end): &Stretch| *timeline == backup.timeline && backup.stop <= *end;
            let can = self.place.has_history(line) || line.timeline == backup.timeline;
            can && line.stretches.iter().any(is_on)
        })
    }

    /// All of it is there, as it was taken.
    #[track_caller]
    pub(super) fn check_content(&self, backup: &Taken) {
        let objects = self.place.backend.objects();
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
    }

    #[track_caller]
    pub(super) fn check_backup(&self, backup: &Taken, reach: &Reach, own_only: bool) {
        self.check_content(backup);
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
            // A segment of a timeline begins with what its parent's has.
            let is_as_good =
                |(now, before): (&String, &String)| number_in(now) == number_in(before) && now >= before;
            assert!(
                read.len() >= needed && read.iter().zip(&before[..needed]).all(is_as_good),
                "recovery from {} along {line}: {before:?} before, {read:?} now",
                backup.name
            );
        }
    }

    pub(super) fn check_kept(&self, plan: &Plan, reach: &Reach, wanted: &Wanted) {
        let goes = going(plan);
        for backup in &self.world.backups {
            if !self.place.exists(backup) {
                continue;
            }
            assert!(!goes.contains(backup.name.as_str()));
            // With --pitr-days only some reach beyond their ends.
            self.check_backup(backup, reach, wanted.pitr_days.is_some());
        }
        // By age: timeline and position.
        let mut left: Vec<&Taken> = self
            .world
            .backups
            .iter()
            .filter(|backup| self.place.exists(backup))
            .collect();
        left.sort_by_key(|backup| (backup.timeline, backup.stop));
        let newest = left.iter().rev().find(|backup| self.is_complete(backup));
        if let Some(days) = wanted.pitr_days.or(wanted.days)
            && let Some(newest) = newest
        {
            // The newest reaches all that it did, and so does what the window begins with.
            let since = self.world.now - SignedDuration::from_hours(24 * i64::from(days));
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
        let stored = self.place.stored("wal/");
        (backup.start / MIB..=(backup.stop - 1) / MIB)
            .all(|number| stored.contains(&format!("wal/{}.lz4", name_of(backup.timeline, number))))
    }

    /// Each segment is one that recovery from a backup could ask for, and each part one that a manifest names.
    pub(super) fn check_nothing_unneeded(&self, wanted: &Wanted) {
        let left: Vec<&Taken> = self
            .world
            .backups
            .iter()
            .filter(|backup| self.place.exists(backup))
            .collect();
        let objects = self.place.backend.objects();
        let mut named = BTreeSet::new();
        for backup in &left {
            let manifest = &objects[&format!("trees/{}/manifest.lz4", backup.id)];
            let text = unpack_all(manifest).expect("a manifest");
            for line in String::from_utf8_lossy(&text).lines() {
                let line: Value = serde_json::from_str(line).expect("JSON");
                named.extend(line["part"]["key"].as_str().map(str::to_owned));
            }
        }
        let parts = self.place.stored("trees/").into_iter();
        let parts: BTreeSet<String> = parts.filter(|key| key.contains(".tar.")).collect();
        assert!(parts.is_superset(&named), "{named:?} of {parts:?}");
        if self.has_leavings {
            return;
        }
        assert_eq!(parts, named, "parts");
        let has_complete = left.iter().any(|backup| self.is_complete(backup));
        if !self.world.unfinished.is_empty() || wanted.pitr_days.is_some() || !has_complete {
            return;
        }
        for line in &self.world.lines {
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
                    let lost = !self.place.has_history(line) && number >= backup.start / MIB;
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
