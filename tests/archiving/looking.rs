//! Whether a name is free is asked while the file comes. With the answer not there yet when the file is, its upload
//! begins all the same, and nothing of it is stored before.

use std::process::Child;
use std::time::Duration;

use super::rig::{Rig, Source};
use crate::common::s3::{Action, Logged, Operation, Rule, RuleId, S3Server};
use crate::common::wait;

/// Stores with and without conditional writes.
fn rigs(arguments: &[&str]) -> [Rig; 2] {
    [false, true].map(|ignores| {
        let server = S3Server::start();
        server.ignore_conditions(ignores);
        Rig::on_server(server, arguments)
    })
}

/// Ties the archive to its cluster, so that nothing but the look is between a segment and its upload.
fn tied(rig: &Rig) -> &Rig {
    rig.archive(&rig.segment(100, 9));
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

/// W1, W8: the upload of a segment is on its way while the look is, and ends after it.
#[test]
fn w1_an_upload_begins_before_the_look_has_ended() {
    for rig in rigs(&[]) {
        let source = tied(&rig).segment(1, 1);
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
    for mut rig in rigs(&[]) {
        let (old, new) = (rig.segment(1, 1), rig.segment(1, 2));
        rig.archive(&old);
        rig.mount.restart();
        rig.server().clear_requests();
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

/// W4: the same again "succeeds without an upload": from the second segment on that was archived already, as where a
/// standby archives too (`archive_mode=always`), not even the beginning of one.
#[test]
fn w4_after_one_that_was_archived_the_look_comes_first() {
    for mut rig in rigs(&[]) {
        let sources = [rig.segment(1, 1), rig.segment(2, 2)];
        sources.iter().for_each(|source| rig.archive(source));
        rig.mount.restart();
        rig.server().clear_requests();
        let silence = nothing_is_told_of(&rig, &sources[0]);
        let mut copy = begun(&rig, &sources[0]);
        rig.server().remove_rule(silence);
        assert!(wait::for_exit("cp to end", &mut copy).success());

        let slow = Rule::new(Action::Delay(Duration::from_millis(500))).operation(Operation::Get);
        rig.server().add_rule(slow.key(&sources[1].name));
        rig.archive(&sources[1]);
        assert_eq!(rig.server().count(is_put), 1, "that of the first one");
        assert!(sources.iter().all(|source| rig.uploads(&source.name) == 0));
    }
}

/// W1, W7: a look that is never answered ends in an error, and what was sent of the segment is not stored.
#[test]
fn w1_no_look_no_success() {
    for rig in rigs(&["--deadline", "2s"]) {
        let source = tied(&rig).segment(1, 1);
        let silence = nothing_is_told_of(&rig, &source);
        let mut copy = begun(&rig, &source);
        assert!(!wait::for_exit("cp to end", &mut copy).success());
        assert!(rig.object(&source.name).is_none());
        rig.server().remove_rule(silence);
        rig.archive(&source);
        rig.assert_archived(&source);
    }
}
