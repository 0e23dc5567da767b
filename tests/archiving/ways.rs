//! The documented ways in which copy tools write: temporary names and folders, in place, appending, preserving. Each ends
//! with the file stored or with an error.

use super::rig::{Rig, Source};
use crate::common::user::said;

/// With `$1` the file, `$2` its place in `wal/`, `$3` a directory elsewhere. All of them must succeed.
const STORES: [&str; 30] = [
    r#"rsync -a "$1" "$2""#,
    r#"rsync -a --delay-updates "$1" "$2""#,
    r#"cd "$3" && rsync -a --delay-updates "$1" "${2%/*}/""#,
    r#"rsync -a --partial --delay-updates --fsync "$1" "${2%/*}/""#,
    r#"rsync -a --partial-dir=.rsync-partial "$1" "$2""#,
    r#"rsync -a --partial-dir=part --delay-updates "$1" "$2""#,
    r#"rsync -a --temp-dir="$3" "$1" "$2""#,
    r#"rsync -a --partial "$1" "$2""#,
    r#"rsync -a --inplace "$1" "$2""#,
    r#"rsync -a --append "$1" "$2""#,
    r#"rsync -a --append-verify "$1" "$2""#,
    r#"rsync -aS "$1" "$2""#,
    r#"rsync -a --no-whole-file --checksum "$1" "$2""#,
    r#"rsync -a --backup --backup-dir=old "$1" "$2""#,
    r#"rsync -aAX --chmod=F600 "$1" "$2""#,
    r#"cp -p "$1" "$2""#,
    r#"cp -a --remove-destination "$1" "$2""#,
    r#"cp -f --backup=numbered "$1" "$2""#,
    r#"cp --reflink=auto --sparse=always "$1" "${2%/*}/""#,
    r#"cp --update --preserve=all "$1" "$2""#,
    r#"cp -t "${2%/*}" "$1""#,
    r#"install -p -m 0640 "$1" "$2""#,
    r#"install -C "$1" "$2""#,
    r#"install -D -t "${2%/*}" "$1""#,
    r#"tar -C "${1%/*}" -cf - "${1##*/}" | tar -C "${2%/*}" -xf -"#,
    r#"tar -C "${1%/*}" -cf - . | tar -C "${2%/*}" -xpf - --overwrite"#,
    r#"cp "$1" "$3/x.${1##*/}" && mv "$3/x.${1##*/}" "$2""#,
    r#"cp "$1" "$3/" && mv "$3/${1##*/}" "${2%/*}/""#,
    r#"cp "$1" "$2.part.minio" && mv "$2.part.minio" "$2""#,
    r#"cp "$1" "${2%/*}/archtemp.${2##*/}.4711.1796000000123" && mv "${2%/*}/archtemp.${2##*/}.4711.1796000000123" "$2""#,
];

/// The same. None of them stores it, and all of them must say so.
const REFUSED: [&str; 11] = [
    r#"rsync -a --partial-dir="$3/part" --delay-updates "$1" "$2""#,
    r#"cp -l "$1" "$2""#,
    r#"cp -s "$1" "$2""#,
    r#"mkdir "${2%/*}/sub""#,
    r#"mkdir -p "${2%/*}/sub" && cp "$1" "${2%/*}/sub/""#,
    r#"rsync -a --mkpath "$1" "${2%/*}/sub/""#,
    r#"cd "${1%/*}/.." && rsync -aR "./$(basename "${1%/*}")/${1##*/}" "${2%/*}/""#,
    r#"cd "${1%/*}/.." && rsync -aR --delay-updates "./$(basename "${1%/*}")/${1##*/}" "${2%/*}/""#,
    r#"rsync -a "${1%/*}" "${2%/*}/""#,
    r#"rsync -a --temp-dir=nowhere "$1" "$2""#,
    r#"cp -r "${1%/*}" "${2%/*}/""#,
];

#[track_caller]
fn run(rig: &Rig, line: &str, source: &Source) -> std::process::Output {
    let elsewhere = rig.world.owned_dir("elsewhere");
    rig.user()
        .shell(line, &[&source.path, &rig.target(&source.name), &elsewhere])
}

/// W2: "every copy tool learns the truth"; W6: "through a temporary name and a rename as well".
#[test]
fn w2_every_documented_way_of_a_copier_ends_stored() {
    let rig = Rig::local();
    for (line, number) in STORES.iter().zip(1..) {
        let source = rig.segment(number, number);
        let output = run(&rig, line, &source);
        assert!(output.status.success(), "{line}: {}", said(&output));
        assert!(rig.object(&source.name).is_some(), "{line} is not stored");
        rig.assert_archived(&source);
    }
    // Folders for what is on its way have gone with it.
    let left: Vec<String> = rig.mount.list();
    assert!(left.iter().all(|name| name.len() == 24), "{left:?}");
}

/// W2, for what is not archived: an error, and nothing under the name.
#[test]
fn w2_a_copy_to_anywhere_else_is_no_success() {
    let rig = Rig::local();
    for (line, number) in REFUSED.iter().zip(1..) {
        let source = rig.segment(number, number);
        let output = run(&rig, line, &source);
        assert!(!output.status.success(), "{line} succeeded");
        rig.assert_absent(&source.name);
    }
}

/// Gives a file an access control list with a named user, as `setfacl -m u:1:r` does.
const SET_ACL: &str = "import os, struct, sys
entries = [(1, 6, 2**32 - 1), (2, 4, 1), (4, 0, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1)]
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
os.setxattr(sys.argv[1], 'system.posix_acl_access', acl)";

/// W2: what cannot be kept of a file in `wal/` is no reason to fail: `cp -p` of one with an access control list. Modes are
/// the archive's own there all the same.
#[test]
fn w2_access_control_lists_are_accepted_and_forgotten() {
    let rig = Rig::local();
    for (line, number) in [
        r#"cp -p "$1" "$2""#,
        r#"cp -a "$1" "$2""#,
        r#"cp --preserve=all "$1" "$2""#,
        r#"cp -p "$1" "$2.tmp" && mv "$2.tmp" "$2""#,
        r#"rsync -aAX "$1" "$2""#,
    ]
    .into_iter()
    .zip(1..)
    {
        let source = rig.segment(number, number);
        let set = rig
            .user()
            .command("/usr/bin/python3")
            .args(["-c", SET_ACL])
            .arg(&source.path)
            .output();
        let set = set.expect("run python3");
        assert!(set.status.success(), "{}", said(&set));
        // Twice: the second time on a file that is there.
        for _ in 0..2 {
            let output = run(&rig, line, &source);
            assert!(output.status.success(), "{line}: {}", said(&output));
        }
        rig.assert_archived(&source);
        let mode = rig
            .user()
            .shell(r#"stat -c %a "$1""#, &[&rig.target(&source.name)]);
        assert_eq!(mode.stdout, b"600\n", "{line}");
    }
}

/// R3: a file in `wal/` can be mapped, for one process or for several, as far as the kernel lets it (Linux 6.6).
#[test]
fn r3_an_archived_file_can_be_mapped() {
    let rig = Rig::local();
    let source = rig.segment(1, 1);
    rig.archive(&source);
    let script = "import mmap, sys
own, archived = (open(path, 'rb') for path in sys.argv[1:])
for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
    mapped = mmap.mmap(archived.fileno(), 0, flags, mmap.PROT_READ)
    assert mapped[:] == open(sys.argv[1], 'rb').read(), flags";
    let mut python = rig.user().command("/usr/bin/python3");
    python
        .args(["-c", script])
        .args([&source.path, &rig.target(&source.name)]);
    let output = python.output().expect("run python3");
    assert!(output.status.success(), "{}", said(&output));
}
