//! R6: a hole is not the end. A missing segment with later ones in the archive is never proved to be absent; it is named, and
//! waited for if it is about to come.

use std::path::Path;
use std::process::{Child, Output, Stdio};

use super::rig::{CLUSTER, Rig, SMALL, Source};
use super::verifying::{desk_with_holes, history, name};
use crate::common::s3::Operation;
use crate::common::user::said;
use crate::common::{wait, wal};

fn segment(rig: &Rig, timeline: u32, number: u64) -> Source {
    let name = name(timeline, number);
    rig.source(&name, wal::segment(&name, CLUSTER, SMALL, number))
}

/// On timeline 1 segments 3, 4, 6 and 9; timeline 2 left it in segment 11, and has 11, 12 and 14.
fn with_holes(rig: &Rig) {
    [3, 4, 6, 9]
        .into_iter()
        .for_each(|number| rig.archive(&segment(rig, 1, number)));
    rig.archive(&rig.source("00000002.history", history(11)));
    [11, 12, 14]
        .into_iter()
        .for_each(|number| rig.archive(&segment(rig, 2, number)));
}

/// Why each of them is a hole: before the first one, in the middle, before the place where the next timeline left, and in
/// the middle of that.
const HOLES: [(u32, u64, u32, u64); 5] = [
    (1, 2, 1, 3),
    (1, 5, 1, 6),
    (1, 8, 1, 9),
    (1, 10, 2, 11),
    (2, 13, 2, 14),
];

/// Where a timeline ends, or has not begun yet.
const ENDS: [(u32, u64); 6] = [(1, 11), (1, 12), (2, 10), (2, 3), (2, 15), (3, 9)];

/// Asks after `wal/NAME` by `cp`, and for the proof if that fails, as the printed command does.
fn restore(rig: &Rig, name: &str) -> Output {
    let to = rig.world.path().join("restored");
    let line = r#"cp "$1/wal/$2" "$3" || { test -e "$1/.absent/$2" && exit 1; exit 255; }"#;
    rig.user().shell(line, &[rig.mount.path(), Path::new(name), &to])
}

/// Is `wal/NAME` not there, and proved to be absent?
fn is_proved(rig: &Rig, name: &str) -> bool {
    let line = r#"test ! -e "$1/wal/$2" && test -e "$1/.absent/$2""#;
    let output = rig.user().shell(line, &[rig.mount.path(), Path::new(name)]);
    output.status.success()
}

/// R6: "`.absent/NAME` does not appear ... and the log names the hole". `wal/` tells the truth of each name by itself.
#[test]
fn r6_absence_is_proved_only_where_a_timeline_ends() {
    for rig in Rig::both_kinds() {
        rig.world.owned_file("restored", b"");
        with_holes(&rig);
        for (timeline, number) in ENDS {
            let output = restore(&rig, &name(timeline, number));
            assert_eq!(
                output.status.code(),
                Some(1),
                "{timeline}/{number}: {}",
                said(&output)
            );
            assert!(is_proved(&rig, &name(timeline, number)), "{timeline}/{number}");
        }
        assert!(is_proved(&rig, "00000003.history"));
        for (timeline, number, next_timeline, next) in HOLES {
            let (missing, next) = (name(timeline, number), name(next_timeline, next));
            let output = restore(&rig, &missing);
            assert_eq!(output.status.code(), Some(255), "{missing}: {}", said(&output));
            rig.assert_logged(&[&format!("{missing} is missing"), &next, "HINT"]);
            rig.assert_last_error(&[&missing, &next]);
        }
        // Without a reader before it.
        assert!(!is_proved(&rig, &name(1, 5)));
    }
}

/// R6: "A timeline that has segments and no `.history` is named": to PostgreSQL it does not exist.
#[test]
fn r6_a_timeline_without_its_history_is_named_in_the_log() {
    let rig = Rig::s3(&[]);
    rig.world.owned_file("restored", b"");
    rig.archive(&segment(&rig, 1, 3));
    rig.archive(&segment(&rig, 2, 4));
    assert_eq!(restore(&rig, "00000002.history").status.code(), Some(1));
    rig.mount.wait_for_log("00000002.history is missing");
    assert!(rig.mount.log().contains(&name(2, 4)));
}

/// Recovery asks at its end, a standby every few seconds: for the name, and side by side for what was archived and what was
/// received behind it, and whether anything was ever pruned.
#[test]
fn the_end_of_the_archive_costs_two_round_trips() {
    let rig = Rig::s3(&[]);
    rig.world.owned_file("restored", b"");
    [3, 4]
        .into_iter()
        .for_each(|number| rig.archive(&segment(&rig, 1, number)));
    rig.server().clear_requests();
    assert_eq!(restore(&rig, &name(1, 5)).status.code(), Some(1));
    let asked = rig.server().requests();
    assert_eq!(asked.len(), 4, "{asked:?}");
    let lists = rig.server().count(|request| request.operation == Operation::List);
    assert_eq!(lists, 3, "{asked:?}");
    // What is there costs none of it.
    rig.server().clear_requests();
    assert!(restore(&rig, &name(1, 3)).status.success());
    assert_eq!(
        rig.server().count(|request| request.operation == Operation::List),
        0
    );
}

fn start_restore(rig: &Rig, name: &str) -> Child {
    let mut cp = rig.user().command("cp");
    cp.arg(rig.target(name)).arg(rig.world.path().join("restored"));
    cp.stderr(Stdio::null()).spawn().expect("run cp")
}

/// Two archivers may store in another order than they read.
#[test]
fn r6_a_segment_that_comes_within_a_moment_is_no_hole() {
    let rig = Rig::s3(&[]);
    rig.world.owned_file("restored", b"");
    [3, 5]
        .into_iter()
        .for_each(|number| rig.archive(&segment(&rig, 1, number)));
    rig.server().clear_requests();
    let mut reading = start_restore(&rig, &name(1, 4));
    rig.server()
        .wait_for(1, |request| request.operation == Operation::List);
    let late = segment(&rig, 1, 4);
    rig.archive(&late);
    assert!(wait::for_exit("cp to end", &mut reading).success());
    assert!(std::fs::read(rig.world.path().join("restored")).expect("read it") == late.content);
}

/// However long it takes, as long as somebody brings it here.
#[test]
fn r6_a_segment_that_is_being_brought_is_waited_for() {
    let rig = Rig::s3(&[]);
    rig.world.owned_file("restored", b"");
    [3, 5]
        .into_iter()
        .for_each(|number| rig.archive(&segment(&rig, 1, number)));
    let late = segment(&rig, 1, 4);
    let half = SMALL / 2;
    let calls = [
        format!("write:0:{half}"),
        "wait".into(),
        format!("write:{half}:{half}"),
        "close".into(),
    ];
    let calls = calls.each_ref().map(String::as_str);
    let writer = rig.writer(&late, &calls).waits();
    rig.server().clear_requests();
    let mut reading = start_restore(&rig, &name(1, 4));
    // More often than a hole is looked at that nobody fills.
    rig.server()
        .wait_for(16, |request| request.operation == Operation::List);
    assert!(writer.go_on().ended().status.success());
    assert!(wait::for_exit("cp to end", &mut reading).success());
    assert!(std::fs::read(rig.world.path().join("restored")).expect("read it") == late.content);
}

/// R6 for `wal-fetch`: 1 only where a timeline ends, 255 with a sentence at a hole.
#[test]
fn r6_wal_fetch_tells_a_hole_from_the_end() {
    let desk = desk_with_holes();
    for (timeline, number) in ENDS {
        desk.fetch_fails(&desk.archive(), &name(timeline, number), 1);
    }
    for (timeline, number, next_timeline, next) in HOLES {
        let missing = name(timeline, number);
        desk.fetch_fails(&desk.archive(), &missing, 255);
        let message = said(&desk.fetch_from(&desk.archive(), &missing).0);
        let next = name(next_timeline, next);
        for word in [&*missing, &next, "HINT", "wal-verify"] {
            assert!(message.contains(word), "{word}: {message}");
        }
    }
}
