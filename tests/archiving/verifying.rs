//! `walfs wal-verify`: what is missing between the archived WAL files.

use serde_json::Value;

use super::commands::Desk;
use super::rig::{CLUSTER, SMALL};
use crate::common::user::said;
use crate::common::wal;

pub(super) fn name(timeline: u32, number: u64) -> String {
    wal::segment_name(timeline, number, SMALL)
}

/// The history of timeline 2, which left timeline 1 within this segment.
pub(super) fn history(number: u64) -> Vec<u8> {
    wal::history(1, &format!("0/{:X}", (number << 20) + 0x28))
}

/// On timeline 1 segments 3, 4, 6 and 9; timeline 2 left it in segment 11, and has 11, 12 and 14.
pub(super) fn desk_with_holes() -> Desk {
    let desk = Desk::s3();
    let push = |timeline: u32, number: u64| {
        let name = name(timeline, number);
        desk.pushed(&desk.file(&name, &wal::segment(&name, CLUSTER, SMALL, number)));
    };
    [3, 4, 6, 9].into_iter().for_each(|number| push(1, number));
    desk.pushed(&desk.file("00000002.history", &history(11)));
    [11, 12, 14].into_iter().for_each(|number| push(2, number));
    desk
}

fn verify(desk: &Desk) -> (Option<i32>, Value) {
    let output = desk.run(&["wal-verify", "--json", "--archive", &desk.archive()]);
    let told = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        told.unwrap_or_else(|_| panic!("{}", said(&output))),
    )
}

/// R6, O1, O2: "gaps alone", by ranges; 0 only if nothing is missing.
#[test]
fn r6_wal_verify_lists_ranges_and_holes() {
    let desk = desk_with_holes();
    let (code, told) = verify(&desk);
    assert_eq!(
        (code, &told["is_unbroken"]),
        (Some(1), &Value::Bool(false)),
        "{told:#}"
    );
    let names = |timeline: usize, what: &str| -> Vec<(String, String, u64)> {
        let listed = told["timelines"][timeline][what].as_array().expect("a list");
        let text = |value: &Value| value.as_str().expect("a name").to_owned();
        let range = |range: &Value| {
            let segments = range["segments"].as_u64().expect("a number");
            (text(&range["first"]), text(&range["last"]), segments)
        };
        listed.iter().map(range).collect()
    };
    let range = |timeline, first, last| (name(timeline, first), name(timeline, last), last - first + 1);
    assert_eq!(
        names(0, "ranges"),
        [range(1, 3, 4), range(1, 6, 6), range(1, 9, 9)]
    );
    assert_eq!(
        names(0, "holes"),
        [range(1, 5, 5), range(1, 7, 8), range(1, 10, 10)]
    );
    assert_eq!(names(1, "ranges"), [range(2, 11, 12), range(2, 14, 14)]);
    assert_eq!(names(1, "holes"), [range(2, 13, 13)]);
    assert_eq!(told["timelines"][1]["left"]["timeline"], 1);

    let output = desk.run(&["wal-verify", "--archive", &desk.archive()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |words: &[&str]| {
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(line(&[&name(1, 7), &name(1, 8), "missing"]), "{text}");
    assert!(said(&output).contains("HINT"), "{}", said(&output));

    for (timeline, number) in [(1, 5), (1, 7), (1, 8), (1, 10), (2, 13)] {
        let name = name(timeline, number);
        desk.pushed(&desk.file(&name, &wal::segment(&name, CLUSTER, SMALL, number)));
    }
    let (code, told) = verify(&desk);
    assert_eq!(
        (code, &told["is_unbroken"]),
        (Some(0), &Value::Bool(true)),
        "{told:#}"
    );
    // Timeline 1 may go on, as after a recovery to an earlier point; a timeline whose history is lost is none.
    for (timeline, number) in [(1, 11), (1, 12), (3, 15)] {
        assert_eq!(verify(&desk).0, Some(0));
        let name = name(timeline, number);
        desk.pushed(&desk.file(&name, &wal::segment(&name, CLUSTER, SMALL, number)));
    }
    let (code, told) = verify(&desk);
    assert_eq!(
        (code, &told["timelines"][2]["history"]),
        (Some(1), &"missing".into()),
        "{told:#}"
    );
}

/// K6: what `verify` reads it also misses: holes, and with a name for each.
#[test]
fn k6_verify_names_holes_too() {
    let desk = desk_with_holes();
    let output = desk.run(&["verify", "--json", "--archive", &desk.archive()]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let findings = told["findings"].as_array().expect("a list");
    let objects: Vec<&str> = findings
        .iter()
        .filter_map(|finding| finding["object"].as_str())
        .collect();
    let expected = [(1, 5), (1, 7), (1, 10), (2, 13)]
        .map(|(timeline, number)| format!("wal/{}.lz4", name(timeline, number)));
    assert_eq!(objects, expected, "{told:#}");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        findings[1]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("2 segments")),
        "{told:#}"
    );
}
