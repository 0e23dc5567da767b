//! Does a process list a directory of the mount only to fill it?
//!
//! Where it does, it shall not meet what it did not write. Whoever reads the directory must see what is there: a copy with
//! `--delete` of a directory that seems empty would remove what it was to keep. So all that is not sure is a reader: an option in the
//! last place, a path that is not from the root (a receiver works in its target's directory, a sender in its source's).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::command::{program, resolve};

/// Said to the other end of a copy, if that is to read.
const SENDER: &[u8] = b"--sender";

/// By its arguments. `pg_dump -Fd` lists a directory to see whether it is empty, and writes into no other; `rsync` lists its target,
/// and each directory that it copies to a target, to see what is to be deleted.
pub(super) fn fills(arguments: &[&[u8]], directory: &Path) -> bool {
    let Some((program, arguments)) = program(arguments) else {
        return false;
    };
    let Some((last, earlier)) = arguments.split_last() else {
        return false;
    };
    if program != b"rsync" {
        return program == b"pg_dump";
    }
    let target = Path::new(OsStr::from_bytes(last));
    let has_source = earlier.iter().any(|argument| !argument.starts_with(b"-"));
    let resolved = resolve(Path::new("/"), last);
    target.is_absolute()
        && has_source
        && !earlier.contains(&SENDER)
        && (resolved == directory || Some(resolved.as_path()) == directory.parent())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_filled(command: &str) -> bool {
        let arguments: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        fills(&arguments, Path::new("/mnt/walfs/files/etc"))
    }

    #[test]
    fn a_directory_is_filled_only_by_who_surely_writes_there() {
        for command in [
            "rsync -a --delete /etc/ /mnt/walfs/files/etc/",
            "/usr/bin/rsync -a --delete-before /etc/ /mnt/walfs/files/./etc",
            "rsync -a --delete /etc /mnt/walfs/files/",
            "rsync --server -vlogDtpre.iLsfxCIvu --delete . /mnt/walfs/files/etc/",
            "pg_dump -Fd -f etc app",
        ] {
            assert!(is_filled(command), "{command}");
        }
        for command in [
            "rsync -a --delete /mnt/walfs/files/etc/ /srv/etc/",
            "rsync -a --delete /mnt/walfs/files/etc/ /mnt/walfs/files/other/",
            "rsync --server --sender -vlogDtpre.iLsfxCIvu . /mnt/walfs/files/etc/",
            "rsync -a /mnt/walfs/files/etc/ etc/",
            "rsync -a /etc/ etc/",
            "rsync -a /etc/ /mnt/walfs/files/etc/ --delete",
            "rsync /mnt/walfs/files/etc/",
            "rsync --daemon",
            "rsync",
            "ls /mnt/walfs/files/etc",
            "rm -r /mnt/walfs/files/etc",
        ] {
            assert!(!is_filled(command), "{command}");
        }
    }
}
