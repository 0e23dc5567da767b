//! R3: what is read from the mount is what was archived, or an error. Damage of every kind in the store and on the way,
//! readers side by side, segments larger than the memory of the daemon.
//!
//! The segments are made, not written by a server; the recovery of one is in `postgres/proof.rs`.

mod ahead;
mod cached;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::wal::{segment, segment_name};
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

const SYSTEM_ID: u64 = 7_000_000_000_000_000_042;
const MIB: u32 = 1 << 20;
/// Memory that the daemon may use (promise S3).
const MEMORY_MIB: u64 = 256;

type Damage = Box<dyn Fn(&mut Vec<u8>, &[u8])>;

/// Every way an object is damaged, given the object and another segment's.
fn damages(object_bytes: usize) -> Vec<(String, Damage)> {
    let mut all: Vec<(String, Damage)> = Vec::new();
    // Headers, contents, the seek table and the last byte.
    let places = [
        0,
        1,
        3,
        4,
        5,
        6,
        20,
        object_bytes / 3,
        object_bytes / 2,
        object_bytes * 9 / 10,
    ];
    let from_end = [1, 2, 8, 12, 16, 40, 79, 80, 90, 97, 100, 120, 160, 200, 240];
    let from_end = from_end.map(|bytes| object_bytes - bytes);
    // The same ones every time: what is done and what is reported must fit.
    let mut random = fastrand::Rng::with_seed(3);
    let anywhere: Vec<usize> = (0..15).map(|_| random.usize(..object_bytes)).collect();
    for at in places.into_iter().chain(from_end).chain(anywhere) {
        let bit = random.u32(..8);
        all.push((
            format!("bit {bit} of byte {at} flipped"),
            Box::new(move |object, _| {
                let at = at.min(object.len() - 1);
                object[at] ^= 1 << bit;
            }),
        ));
    }
    for bytes in [1, 4, 79, 80, 81, object_bytes / 2, object_bytes - 1] {
        all.push((
            format!("cut by {bytes}"),
            Box::new(move |object, _| object.truncate(object.len() - bytes)),
        ));
    }
    all.push(("emptied".into(), Box::new(|object, _| object.clear())));
    all.push(("zeros".into(), Box::new(|object, _| object.fill(0))));
    all.push(("longer by a byte".into(), Box::new(|object, _| object.push(0))));
    all.push((
        "zeros at the end".into(),
        Box::new(|object, _| object.extend([0; 4096])),
    ));
    let half_of_other = |object: &mut Vec<u8>, other: &[u8]| {
        let half = object.len().min(other.len()) / 2;
        object[..half].copy_from_slice(&other[..half]);
    };
    all.push(("first half another's".into(), Box::new(half_of_other)));
    all
}

/// R3: "Damage is EIO and a message naming the object; never zeros, never a short file that looks whole", on a local
/// store.
#[test]
fn r3_damage_in_a_local_store_is_an_error_that_names_the_object() {
    let world = World::new("damage-dir");
    let mount = Mount::local(&world);
    let object = |name: &str| world.archive().join(format!("wal/{name}.lz4"));
    let archived = archive_for_damage(&world, &mount, |name| fs::read(object(name)).expect("an object"));
    drop(mount);
    let other = fs::read(object(&archived.names[0])).expect("an object");
    for (name, (_, damage)) in archived.names[1..].iter().zip(damages(other.len())) {
        let mut bytes = fs::read(object(name)).expect("an object");
        damage(&mut bytes, &other);
        fs::write(object(name), bytes).expect("damage it");
    }
    let mount = Mount::local(&world);
    assert_all_refused(&world, &mount, &archived, other.len());
}

/// The same on S3, where the damage is not seen by the server, with a cache directory.
#[test]
fn r3_damage_in_s3_is_an_error_that_names_the_object() {
    let world = World::new("damage-s3");
    let server = S3Server::start();
    let cache = world.owned_dir("cache");
    let options = s3(&world, &server).args(&["--cache-dir", cache.to_str().expect("UTF-8")]);
    let mount = options.clone().mount();
    let key = |name: &str| format!("pg/main/wal/{name}.lz4");
    let object = |name: &str| server.object(&key(name)).expect("an object");
    let archived = archive_for_damage(&world, &mount, object);
    drop(mount);
    let other = object(&archived.names[0]);
    for (name, (_, damage)) in archived.names[1..].iter().zip(damages(other.len())) {
        server.corrupt(&key(name), |bytes| damage(bytes, &other));
    }
    let mount = options.mount();
    assert_all_refused(&world, &mount, &archived, other.len());
}

/// R3: a whole, undamaged object of another segment is not this segment, and a small file is verified as well.
#[test]
fn r3_another_object_under_the_name_is_refused() {
    let world = World::new("swapped");
    let mount = Mount::local(&world);
    let names = [segment_name(1, 1, MIB), segment_name(1, 2, MIB)];
    for name in &names {
        put(&world, &mount, name, &made(name));
    }
    put(
        &world,
        &mount,
        "00000002.history",
        b"1\t0/3000000\tno recovery target specified\n",
    );
    drop(mount);
    let object = |name: &str| world.archive().join(format!("wal/{name}.lz4"));
    fs::copy(object(&names[0]), object(&names[1])).expect("put another object there");
    flip(&object("00000002.history"), 20);
    let mount = Mount::local(&world);
    for name in [names[1].as_str(), "00000002.history"] {
        let Err(error) = fetch(&world, &mount, name) else {
            panic!("{name} is not what was archived");
        };
        assert!(error.contains("Input/output error"), "{name}: {error}");
        mount.wait_for_log(&format!("wal/{name}.lz4"));
    }
    assert!(fetch(&world, &mount, &names[0]).expect("the right one") == made(&names[0]));
}

/// R3: damage on the way is not damage in the store: it is read again.
#[test]
fn r3_damage_on_the_way_is_read_again() {
    let world = World::new("on-the-way");
    let server = S3Server::start();
    let options = s3(&world, &server);
    let mount = options.clone().mount();
    let faults = [
        Action::FlipBody(1000),
        Action::FlipBody(300_000),
        Action::CutBody(0),
        Action::CutBody(100_000),
        Action::Reset,
        Action::LoseAnswer,
        Action::slow_down(),
    ];
    let names: Vec<String> = (1..)
        .map(|number| segment_name(1, number, MIB))
        .take(faults.len())
        .collect();
    names
        .iter()
        .for_each(|name| put(&world, &mount, name, &made(name)));
    drop(mount);
    // Whose lookup brings the bytes, and whose is a GET of its own, because nothing is known of him.
    for (reader, nth) in [("cat", 1), ("tail -c +1", 2)] {
        let mount = options.clone().mount();
        // Backwards, so that none is fetched before it is asked for.
        for (name, fault) in names.iter().zip(&faults).rev() {
            let rule = Rule::new(fault.clone())
                .operation(Operation::Get)
                .key(name)
                .nth(nth);
            let rule = server.add_rule(rule);
            let script = format!(r#"{reader} "$1""#);
            let output = mount.user().shell(&script, &[&mount.wal().join(name)]);
            assert!(output.status.success(), "{reader}, {fault:?}: {}", said(&output));
            assert!(output.stdout == made(name), "{reader}, {fault:?}: wrong bytes");
            assert_eq!(server.remove_rule(rule), 1, "{reader}, {fault:?} hit nothing");
        }
    }
}

/// R3: a damaged cache is no damage; what is in it is fetched again. A good one saves the request.
#[test]
fn r3_a_damaged_cache_file_is_fetched_again() {
    let world = World::new("cache");
    let server = S3Server::start();
    let cache = world.owned_dir("cache");
    let options = s3(&world, &server).args(&["--cache-dir", cache.to_str().expect("UTF-8")]);
    let name = segment_name(1, 1, MIB);
    put(&world, &options.clone().mount(), &name, &made(&name));
    let is_lookup = |range: &Option<String>| range.as_deref() == Some("bytes=0-0");
    let gets = || {
        server.count(|request| {
            request.operation == Operation::Get && request.key.contains(&name) && !is_lookup(&request.range)
        })
    };
    let read = |what: &str| {
        server.clear_requests();
        let mount = options.clone().mount();
        assert!(
            fetch(&world, &mount, &name).expect("it can be read") == made(&name),
            "{what}"
        );
        gets()
    };
    assert_eq!(read("first"), 1);
    assert_eq!(read("from the cache"), 0);
    let files: Vec<PathBuf> = fs::read_dir(&cache)
        .expect("read it")
        .map(|entry| entry.expect("one").path())
        .collect();
    assert_eq!(files.len(), 1);
    let good = fs::read(&files[0]).expect("read the cache");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [flipped, good[..100].to_vec(), Vec::new(), vec![0; good.len()]] {
        fs::write(&files[0], damaged).expect("damage the cache");
        assert_eq!(read("from a damaged cache"), 1);
        assert_eq!(read("from a cache that was mended"), 0);
    }
}

/// R3: right bytes at any place, for many readers at once.
#[test]
fn r3_random_reads_side_by_side_are_right() {
    let world = World::new("random");
    let mount = Mount::local(&world);
    let names: Vec<String> = (1..=3).map(|number| segment_name(1, number, 64 * MIB)).collect();
    let contents: Vec<Vec<u8>> = names
        .iter()
        .map(|name| segment(name, SYSTEM_ID, 64 * MIB, 5))
        .collect();
    for (name, content) in names.iter().zip(&contents) {
        put(&world, &mount, name, content);
    }
    drop(mount);
    let mount = Mount::local(&world);
    thread::scope(|scope| {
        for reader in 0..6_u64 {
            let (names, contents, mount) = (&names, &contents, &mount);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(reader);
                for _ in 0..12 {
                    let file = random.usize(..names.len());
                    read_part(mount, &names[file], &contents[file], &mut random);
                }
            });
        }
    });
    let peak_mib = mount.peak_memory_mib();
    eprintln!("six readers at random: {peak_mib} MiB");
    assert!(peak_mib < MEMORY_MIB, "the daemon took {peak_mib} MiB");
}

/// S3: "Memory stays under a bound", writing and reading a segment of 1 GiB, the largest there is.
#[test]
fn s3_a_segment_of_a_gibibyte_needs_little_memory() {
    let world = World::new("gibibyte");
    let mut mount = Mount::local(&world);
    let name = segment_name(1, 1, 1 << 30);
    let source = world.owned_file(&name, &segment(&name, SYSTEM_ID, 1 << 30, 9));
    let output = cp(&source, &mount.wal().join(&name));
    assert!(output.status.success(), "{}", said(&output));
    let writing_mib = mount.peak_memory_mib();
    mount.restart();
    let output = mount
        .user()
        .shell(r#"cmp "$1" "$2""#, &[&source, &mount.wal().join(&name)]);
    assert!(output.status.success(), "{}", said(&output));
    let reading_mib = mount.peak_memory_mib();
    eprintln!("a segment of 1 GiB: {writing_mib} MiB to write, {reading_mib} MiB to read");
    assert!(
        writing_mib < MEMORY_MIB && reading_mib < MEMORY_MIB,
        "{writing_mib}, {reading_mib} MiB"
    );
}

/// Segments and what was archived as them; the first stays undamaged.
struct Archived {
    names: Vec<String>,
    originals: Vec<Vec<u8>>,
}

/// Archives a segment for every kind of damage, and one more to begin with.
fn archive_for_damage(world: &World, mount: &Mount, object: impl Fn(&str) -> Vec<u8>) -> Archived {
    let first = segment_name(1, 1, MIB);
    put(world, mount, &first, &made(&first));
    let count = 1 + damages(object(&first).len()).len() as u64;
    let names: Vec<String> = (1..=count).map(|number| segment_name(1, number, MIB)).collect();
    let originals: Vec<Vec<u8>> = names.iter().map(|name| made(name)).collect();
    for (name, original) in names.iter().zip(&originals).skip(1) {
        put(world, mount, name, original);
    }
    Archived { names, originals }
}

/// All but the first, which must be right, are errors that name the object, and nothing wrong was handed out before.
#[track_caller]
fn assert_all_refused(world: &World, mount: &Mount, archived: &Archived, object_bytes: usize) {
    let Archived { names, originals } = archived;
    assert!(fetch(world, mount, &names[0]).expect("the undamaged one") == originals[0]);
    let kinds = damages(object_bytes);
    for ((name, original), (kind, _)) in names.iter().zip(originals).skip(1).zip(kinds) {
        let target = world.path().join("out").join(name);
        let Err(error) = fetch(world, mount, name) else {
            panic!("{name}, {kind}: no error");
        };
        assert!(error.contains("Input/output error"), "{kind}: {error}");
        let handed_out = fs::read(&target).unwrap_or_default();
        assert!(
            original.starts_with(&handed_out),
            "{kind}: wrong bytes before the error"
        );
        mount.wait_for_log(&format!("wal/{name}.lz4"));
    }
}

/// A part of a file, by `dd`, compared.
#[track_caller]
fn read_part(mount: &Mount, name: &str, content: &[u8], random: &mut fastrand::Rng) {
    let start = random.usize(..content.len());
    let bytes = random.usize(1..=(4 << 20)).min(content.len() - start);
    let mut dd = mount.user().command("dd");
    dd.arg(format!("if={}", mount.wal().join(name).display()));
    dd.args([
        &format!("skip={start}"),
        &format!("count={bytes}"),
        "bs=256K",
        "status=none",
    ]);
    let output = dd.arg("iflag=skip_bytes,count_bytes").output().expect("run dd");
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        output.stdout == content[start..start + bytes],
        "{name}: {bytes} bytes at {start}"
    );
}

fn made(name: &str) -> Vec<u8> {
    let number = u64::from_str_radix(&name[16..], 16).expect("hex");
    segment(name, SYSTEM_ID, MIB, number)
}

fn s3(world: &World, server: &S3Server) -> Options {
    let pair = |(name, value): (&str, String)| (name.to_owned(), value);
    let environment: Vec<(String, String)> = server.env().into_iter().map(pair).collect();
    let archive = format!("s3://{}/pg/main", server.bucket());
    Options::s3(world, &archive, &server.endpoint(), &environment)
}

/// Archives by `cp`.
#[track_caller]
fn put(world: &World, mount: &Mount, name: &str, content: &[u8]) {
    let source = world.owned_file(name, content);
    let output = cp(&source, &mount.wal().join(name));
    assert!(output.status.success(), "{name}: {}", said(&output));
    fs::remove_file(source).expect("remove the source");
}

/// Restores by `cp` into `out/`, and returns the bytes, or what `cp` said.
fn fetch(world: &World, mount: &Mount, name: &str) -> Result<Vec<u8>, String> {
    let target = world.owned_dir("out").join(name);
    let output = cp(&mount.wal().join(name), &target);
    match output.status.success() {
        true => Ok(fs::read(target).expect("read what cp wrote")),
        false => Err(said(&output)),
    }
}

fn cp(from: &Path, to: &Path) -> Output {
    let mut cp: Command = User::postgres().command("cp");
    cp.arg(from).arg(to).output().expect("run cp")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read the object");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("damage the object");
}
