//! Write-once: the same again is a success that costs nothing, anything else leaves what is archived as it is.

use std::thread;
use std::time::Duration;

use super::rig::{Rig, SMALL};
use crate::common::copiers;
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::said;
use crate::common::wait;

/// W4: "The same content again succeeds without an upload (PostgreSQL re-archives after a crash ...)". Requests are
/// counted, by every tool, and on a new mount as well.
#[test]
fn w4_the_same_again_succeeds_without_an_upload() {
    let mut rig = Rig::s3(&[]);
    let sources = [rig.segment(1, 1), rig.history(1)];
    sources.iter().for_each(|source| rig.archive(source));
    let counts = |rig: &Rig| sources.each_ref().map(|source| rig.uploads(&source.name));
    let before = counts(&rig);
    assert_eq!(before, [1, 1]);
    for remounted in [false, true] {
        if remounted {
            rig.mount.restart();
        }
        // install(1) removes the old file before it copies, which nobody may do here: it fails, truthfully.
        for copier in copiers::all(&rig.world)
            .iter()
            .filter(|copier| copier.name != "install")
        {
            for source in &sources {
                let output = copier.copy(rig.user(), &source.path, &rig.target(&source.name));
                assert!(
                    output.status.success(),
                    "{} {}: {}",
                    copier.name,
                    source.name,
                    said(&output)
                );
            }
        }
        assert_eq!(counts(&rig), before, "remounted: {remounted}");
    }
    sources.iter().for_each(|source| rig.assert_archived(source));
    assert!(rig.mount.status()["repeated_files"].as_u64() > Some(0));
}

/// W4: "other content fails with EEXIST and leaves the old object untouched".
#[test]
fn w4_other_content_is_refused_and_the_old_object_stays() {
    for rig in Rig::every_kind() {
        let (old, new) = (rig.segment(1, 1), rig.segment(1, 2));
        rig.archive(&old);
        let object = rig.object(&old.name);
        for copier in copiers::all(&rig.world) {
            let output = copier.copy(rig.user(), &new.path, &rig.target(&new.name));
            assert!(
                !output.status.success(),
                "{} replaced an archived file",
                copier.name
            );
            assert!(
                rig.object(&old.name) == object,
                "{} changed the object",
                copier.name
            );
        }
        let message = rig.refuse(&new);
        assert!(message.contains("File exists"), "{message}");
        rig.assert_logged(&[&old.name, "already archived", "different content", "HINT"]);
        rig.assert_last_error(&[&old.name, "different content"]);
        rig.assert_archived(&old);
        if let super::rig::Place::S3(_) = rig.place {
            assert_eq!(rig.uploads(&old.name), 1);
        }
    }
}

/// W4, for the small files too: "a server restored without a new timeline".
#[test]
fn w4_another_history_of_the_same_timeline_is_refused() {
    let rig = Rig::local();
    let old = rig.history(1);
    rig.archive(&old);
    let new = rig.source(&old.name, crate::common::wal::history(1, "0/4000000"));
    let message = rig.refuse(&new);
    assert!(message.contains("File exists"), "{message}");
    rig.assert_archived(&old);
}

/// W4: "An archived file never changes." B7: "`rm`, `mv`, writing ... fail with EPERM/EROFS".
#[test]
fn w4_an_archived_file_cannot_be_changed() {
    for rig in Rig::both_kinds() {
        let source = rig.segment(1, 1);
        rig.archive(&source);
        let object = rig.object(&source.name);
        let other = rig.target(&rig.segment(2, 2).name);
        for line in [
            r#"rm "$1""#,
            r#"rm -f "$1""#,
            r#"mv "$1" "$2""#,
            r#"mv "$1" "$2.tmp""#,
            r#"truncate -s 0 "$1""#,
            r#"truncate -s 4096 "$1""#,
            r#"echo x >> "$1""#,
            r#"echo x | dd of="$1" conv=notrunc status=none"#,
            r#"echo x > "$1""#,
            r#": > "$1""#,
            r#"ln "$1" "$2""#,
            r#"ln -s x "$2""#,
            r#"mkdir "$2""#,
            r#"mkdir "$2.d""#,
            r#"rmdir "$(dirname "$1")""#,
        ] {
            let output = rig.user().shell(line, &[&rig.target(&source.name), &other]);
            // A redirection to a shell's own command ends with a close that no shell looks at, and two bytes say
            // nothing of the rest.
            if !line.contains(" > ") {
                assert!(!output.status.success(), "{line} succeeded");
            }
            assert!(rig.object(&source.name) == object, "{line} changed the object");
        }
        rig.assert_archived(&source);
        assert_eq!(rig.mount.list(), std::slice::from_ref(&source.name));
        let denied = rig.user().shell(r#"rm "$1""#, &[&rig.target(&source.name)]);
        assert!(
            said(&denied).contains("Operation not permitted"),
            "{}",
            said(&denied)
        );
    }
}

/// W1, W4: an answer that is lost on the way: the object is there, the retry meets it, the contents decide.
#[test]
fn w4_a_lost_answer_is_no_conflict() {
    let rig = Rig::s3(&[]);
    for (source, number) in [rig.segment(1, 1), rig.history(1)].iter().zip(1..) {
        let lose = Rule::new(Action::LoseAnswer)
            .operation(Operation::Put)
            .key(&source.name);
        let rule = rig.server().add_rule(lose.times(number));
        rig.archive(source);
        assert_eq!(rig.server().remove_rule(rule), number);
    }
    rig.mount.assert_status("/failed_files", 0);
}

/// W4: "put-if-absent in the store where it has it, checked at start and said aloud where it has not".
#[test]
fn w4_a_store_without_conditions_is_named_and_still_looked_at() {
    let server = S3Server::start();
    server.ignore_conditions(true);
    let mut rig = Rig::on_server(server, &[]);
    for _ in 0..2 {
        rig.mount.wait_for_log("ignores conditional writes");
        rig.assert_logged(&["WARN", "If-None-Match", "HINT"]);
        rig.mount.assert_status("/put_if_absent", false);
        let (old, new) = (rig.segment(1, 1), rig.segment(1, 2));
        rig.archive(&old);
        let message = rig.refuse(&new);
        assert!(message.contains("File exists"), "{message}");
        rig.assert_archived(&old);
        assert_eq!(rig.uploads(&old.name), 1);
        std::fs::write(rig.world.path().join("walfs.log"), "").expect("empty the log");
        rig.mount.restart();
    }
}

/// W4 on such a store: within one mount two writers of one name are judged all the same.
#[test]
fn w4_two_writers_of_one_mount_are_judged_without_conditions() {
    let server = S3Server::start();
    server.ignore_conditions(true);
    let rig = Rig::on_server(server, &[]);
    for number in 1..=10 {
        let (one, two) = (rig.segment(number, 1), rig.segment(number, 2));
        let half = SMALL / 2;
        let (first, second) = (format!("write:0:{half}"), format!("write:{half}:{half}"));
        let calls = [first.as_str(), "wait", second.as_str(), "close"];
        let writers = [rig.writer(&one, &calls).waits(), rig.writer(&two, &calls).waits()];
        let going = writers.map(super::rig::Writer::go_on);
        let ended = going.map(|writer| writer.ended().status.success());
        assert!(ended[0] != ended[1], "{ended:?}");
        rig.assert_archived(if ended[0] { &one } else { &two });
        assert_eq!(rig.uploads(&one.name), 1);
    }
}

/// W4 there: a writer whose look is answered while another's upload is under way has seen nothing of it.
#[test]
fn w4_a_look_during_an_upload_is_out_of_date_without_conditions() {
    let server = S3Server::start();
    server.ignore_conditions(true);
    let rig = Rig::on_server(server, &[]);
    rig.archive(&rig.segment(100, 9));
    let (one, two) = (rig.segment(1, 1), rig.segment(1, 2));
    let of = |operation| move |request: &Logged| request.operation == operation;
    let slow = Rule::new(Action::Delay(Duration::from_millis(1500))).operation(Operation::Put);
    rig.server().add_rule(slow.key(&one.name));
    rig.server().clear_requests();
    let mut first = rig.start_cp(&one);
    rig.server().wait_for(1, of(Operation::Put));
    rig.server().wait_for(1, of(Operation::Get));
    thread::sleep(Duration::from_millis(300));
    let mut second = rig.start_cp(&two);
    assert!(wait::for_exit("the first cp to end", &mut first).success());
    assert!(!wait::for_exit("the second cp to end", &mut second).success());
    rig.assert_archived(&one);
    assert_eq!(rig.uploads(&one.name), 1);
}

/// W4: "(... `archive_mode=always` archives twice)": at the same moment.
#[test]
fn w4_the_same_by_two_at_once_succeeds_for_both() {
    let rig = Rig::s3(&[]);
    for number in 1..=5 {
        let source = rig.segment(number, number);
        let mut copies = [rig.start_cp(&source), rig.start_cp(&source)];
        for copy in &mut copies {
            assert!(wait::for_exit("cp to end", copy).success());
        }
        rig.assert_archived(&source);
    }
}
