//! Segments with holes, and writers that do not go from the first byte to the last: whole, or not at all.

use std::fs;
use std::path::Path;

use super::rig::{Rig, SMALL, Source};
use crate::common::copiers;
use crate::common::user::said;

/// A segment whose bytes in `hole` are zero, and whose file has a hole there.
fn with_hole(rig: &Rig, number: u64, hole: std::ops::Range<usize>) -> Source {
    let mut source = rig.segment(number, number);
    source.content[hole].fill(0);
    fs::write(&source.path, &source.content).expect("write zeros");
    dig_holes(&source.path);
    source
}

fn dig_holes(path: &Path) {
    let status = std::process::Command::new("fallocate")
        .arg("-d")
        .arg(path)
        .status();
    assert!(status.expect("run fallocate").success(), "cannot dig holes");
    let meta = fs::metadata(path).expect("look at the file");
    let allocated_bytes = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    assert!(allocated_bytes < meta.len(), "the file has no hole");
}

const MIDDLE: std::ops::Range<usize> = 256 << 10..512 << 10;
const END: std::ops::Range<usize> = 512 << 10..1 << 20;
const ALL_BUT_FIRST_PAGE: std::ops::Range<usize> = 8192..1 << 20;

/// W2: "committed inside the write (or the truncate of a sparse copy) that completes it"; every tool's own idea of a
/// file with holes is stored whole, with zeros.
#[test]
fn w2_a_segment_with_holes_is_stored_whole_by_every_copier() {
    let rig = Rig::s3(&[]);
    let mut number = 0;
    for copier in copiers::all(&rig.world) {
        for hole in [MIDDLE, END, ALL_BUT_FIRST_PAGE] {
            number += 1;
            let source = with_hole(&rig, number, hole.clone());
            let output = copier.copy(rig.user(), &source.path, &rig.target(&source.name));
            assert!(
                output.status.success(),
                "{} {hole:?}: {}",
                copier.name,
                said(&output)
            );
            rig.assert_archived(&source);
        }
    }
}

/// The same by the options that make holes where there were none.
#[test]
fn w2_copiers_that_make_holes_are_understood() {
    let rig = Rig::local();
    let uutils = rig
        .world
        .public_program(&copiers::cached_program("coreutils-0.12.0/bin/coreutils"));
    let lines = [
        r#"cp --sparse=always "$1" "$2""#.to_owned(),
        r#"cp --sparse=never "$1" "$2""#.to_owned(),
        r#"dd if="$1" of="$2" bs=64k conv=sparse status=none"#.to_owned(),
        r#"rsync --sparse "$1" "$2""#.to_owned(),
        r#"rsync --inplace --whole-file "$1" "$2""#.to_owned(),
        format!(r#"{} cp --sparse=always "$1" "$2""#, uutils.display()),
    ];
    let mut number = 0;
    for line in &lines {
        for hole in [MIDDLE, END] {
            number += 1;
            let source = with_hole(&rig, number, hole.clone());
            let output = rig.user().shell(line, &[&source.path, &rig.target(&source.name)]);
            assert!(output.status.success(), "{line} {hole:?}: {}", said(&output));
            rig.assert_archived(&source);
        }
    }
}

/// W2 for uutils cp, which looks at no close: a segment with holes, and a store that refuses.
#[test]
fn w2_a_refused_segment_with_holes_fails_every_copier() {
    use crate::common::s3::{Action, Operation, Rule};
    let rig = Rig::s3(&["--deadline", "1s"]);
    rig.archive(&rig.segment(1, 1));
    rig.server().add_rule(
        Rule::new(Action::error(403, "AccessDenied"))
            .operation(Operation::Put)
            .key("wal/"),
    );
    let mut number = 1;
    for copier in copiers::all(&rig.world) {
        for hole in [MIDDLE, END] {
            number += 1;
            let source = with_hole(&rig, number, hole.clone());
            let output = copier.copy(rig.user(), &source.path, &rig.target(&source.name));
            assert!(
                !output.status.success(),
                "{} {hole:?} called it archived",
                copier.name
            );
            assert!(rig.object(&source.name).is_none());
        }
    }
}

/// W3: "committed only when every byte of it has been written": a length set in advance is no bytes.
#[test]
fn w3_a_length_set_first_is_not_content() {
    let rig = Rig::local();
    let source = rig.segment(1, 1);
    let (whole, quarter) = (format!("truncate:{SMALL}"), SMALL / 4);
    let part = |number: u32| format!("write:{}:{quarter}", number * quarter);
    for unfinished in [
        vec![],
        vec![0],
        vec![3],
        vec![0, 3],
        vec![3, 0],
        vec![0, 1, 3],
        vec![0, 2, 3],
    ] {
        let mut calls = vec![whole.clone()];
        calls.extend(unfinished.iter().map(|number| part(*number)));
        calls.push("wait".into());
        let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
        let writer = rig.writer(&source, &calls).waits();
        rig.assert_absent(&source.name);
        writer.kill(libc::SIGKILL);
        rig.assert_absent(&source.name);
    }
}

/// W3, "when every byte of it has been written": in whatever order.
#[test]
fn w3_any_order_archives_when_all_is_there() {
    let rig = Rig::local();
    let quarter = SMALL / 4;
    let part = |number: u32| format!("write:{}:{quarter}", number * quarter);
    let orders = [[3, 2, 1, 0], [1, 3, 0, 2], [3, 0, 1, 2], [2, 0, 3, 1]];
    for (order, number) in orders.iter().zip(1..) {
        let source = rig.segment(number, number);
        let parts: Vec<String> = order.iter().map(|number| part(*number)).collect();
        let whole = format!("truncate:{SMALL}");
        let calls = [
            &whole, &parts[0], &parts[1], &parts[2], "wait", &parts[3], "wait", "close",
        ];
        let writer = rig.writer(&source, &calls).waits();
        rig.assert_absent(&source.name);
        let writer = writer.go_on().waits();
        rig.assert_archived(&source);
        let output = writer.go_on().ended();
        assert!(output.status.success(), "{order:?}: {}", said(&output));
    }
}

/// W3: a parallel copier that goes forward but leaves the middle for later must not have zeros archived for it.
#[test]
fn w3_a_gap_that_is_filled_later_is_not_archived_as_a_hole() {
    let rig = Rig::local();
    let source = rig.segment(1, 1);
    let quarter = SMALL / 4;
    let part = |number: u32| format!("write:{}:{quarter}", number * quarter);
    let calls = [&part(0), &part(1), &part(3), "wait", &part(2), "close"].map(|call| call.to_owned());
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let writer = rig.writer(&source, &calls).waits();
    let stored = rig.stored(&source.name);
    assert!(stored.is_none(), "half a segment is archived");
    let output = writer.go_on().ended();
    assert!(output.status.success(), "{}", said(&output));
    rig.assert_archived(&source);
}

/// W3: a child that closes its copy of the descriptor says nothing of its parent's file, nor does one that a program does
/// not inherit. Gaps, a length set behind the first page, zeros laid out first: none of them is archived before it is
/// filled in, and the file is archived then.
#[test]
fn w3_a_childs_close_archives_nothing() {
    let rig = Rig::local();
    let half = SMALL / 2;
    let (head, zeros, whole) = (
        "write:0:8192".to_owned(),
        format!("zeros:{SMALL}"),
        format!("truncate:{SMALL}"),
    );
    let (last, rest) = (
        format!("write:{half}:{half}"),
        format!("write:8192:{}", SMALL - 8192),
    );
    let ways = [[&head, &last], [&head, &whole], [&whole, &head], [&zeros, &head]];
    let children = ["fork", "spawn"];
    let each = ways.iter().flat_map(|way| children.map(|child| (way, child)));
    for ((way, child), number) in each.zip(1..) {
        let source = rig.segment(number, number);
        let calls = [way[0], way[1], child, "fsync-refused", "wait", &rest, "close"];
        let writer = rig.writer(&source, &calls).waits();
        rig.assert_absent(&source.name);
        let output = writer.go_on().ended();
        assert!(output.status.success(), "{way:?} {child}: {}", said(&output));
        rig.assert_archived(&source);
    }
    rig.mount
        .assert_status("/archived_files", ways.len() * children.len());
}

/// W3: a gap is no hole because its writer closes the file, or copies the descriptor, in good order.
#[test]
fn w3_a_gap_is_refused_when_it_is_closed() {
    let rig = Rig::local();
    let source = rig.segment(1, 1);
    let (head, whole) = ("write:0:8192", format!("truncate:{SMALL}"));
    for closing in ["close", "dup", "fsync"] {
        let output = rig.writer(&source, &[head, &whole, closing]).ended();
        assert!(
            said(&output).contains("Invalid argument"),
            "{closing}: {}",
            said(&output)
        );
        rig.assert_absent(&source.name);
        rig.assert_last_error(&[&source.name, "from 8192 to 1048576", "HINT", "--sparse=never"]);
    }
    rig.archive(&source);
}
