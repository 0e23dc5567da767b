//! What may be archived: the right names, of the right cluster, with the content that the name promises.

use super::rig::{CLUSTER, Rig, SMALL, Source, backup_history};
use crate::common::user::said;
use crate::common::wal;

/// W5: "a segment of another cluster is refused, naming both"; "(... the hint says to use a new prefix.)"
#[test]
fn w5_a_segment_of_another_cluster_is_refused() {
    for mut rig in Rig::both_kinds() {
        rig.archive(&rig.segment(1, 1));
        let name = wal::segment_name(1, 2, SMALL);
        let stranger = rig.source(&name, wal::segment(&name, 4711, SMALL, 2));
        for remounted in [false, true] {
            if remounted {
                rig.mount.restart();
            }
            rig.refuse(&stranger);
            rig.assert_absent(&name);
            rig.assert_last_error(&[&name, &CLUSTER.to_string(), "4711", "HINT", "new prefix"]);
            rig.assert_logged(&[&name, &CLUSTER.to_string(), "4711", "HINT"]);
        }
        rig.mount.assert_status("/system_identifier", CLUSTER.to_string());
        rig.archive(&rig.segment(2, 2));
    }
}

/// W5, for the name's other kind, and a segment size that is not the archive's.
#[test]
fn w5_a_partial_of_another_cluster_and_another_segment_size_are_refused() {
    let rig = Rig::local();
    rig.archive(&rig.segment(1, 1));
    let name = wal::segment_name(1, 2, SMALL);
    let stranger = rig.source(&format!("{name}.partial"), wal::segment(&name, 4711, SMALL, 2));
    rig.refuse(&stranger);
    rig.assert_absent(&stranger.name);
    let other_size = rig.sized_segment(3, 2 << 20, 3);
    rig.refuse(&other_size);
    rig.assert_absent(&other_size.name);
    rig.assert_last_error(&[&other_size.name, "segment size"]);
}

/// W6: "Any other final name is refused with a clear error."
#[test]
fn w6_other_names_are_refused() {
    let rig = Rig::local();
    let good = rig.segment(0x2C, 1);
    let upper = &good.name;
    for name in [
        upper.to_lowercase(),
        format!("{upper}.gz"),
        format!("{upper}.lz4"),
        format!("{upper}.done"),
        format!("{upper}0"),
        upper[..23].to_owned(),
        format!("X{}", &upper[1..]),
        format!("{upper}.0000028.backup"),
        format!("{upper}.history"),
        "00000002.History".into(),
        "2.history".into(),
        "00000002.history.partial".into(),
        "archive_status".into(),
        "walfs.json".into(),
        "ü".into(),
        "a b".into(),
    ] {
        let source = rig.source(&name, good.content.clone());
        let message = rig.refuse(&source);
        let packed = name.ends_with(".gz") || name.ends_with(".lz4");
        let expected = if packed {
            "Operation not supported"
        } else {
            "Invalid argument"
        };
        assert!(message.contains(expected), "{name}: {message}");
        rig.assert_logged(&[&name]);
        assert_eq!(rig.mount.list(), [""; 0], "{name} left something");
    }
    rig.archive(&good);
}

/// What to do to a good segment, and a word of what must be said of it.
type Torn = (&'static str, fn(&mut Vec<u8>), &'static str);

/// W3: "its length is the segment size its own first page states, and page magic, page address and timeline agree
/// with the name". W6, O1: "Errors name file, expectation, finding".
#[test]
fn w3_a_segment_that_is_not_what_its_name_says_is_refused() {
    let torn: [Torn; 8] = [
        (
            "the page's magic",
            |bytes| bytes[0..2].copy_from_slice(&[0xAD, 0xDE]),
            "magic",
        ),
        (
            "the page's address",
            |bytes| bytes[8..16].copy_from_slice(&(7u64 << 20).to_le_bytes()),
            "begin at",
        ),
        (
            "a later timeline",
            |bytes| bytes[4..8].copy_from_slice(&9u32.to_le_bytes()),
            "timeline",
        ),
        (
            "a segment size of 3 bytes",
            |bytes| bytes[32..36].copy_from_slice(&3u32.to_le_bytes()),
            "size",
        ),
        (
            "twice the segment size",
            |bytes| bytes[32..36].copy_from_slice(&(2u32 << 20).to_le_bytes()),
            "",
        ),
        ("no long header", |bytes| bytes[2..4].copy_from_slice(&[0, 0]), ""),
        ("zeros", |bytes| bytes.fill(0), ""),
        (
            "a page too few",
            |bytes| bytes.truncate(bytes.len() - 8192),
            "bytes",
        ),
    ];
    for rig in Rig::both_kinds() {
        rig.archive(&rig.segment(1, 1));
        for ((what, tear, word), number) in torn.iter().zip(2..) {
            let good = rig.segment(number, number);
            let mut content = good.content.clone();
            tear(&mut content);
            let bad = rig.source(&good.name, content);
            for line in [
                r#"cp "$1" "$2""#,
                r#"cp "$1" "$2.tmp" && mv "$2.tmp" "$2""#,
                r#"cat "$1" > "$2""#,
            ] {
                let output = rig.user().shell(line, &[&bad.path, &rig.target(&bad.name)]);
                assert!(!output.status.success(), "{what} was archived by {line}");
                rig.assert_last_error(&[&good.name, word]);
                // What `cp` brought stays under its temporary name until it is removed or replaced.
                rig.user().shell(r#"rm -f "$1.tmp""#, &[&rig.target(&bad.name)]);
                rig.assert_absent(&bad.name);
            }
            rig.archive(&good);
        }
    }
}

/// W2, W3: a segment is archived by the write that completes it, so bytes behind its end come too late to be refused
/// with it: they are no success, and the archive has the segment that its first page states.
#[test]
fn w3_bytes_behind_the_end_of_a_segment_are_refused() {
    let rig = Rig::local();
    let segment = rig.segment(1, 1);
    let longer = rig.source(&segment.name, [&segment.content[..], b"more"].concat());
    rig.refuse(&longer);
    rig.archive(&segment);
    let other = rig.segment(2, 2);
    let line = r#"{ cat "$1"; echo more; } > "$2.tmp" && mv "$2.tmp" "$2""#;
    let output = rig.user().shell(line, &[&other.path, &rig.target(&other.name)]);
    assert!(!output.status.success(), "archived by a rename");
    assert!(rig.object(&other.name).is_none());
    rig.assert_last_error(&[&other.name, "1048581 of 1048576 bytes"]);
}

/// W3: "`.history` and `.backup` files are parsed."
#[test]
fn w3_history_and_backup_files_that_are_not_are_refused() {
    let rig = Rig::local();
    let segment = wal::segment_name(1, 2, wal::SEGMENT_BYTES);
    let backup = format!("{segment}.00000028.backup");
    let whole = backup_history(&segment);
    let bad: [(&str, Vec<u8>); 9] = [
        ("00000002.history", b"garbage\n".to_vec()),
        ("00000002.history", vec![0; 100]),
        ("00000002.history", wal::history(2, "0/3000000")),
        ("00000002.history", b"1\t0/30000".to_vec()),
        (
            "00000003.history",
            [wal::history(2, "0/5"), wal::history(1, "0/3")].concat(),
        ),
        (&backup, b"START WAL LOCATION: ".to_vec()),
        (&backup, whole[..whole.len() / 2].to_vec()),
        (
            &backup,
            backup_history(&wal::segment_name(1, 9, wal::SEGMENT_BYTES)),
        ),
        (&backup, vec![0xFF; 300]),
    ];
    for (name, content) in bad {
        let source = rig.source(name, content);
        rig.refuse(&source);
        rig.assert_last_error(&[name]);
        rig.assert_absent(name);
    }
    rig.archive(&rig.source(&backup, whole));
    rig.archive(&rig.history(1));
}

/// W6: "any segment size 1 MB to 1 GB".
#[test]
fn w6_segments_of_every_size() {
    for bytes in [1u32 << 20, 16 << 20, 64 << 20] {
        let rig = Rig::s3(&[]);
        let source = rig.sized_segment(5, bytes, 5);
        rig.archive(&source);
        rig.mount.assert_status("/segment_bytes", bytes);
        let name = &rig.sized_segment(6, bytes, 6).name;
        rig.assert_absent(name);
    }
}

/// A segment of 1 GiB whose file is one page and a hole.
fn huge(rig: &Rig, number: u64) -> Source {
    const HUGE: u64 = 1 << 30;
    let name = wal::segment_name(1, number, HUGE as u32);
    let mut page = wal::segment(&wal::segment_name(1, number, SMALL), CLUSTER, SMALL, 1);
    page.truncate(wal::PAGE_BYTES);
    page[8..16].copy_from_slice(&(number * HUGE).to_le_bytes());
    page[32..36].copy_from_slice(&(HUGE as u32).to_le_bytes());
    let source = rig.source(&name, page);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&source.path)
        .expect("open a segment");
    file.set_len(HUGE).expect("make it long");
    source
}

/// W6, "to 1 GB"; once with its hole, once by a tool that knows no holes.
#[test]
fn w6_segments_of_one_gigabyte() {
    let rig = Rig::local();
    for (line, number) in [
        (r#"cp "$1" "$2""#, 1),
        (r#"dd if="$1" of="$2" bs=1M status=none"#, 2),
    ] {
        let source = huge(&rig, number);
        let to = rig.target(&source.name);
        let output = rig.user().shell(line, &[&source.path, &to]);
        assert!(output.status.success(), "{line}: {}", said(&output));
        let object = rig.world.archive().join(format!("wal/{}.lz4", source.name));
        let same = std::process::Command::new("/bin/sh")
            .args(["-c", r#"lz4 -dc "$1" | cmp - "$2""#, "sh"])
            .args([&object, &source.path])
            .output();
        let same = same.expect("run cmp");
        assert!(same.status.success(), "{line}: {}", said(&same));
    }
}

/// W6: "through a temporary name and a rename as well (`cp x.tmp && mv`, `rsync`, ...)": what is not renamed is nothing.
#[test]
fn w6_a_temporary_file_is_archived_by_its_rename_only() {
    for rig in Rig::both_kinds() {
        let source = rig.segment(1, 1);
        for temporary in [".tmp", ".part", "~", ".tmp.123"] {
            let line = format!(r#"cp "$1" "$2{temporary}""#);
            let output = rig
                .user()
                .shell(&line, &[&source.path, &rig.target(&source.name)]);
            assert!(output.status.success(), "{line}: {}", said(&output));
            assert!(rig.object(&source.name).is_none(), "archived before its rename");
            let line = format!(r#"rm "$1{temporary}""#);
            let output = rig.user().shell(&line, &[&rig.target(&source.name)]);
            assert!(output.status.success(), "{line}: {}", said(&output));
        }
        rig.assert_absent(&source.name);
        let line = r#"cp "$1" "$2.tmp" && mv -n "$2.tmp" "$2""#;
        let output = rig.user().shell(line, &[&source.path, &rig.target(&source.name)]);
        assert!(output.status.success(), "{}", said(&output));
        rig.assert_archived(&source);
    }
}

/// W6 and R3: a `.history` long enough to be worth compressing, brought by a rename, is read back as it was.
#[test]
fn w6_a_long_history_brought_by_a_rename_reads_back() {
    let rig = Rig::local();
    let lines = (1..200u32).map(|parent| wal::history(parent, &format!("0/{:X}000000", parent + 2)));
    let source = rig.source("000000C8.history", lines.collect::<Vec<_>>().concat());
    let line = r#"cp "$1" "$2.tmp" && mv "$2.tmp" "$2""#;
    let output = rig.user().shell(line, &[&source.path, &rig.target(&source.name)]);
    assert!(output.status.success(), "{}", said(&output));
    rig.assert_archived(&source);
    let read = rig.mount.read(&source.name);
    assert!(
        read.as_ref() == Ok(&source.content),
        "it reads back as {:?}",
        read.map(|bytes| bytes.len())
    );
}
