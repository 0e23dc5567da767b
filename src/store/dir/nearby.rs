//! Archives beside a directory, and in it.
//!
//! What is mounted there is not looked into: it may be the very mount that is being started, which answers nobody yet.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::nearby::{NAMED, most_alike};

/// The most entries of a directory that are looked through.
const ENTRIES: usize = 10_000;

/// Directories beside `place`, or in it, that have a file `marker`.
pub(super) fn nearby(place: &Path, marker: &str) -> Vec<String> {
    let wanted = place.file_name().unwrap_or_default().to_string_lossy();
    let (mounts, mut found) = (mount_points(), Vec::new());
    for folder in [place.parent(), Some(place)].into_iter().flatten() {
        let Ok(folder) = folder.canonicalize() else {
            continue;
        };
        let names = most_alike(folders(&folder, &mounts), &wanted);
        let archives = names.iter().map(|name| folder.join(name));
        found.extend(archives.filter(|archive| archive != place && is_file(archive.join(marker))));
    }
    found.truncate(NAMED);
    found
        .iter()
        .map(|archive| archive.display().to_string())
        .collect()
}

/// The nearest directory above `place`, links followed, that has a file `marker`.
pub(super) fn around(place: &Path, marker: &str) -> Option<String> {
    let place = place.canonicalize().ok()?;
    let above = place
        .ancestors()
        .skip(1)
        .find(|above| is_file(above.join(marker)));
    above.map(|above| above.display().to_string())
}

fn folders(folder: &Path, mounts: &HashSet<PathBuf>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES);
    let own = entries.filter(|entry| !mounts.contains(&entry.path()));
    // As the directory has it, without a look at what is mounted.
    let folders = own.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn mount_points() -> HashSet<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| point.replace("\\040", " ").into()).collect()
}

fn is_file(path: PathBuf) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}
