//! Working ahead (promise W8): segments that wait in `pg_wal` are sent before their `cp` comes, and what is told to
//! `cp` is true all the same.
//!
//! Most tests make a `pg_wal` of their own, to break it; with a real server in [`server`].

mod server;

use std::fs;
use std::path::{Path, PathBuf};

use super::rig::{CLUSTER, Rig, SMALL, Source, s3_options};
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::said;
use crate::common::wait;
use crate::common::wal;
use crate::common::world::World;

/// A directory that looks like a server's, and a mount that archives from it.
struct Waiting {
    rig: Rig,
    pg_wal: PathBuf,
}

impl Waiting {
    /// The segments 1 to `segments`, all marked; the first is archived, so that the archive has its cluster.
    #[track_caller]
    fn new(segments: u64, arguments: &[&str]) -> Self {
        let world = World::new("ahead");
        let pg_wal = make_pg_wal(&world, "pg_wal");
        let server = S3Server::start();
        let mount = s3_options(&world, &server).args(arguments).mount();
        let place = super::rig::Place::S3(server);
        let waiting = Self {
            rig: Rig { mount, place, world },
            pg_wal,
        };
        let first = waiting.segment(1);
        waiting.rig.archive(&first);
        waiting.done(&first);
        (2..=segments).for_each(|number| drop(waiting.segment(number)));
        waiting
    }

    /// Segment `number`, finished and marked.
    fn segment(&self, number: u64) -> Source {
        let name = wal::segment_name(1, number, SMALL);
        self.ready(&name, wal::segment(&name, CLUSTER, SMALL, number))
    }

    fn ready(&self, name: &str, content: Vec<u8>) -> Source {
        put_ready(&self.rig, &self.pg_wal, name, content)
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.pg_wal.join(format!("archive_status/{name}.ready"))
    }

    /// What PostgreSQL does once it has heard that a segment is archived.
    fn done(&self, source: &Source) {
        let mark = self.mark(&source.name);
        fs::rename(&mark, mark.with_extension("done")).expect("mark it done");
    }

    /// What lies in `pg_wal` as segment `number`.
    fn source(&self, number: u64) -> Source {
        let name = wal::segment_name(1, number, SMALL);
        let path = self.pg_wal.join(&name);
        let content = fs::read(&path).expect("read a segment");
        Source { name, path, content }
    }

    /// As the archiver: brings it, hears that it is archived, marks it done.
    #[track_caller]
    fn bring(&self, number: u64) {
        let source = self.source(number);
        self.rig.archive(&source);
        self.done(&source);
    }

    /// Waits until this segment is in the store.
    #[track_caller]
    fn wait_stored(&self, number: u64) {
        let name = wal::segment_name(1, number, SMALL);
        wait::until("a segment to be sent ahead", || self.rig.object(&name).map(drop));
        // The daemon has heard of it, too.
        wait::until("walfs to count it", || {
            (self.rig.mount.status()["sent_ahead"].as_u64() >= Some(1)).then_some(())
        });
    }

    fn requests(&self, operation: Operation, number: u64) -> usize {
        let name = wal::segment_name(1, number, SMALL);
        self.rig
            .server()
            .count(|request| request.operation == operation && request.key.contains(&name))
    }
}

pub(super) fn make_pg_wal(world: &World, name: &str) -> PathBuf {
    let pg_wal = world.owned_dir(name);
    world.owned_dir(&format!("{name}/archive_status"));
    pg_wal
}

pub(super) fn put_ready(rig: &Rig, pg_wal: &Path, name: &str, content: Vec<u8>) -> Source {
    let path = pg_wal.join(name);
    fs::write(&path, &content).expect("write a segment");
    rig.user().own(&path);
    fs::write(pg_wal.join(format!("archive_status/{name}.ready")), "").expect("mark it ready");
    Source {
        name: name.to_owned(),
        path,
        content,
    }
}

fn is_open_put(request: &Logged) -> bool {
    request.operation == Operation::Put && request.status.is_none() && request.key.contains("/wal/")
}

/// W8: "segments with a `.ready` mark are compressed and uploaded side by side; the later `cp` of each is compared [...]
/// and answered at once." One look and one put for each, and when its `cp` comes one look at most: is it still there?
#[test]
fn w8_what_was_sent_ahead_costs_its_cp_a_look_at_most() {
    let waiting = Waiting::new(12, &[]);
    let delay = Action::Delay(std::time::Duration::from_millis(300));
    let rule = waiting
        .rig
        .server()
        .add_rule(Rule::new(delay).operation(Operation::Put));
    let second = waiting.source(2);
    let mut cp = waiting.rig.start_cp(&second);
    // Its own, and two ahead of it.
    waiting.rig.server().wait_for(3, is_open_put);
    assert!(wait::for_exit("cp to end", &mut cp).success());
    waiting.done(&second);
    waiting.rig.server().remove_rule(rule);
    for number in 3..=12 {
        waiting.bring(number);
    }
    for number in 3..=12 {
        assert_eq!(waiting.requests(Operation::Put, number), 1, "segment {number}");
        let looks = waiting.requests(Operation::Get, number);
        assert!((1..=2).contains(&looks), "{looks} looks for segment {number}");
    }
    waiting.rig.mount.assert_status("/archived_files", 12);
    waiting.rig.mount.assert_status("/failed_files", 0);
    assert!(waiting.rig.mount.status()["sent_ahead"].as_u64() >= Some(5));
}

/// W8: a `cp` whose segment is on its way waits for it.
#[test]
fn w8_what_is_on_its_way_is_not_sent_twice() {
    let waiting = Waiting::new(3, &[]);
    let slow = Rule::new(Action::Delay(std::time::Duration::from_secs(2)));
    let name = waiting.source(3).name;
    waiting
        .rig
        .server()
        .add_rule(slow.operation(Operation::Put).key(&name));
    waiting.bring(2);
    waiting
        .rig
        .server()
        .wait_for(1, |request| is_open_put(request) && request.key.contains(&name));
    waiting.bring(3);
    assert_eq!(waiting.requests(Operation::Put, 3), 1);
}

/// W1: "acknowledged only when the store has the whole object": what was sent ahead and has gone since, or is another
/// one now, is not acknowledged for having been there.
#[test]
fn w1_what_was_sent_ahead_and_is_gone_is_sent_again() {
    let waiting = Waiting::new(5, &[]);
    let server = waiting.rig.server();
    let key = |number| format!("cluster/wal/{}.lz4", wal::segment_name(1, number, SMALL));
    let wait_sent = |count| {
        wait::until("segments to be sent ahead", || {
            (waiting.rig.mount.status()["sent_ahead"].as_u64() >= Some(count)).then_some(())
        });
    };
    waiting.bring(2);
    wait_sent(2);
    server.remove(&key(3));
    waiting.bring(3);
    // Another one is there now.
    let other = server.object(&key(3)).expect("it was sent again");
    server.put_object(&key(4), other.clone());
    waiting.rig.refuse(&waiting.source(4));
    assert!(server.object(&key(4)) == Some(other));
    // By its last name, too: a rename says no more than a copy.
    wait_sent(3);
    server.remove(&key(5));
    let source = waiting.source(5);
    let line = r#"cp "$1" "$2.tmp" && mv "$2.tmp" "$2""#;
    let to = waiting.rig.target(&source.name);
    let output = waiting.rig.user().shell(line, &[&source.path, &to]);
    assert!(output.status.success(), "{}", said(&output));
    waiting.rig.assert_archived(&source);
}

/// W8: "Acknowledged is only what `cp` itself has brought": other bytes than those sent ahead are refused.
#[test]
fn w8_another_content_than_was_sent_is_refused() {
    let waiting = Waiting::new(3, &[]);
    waiting.bring(2);
    waiting.wait_stored(3);
    let sent = waiting.source(3);
    let other = waiting.ready(&sent.name, wal::segment(&sent.name, CLUSTER, SMALL, 99));
    let message = waiting.rig.refuse(&other);
    assert!(message.contains("File exists"), "{message}");
    waiting
        .rig
        .assert_logged(&[&sent.name, "already archived", "different content"]);
    waiting.rig.assert_archived(&sent);
}

/// W8, W4: of two servers that have parted, one is refused at the first segment in which they differ. What it has behind
/// that one must not come into the archive: it would follow the other's WAL.
#[test]
fn w8_behind_a_refused_segment_nothing_is_stored() {
    let waiting = Waiting::new(6, &[]);
    let name = waiting.source(3).name;
    let others = wal::segment(&name, CLUSTER, SMALL, 99);
    let (object, _) = walfs::codec::pack_all(walfs::codec::Compression::default(), &others);
    let server = waiting.rig.server();
    server.put_object(&format!("cluster/wal/{name}.lz4"), object.to_vec());
    waiting.bring(2);
    for _ in 0..2 {
        let message = waiting.rig.refuse(&waiting.source(3));
        assert!(message.contains("File exists"), "{message}");
    }
    for number in 4..=6 {
        let name = waiting.source(number).name;
        assert!(waiting.rig.object(&name).is_none(), "{name} is stored");
    }
    waiting.rig.mount.assert_status("/sent_ahead", 0);
}

/// W8, W4: the same for two servers that archive through one mount, in turns.
#[test]
fn w8_two_servers_through_one_mount_are_not_mixed() {
    let waiting = Waiting::new(2, &[]);
    waiting.bring(2);
    let other = make_pg_wal(&waiting.rig.world, "other");
    let others: Vec<Source> = (3..=8)
        .map(|number| of_another(&waiting, &other, number))
        .collect();
    waiting.segment(3);
    waiting.bring(3);
    waiting.rig.refuse(&others[0]);
    for number in 4..=5 {
        waiting.segment(number);
        waiting.bring(number);
        waiting.rig.assert_archived(&waiting.source(number));
    }
    waiting.rig.refuse(&others[2]);
    for source in &others[3..] {
        assert!(
            waiting.rig.object(&source.name).is_none(),
            "{} is stored",
            source.name
        );
    }
}

/// W8, W4: and when both bring the same segment at once, one is accepted. The other one has nothing behind it stored.
#[test]
fn w8_of_two_servers_that_bring_one_name_at_once_one_goes_on() {
    let waiting = Waiting::new(3, &[]);
    waiting.bring(2);
    let other = make_pg_wal(&waiting.rig.world, "other");
    let others: Vec<Source> = (3..=6)
        .map(|number| of_another(&waiting, &other, number))
        .collect();
    waiting.wait_stored(3);
    fs::remove_file(waiting.mark(&waiting.source(3).name)).expect("remove a mark");
    let third = waiting.segment(4);
    let server = waiting.rig.server();
    let puts = |action| Rule::new(action).operation(Operation::Put).key(&third.name);
    // The first one reaches the store first: the other one's put waits until the first is answered.
    server.add_rule(puts(Action::Delay(std::time::Duration::from_secs(2))).times(1));
    let second = server.add_rule(puts(Action::Hang));
    let mut cp = waiting.rig.start_cp(&third);
    server.wait_for(1, |request| {
        is_open_put(request) && request.key.contains(&third.name)
    });
    let mut others_cp = waiting.rig.start_cp(&others[1]);
    assert!(wait::for_exit("cp to end", &mut cp).success());
    server.remove_rule(second);
    assert!(!wait::for_exit("the other cp to end", &mut others_cp).success());
    waiting.rig.refuse(&others[1]);
    waiting.rig.assert_archived(&third);
    for source in &others[2..] {
        let name = &source.name;
        assert!(waiting.rig.object(name).is_none(), "{name} is stored");
    }
}

/// W8, W4: a server that takes another one's place, with an older state of it that went on alone, under a mount that stays.
/// What was sent ahead of the old one is no leave for the new one's segments behind it.
#[test]
fn w8_a_server_in_anothers_place_does_not_go_on_behind_it() {
    let waiting = Waiting::new(8, &[]);
    (2..=6).for_each(|number| waiting.bring(number));
    (7..=8).for_each(|number| waiting.wait_stored(number));
    fs::rename(&waiting.pg_wal, waiting.pg_wal.with_extension("old")).expect("rename a directory");
    let pg_wal = make_pg_wal(&waiting.rig.world, "pg_wal");
    let others: Vec<Source> = (4..=14)
        .map(|number| of_another(&waiting, &pg_wal, number))
        .collect();
    for _ in 0..3 {
        waiting.rig.refuse(&others[0]);
    }
    for source in &others[5..] {
        let name = &source.name;
        assert!(waiting.rig.object(name).is_none(), "{name} is stored");
    }
}

/// A segment of a server with another history.
fn of_another(waiting: &Waiting, pg_wal: &Path, number: u64) -> Source {
    let name = wal::segment_name(1, number, SMALL);
    let content = wal::segment(&name, CLUSTER, SMALL, 100 + number);
    put_ready(&waiting.rig, pg_wal, &name, content)
}

/// W3, W5: nothing is sent ahead that would be refused when it is brought, nor what is not a finished segment.
#[test]
fn w8_only_what_may_be_archived_is_sent() {
    let waiting = Waiting::new(2, &[]);
    let name = |number| wal::segment_name(1, number, SMALL);
    let whole = |number| wal::segment(&name(number), CLUSTER, SMALL, number);
    let foreign = waiting.ready(&name(3), wal::segment(&name(3), CLUSTER + 1, SMALL, 3));
    let half = waiting.ready(&name(4), whole(4)[..SMALL as usize / 2].to_vec());
    let misnamed = waiting.ready(&name(5), whole(6));
    let history = waiting.ready("00000002.history", wal::history(1, "0/3000000"));
    let unmarked = waiting.ready(&name(6), whole(6));
    fs::remove_file(waiting.mark(&unmarked.name)).expect("remove a mark");
    let lost = waiting.ready(&name(7), whole(7));
    fs::remove_file(&lost.path).expect("remove a segment");
    let last = waiting.segment(8);
    // Two are tried, and stay in the way of the others until their cp has come, and failed.
    waiting.bring(2);
    for source in [&foreign, &half, &misnamed] {
        waiting.rig.refuse(source);
    }
    waiting.rig.archive(&unmarked);
    waiting.rig.archive(&waiting.segment(7));
    waiting.wait_stored(8);
    for source in [&foreign, &half, &misnamed, &history] {
        assert!(
            waiting.rig.object(&source.name).is_none(),
            "{} is stored",
            source.name
        );
    }
    waiting.rig.archive(&last);
    assert_eq!(waiting.rig.uploads(&last.name), 1);
    waiting
        .rig
        .assert_logged(&["could not be sent ahead", "system identifier"]);
}

/// W5: a directory that is not the one the copier reads from, though it is of the same cluster: a copy that has gone
/// its own way.
#[test]
fn w8_another_servers_pg_wal_is_refused() {
    let world = World::new("ahead");
    let other = make_pg_wal(&world, "other");
    let pg_wal = make_pg_wal(&world, "pg_wal");
    let server = S3Server::start();
    let given = other.display().to_string();
    let mount = s3_options(&world, &server).args(&["--pg-wal", &given]).mount();
    let place = super::rig::Place::S3(server);
    let waiting = Waiting {
        rig: Rig { mount, place, world },
        pg_wal,
    };
    for number in 1..=4 {
        let source = waiting.segment(number);
        let its_own = wal::segment(&source.name, CLUSTER, SMALL, 100 + number);
        put_ready(&waiting.rig, &other, &source.name, its_own);
    }
    for number in 1..=4 {
        waiting.bring(number);
        assert_eq!(waiting.requests(Operation::Put, number), 1);
    }
    waiting.rig.mount.assert_status("/sent_ahead", 0);
    waiting.rig.assert_logged(&["WARN", &given, "HINT", "--pg-wal"]);
}

/// S1: errors ahead are nobody's: the `cp` does it by itself, or fails for what it met itself.
#[test]
fn w8_a_failure_ahead_is_not_the_copiers() {
    let waiting = Waiting::new(3, &["--deadline", "2s"]);
    let name = waiting.source(3).name;
    let denied = Rule::new(Action::error(403, "AccessDenied"))
        .operation(Operation::Put)
        .key(&name);
    let rule = waiting.rig.server().add_rule(denied);
    waiting.bring(2);
    waiting.rig.mount.wait_for_log("could not be sent ahead");
    waiting.rig.mount.assert_status("/failed_files", 0);
    waiting
        .rig
        .mount
        .assert_status("/last_error", serde_json::Value::Null);
    let message = waiting.rig.refuse(&waiting.source(3));
    assert!(
        message.contains("error") || message.contains("denied"),
        "{message}"
    );
    assert_eq!(waiting.rig.server().remove_rule(rule), 2);
    waiting.bring(3);
}

/// The command of PostgreSQL's manual must go on, although the file is there before it was brought. To everybody else
/// it is there.
#[test]
fn w8_a_command_that_asks_first_does_not_meet_what_was_sent() {
    let waiting = Waiting::new(3, &[]);
    waiting.bring(2);
    waiting.wait_stored(3);
    let source = waiting.source(3);
    assert!(waiting.rig.mount.read(&source.name).as_ref() == Ok(&source.content));
    let (from, to) = (source.path.display(), waiting.rig.target(&source.name));
    let line = format!("test ! -f {to} && cp {from} {to}", to = to.display());
    let output = waiting.rig.user().shell(&line, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let again = waiting.rig.user().shell(&line, &[]);
    assert!(!again.status.success(), "it is archived now");
}

/// W8, switched off.
#[test]
fn w8_nothing_is_sent_ahead_when_told_so() {
    let waiting = Waiting::new(4, &["--pg-wal", "off"]);
    for number in 2..=4 {
        waiting.bring(number);
    }
    waiting.rig.mount.assert_status("/sent_ahead", 0);
}

/// S3: "Memory stays under a bound", with segments that nothing makes smaller and a store that takes its time.
#[test]
fn s3_memory_stays_bounded_while_segments_are_sent_ahead() {
    let world = World::new("ahead");
    let pg_wal = make_pg_wal(&world, "pg_wal");
    let server = S3Server::start();
    let mount = s3_options(&world, &server).mount();
    let place = super::rig::Place::S3(server);
    let waiting = Waiting {
        rig: Rig { mount, place, world },
        pg_wal,
    };
    let sources: Vec<Source> = (1..=16)
        .map(|number| {
            let name = wal::segment_name(1, number, wal::SEGMENT_BYTES);
            let mut content = wal::segment(&name, CLUSTER, wal::SEGMENT_BYTES, number);
            fastrand::Rng::with_seed(number).fill(&mut content[40..]);
            waiting.ready(&name, content)
        })
        .collect();
    let delay = Action::Delay(std::time::Duration::from_millis(300));
    waiting
        .rig
        .server()
        .add_rule(Rule::new(delay).operation(Operation::Put));
    for source in &sources {
        waiting.rig.archive(source);
        waiting.done(source);
    }
    assert!(waiting.rig.mount.status()["sent_ahead"].as_u64() >= Some(8));
    let peak = waiting.rig.mount.peak_memory_mib();
    assert!(peak < 256, "{peak} MiB");
}
