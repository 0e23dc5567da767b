//! R4: "Reading segment N starts N+1.. in the background, within a memory bound; a prefetched file is seen complete or not
//! at all; timeline switches and missing successors are no error."

use std::fs;

use super::{MIB, SYSTEM_ID, fetch, made, put, s3};
use crate::common::s3::{Action, Logged, Operation, Rule, S3Server};
use crate::common::user::said;
use crate::common::wait;
use crate::common::wal::{history, segment, segment_name};
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// Memory for plain and for stored bytes of segments, by the table in docs/design.md.
const CACHE_BYTES: u64 = 40 << 20;
const AHEAD_BYTES: u64 = 32 << 20;

/// An archive in S3, filled by a mount that is gone, so that nothing of it is in memory.
struct Archive {
    world: World,
    server: S3Server,
    options: Options,
}

impl Archive {
    fn with(name: &str, files: &[(&str, Vec<u8>)]) -> Self {
        let (world, server) = (World::new(name), S3Server::start());
        let options = s3(&world, &server);
        let mount = options.clone().mount();
        for (name, content) in files {
            put(&world, &mount, name, content);
        }
        drop(mount);
        server.clear_requests();
        Self {
            world,
            server,
            options,
        }
    }

    /// Segments of 1 MiB with these numbers, on timeline 1.
    fn of_segments(name: &str, numbers: impl Iterator<Item = u64>) -> (Self, Vec<String>) {
        let names: Vec<String> = numbers.map(|number| segment_name(1, number, MIB)).collect();
        let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), made(name))).collect();
        (Self::with(name, &files), names)
    }

    fn mount(&self) -> Mount {
        self.options.clone().mount()
    }

    #[track_caller]
    fn assert_read(&self, mount: &Mount, name: &str) {
        let read = fetch(&self.world, mount, name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == made(name), "{name}: wrong bytes");
    }

    #[track_caller]
    fn assert_absent(&self, mount: &Mount, name: &str) {
        let error = fetch(&self.world, mount, name).expect_err("it is not archived");
        assert!(error.contains("No such file"), "{name}: {error}");
    }

    fn object(&self, name: &str) -> Vec<u8> {
        let object = self.server.object(&key(name));
        object.expect("an archived object")
    }

    /// Requests about a file that were answered.
    fn answers(&self, name: &str) -> Vec<Logged> {
        let mut requests = self.server.requests();
        requests.retain(|request| request.key == key(name) && request.status.is_some());
        requests
    }

    #[track_caller]
    fn wait_until_asked(&self, name: &str) {
        self.server
            .wait_for(1, |request| request.key == key(name) && request.status.is_some());
    }

    /// Nobody heard of anything that went wrong.
    #[track_caller]
    fn assert_silent(&self, mount: &Mount, lines_before: usize) {
        let log = mount.log();
        let new: Vec<&str> = log.lines().skip(lines_before).collect();
        let loud = new
            .iter()
            .find(|line| line.contains("WARN") || line.contains("ERROR"));
        assert_eq!(loud, None, "{log}");
        mount.assert_status("/last_error", serde_json::Value::Null);
    }
}

fn key(name: &str) -> String {
    let extension = "lz4";
    format!("pg/main/wal/{name}.{extension}")
}

fn lines(mount: &Mount) -> usize {
    mount.log().lines().count()
}

/// Twenty segments in a row: twenty requests, the lookups included, and not one that asks only whether a file is there.
#[test]
fn r4_a_row_of_segments_costs_one_request_each() {
    let (archive, names) = Archive::of_segments("row", 1..=20);
    let mount = archive.mount();
    let before = lines(&mount);
    archive.server.clear_requests();
    names.iter().for_each(|name| archive.assert_read(&mount, name));
    for name in &names {
        let answers = archive.answers(name);
        assert_eq!(answers.len(), 1, "{name}: {answers:?}");
        assert_eq!(answers[0].operation, Operation::Get);
        assert_ne!(answers[0].range.as_deref(), Some("bytes=0-0"), "{name}");
    }
    archive.assert_silent(&mount, before);
    let status = mount.status();
    let count = |name: &str| status[name].as_u64().expect("a count");
    let hits = count("prefetch_hits");
    assert!((1..20).contains(&hits), "{status:#}");
    assert!((hits..40).contains(&count("prefetched_segments")), "{status:#}");
}

/// What is not there yet is no error, and found as soon as it is there.
#[test]
fn r4_a_missing_successor_is_no_error_and_not_remembered() {
    let (archive, names) = Archive::of_segments("successor", 1..=4);
    let late = archive.object(&names[3]);
    assert!(archive.server.remove(&key(&names[3])));
    let mount = archive.mount();
    let before = lines(&mount);
    names[..3]
        .iter()
        .for_each(|name| archive.assert_read(&mount, name));
    archive.wait_until_asked(&names[3]);
    archive.assert_absent(&mount, &names[3]);
    archive.server.put_object(&key(&names[3]), late);
    archive.assert_read(&mount, &names[3]);
    archive.assert_silent(&mount, before);
}

/// A gap in the archive ends a recovery; whoever goes on behind it gets what is there.
#[test]
fn r4_a_gap_is_no_error_but_for_who_asks_for_it() {
    let (archive, names) = Archive::of_segments("gap", (1..=5).chain(7..=9));
    let mount = archive.mount();
    let before = lines(&mount);
    names[..5]
        .iter()
        .for_each(|name| archive.assert_read(&mount, name));
    archive.assert_absent(&mount, &segment_name(1, 6, MIB));
    names[5..]
        .iter()
        .for_each(|name| archive.assert_read(&mount, name));
    for name in &names {
        assert_eq!(archive.answers(name).len(), 1, "{name}");
    }
    // The gap is named once (promise R6), for it was asked for; nothing else is said.
    let log = mount.log();
    let loud: Vec<&str> = log
        .lines()
        .skip(before)
        .filter(|line| line.contains("WARN"))
        .collect();
    let gap = segment_name(1, 6, MIB);
    assert!(
        loud.len() == 1 && loud[0].contains(&format!("{gap} is missing")),
        "{log}"
    );
}

/// Each segment's first request fails, which is the one that nobody waits for.
#[test]
fn r4_a_store_that_fails_only_ahead_is_noticed_by_nobody() {
    let (archive, names) = Archive::of_segments("failing", 1..=8);
    let faults = [
        Action::slow_down(),
        Action::Reset,
        Action::internal_error(),
        Action::CutBody(1000),
        Action::html_404(),
        Action::expired_token(),
        Action::FlipBody(5000),
    ];
    let rules: Vec<_> = names[1..]
        .iter()
        .zip(faults)
        .map(|(name, fault)| archive.server.add_rule(Rule::new(fault).key(name).times(1)))
        .collect();
    let mount = archive.mount();
    let before = lines(&mount);
    for (at, name) in names.iter().enumerate() {
        archive.assert_read(&mount, name);
        if let Some(next) = names.get(at + 1) {
            archive.wait_until_asked_or_broken(next);
        }
    }
    for rule in rules {
        assert_eq!(archive.server.remove_rule(rule), 1, "a fault hit nothing");
    }
    archive.assert_silent(&mount, before);
}

impl Archive {
    /// Also if the answer never comes.
    fn wait_until_asked_or_broken(&self, name: &str) {
        self.server.wait_for(1, |request| request.key == key(name));
    }
}

/// A request ahead that hangs does not keep whoever wants the segment.
#[test]
fn r4_a_flight_that_hangs_is_overtaken() {
    let (archive, names) = Archive::of_segments("hanging", 1..=3);
    let rule = archive
        .server
        .add_rule(Rule::new(Action::Hang).key(&names[1]).times(1));
    let mount = archive.mount();
    archive.assert_read(&mount, &names[0]);
    archive.wait_until_asked_or_broken(&names[1]);
    archive.assert_read(&mount, &names[1]);
    archive.assert_read(&mount, &names[2]);
    assert_eq!(archive.server.remove_rule(rule), 1);
}

/// R3 with R4: damage of a successor is reported when it is asked for, and not before.
#[test]
fn r4_a_damaged_successor_is_reported_when_it_is_asked_for() {
    let (archive, names) = Archive::of_segments("damaged", 1..=5);
    archive.server.corrupt(&key(&names[2]), |bytes| bytes[9000] ^= 1);
    let mount = archive.mount();
    let before = lines(&mount);
    archive.assert_read(&mount, &names[0]);
    archive.assert_read(&mount, &names[1]);
    archive.wait_until_asked(&names[2]);
    archive.assert_silent(&mount, before);
    let error = fetch(&archive.world, &mount, &names[2]).expect_err("it is damaged");
    assert!(error.contains("Input/output error"), "{error}");
    mount.wait_for_log(&format!("wal/{}.lz4", names[2]));
    archive.assert_read(&mount, &names[3]);
    archive.assert_read(&mount, &names[4]);
}

/// A recovery that changes to timeline 2 in segment 3 reads the history first; nothing of the old timeline is fetched
/// that it will not ask for.
#[test]
fn r4_a_timeline_switch_is_foreseen() {
    let segments: Vec<String> = [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]
        .map(|(timeline, number)| segment_name(timeline, number, MIB))
        .to_vec();
    let name_history = "00000002.history";
    let text = history(1, "0/380000");
    let mut files: Vec<(&str, Vec<u8>)> = segments.iter().map(|name| (name.as_str(), made(name))).collect();
    files.push((name_history, text.clone()));
    let old = segment_name(1, 3, MIB);
    files.push((&old, made(&old)));
    let archive = Archive::with("switch", &files);
    let mount = archive.mount();
    let before = lines(&mount);
    assert!(fetch(&archive.world, &mount, name_history).expect("the history") == text);
    segments.iter().for_each(|name| archive.assert_read(&mount, name));
    for name in &segments {
        assert_eq!(archive.answers(name).len(), 1, "{name}");
    }
    assert_eq!(archive.answers(&old).len(), 0, "{old} is of no use");
    archive.assert_silent(&mount, before);
}

/// Without the history, the first segment of the new timeline is one more that is asked for by itself.
#[test]
fn r4_a_timeline_switch_that_nobody_foresees_is_no_error() {
    let names = [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)].map(|(tli, number)| segment_name(tli, number, MIB));
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), made(name))).collect();
    let archive = Archive::with("unforeseen", &files);
    let mount = archive.mount();
    let before = lines(&mount);
    names.iter().for_each(|name| archive.assert_read(&mount, name));
    for name in &names {
        assert_eq!(archive.answers(name).len(), 1, "{name}");
    }
    archive.assert_silent(&mount, before);
}

/// Segments of the usual size, which compress to half: the memory for them keeps its bounds, and none is pushed out before
/// it is read.
#[test]
fn r4_memory_keeps_its_bounds() {
    const BYTES: u32 = 16 * MIB;
    let names: Vec<String> = (1..=10).map(|number| segment_name(1, number, BYTES)).collect();
    let content = |name: &str| segment(name, SYSTEM_ID, BYTES, 3);
    let files: Vec<(&str, Vec<u8>)> = names.iter().map(|name| (name.as_str(), content(name))).collect();
    let archive = Archive::with("bounds", &files);
    let mount = archive.mount();
    for name in &names {
        let read = fetch(&archive.world, &mount, name).expect("it is archived");
        assert!(read == content(name), "{name}: wrong bytes");
        let status = mount.status();
        let held = |field: &str| status[field].as_u64().expect("a number");
        assert!(held("cached_bytes") <= CACHE_BYTES, "{status:#}");
        assert!(held("ahead_bytes") <= AHEAD_BYTES, "{status:#}");
    }
    for name in &names {
        assert_eq!(archive.answers(name).len(), 1, "{name}");
    }
    let peak_mib = mount.peak_memory_mib();
    eprintln!("ten segments in a row: {peak_mib} MiB");
    assert!(peak_mib < super::MEMORY_MIB, "the daemon took {peak_mib} MiB");
}

/// Segments in any order cost at most one request each for nothing.
#[test]
fn r4_no_order_fetches_little_in_vain() {
    let (archive, names) = Archive::of_segments("disorder", 1..=40);
    let mount = archive.mount();
    let order = [30, 5, 20, 10, 35, 1, 25, 15, 38, 8];
    archive.server.clear_requests();
    order
        .iter()
        .for_each(|&number: &usize| archive.assert_read(&mount, &names[number]));
    let asked = archive.server.count(|request| request.key.contains("/wal/"));
    assert!(asked <= 2 * order.len(), "{asked} requests");
}

/// Looking at files fetches none of them.
#[test]
fn r4_a_look_at_segments_fetches_nothing() {
    let (archive, names) = Archive::of_segments("look", 1..=6);
    let mount = archive.mount();
    archive.server.clear_requests();
    for name in &names {
        let output = mount.user().shell(r#"stat "$1""#, &[&mount.wal().join(name)]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let gets = archive.server.count(|request| {
        request.operation == Operation::Get
            && request.key.contains("/wal/")
            && request.range.as_deref() != Some("bytes=0-0")
    });
    assert_eq!(gets, 0);
}

/// Also of a local archive, and of one whose objects are in a cache directory, the next segment is unpacked ahead.
#[test]
fn r4_other_places_are_read_ahead_as_well() {
    let world = World::new("local-row");
    let mount = Mount::local(&world);
    let names: Vec<String> = (1..=6).map(|number| segment_name(1, number, MIB)).collect();
    names
        .iter()
        .for_each(|name| put(&world, &mount, name, &made(name)));
    drop(mount);
    let mount = Mount::local(&world);
    assert!(fetch(&world, &mount, &names[0]).expect("it is archived") == made(&names[0]));
    let second = fs::read(world.archive().join(format!("wal/{}.lz4", names[1]))).expect("an object");
    let unpacked = 2 * u64::from(MIB);
    let came = wait::within(wait::LONG, || {
        (mount.status()["cached_bytes"] == unpacked).then_some(())
    });
    assert!(
        came.is_some(),
        "{:#}, {} bytes stored",
        mount.status(),
        second.len()
    );
    names[1..]
        .iter()
        .for_each(|name| assert!(fetch(&world, &mount, name).expect("it is archived") == made(name)));
}
