//! Whether a name is free is asked while the file comes. With the answer not there yet when the file is, its upload
//! begins all the same, and nothing of it is stored before.

use std::process::Child;

use super::rig::{Rig, Source};
use crate::common::s3::{Action, Operation, Rule, RuleId, S3Server};
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

/// A copy whose upload has begun, its look without an answer.
fn begun(rig: &Rig, source: &Source) -> Child {
    let copy = rig.start_cp(source);
    let of_it = |request: &crate::common::s3::Logged| {
        request.operation == Operation::Put && request.key.contains(&source.name)
    };
    rig.server().wait_for(1, of_it);
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
        for (source, succeeds) in [(&new, false), (&old, true)] {
            let silence = nothing_is_told_of(&rig, source);
            let mut copy = begun(&rig, source);
            rig.server().remove_rule(silence);
            let ended = wait::for_exit("cp to end", &mut copy);
            assert_eq!(ended.success(), succeeds);
            assert_eq!(rig.uploads(&old.name), 0);
            assert!(rig.object(&old.name) == object);
            rig.server().clear_requests();
        }
        rig.assert_last_error(&[&new.name, "different content"]);
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
