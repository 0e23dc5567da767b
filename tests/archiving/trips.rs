//! What a process for one file asks, and that it asks together what it can: on a distant store its time is that of the
//! questions one after the other.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::commands::Desk;
use crate::common::s3::{Action, Logged, Operation, Rule, RuleId};
use crate::common::user::said;
use crate::common::wait;
use crate::common::wal;

const FIRST: &str = "000000010000000000000001";
const SECOND: &str = "000000010000000000000002";

fn is_get(request: &Logged) -> bool {
    request.operation == Operation::Get
}

/// What was asked since, without order.
fn asked(desk: &Desk) -> Vec<String> {
    let requests = desk.server().requests();
    let word = |request: &Logged| format!("{} {}", request.method, request.key);
    let mut asked: Vec<String> = requests.iter().map(word).collect();
    asked.sort();
    asked
}

/// The questions of one process, whichever its command, about this name.
fn questions(name: &str) -> Vec<String> {
    let keys = [
        "cluster.json".into(),
        format!("wal/{name}.lz4"),
        format!("wal/{name}.zst"),
        "walfs.json".into(),
    ];
    keys.map(|key: String| format!("GET cluster/{key}")).to_vec()
}

/// Nothing that is asked for is answered.
fn silence(desk: &Desk, key: &str) -> RuleId {
    let hang = Rule::new(Action::Hang).operation(Operation::Get).key(key);
    desk.server().add_rule(hang)
}

/// A desk with the first segment archived, whose log is empty.
fn going_on() -> Desk {
    let desk = Desk::s3();
    desk.pushed(&desk.segment(1, 1));
    desk.server().clear_requests();
    desk
}

fn start(desk: &Desk, arguments: &[&str]) -> Child {
    let mut command = desk.command(arguments);
    command.args(["--archive", &desk.archive()]);
    command.stderr(Stdio::null()).spawn().expect("run walfs")
}

fn start_push(desk: &Desk, path: &Path) -> Child {
    start(desk, &["wal-push", path.to_str().expect("ASCII")])
}

fn start_fetch(desk: &Desk, name: &str) -> Child {
    let to = desk.file("RECOVERYXLOG", b"");
    start(desk, &["wal-fetch", name, to.to_str().expect("ASCII")])
}

/// Every question is on its way before any has its answer.
#[test]
fn questions_of_one_file_are_asked_together() {
    for push in [true, false] {
        let desk = going_on();
        let hang = silence(&desk, "cluster/");
        let mut process = match push {
            true => start_push(&desk, &desk.segment(2, 2)),
            false => start_fetch(&desk, FIRST),
        };
        desk.server().wait_for(4, is_get);
        assert_eq!(asked(&desk), questions(if push { SECOND } else { FIRST }));
        desk.server().remove_rule(hang);
        assert!(wait::for_exit("walfs to end", &mut process).success());
    }
}

#[test]
fn a_push_is_its_questions_and_one_put() {
    let desk = going_on();
    desk.pushed(&desk.segment(2, 2));
    let mut expected = questions(SECOND);
    expected.push(format!("PUT cluster/wal/{SECOND}.lz4"));
    assert_eq!(asked(&desk), expected);
    desk.server().clear_requests();
    desk.pushed(&desk.file("00000002.history", &wal::history(1, "0/3000000")));
    let key = "cluster/wal/00000002.history.lz4";
    // Three listings: does it fit what is archived of its timeline, and of the one that it left?
    let expected = [
        "GET cluster/cluster.json".into(),
        "GET cluster/wal/00000001".into(),
        "GET cluster/wal/00000001".into(),
        "GET cluster/wal/00000002".into(),
        format!("GET {key}"),
        "GET cluster/walfs.json".into(),
        format!("PUT {key}"),
    ];
    assert_eq!(asked(&desk), expected);
}

#[test]
fn a_fetch_is_its_questions_and_absence_one_more() {
    let desk = going_on();
    let (output, content) = desk.fetch_from(&desk.archive(), FIRST);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(content.map(|content| content.len()), Some(1 << 20));
    assert_eq!(asked(&desk), questions(FIRST));
    desk.server().clear_requests();
    desk.fetch_fails(&desk.archive(), SECOND, 1);
    // Then what lies behind it, archived or received, and whether anything was ever pruned: nothing (promise R6).
    let lists = ["wal/", "receiving/00000001", "prune/"].map(|prefix| format!("GET cluster/{prefix}"));
    let mut expected = [questions(SECOND), lists.to_vec()].concat();
    expected.sort();
    assert_eq!(asked(&desk), expected);
}

/// The codec, asked for by both names, is the archive's.
#[test]
fn an_archive_of_zstd_is_found_out() {
    let desk = Desk::s3();
    let (first, second) = (desk.segment(1, 1), desk.segment(2, 2));
    let made = desk.run(&[
        "wal-push",
        first.to_str().expect("ASCII"),
        "--archive",
        &desk.archive(),
        "--compression",
        "zstd",
    ]);
    assert!(made.status.success(), "{}", said(&made));
    desk.pushed(&second);
    let stored = [FIRST, SECOND].map(|name| format!("cluster/wal/{name}.zst"));
    assert_eq!(desk.server().keys("cluster/wal/"), stored);
    let (output, content) = desk.fetch_from(&desk.archive(), SECOND);
    assert!(output.status.success(), "{}", said(&output));
    assert!(content == fs::read(&second).ok());
}

/// R2: "1 only for proven absence": what the store says of a name counts once it has shown that this is the archive.
#[test]
fn r2_absence_counts_only_with_the_marker() {
    let desk = going_on();
    let hang = silence(&desk, "walfs.json");
    desk.fetch_fails(&desk.archive(), SECOND, 255);
    assert!(desk.server().count(|request| request.key.contains(SECOND)) > 0);
    desk.server().remove_rule(hang);
    let marker = desk.server().object("cluster/walfs.json").expect("it is there");
    desk.server()
        .put_object("cluster/walfs.json", "{\"format_version\": 2}");
    desk.fetch_fails(&desk.archive(), SECOND, 255);
    desk.server().remove("cluster/walfs.json");
    desk.fetch_fails(&desk.archive(), SECOND, 255);
    desk.server().put_object("cluster/walfs.json", marker);
    desk.fetch_fails(&desk.archive(), SECOND, 1);
}

/// W5: nothing is written into an archive before it is known what it is, and whose.
#[test]
fn w5_nothing_is_written_before_marker_and_cluster_are_known() {
    for key in ["walfs.json", "cluster.json"] {
        let desk = going_on();
        let hang = silence(&desk, key);
        desk.refused(&desk.segment(2, 2), &[key]);
        assert_eq!(desk.server().count(|request| request.method == "PUT"), 0);
        desk.server().remove_rule(hang);
        desk.pushed(&desk.segment(2, 2));
    }
}

/// W4: "also when two machines race": the look that came early still counts where the store ignores conditions.
#[test]
fn w4_where_conditions_are_ignored_what_is_archived_stays() {
    let desk = Desk::s3();
    desk.server().ignore_conditions(true);
    let first = desk.segment(1, 1);
    desk.pushed(&first);
    desk.server().clear_requests();
    desk.pushed(&first);
    desk.refused(&desk.segment(1, 2), &["different content"]);
    assert_eq!(desk.server().count(|request| request.method == "PUT"), 0);
}

/// R3: what comes damaged is fetched once more, and never handed on.
#[test]
fn r3_a_damaged_answer_is_fetched_again() {
    let desk = going_on();
    let flip = Rule::new(Action::FlipBody(5000))
        .operation(Operation::Get)
        .key(FIRST);
    let flip = desk.server().add_rule(flip.times(1));
    let (output, content) = desk.fetch_from(&desk.archive(), FIRST);
    assert!(output.status.success(), "{}", said(&output));
    assert!(content == fs::read(desk.segment(1, 1)).ok());
    assert_eq!(desk.server().remove_rule(flip), 1);
}

/// R2: keys that may not list are told that an absent object is forbidden: no absence, and nothing to wait for.
#[test]
fn r2_a_refusal_of_everything_is_said_at_once() {
    let desk = going_on();
    for operation in [Operation::Get, Operation::List] {
        let denied = Rule::new(Action::error(403, "AccessDenied")).operation(operation);
        let key = if operation == Operation::Get { "wal/" } else { "" };
        desk.server().add_rule(denied.key(key));
    }
    let mut process = start_fetch(&desk, SECOND);
    assert_eq!(wait::for_exit("walfs to end", &mut process).code(), Some(255));
}

/// W1: what both were told is archived, is, where the store lets the last writer win: two first processes with different
/// codecs make one archive of one codec.
#[test]
fn w1_of_two_first_writers_with_different_codecs_one_is_refused() {
    for round in 0..4 {
        let desk = Desk::s3();
        desk.server().ignore_conditions(true);
        let slow = Rule::new(Action::Delay(Duration::from_millis(40 * round)));
        desk.server()
            .add_rule(slow.operation(Operation::Put).key("walfs.json"));
        let start = |number, codec| {
            let path = desk.segment(number, number);
            let path = path.to_str().expect("ASCII");
            start(&desk, &["wal-push", path, "--compression", codec])
        };
        let processes = [start(1, "lz4"), start(2, "zstd")];
        let done = processes.map(|mut process| wait::for_exit("walfs to end", &mut process).success());
        assert!(done[0] || done[1], "round {round}: neither is archived");
        for (done, name) in done.iter().zip([FIRST, SECOND]) {
            let (output, content) = desk.fetch_from(&desk.archive(), name);
            assert_eq!(
                content.is_some(),
                *done,
                "round {round}, {name}: {}",
                said(&output)
            );
        }
    }
}
