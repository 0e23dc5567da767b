//! Histories of timelines and of backups: those that fit what is archived, those that cannot, and forks.

use super::commands::Desk;
use super::rig::{CLUSTER, Rig, SMALL, Source, backup_history, cp_to};
use crate::common::user::said;
use crate::common::wait;
use crate::common::wal;

/// Segment `number` of a timeline.
fn segment(rig: &Rig, timeline: u32, number: u64) -> Source {
    let name = wal::segment_name(timeline, number, SMALL);
    let content = wal::segment(&name, CLUSTER, SMALL, number);
    rig.source(&name, content)
}

/// The history of this timeline, with these ancestors, each left at the beginning of a segment.
fn history(rig: &Rig, timeline: u32, ancestors: &[(u32, u64)]) -> Source {
    rig.source(&format!("{timeline:08X}.history"), history_text(ancestors))
}

fn history_text(ancestors: &[(u32, u64)]) -> Vec<u8> {
    let line = |(parent, number): &(u32, u64)| wal::history(*parent, &format!("0/{:X}", number << 20));
    ancestors.iter().flat_map(line).collect()
}

/// The history of a backup from `start` to `stop`, positions, that names this segment.
fn backup(rig: &Rig, number: u64, start: &str, stop: &str) -> Source {
    let segment = wal::segment_name(1, number, SMALL);
    let text = String::from_utf8(backup_history(&segment)).expect("ASCII");
    let text = text.replace("0/2000028", start).replace("0/2000138", stop);
    rig.source(&format!("{segment}.00000028.backup"), text.into_bytes())
}

/// W5: "the right cluster". A history that contradicts what is archived for certain is refused, with a sentence; what only
/// looks odd is archived, and the log tells.
#[test]
fn w5_histories_that_contradict_the_archive_are_refused() {
    let rig = Rig::local();
    (1..=5).for_each(|number| rig.archive(&segment(&rig, 1, number)));
    rig.archive(&segment(&rig, 2, 6));
    for (bad, words) in [
        (
            history(&rig, 2, &[(1, 8)]),
            ["timeline 2 left timeline 1", "0/800000"],
        ),
        (backup(&rig, 3, "0/2000028", "0/2000138"), ["0/2000028", "1 MiB"]),
        (backup(&rig, 3, "0/300028", "0/2000138"), ["0/2000138", "1 MiB"]),
    ] {
        rig.refuse(&bad);
        rig.assert_last_error(&[&bad.name, words[0], words[1], "HINT"]);
        rig.assert_absent(&bad.name);
    }
    rig.archive(&history(&rig, 2, &[(1, 6)]));
    // After a recovery to a target before timeline 2 began, by the segment that it began in.
    rig.archive(&history(&rig, 4, &[(1, 6), (2, 5)]));
    rig.assert_logged(&["timeline 4 left timeline 1 at 0/500000", "goes on"]);
    let other = history(&rig, 3, &[(1, 5), (2, 8)]);
    rig.refuse(&other);
    rig.assert_last_error(&[
        &other.name,
        "timeline 1 until 0/500000",
        "00000002.history",
        "0/600000",
    ]);
    rig.archive(&history(&rig, 3, &[(1, 6), (2, 8)]));
    rig.archive(&backup(&rig, 3, "0/300028", "0/300138"));
    assert!(!rig.mount.log().contains("not archived here"));
    rig.archive(&history(&rig, 9, &[(8, 7)]));
    rig.assert_logged(&["00000009.history", "timeline 8", "nothing is archived here"]);
    let early = backup(&rig, 0x20, "0/2000028", "0/2000138");
    rig.archive(&early);
    rig.assert_logged(&[&early.name, "begins in", "not archived here"]);
}

fn forks(mount: &crate::common::walfs::Mount) -> serde_json::Value {
    mount.status()["forks"].clone()
}

/// B12: "A timeline that forks while its parent goes on is noticed when archived", in either order, and by whichever mount.
#[test]
fn b12_a_fork_is_noticed_when_it_is_archived() {
    let child_last = Rig::local();
    (1..=4).for_each(|number| child_last.archive(&segment(&child_last, 1, number)));
    assert_eq!(forks(&child_last.mount), serde_json::json!([]));
    child_last.archive(&history(&child_last, 2, &[(1, 3)]));
    let expected = serde_json::json!([{
        "parent_timeline": 1,
        "child_timeline": 2,
        "left_at": "0/300000",
        "parent_goes_on_with": wal::segment_name(1, 3, SMALL),
    }]);
    assert_eq!(forks(&child_last.mount), expected);
    child_last.assert_logged(&["timeline 2 left timeline 1 at 0/300000", "goes on", "HINT"]);

    let child_first = Rig::s3(&[]);
    (1..=2).for_each(|number| child_first.archive(&segment(&child_first, 1, number)));
    child_first.archive(&history(&child_first, 2, &[(1, 3)]));
    child_first.archive(&segment(&child_first, 2, 3));
    assert_eq!(forks(&child_first.mount), serde_json::json!([]));
    // The parent's server, on a machine of its own.
    let parents = child_first.second_mount();
    for number in 2..=3 {
        let copied = cp_to(&parents, &segment(&child_first, 1, number)).output();
        assert!(copied.expect("run cp").status.success());
    }
    wait::until("the fork to be noticed", || {
        (forks(&parents) == expected).then_some(())
    });
}

/// The same without a mount: refused with a sentence, or archived with a warning.
#[test]
fn b12_wal_push_says_the_same() {
    let desk = Desk::s3();
    (1..=3).for_each(|number| desk.pushed(&desk.segment(number, number)));
    let push = |name: &str, ancestors: &[(u32, u64)]| {
        let path = desk.file(name, &history_text(ancestors));
        let path = path.to_str().expect("ASCII").to_owned();
        desk.run(&["wal-push", &path, "--archive", &desk.archive()])
    };
    let forked = push("00000002.history", &[(1, 2)]);
    assert!(forked.status.success(), "{}", said(&forked));
    assert!(said(&forked).contains("timeline 1 goes on"), "{}", said(&forked));
    let contradicting = push("00000003.history", &[(1, 3), (2, 5)]);
    assert_eq!(contradicting.status.code(), Some(1));
    assert!(
        said(&contradicting).contains("00000002.history"),
        "{}",
        said(&contradicting)
    );
}
