//! Files that were made, and those that the kernel still has in memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory for a page cache of all files of a backup, and for the tool.
const SPARE_MIB: usize = 4096;

/// Writes out what waits and empties the page cache, so that the next one reads from the disk. Only root can: `false`.
pub fn empty_page_cache() -> bool {
    // SAFETY: sync has no arguments and cannot fail.
    unsafe { libc::sync() };
    let emptied = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    super::host::bring(SPARE_MIB);
    emptied
}

/// Bytes of all files beneath `dir`.
pub fn bytes_beneath(dir: &Path) -> u64 {
    beneath(dir)
        .iter()
        .filter_map(|file| fs::symlink_metadata(file).ok())
        .map(|data| data.len())
        .sum()
}

/// Every file beneath `dir`; what vanishes meanwhile is left out.
pub fn beneath(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files
}
