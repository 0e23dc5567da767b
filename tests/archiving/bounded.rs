//! Nobody waits for ever, and nobody waits for somebody else.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::rig::{Place, Rig, SMALL, Source};
use crate::common::s3::{Action, Logged, Operation, Rule};
use crate::common::user::said;
use crate::common::walfs::Options;
use crate::common::world::{World, detach};
use crate::common::{wait, wal};

/// The upload of this file.
fn upload_of(name: &str) -> impl Fn(&Logged) -> bool {
    move |request: &Logged| request.operation == Operation::Put && request.key.contains(name)
}

fn is_running(child: &mut Child) -> bool {
    child.try_wait().expect("look after a child").is_none()
}

/// W7: "Any request that waits for the store has one total deadline (..., retries and queueing included), then the
/// error is EIO and the archiver tries again."
#[test]
fn w7_a_silent_store_is_an_error_within_the_deadline() {
    let rig = Rig::s3(&["--deadline", "2s"]);
    rig.archive(&rig.segment(1, 1));
    let source = rig.segment(2, 2);
    rig.server().blackhole(true);
    let began = Instant::now();
    let message = rig.refuse(&source);
    // A bound, not a measure: without a deadline this would not come back at all.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(message.contains("Input/output error"), "{message}");
    rig.server().blackhole(false);
    rig.assert_absent(&source.name);
    rig.archive(&source);
}

/// W7, in the middle of a file: its upload is what meets the silence.
#[test]
fn w7_an_upload_without_an_answer_is_an_error_within_the_deadline() {
    let rig = Rig::s3(&["--deadline", "2s"]);
    let (source, history) = (rig.segment(1, 1), rig.history(1));
    for source in [&source, &history] {
        rig.server().add_rule(
            Rule::new(Action::Hang)
                .operation(Operation::Put)
                .key(&source.name),
        );
        let began = Instant::now();
        let message = rig.refuse(source);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(message.contains("Input/output error"), "{message}");
        rig.assert_last_error(&[&source.name]);
        rig.assert_logged(&[&source.name]);
    }
    rig.server().clear_rules();
    rig.assert_absent(&source.name);
    rig.archive(&source);
    rig.archive(&history);
}

/// W7: what fails now and then within the deadline is no error.
#[test]
fn w7_short_faults_are_ridden_out() {
    let rig = Rig::s3(&[]);
    let faults = [
        Action::slow_down(),
        Action::internal_error(),
        Action::Reset,
        Action::html_404(),
        Action::CutBody(10),
        Action::Delay(Duration::from_millis(300)),
    ];
    for (fault, number) in faults.into_iter().zip(1..) {
        let source = rig.segment(number, number);
        let rule = rig.server().add_rule(Rule::new(fault).times(2));
        rig.archive(&source);
        rig.server().remove_rule(rule);
    }
    rig.mount.assert_status("/failed_files", 0);
}

/// 2 of the tasks of a mount: "SIGTERM finishes what is in flight (within the deadline), then unmounts."
#[test]
fn w7_sigterm_finishes_a_cp_that_is_in_flight() {
    let mut rig = Rig::s3(&[]);
    let source = rig.segment(1, 1);
    let hang = Rule::new(Action::Hang)
        .operation(Operation::Put)
        .key(&source.name);
    rig.server().add_rule(hang);
    let mut cp = rig.start_cp(&source);
    rig.server().wait_for(1, upload_of(&source.name));
    crate::common::postgres::send(rig.mount.process(), libc::SIGTERM);
    rig.mount.wait_for_log("finishing what is in flight");
    assert!(
        is_running(&mut cp) && rig.mount.is_running(),
        "it did not wait for the store"
    );
    rig.server().clear_rules();
    assert!(wait::for_exit("cp to end", &mut cp).success());
    wait::until("walfs to end", || (!rig.mount.is_running()).then_some(()));
    assert!(rig.stored(&source.name).as_ref() == Some(&source.content));
    assert!(crate::common::world::mounts_beneath(&rig.world.mountpoint()).is_empty());
    rig.mount.restart();
    rig.assert_archived(&source);
}

/// A `cp` whose upload hangs, for as long as a test wants.
fn hanging_cp(rig: &Rig, source: &Source) -> Child {
    rig.server().add_rule(
        Rule::new(Action::Hang)
            .operation(Operation::Put)
            .key(&source.name),
    );
    let cp = rig.start_cp(source);
    rig.server().wait_for(1, upload_of(&source.name));
    cp
}

/// S4: "One slow request never blocks another: lookups and listings never wait behind uploads."
#[test]
fn s4_nothing_waits_behind_an_upload() {
    let rig = Rig::s3(&["--deadline", "120s"]);
    let first = rig.segment(1, 1);
    rig.archive(&first);
    let (stuck, next) = (rig.segment(2, 2), rig.segment(3, 3));
    let mut cp = hanging_cp(&rig, &stuck);
    assert!(rig.mount.list().contains(&first.name));
    rig.archive(&next);
    rig.assert_absent(&stuck.name);
    assert!(rig.mount.read(&first.name).as_ref() == Ok(&first.content));
    assert_eq!(rig.mount.status()["open_writes"], 1);
    let stat = rig.user().shell(
        r#"stat "$1" && test ! -e "$2""#,
        &[&rig.target(&next.name), &rig.target(&rig.segment(9, 9).name)],
    );
    assert!(stat.status.success(), "{}", said(&stat));
    assert!(
        is_running(&mut cp),
        "the cp that hangs is not the one that was meant to"
    );
    rig.server().clear_rules();
    assert!(wait::for_exit("the slow cp to end", &mut cp).success());
    rig.assert_archived(&stuck);
}

/// S4, with many of them: the uploads of a dozen files hang, and one more is archived.
#[test]
fn s4_a_dozen_stuck_uploads_do_not_stop_the_next() {
    let rig = Rig::s3(&["--deadline", "120s"]);
    let stuck: Vec<Source> = (1..=12).map(|number| rig.segment(number, number)).collect();
    // The first ties the archive to its cluster.
    rig.archive(&rig.segment(50, 50));
    let mut copies: Vec<Child> = stuck.iter().map(|source| hanging_cp(&rig, source)).collect();
    rig.archive(&rig.segment(51, 51));
    assert!(copies.iter_mut().all(is_running));
    rig.server().clear_rules();
    for copy in &mut copies {
        assert!(wait::for_exit("a slow cp to end", copy).success());
    }
    stuck.iter().for_each(|source| rig.assert_archived(source));
}

/// S4: "a directory listing in progress never delays an archiving `cp`".
#[test]
fn s4_a_listing_in_progress_does_not_delay_a_cp() {
    let rig = Rig::s3(&["--deadline", "120s"]);
    rig.archive(&rig.segment(1, 1));
    rig.server()
        .add_rule(Rule::new(Action::Hang).operation(Operation::List));
    let mut ls = rig.user().command("ls");
    let mut ls = ls
        .arg(rig.mount.wal())
        .stdout(Stdio::null())
        .spawn()
        .expect("run ls");
    rig.server()
        .wait_for(1, |request| request.operation == Operation::List);
    let source = rig.segment(2, 2);
    let output = rig.cp(&source);
    assert!(output.status.success(), "{}", said(&output));
    assert!(is_running(&mut ls), "ls did not wait for its answer");
    rig.server().clear_rules();
    assert!(wait::for_exit("ls to end", &mut ls).success());
    rig.assert_archived(&source);
}

/// Objects that are only listed.
fn add_segments(rig: &Rig, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let name = wal::segment_name(1, number, SMALL);
        rig.server().put_object(&format!("cluster/wal/{name}.lz4"), [0]);
    }
}

/// S4, in the middle of a listing: its first names are out, and the next page does not come.
#[test]
fn s4_a_listing_that_is_stuck_does_not_delay_a_cp() {
    let rig = Rig::s3(&["--deadline", "120s"]);
    rig.archive(&rig.segment(1, 1));
    // Behind the first segment walfs looks whether another timeline goes on from this one.
    rig.server().wait_for(1, |request| {
        request.operation == Operation::List && request.query.contains("00000001~")
    });
    add_segments(&rig, 2..1501);
    rig.server().add_rule(
        Rule::new(Action::Hang)
            .operation(Operation::List)
            .key("wal/")
            .after(1),
    );
    let mut ls = rig.user().command("ls");
    let mut ls = ls
        .arg("-f")
        .arg(rig.mount.wal())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run ls");
    let mut lines = BufReader::new(ls.stdout.take().expect("a pipe")).lines();
    // What `ls` prints comes a buffer at a time: the first page is being read.
    let mut seen: Vec<String> = lines.by_ref().take(100).map(Result::unwrap).collect();
    let source = rig.segment(2000, 2);
    let output = rig.cp(&source);
    assert!(output.status.success(), "{}", said(&output));
    assert!(is_running(&mut ls), "ls did not wait for the second page");
    rig.server().clear_rules();
    seen.extend(lines.map(Result::unwrap));
    assert!(wait::for_exit("ls to end", &mut ls).success());
    let expected = (1..1501).map(|number| wal::segment_name(1, number, SMALL));
    seen.retain(|name| !name.starts_with('.') && *name != source.name);
    assert!(seen.iter().cloned().eq(expected), "{} names", seen.len());
    rig.assert_archived(&source);
}

/// A listing is complete or an error: whichever page is refused, `ls` fails.
#[test]
fn a_page_that_is_refused_fails_ls() {
    let rig = Rig::s3(&[]);
    rig.archive(&rig.segment(1, 1));
    add_segments(&rig, 2..2501);
    for page in 1..=3 {
        let denied = Rule::new(Action::error(403, "AccessDenied"));
        let rule = rig.server().add_rule(denied.operation(Operation::List).nth(page));
        let ls = rig.user().shell(r#"ls -f "$1""#, &[&rig.mount.wal()]);
        assert!(!ls.status.success(), "page {page}: {}", ls.stdout.len());
        assert_eq!(rig.server().remove_rule(rule), 1, "page {page}");
    }
    assert_eq!(rig.mount.list().len(), 2500);
}

/// W7: "one total deadline" a copy, whatever its tool asks before it writes, and for whoever writes: a copier that looks
/// at its target again and again, and one that the daemon may not look into.
#[test]
fn w7_a_copy_has_one_deadline_whoever_makes_it() {
    let rig = Rig::s3(&["--deadline", "6s", "--allow-other"]);
    rig.archive(&rig.segment(1, 1));
    let source = rig.segment(2, 2);
    rig.server().blackhole(true);
    let began = Instant::now();
    let copy2 = "import shutil, sys; shutil.copy2(sys.argv[1], sys.argv[2])";
    let line = format!("/usr/bin/python3 -c '{copy2}' \"$1\" \"$2\"");
    let output = rig
        .user()
        .shell(&line, &[&source.path, &rig.target(&source.name)]);
    assert!(said(&output).contains("Input/output error"), "{}", said(&output));
    // A bound, not a measure: each of its questions used to have the whole deadline, 24 s in all.
    assert!(began.elapsed() < Duration::from_secs(17), "{:?}", began.elapsed());
    let mut cp = std::process::Command::new("cp");
    cp.args([&source.path, &rig.target(&source.name)])
        .stderr(Stdio::null());
    let mut cp = cp.spawn().expect("run cp as root");
    assert!(!wait::for_exit("root's cp to end", &mut cp).success());
    rig.server().blackhole(false);
    rig.assert_absent(&source.name);
    rig.archive(&source);
}

/// S1, O1: "Disk full" is said as what it is, by `cp` too.
#[test]
fn s1_a_full_disk_of_a_local_archive_is_no_space_left() {
    let world = World::new("full");
    let disk = Disk::of(&world, "size=3m");
    let mount = Options::local(&world).mount();
    let rig = Rig {
        mount,
        place: Place::Local,
        world,
    };
    let refused = (1..10).find_map(|number| {
        let source = rig.segment(number, number);
        let output = rig.cp(&source);
        (!output.status.success()).then(|| (source, said(&output)))
    });
    let (source, message) = refused.expect("the disk is never full");
    assert!(message.contains("No space left on device"), "{message}");
    rig.assert_absent(&source.name);
    rig.assert_last_error(&["No space left on device", "HINT: make room"]);
    disk.change("size=30m");
    rig.archive(&source);
    let Rig { mount, world, .. } = rig;
    drop((mount, disk, world));
}

/// A small file system for the archive, taken away at the end.
struct Disk(std::path::PathBuf);

impl Disk {
    fn of(world: &World, options: &str) -> Disk {
        let disk = Disk(world.owned_dir("archive"));
        let user = crate::common::user::User::postgres();
        disk.mount(&format!("{options},mode=0700,uid={},gid={}", user.uid, user.gid));
        disk
    }

    fn change(&self, options: &str) {
        self.mount(&format!("remount,{options}"));
    }

    fn mount(&self, options: &str) {
        let mut mount = std::process::Command::new("mount");
        let mounted = mount
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&self.0)
            .status();
        assert!(mounted.expect("run mount").success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        detach(&self.0);
    }
}
