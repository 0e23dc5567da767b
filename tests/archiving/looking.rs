//! Whether a name is free is asked while the file comes. With the answer not there yet when the file is, its upload
//! begins all the same, if it comes after one that was free, and nothing of it is stored before.

use std::process::Child;
use std::time::Duration;

use super::rig::{Rig, Source, cp_to};
use crate::common::s3::{Action, Logged, Operation, Rule, RuleId, S3Server};
use crate::common::user::said;
use crate::common::wait;

/// Stores with and without conditional writes.
fn rigs(arguments: &[&str]) -> [Rig; 2] {
    [false, true].map(|ignores| {
        let server = S3Server::start();
        server.ignore_conditions(ignores);
        Rig::on_server(server, arguments)
    })
}

/// The first segment is archived: nothing but the look is between the next one and its upload.
fn going_on(rig: &Rig) -> &Rig {
    rig.archive(&rig.segment(1, 9));
    rig
}

fn nothing_is_told_of(rig: &Rig, source: &Source) -> RuleId {
    let hang = Rule::new(Action::Hang)
        .operation(Operation::Get)
        .key(&source.name);
    rig.server().add_rule(hang)
}

fn is_put(request: &Logged) -> bool {
    request.operation == Operation::Put
}

/// A copy whose upload has begun, its look without an answer.
fn begun(rig: &Rig, source: &Source) -> Child {
    let copy = rig.start_cp(source);
    rig.server()
        .wait_for(1, |request| is_put(request) && request.key.contains(&source.name));
    assert_eq!(rig.uploads(&source.name), 0);
    copy
}

/// Archived through a second mount, about which nothing is counted.
fn archived_by_another(rig: &Rig, sources: &[&Source]) {
    let other = rig.second_mount();
    for source in sources {
        let copied = cp_to(&other, source).output().expect("run cp");
        assert!(copied.status.success(), "{}", said(&copied));
    }
    rig.server().clear_requests();
}

/// The look takes longer than the copy.
fn archives_slowly(rig: &Rig, source: &Source) {
    let slow = Rule::new(Action::Delay(Duration::from_millis(500))).operation(Operation::Get);
    let slow = rig.server().add_rule(slow.key(&source.name));
    rig.archive(source);
    assert!(rig.server().remove_rule(slow) > 0);
}

/// W1, W8: the upload of a segment is on its way while the look is, and ends after it.
#[test]
fn w1_an_upload_begins_before_the_look_has_ended() {
    for rig in rigs(&[]) {
        let source = going_on(&rig).segment(2, 1);
        let silence = nothing_is_told_of(&rig, &source);
        let mut copy = begun(&rig, &source);
        assert!(rig.object(&source.name).is_none());
        rig.server().remove_rule(silence);
        assert!(wait::for_exit("cp to end", &mut copy).success());
        rig.assert_archived(&source);
        assert_eq!(rig.uploads(&source.name), 1);
    }
}

/// W4: "other content fails with EEXIST and leaves the old object untouched", also where only the look can tell.
#[test]
fn w4_an_upload_that_has_begun_replaces_nothing() {
    for rig in rigs(&[]) {
        let (old, new) = (going_on(&rig).segment(2, 1), rig.segment(2, 2));
        archived_by_another(&rig, &[&old]);
        let object = rig.object(&old.name);
        let silence = nothing_is_told_of(&rig, &new);
        let mut copy = begun(&rig, &new);
        rig.server().remove_rule(silence);
        assert!(!wait::for_exit("cp to end", &mut copy).success());
        assert!(rig.object(&old.name) == object);
        assert_eq!(rig.uploads(&old.name), 0);
        rig.assert_last_error(&[&new.name, "different content"]);
    }
}

/// W4: the same again "succeeds without an upload", as after a crash. Not even the beginning of one.
#[test]
fn w4_what_this_mount_has_archived_is_looked_for_first() {
    for rig in rigs(&[]) {
        going_on(&rig);
        let again = rig.segment(2, 2);
        rig.archive(&again);
        rig.server().clear_requests();
        archives_slowly(&rig, &again);
        assert_eq!(rig.server().count(is_put), 0);
    }
}

/// W4, as where a standby archives too (`archive_mode=always`): one upload at most is begun in vain.
#[test]
fn w4_after_one_that_another_has_archived_the_look_comes_first() {
    for rig in rigs(&[]) {
        let sources = [going_on(&rig).segment(2, 2), rig.segment(3, 3)];
        archived_by_another(&rig, &sources.each_ref());
        let silence = nothing_is_told_of(&rig, &sources[0]);
        let mut copy = begun(&rig, &sources[0]);
        rig.server().remove_rule(silence);
        assert!(wait::for_exit("cp to end", &mut copy).success());
        archives_slowly(&rig, &sources[1]);
        assert_eq!(rig.server().count(is_put), 1, "that of the first one");
        assert!(sources.iter().all(|source| rig.uploads(&source.name) == 0));
    }
}

/// W1, W7: a look that is never answered ends in an error, and what was sent of the segment is not stored.
#[test]
fn w1_no_look_no_success() {
    for rig in rigs(&["--deadline", "2s"]) {
        let source = going_on(&rig).segment(2, 1);
        let silence = nothing_is_told_of(&rig, &source);
        let mut copy = begun(&rig, &source);
        assert!(!wait::for_exit("cp to end", &mut copy).success());
        assert!(rig.object(&source.name).is_none());
        rig.server().remove_rule(silence);
        rig.archive(&source);
        rig.assert_archived(&source);
    }
}
