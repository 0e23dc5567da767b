//! Reads a copier's target out of its command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Their last argument is what they write to.
const COPIERS: [&[u8]; 4] = [b"cp", b"mv", b"install", b"rsync"];

/// Programs that are many programs; which one stands in the next argument.
const MULTI_CALL: [&[u8]; 2] = [b"coreutils", b"busybox"];

/// The arguments in the text of `/proc/PID/cmdline`.
pub(super) fn split(cmdline: &[u8]) -> Vec<&[u8]> {
    let text = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    text.split(|byte| *byte == 0).collect()
}

/// Is this command a copier with `target` as the target, and nowhere else in its arguments?
pub(super) fn copies_to(arguments: &[&[u8]], directory: &Path, target: &Path) -> bool {
    let is_target = |path: &[u8]| resolve(directory, path) == target;
    let Some((program, arguments)) = program(arguments) else {
        return false;
    };
    if program == b"dd" {
        let named = |key: &'static [u8]| {
            arguments
                .iter()
                .filter_map(move |argument| argument.strip_prefix(key))
        };
        // Of several `of=` dd takes the last.
        return named(b"of=").next_back().is_some_and(is_target) && !named(b"if=").any(is_target);
    }
    let Some((last, earlier)) = arguments.split_last() else {
        return false;
    };
    COPIERS.contains(&program) && is_target(last) && !earlier.iter().any(|path| is_target(path))
}

/// The program's bare name, and what follows it.
fn program<'a, 'b>(arguments: &'a [&'b [u8]]) -> Option<(&'b [u8], &'a [&'b [u8]])> {
    let (first, rest) = arguments.split_first()?;
    let first = base(first);
    if MULTI_CALL.contains(&first) {
        let (second, rest) = rest.split_first()?;
        return Some((second, rest));
    }
    Some((first, rest))
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// As text alone: a look at the real path would ask the mount.
fn resolve(directory: &Path, path: &[u8]) -> PathBuf {
    let mut resolved = PathBuf::new();
    for component in directory.join(OsStr::from_bytes(path)).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            _ => resolved.push(component),
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000007";

    fn copies(command: &str) -> bool {
        let command = command.replace("SEG", NAME);
        let cmdline: Vec<u8> = command
            .split(' ')
            .flat_map(|word| [word.as_bytes(), b"\0"].concat())
            .collect();
        let target = Path::new("/mnt/walfs/wal").join(NAME);
        copies_to(&split(&cmdline), Path::new("/var/lib/pg"), &target)
    }

    #[test]
    fn copiers_with_the_target_last() {
        assert!(copies("cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("/usr/bin/cp -p -- pg_wal/SEG /mnt/walfs/./wal//SEG"));
        assert!(copies("install -m 600 pg_wal/SEG ../../../mnt/walfs/wal/SEG"));
        assert!(copies("rsync -a pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("mv x /mnt/walfs/wal/SEG"));
        assert!(copies("/bin/coreutils cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("busybox cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("dd if=pg_wal/SEG of=/mnt/walfs/wal/SEG bs=1M"));
    }

    #[test]
    fn readers_and_askers_are_not_copiers() {
        assert!(!copies("cp /mnt/walfs/wal/SEG pg_wal/RECOVERYXLOG"));
        assert!(!copies("cp /mnt/walfs/wal/SEG /mnt/walfs/wal/SEG"));
        assert!(!copies("test -e /mnt/walfs/wal/SEG"));
        assert!(!copies("[ -e /mnt/walfs/wal/SEG"));
        assert!(!copies("stat /mnt/walfs/wal/SEG"));
        assert!(!copies("ls /mnt/walfs/wal/SEG"));
        assert!(!copies("coreutils stat /mnt/walfs/wal/SEG"));
        assert!(!copies("coreutils"));
        assert!(!copies("sh -c cp /mnt/walfs/wal/SEG"));
        assert!(!copies("dd if=/mnt/walfs/wal/SEG of=/mnt/walfs/wal/SEG"));
        assert!(!copies("dd of=/mnt/walfs/wal/SEG of=/tmp/x"));
        assert!(!copies("cp"));
        assert!(!copies(""));
    }

    #[test]
    fn other_targets_are_not_this_one() {
        assert!(!copies("cp pg_wal/SEG /mnt/walfs/wal/SEG.tmp"));
        assert!(!copies("cp pg_wal/SEG /mnt/walfs/wal/"));
        assert!(!copies("cp pg_wal/SEG /mnt/walfs/SEG"));
        assert!(!copies("cp -t /mnt/walfs/wal SEG"));
    }
}
