//! The bound of the whole daemon (promise S3), with all that needs memory at the same time.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::ahead::{make_pg_wal, put_ready};
use super::rig::{CLUSTER, Rig, Source};
use crate::common::s3::{Action, Operation, Rule};
use crate::common::user::said;
use crate::common::wal;
use crate::common::walfs::Options;
use crate::common::world::World;

/// Segments that are fetched; as many are archived meanwhile.
const SEGMENTS: u64 = 12;

/// Bytes that nothing makes smaller.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; bytes];
    fastrand::Rng::with_seed(seed).fill(&mut content);
    content
}

fn segment(rig: &Rig, pg_wal: &Path, number: u64) -> Source {
    let name = wal::segment_name(1, number, wal::SEGMENT_BYTES);
    let mut content = wal::segment(&name, CLUSTER, wal::SEGMENT_BYTES, number);
    content[40..].copy_from_slice(&noise(wal::SEGMENT_BYTES as usize - 40, number));
    put_ready(rig, pg_wal, &name, content)
}

/// A directory with one large file and many small ones.
fn tree(rig: &Rig, name: &str, seed: u64) -> std::path::PathBuf {
    let tree = rig.world.owned_dir(name);
    fs::write(tree.join("large"), noise(150 << 20, seed)).expect("write a large file");
    for number in 0..600 {
        let content = noise(64 << 10, seed + number);
        fs::write(tree.join(format!("small{number}")), content).expect("write a small file");
    }
    tree
}

/// S3: "Memory stays under a bound (default 256 MiB)".
#[test]
fn s3_everything_at_once_stays_within_the_bound() {
    let peak = everything_at_once(&[]);
    assert!(peak < 256, "{peak} MiB");
}

/// S3: the bound is what --memory says.
#[test]
fn s3_everything_at_once_stays_within_the_least_memory() {
    let peak = everything_at_once(&["--memory", "160MiB"]);
    assert!(peak < 160, "{peak} MiB");
}

/// What cannot be kept is refused before anything is mounted.
#[test]
fn o1_too_little_memory_is_refused_with_the_least_one() {
    let world = World::new("little");
    let refused = Options::local(&world).args(&["--memory", "159MiB"]).refused();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said(&refused).contains("HINT: --memory 160MiB is the least"),
        "{}",
        said(&refused)
    );
}

/// S3: files that their writers have left, each with a part of a frame that is plain.
#[test]
fn s3_thousands_of_unfinished_files_stay_within_the_bound() {
    const FILES: usize = 2000;
    let rig = Rig::local();
    let noise = rig.world.owned_file("noise", &noise(400_000, 1));
    let name = wal::segment_name(1, 1, wal::SEGMENT_BYTES);
    let line = format!("for n in $(seq {FILES}); do cp \"$1\" \"$2/{name}.tmp$n\" || exit; done");
    let left = rig.user().shell(&line, &[&noise, &rig.mount.wal()]);
    assert!(left.status.success(), "{}\n{}", said(&left), rig.mount.log());
    assert_eq!(
        rig.mount
            .read(&format!("{name}.tmp7"))
            .expect("a file that was left")
            .len(),
        400_000
    );
    let peak = rig.mount.peak_memory_mib();
    assert!(peak < 128, "{peak} MiB");
}

/// The most memory while two base backups are written, a backlog is archived ahead and a restore fetches, all of it
/// incompressible, from and to a store that takes its time.
fn everything_at_once(arguments: &[&str]) -> u64 {
    let rig = Rig::s3(arguments);
    let pg_wal = make_pg_wal(&rig.world, "pg_wal");
    let run = |line: &str, paths: &[&Path]| {
        let output = rig.user().shell(line, paths);
        assert!(output.status.success(), "{line}: {}", said(&output));
    };
    let archive = |numbers: std::ops::Range<u64>| {
        let sources: Vec<Source> = numbers.map(|number| segment(&rig, &pg_wal, number)).collect();
        for source in sources {
            run("cp \"$1\" \"$2\"", &[&source.path, &rig.target(&source.name)]);
            fs::remove_file(pg_wal.join(format!("archive_status/{}.ready", source.name))).expect("unmark");
        }
    };
    let backups = rig.mount.path().join("basebackups");
    archive(1..SEGMENTS);
    let trees = ["first", "second"].map(|name| (name, tree(&rig, name, name.len() as u64 * 1000)));
    for operation in [Operation::Put, Operation::Get] {
        let delay = Action::Delay(Duration::from_millis(200));
        rig.server().add_rule(Rule::new(delay).operation(operation));
    }
    let scratch = rig.world.owned_dir("scratch");
    thread::scope(|all| {
        for (_, tree) in &trees {
            all.spawn(|| run("cp -r \"$1\" \"$2\"", &[tree, &backups]));
        }
        all.spawn(|| archive(SEGMENTS..2 * SEGMENTS));
        all.spawn(|| run("cp \"$1\"/0* \"$2\"", &[&rig.mount.wal(), &scratch]));
    });
    rig.mount.peak_memory_mib()
}
