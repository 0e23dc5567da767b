//! What errors say of lists, choices and causes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::archive::tree::TreeName;
use crate::archive::tree::ended::Ended;
use crate::job::restore::branch::Branch;
use crate::job::restore::only_here::Unarchived;
use crate::linux::process;
use crate::pg::Timeline;

pub(super) fn way(timeline: Option<Timeline>) -> String {
    timeline.map_or("any timeline".into(), |timeline| format!("timeline {timeline}"))
}

pub(super) fn listed(branches: &[Branch]) -> String {
    branches.iter().map(|branch| format!("\n  {branch}")).collect()
}

pub(super) fn choices(branches: &[Branch]) -> String {
    let options = branches
        .iter()
        .map(|branch| format!("--target-timeline {}", branch.timeline));
    options.collect::<Vec<_>>().join(", or ")
}

/// Files that are named in a message; the others are counted.
const NAMED: usize = 8;

pub(super) fn named(wal: &[Unarchived]) -> String {
    let said = |wal: &Unarchived| match (wal.is_ready, wal.differs) {
        (_, true) => format!("{} (the archive has other content)", wal.name),
        (true, _) => format!("{} (waits for the archiver)", wal.name),
        _ => wal.name.to_string(),
    };
    let mut text: Vec<String> = wal.iter().take(NAMED).map(said).collect();
    if wal.len() > NAMED {
        text.push(format!("{} more", wal.len() - NAMED));
    }
    text.join(", ")
}

/// As a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

/// The commands that archive what is whole, up to some.
pub(super) fn pushes(wal: &[Unarchived], place: &str) -> String {
    let (whole, others): (Vec<&Unarchived>, Vec<&Unarchived>) = wal
        .iter()
        .filter(|wal| wal.is_ready)
        .partition(|wal| wal.is_whole && !wal.differs);
    let Some(first) = whole.first() else {
        return String::new();
    };
    let push = format!("walfs wal-push --archive {}", quoted(Path::new(place)));
    let commands = match whole.len() {
        1..=NAMED => whole
            .iter()
            .map(|wal| format!("  {push} {}\n", quoted(&wal.path)))
            .collect(),
        _ => {
            let others: Vec<String> = others.iter().map(|wal| format!("{}.ready", wal.name)).collect();
            let but = match others.is_empty() {
                true => String::new(),
                false => format!("case $mark in {}) continue;; esac; ", others.join("|")),
            };
            format!(
                "  cd {} && for mark in *.ready; do {but}{push} ../\"${{mark%.ready}}\" || break; done\n",
                quoted(&first.path.with_file_name("archive_status"))
            )
        }
    };
    format!("archive what is whole:\n{commands}Of the rest: ")
}

pub(super) fn hint(source: &io::Error, path: &Path) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ".\nHINT: make room and run the same command again: it goes on where it was"
        }
        io::ErrorKind::PermissionDenied if is_own(path) => {
            ".\nHINT: it is yours, but its mode keeps you out: chmod -R u+rwX the data directory"
        }
        io::ErrorKind::PermissionDenied => {
            ".\nHINT: run it as the user who shall own the data directory, usually postgres"
        }
        _ => "",
    }
}

/// Does what cannot be reached belong to whoever asks for it?
fn is_own(path: &Path) -> bool {
    let user = process::user();
    let found = path
        .ancestors()
        .find_map(|above| fs::symlink_metadata(above).ok());
    found.is_some_and(|found| found.uid() == user)
}

pub(super) fn times(backups: &[(TreeName, Ended)]) -> String {
    let said = backups.iter().map(|(name, ended)| format!("{name} ({ended})"));
    said.collect::<Vec<_>>().join(", ")
}
