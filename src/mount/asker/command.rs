//! Reads a copier's target out of its command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::Intent;

/// Their last argument is what they write to.
const COPIERS: [&[u8]; 4] = [b"cp", b"mv", b"install", b"rsync"];

/// Run a script that is given as an argument.
const SHELLS: [&[u8]; 6] = [b"sh", b"bash", b"dash", b"ash", b"ksh", b"zsh"];

/// Programs that are many programs; which one stands in the next argument.
const MULTI_CALL: [&[u8]; 2] = [b"coreutils", b"busybox"];

/// The arguments in the text of `/proc/PID/cmdline`.
pub(super) fn split(cmdline: &[u8]) -> Vec<&[u8]> {
    let text = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    text.split(|byte| *byte == 0).collect()
}

/// The bare name of the program.
pub(super) fn program_of<'a>(arguments: &[&'a [u8]]) -> Option<&'a [u8]> {
    program(arguments).map(|(program, _)| program)
}

/// The title of a server's archiver (`init_ps_display` and `pgarch_archiveXlog`): `postgres: archiver archiving NAME`,
/// with the cluster's name between.
pub(super) fn is_archiver(command_line: &str) -> bool {
    command_line.starts_with("postgres: ") && command_line.split(' ').any(|word| word == "archiver")
}

/// Is it an archiver whose module brings this file?
fn archives(arguments: &[&[u8]], target: &Path) -> bool {
    let title = String::from_utf8_lossy(arguments.first().copied().unwrap_or_default());
    let name = target.file_name().and_then(OsStr::to_str).unwrap_or_default();
    is_archiver(&title) && title.ends_with(&format!("archiving {name}"))
}

/// What a command wants of `target`, a file in the mount.
pub(super) fn intent(arguments: &[&[u8]], directory: &Path, target: &Path) -> Intent {
    let moves = program(arguments).is_some_and(|(program, _)| program == b"mv");
    let copies = copies_to(arguments, directory, target);
    if copies && !moves {
        Intent::Writes
    } else if copies {
        // It asks whether the target is there after a rename that said so, and must hear the same: GNU mv 9.1 otherwise
        // reads memory it has not set, and takes the target for a directory.
        Intent::SeemsToWrite
    } else if seems_to_write(arguments, directory, target) || archives(arguments, target) {
        Intent::SeemsToWrite
    } else if copies_from(arguments, directory, target) {
        Intent::Reads
    } else {
        Intent::Unknown
    }
}

/// Is this command a copier with `target` as the target, and nowhere else in its arguments?
fn copies_to(arguments: &[&[u8]], directory: &Path, target: &Path) -> bool {
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
    if program == b"walfs" {
        // `walfs wal-push --mount /mnt/walfs pg_wal/SEGMENT`: names what it brings, and never reads it back.
        let name = target.file_name().map(OsStr::as_bytes);
        return arguments.first() == Some(&&b"wal-push"[..])
            && arguments.iter().any(|path| Some(base(path)) == name);
    }
    let Some((last, earlier)) = arguments.split_last() else {
        return false;
    };
    // A source in the mount: it is read there, or renamed, and must be told the truth of both names. The receiver of rsync
    // works in its target's directory: an option is no path there.
    let in_mount =
        |path: &&[u8]| !path.starts_with(b"-") && resolve(directory, path).starts_with(mount_of(target));
    if !COPIERS.contains(&program) || earlier.iter().any(in_mount) {
        return false;
    }
    // `cp -t DIRECTORY FILE`: the last argument is what is read. rsync's -t is another.
    if program != b"rsync" && earlier.iter().any(|argument| names_directory(argument)) {
        return false;
    }
    let into_directory = || Some(resolve(directory, last).as_path()) == target.parent();
    // With one operand `rsync` lists it.
    let has_operand = earlier.iter().any(|argument| !argument.starts_with(b"-"));
    is_target(last) && has_operand || into_directory() && has_source(earlier, directory, target)
}

/// Is this command a copier with `target` among its sources, by the file's own name?
fn copies_from(arguments: &[&[u8]], directory: &Path, target: &Path) -> bool {
    let is_target = |path: &[u8]| resolve(directory, path) == target;
    match program(arguments) {
        Some((b"cat", sources)) => sources.iter().any(|path| is_target(path)),
        Some((b"dd", operands)) => operands
            .iter()
            .filter_map(|operand| operand.strip_prefix(b"if="))
            .any(is_target),
        Some((b"cp" | b"install" | b"rsync", operands)) => operands
            .split_last()
            .is_some_and(|(_, sources)| sources.iter().any(|path| is_target(path))),
        _ => false,
    }
}

/// `-t`, alone or among other letters, or `--target-directory`, which may be cut short. Too much is no harm: then
/// nothing is known of the command.
fn names_directory(argument: &[u8]) -> bool {
    match argument.strip_prefix(b"-") {
        Some(long) if long.starts_with(b"-") => long.starts_with(b"-t"),
        Some(letters) => letters.contains(&b't'),
        None => false,
    }
}

/// Is there a file of the same name, from elsewhere, among the arguments?
fn has_source(arguments: &[&[u8]], directory: &Path, target: &Path) -> bool {
    let name = target.file_name().map(OsStr::as_bytes);
    arguments
        .iter()
        .any(|path| Some(base(path)) == name && !resolve(directory, path).starts_with(mount_of(target)))
}

/// The mount point, two levels above a file in it.
fn mount_of(target: &Path) -> &Path {
    target.parent().and_then(Path::parent).unwrap_or(target)
}

/// A program that is no known copier, but is given a file and, last, a place in the mount of the same name; a shell
/// whose command redirects or copies to it; `pg_receivewal`.
fn seems_to_write(arguments: &[&[u8]], directory: &Path, target: &Path) -> bool {
    let Some((program, arguments)) = program(arguments) else {
        return false;
    };
    let script = shell_script(program, arguments).unwrap_or_default();
    let script_writes = commands(&script).any(|words| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        copies_to(&words, directory, target) || redirects_to(&words, directory, target)
    });
    let Some((last, earlier)) = arguments.split_last() else {
        return false;
    };
    // `mv` renames to it within the mount, or brings it: it never reads what its last argument names.
    let brings = || program == b"mv" || has_source(earlier, directory, target);
    let copies = resolve(directory, last) == target && brings();
    script_writes || copies || program == b"pg_receivewal"
}

/// The text after `-c`.
fn shell_script(program: &[u8], arguments: &[&[u8]]) -> Option<String> {
    let flag = arguments
        .iter()
        .position(|argument| argument.starts_with(b"-") && argument.ends_with(b"c"))?;
    let script = arguments.get(flag + 1)?;
    SHELLS
        .contains(&program)
        .then(|| String::from_utf8_lossy(script).into_owned())
}

/// The simple commands of a script, roughly: enough for a line in `postgresql.conf`.
fn commands(script: &str) -> impl Iterator<Item = Vec<&str>> {
    script
        .split(['&', '|', ';', '{', '}', '(', ')', '\n'])
        .map(|command| {
            let trimmed = |word| str::trim_matches(word, ['"', '\'']);
            command.split_whitespace().map(trimmed).collect()
        })
}

fn redirects_to(words: &[&[u8]], directory: &Path, target: &Path) -> bool {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(rest) = word.strip_prefix(b">") else {
            continue;
        };
        let path = if rest.is_empty() || rest == b">" {
            words.next().copied()
        } else {
            Some(rest)
        };
        let path = path.map(|path| path.strip_prefix(b">").unwrap_or(path));
        if path.is_some_and(|path| resolve(directory, trim_quotes(path)) == target) {
            return true;
        }
    }
    false
}

fn trim_quotes(path: &[u8]) -> &[u8] {
    let path = path.strip_prefix(b"\"").unwrap_or(path);
    path.strip_suffix(b"\"").unwrap_or(path)
}

/// The program's bare name, and what follows it.
pub(super) fn program<'a, 'b>(arguments: &'a [&'b [u8]]) -> Option<(&'b [u8], &'a [&'b [u8]])> {
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
pub(super) fn resolve(directory: &Path, path: &[u8]) -> PathBuf {
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

    fn intent_of(words: &[&str]) -> Intent {
        let words: Vec<String> = words.iter().map(|word| word.replace("SEG", NAME)).collect();
        let cmdline: Vec<u8> = words
            .iter()
            .flat_map(|word| [word.as_bytes(), b"\0"].concat())
            .collect();
        let target = Path::new("/mnt/walfs/wal").join(NAME);
        intent(&split(&cmdline), Path::new("/var/lib/pg"), &target)
    }

    fn copies(command: &str) -> bool {
        intent_of(&command.split(' ').collect::<Vec<_>>()) == Intent::Writes
    }

    fn seems(words: &[&str]) -> bool {
        intent_of(words) == Intent::SeemsToWrite
    }

    #[test]
    fn copiers_into_the_directory() {
        assert!(copies("cp pg_wal/SEG /mnt/walfs/wal/"));
        assert!(copies("rsync -a pg_wal/SEG /mnt/walfs/wal"));
        let receiver = ["rsync", "-a", "/pg_wal/SEG", "/mnt/walfs/wal/SEG"].map(str::as_bytes);
        let within = intent(
            &receiver,
            Path::new("/mnt/walfs/wal"),
            Path::new("/mnt/walfs/wal/SEG"),
        );
        assert_eq!(within, Intent::Writes);
        assert!(!copies("cp pg_wal/OTHER /mnt/walfs/wal/"));
        assert!(!copies("cp /mnt/walfs/wal/SEG /mnt/walfs/wal/"));
    }

    #[test]
    fn what_seems_to_write() {
        assert!(seems(&[
            "python3",
            "archive.py",
            "pg_wal/SEG",
            "/mnt/walfs/wal/SEG"
        ]));
        assert!(seems(&["sh", "-c", "cat pg_wal/SEG > /mnt/walfs/wal/SEG"]));
        assert!(seems(&["bash", "-c", "cat 'pg_wal/SEG' >\"/mnt/walfs/wal/SEG\""]));
        assert!(seems(&[
            "sh",
            "-c",
            "test ! -f /mnt/walfs/wal/SEG && cp \"pg_wal/SEG\" /mnt/walfs/wal/SEG"
        ]));
        assert!(seems(&["pg_receivewal", "-D", "/mnt/walfs/wal"]));
        assert!(seems(&["postgres: archiver archiving SEG"]));
        assert!(seems(&["postgres: main: archiver archiving SEG"]));
        assert!(seems(&["mv", "/mnt/walfs/wal/SEG.tmp", "/mnt/walfs/wal/SEG"]));
        assert!(seems(&[
            "sh",
            "-c",
            "cat \"$1\" > \"$2\"",
            "sh",
            "pg_wal/SEG",
            "/mnt/walfs/wal/SEG"
        ]));
    }

    #[test]
    fn what_reads_does_not_seem_to_write() {
        let restore = "cp /mnt/walfs/wal/SEG \"pg_wal/RECOVERYXLOG\" || \
                       { test -e /mnt/walfs/.absent/SEG && exit 1; exit 255; }";
        assert_eq!(intent_of(&["sh", "-c", restore]), Intent::Unknown);
        assert_eq!(
            intent_of(&["sh", "-c", "cat /mnt/walfs/wal/SEG > pg_wal/RECOVERYXLOG"]),
            Intent::Unknown
        );
        assert_eq!(
            intent_of(&["python3", "restore.py", "/mnt/walfs/wal/SEG", "pg_wal/X"]),
            Intent::Unknown
        );
        assert_eq!(
            intent_of(&["restore", "pg_wal/RECOVERYXLOG", "/mnt/walfs/wal/SEG"]),
            Intent::Unknown
        );
        assert_eq!(
            intent_of(&["cmp", "pg_wal/OTHER", "/mnt/walfs/wal/SEG"]),
            Intent::Unknown
        );
        for title in [
            "postgres: archiver last was SEG",
            "postgres: startup waiting for SEG",
        ] {
            assert_eq!(intent_of(&[title]), Intent::Unknown, "{title}");
        }
    }

    #[test]
    fn copiers_that_read() {
        let reads = |command: &str| intent_of(&command.split(' ').collect::<Vec<_>>()) == Intent::Reads;
        assert!(reads("cp /mnt/walfs/wal/SEG pg_wal/RECOVERYXLOG"));
        assert!(reads(
            "/usr/bin/cp -p -- ../../../mnt/walfs/wal/SEG /mnt/walfs/wal/SEG.tmp"
        ));
        assert!(reads("busybox cat /mnt/walfs/wal/SEG"));
        assert!(reads("dd if=/mnt/walfs/wal/SEG of=pg_wal/RECOVERYXLOG"));
        assert!(!reads("cp /mnt/walfs/wal/OTHER pg_wal/RECOVERYXLOG"));
        assert!(!reads("cp -r /mnt/walfs/wal copy"));
        assert!(!reads("stat /mnt/walfs/wal/SEG"));
        assert!(!reads("test -e /mnt/walfs/wal/SEG"));
        assert!(!reads("cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(!reads("dd of=/mnt/walfs/wal/SEG"));
    }

    #[test]
    fn copiers_with_the_target_last() {
        assert!(copies("cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("/usr/bin/cp -p -- pg_wal/SEG /mnt/walfs/./wal//SEG"));
        assert!(copies("install -m 600 pg_wal/SEG ../../../mnt/walfs/wal/SEG"));
        assert!(copies("rsync -a pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert_eq!(
            intent_of(&["mv", "x", "/mnt/walfs/wal/SEG"]),
            Intent::SeemsToWrite
        );
        assert!(copies("/bin/coreutils cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("busybox cp pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(copies("dd if=pg_wal/SEG of=/mnt/walfs/wal/SEG bs=1M"));
        assert!(copies("/usr/bin/walfs wal-push --mount /mnt/walfs pg_wal/SEG"));
    }

    #[test]
    fn readers_and_askers_are_not_copiers() {
        assert!(!copies("cp /mnt/walfs/wal/SEG pg_wal/RECOVERYXLOG"));
        assert!(!copies("cp /mnt/walfs/wal/SEG /mnt/walfs/wal/SEG"));
        assert!(!copies("test -e /mnt/walfs/wal/SEG"));
        assert!(!copies("rsync -v /mnt/walfs/wal/SEG"));
        assert!(!copies("mv /mnt/walfs/wal/SEG.tmp /mnt/walfs/wal/SEG"));
        assert!(!copies("cp /mnt/walfs/wal/OTHER /mnt/walfs/wal/SEG"));
        assert!(!copies("[ -e /mnt/walfs/wal/SEG"));
        assert!(!copies("stat /mnt/walfs/wal/SEG"));
        assert!(!copies("ls /mnt/walfs/wal/SEG"));
        assert!(!copies("coreutils stat /mnt/walfs/wal/SEG"));
        assert!(!copies("coreutils"));
        assert!(!copies("sh -c cp /mnt/walfs/wal/SEG"));
        assert!(!copies("dd if=/mnt/walfs/wal/SEG of=/mnt/walfs/wal/SEG"));
        assert!(!copies("dd of=/mnt/walfs/wal/SEG of=/tmp/x"));
        assert!(!copies("cp -t pg_wal /mnt/walfs/wal/SEG"));
        assert!(!copies("cp -pt pg_wal /mnt/walfs/wal/SEG"));
        assert!(!copies("install --target-directory=pg_wal /mnt/walfs/wal/SEG"));
        assert!(copies("rsync -rt pg_wal/SEG /mnt/walfs/wal/SEG"));
        assert!(!copies(
            "walfs wal-fetch --mount /mnt/walfs SEG pg_wal/RECOVERYXLOG"
        ));
        assert!(!copies("walfs wal-push --mount /mnt/walfs pg_wal/OTHER"));
        assert!(!copies("cp"));
        assert!(!copies(""));
    }

    #[test]
    fn other_targets_are_not_this_one() {
        assert!(!copies("cp pg_wal/SEG /mnt/walfs/wal/SEG.tmp"));
        assert!(!copies("cp pg_wal/SEG /mnt/walfs/SEG"));
        assert!(!copies("cp -t /mnt/walfs/wal SEG"));
    }
}
