//! A store that does not take what is brought: no copy tool may call that success, and nothing may be left of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::thread;

use super::rig::{Rig, Source};
use crate::common::copiers::{self, Copier};
use crate::common::s3::{Action, Operation, Rule};
use crate::common::wait;

/// One file for each tool and kind, whose numbers begin at `first`.
fn one_for_each(rig: &Rig, first: u32) -> Vec<Source> {
    let copiers = copiers::all(&rig.world).len() as u32;
    let segments = (first..first + copiers).map(|number| rig.segment(u64::from(number), 5));
    let histories = (first..first + copiers).map(|number| rig.history(number));
    segments.chain(histories).collect()
}

fn copier_fails(rig: &Rig, copier: &Copier, source: &Source) {
    let mut command = copier.command(rig.user(), &source.path, &rig.target(&source.name));
    let mut copy = command.stderr(Stdio::null()).spawn().expect("run a copier");
    let ended = wait::within(wait::LONG, || copy.try_wait().expect("wait for a copier"));
    if ended.is_none() {
        copy.kill().expect("kill a copier");
    }
    let (tool, name) = (copier.name, &source.name);
    assert!(
        ended.is_some_and(|status| !status.success()),
        "{tool} of {name}: {ended:?}"
    );
}

/// Brings a file by each tool, all at once; each must end, and fail.
fn every_copier_fails(rig: &Rig, first: u32) -> Vec<Source> {
    let sources = one_for_each(rig, first);
    let copiers = copiers::all(&rig.world);
    thread::scope(|scope| {
        for (copier, source) in copiers.iter().cycle().zip(&sources) {
            scope.spawn(|| copier_fails(rig, copier, source));
        }
    });
    sources
}

/// Brings a file by each tool, one after the other as an archiver does: with the store away, the kernel lets one
/// process at a time look for a name that it is going to create.
fn every_copier_fails_in_turn(rig: &Rig, first: u32) -> Vec<Source> {
    let sources = one_for_each(rig, first);
    let copiers = copiers::all(&rig.world);
    for (copier, source) in copiers.iter().cycle().zip(&sources) {
        copier_fails(rig, copier, source);
    }
    sources
}

/// The store is well again: nothing is there, and everything can be brought.
fn then_all_succeeds(rig: &Rig, sources: &[Source]) {
    for source in sources {
        rig.assert_absent(&source.name);
    }
    for source in sources {
        rig.archive(source);
    }
}

/// W2: "with the store refusing, all of them fail". W7: the error comes within the deadline.
#[test]
fn w2_every_copier_fails_when_s3_refuses() {
    let rig = Rig::s3(&["--deadline", "2s"]);
    // The first file ties the archive to its cluster; what follows meets the fault in its upload only.
    rig.archive(&rig.segment(1, 5));
    let faults = [
        Action::slow_down(),
        Action::internal_error(),
        Action::error(403, "AccessDenied"),
        Action::Reset,
        Action::html_404(),
    ];
    let mut sources = Vec::new();
    for (fault, number) in faults.into_iter().zip((1..).map(|round| round * 100)) {
        let rule = rig
            .server()
            .add_rule(Rule::new(fault).operation(Operation::Put).key("wal/"));
        sources.extend(every_copier_fails(&rig, number));
        assert!(rig.server().remove_rule(rule) > 0, "no upload was tried");
    }
    then_all_succeeds(&rig, &sources[..20]);
    for source in &sources {
        assert!(
            rig.object(&source.name).is_some() == sources[..20].iter().any(|one| one.name == source.name)
        );
    }
}

/// W2, and W1: "the store is not there" is no success either.
#[test]
fn w2_every_copier_fails_when_s3_is_gone() {
    let rig = Rig::s3(&["--deadline", "1s"]);
    rig.server().stop();
    let sources = every_copier_fails_in_turn(&rig, 1);
    rig.server().resume();
    then_all_succeeds(&rig, &sources);
}

/// W1: "checksum sent and checked by the server": bytes that change on the way are refused by the server, and nobody
/// is told success.
#[test]
fn w1_every_copier_fails_when_the_server_says_bad_digest() {
    let rig = Rig::s3(&["--deadline", "2s"]);
    let fault = Action::error(400, "BadDigest");
    rig.server()
        .add_rule(Rule::new(fault).operation(Operation::Put).key("wal/"));
    let sources = every_copier_fails(&rig, 1);
    rig.server().clear_rules();
    then_all_succeeds(&rig, &sources);
}

/// W2, for the local store: its directory is gone ("is its disk mounted?").
#[test]
fn w2_every_copier_fails_when_the_directory_is_gone() {
    let rig = Rig::local_within("1s");
    rig.archive(&rig.segment(1, 5));
    let (archive, away) = (rig.world.archive(), rig.world.path().join("away"));
    fs::rename(&archive, &away).expect("take the directory away");
    let sources = every_copier_fails_in_turn(&rig, 10);
    // A bare directory in its place is not the archive.
    rig.user().make_dir(&archive);
    let more = every_copier_fails_in_turn(&rig, 100);
    assert_eq!(
        fs::read_dir(&archive).expect("list").count(),
        0,
        "written to another directory"
    );
    fs::remove_dir(&archive).expect("remove the other directory");
    fs::rename(&away, &archive).expect("bring the directory back");
    then_all_succeeds(&rig, &sources);
    more.iter().for_each(|source| rig.assert_absent(&source.name));
}

/// W2, for the local store: its directory may not be written.
#[test]
fn w2_every_copier_fails_when_the_directory_is_not_writable() {
    let rig = Rig::local_within("2s");
    rig.archive(&rig.segment(1, 5));
    let mode = |mode| {
        let entries = fs::read_dir(rig.world.archive()).expect("list the archive");
        let inside = entries.map(|entry| entry.expect("list the archive").path());
        for dir in inside.filter(|path| path.is_dir()).chain([rig.world.archive()]) {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).expect("set a mode");
        }
    };
    mode(0o500);
    let sources = every_copier_fails(&rig, 10);
    mode(0o700);
    then_all_succeeds(&rig, &sources);
}

/// O1: "Errors name file, expectation, finding".
#[test]
fn o1_a_refusing_store_is_named_in_log_and_status() {
    let rig = Rig::s3(&["--deadline", "1s"]);
    let source = rig.segment(1, 1);
    let fault = Action::error(403, "AccessDenied");
    rig.server()
        .add_rule(Rule::new(fault).operation(Operation::Put).key("wal/"));
    let said = rig.refuse(&source);
    assert!(
        said.contains("Permission denied") || said.contains("Input/output error"),
        "{said}"
    );
    rig.assert_logged(&[&source.name, "AccessDenied"]);
    rig.assert_last_error(&[&source.name, "AccessDenied"]);
    assert!(rig.mount.status()["failed_files"].as_u64() >= Some(1));
    rig.server().clear_rules();
    let output = rig.cp(&source);
    assert!(output.status.success(), "{}", crate::common::user::said(&output));
}
