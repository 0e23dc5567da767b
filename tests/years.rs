//! Archives of years: whoever looks at all of one holds little of it (promise S3), and asks the store for little.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use walfs::archive::{self, Archive};
use walfs::codec::trailer_bytes;
use walfs::store::{self, Location, Patience};

use crate::common::below::LONG;
use crate::common::made_up::{self, Daily};
use crate::common::s3::{Operation, S3Server};
use crate::common::user::{User, said};
use crate::common::wal;
use crate::common::walfs::{peak_of, walfs};
use crate::common::world::World;

const SEGMENT_BYTES: u32 = 1 << 20;

/// `walfs VERB --archive ...` on the archive in the directory of a world.
fn near(world: &World, verb: &str) -> Command {
    let mut command = walfs(world, &User::caller());
    command.args([verb, "--archive"]).arg(world.archive());
    command
}

/// The same on its copy in a server.
fn far(world: &World, server: &S3Server, verb: &str) -> Command {
    let mut command = walfs(world, &User::caller());
    command.args([verb, "--archive", &format!("s3://{}/years", server.bucket())]);
    command.envs(server.env());
    command
}

fn copy(world: &World, server: &S3Server) {
    let archive = world.archive();
    for path in files_beneath(&archive) {
        let key = path.strip_prefix(&archive).expect("beneath it").display();
        let content = fs::read(&path).expect("read an object");
        server.put_object(&format!("years/{key}"), content);
    }
}

fn files_beneath(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("read a directory") {
            let path = entry.expect("a name").path();
            if path.is_dir() { &mut dirs } else { &mut files }.push(path);
        }
    }
    files
}

fn lists(server: &S3Server) -> usize {
    server.count(|request| request.operation == Operation::List)
}

/// Archives one file.
fn push(world: &World, name: &str, content: &[u8]) {
    let file = world.owned_file(name, content);
    let pushed = near(world, "wal-push").arg(file).output().expect("run walfs");
    assert!(pushed.status.success(), "{}", said(&pushed));
}

/// Archives one segment.
fn push_segment(world: &World, number: u64) {
    let name = wal::segment_name(1, number, SEGMENT_BYTES);
    push(world, &name, &wal::segment(&name, 7, SEGMENT_BYTES, 1));
}

/// A local archive with so many backups of so many files, whose WAL is there.
fn make_backups(world: &World, days: u32, files: u32) {
    push_segment(world, 2);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let location = Location::Dir(world.archive());
        let store = store::open(&location, &store::Options::default()).await;
        let patience = Patience::for_at_most(LONG);
        let archive = Archive::open(store.expect("a store"), &archive::Options::default(), patience).await;
        let (archive, mut daily) = (archive.expect("an archive"), Daily::new(files));
        for day in 0..days {
            let name = format!("day-{day}").parse().expect("a name");
            let stored = daily.store(&archive, &name, made_up::description(), patience);
            stored.await;
        }
    });
}

/// The manifest of the newest backup is read to its last byte, and those of what stays as far as they tell of parts: window by
/// window, leaf by leaf.
#[test]
fn s3_a_look_at_backups_of_very_many_files_holds_few_of_them() {
    let world = World::new("many");
    make_backups(&world, 3, 300_000);
    let looked = peak_of(near(&world, "status").env("XDG_CACHE_HOME", world.path()));
    let pruned = peak_of(near(&world, "prune").args(["--keep-last", "2", "--dry-run"]));
    assert!(
        looked.max(pruned) < 85,
        "status: {looked} MiB, prune: {pruned} MiB"
    );
}

#[test]
fn many_backups_are_listed_in_few_requests() {
    let world = World::new("folders");
    make_backups(&world, 40, 20_000);
    let server = S3Server::start();
    copy(&world, &server);
    let listed = far(&world, &server, "backup-list").output().expect("run walfs");
    assert!(listed.status.success(), "{}", said(&listed));
    let text = String::from_utf8_lossy(&listed.stdout);
    assert_eq!(text.matches("day-").count(), 40, "{text}");
    // Also of dumps and files, and of what was found damaged.
    assert!(lists(&server) <= 8, "{} listings", lists(&server));
}

/// With holes, timelines and other files between the segments, of which several stretches are listed at once.
#[test]
fn a_listing_in_stretches_is_that_of_the_whole() {
    let world = World::new("stretches");
    push_segment(&world, 1);
    push(&world, "00000002.history", &wal::history(1, "2/EE000000"));
    let object = vec![0; trailer_bytes(u64::from(SEGMENT_BYTES)) as usize + 1];
    let put = |name: String| {
        let path = world.archive().join(format!("wal/{name}.lz4"));
        fs::write(path, &object).expect("make an object");
    };
    let segments = |timeline: u32, numbers: std::ops::Range<u64>| {
        for number in numbers {
            let name = wal::segment_name(timeline, number, SEGMENT_BYTES);
            if number.is_multiple_of(7) && number > 9000 {
                put(format!("{name}.00000028.backup"));
            }
            put(name);
        }
    };
    segments(1, 2..9500);
    segments(1, 9502..12_000);
    segments(1, 20_000..20_001);
    segments(2, 12_000..16_000);
    segments(5, 30_000..31_500);
    let server = S3Server::start();
    copy(&world, &server);
    let told = |mut command: Command| -> Value {
        let output = command.arg("--json").output().expect("run walfs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)))
    };
    let expected = told(near(&world, "wal-verify"));
    assert_eq!(expected["timelines"][0]["segments"], 11_998, "{expected}");
    assert_eq!(told(far(&world, &server, "wal-verify")), expected);
    // Each page of some twenty once, and what lies behind the ends of three timelines.
    assert!(lists(&server) < 60, "{} listings", lists(&server));
}
