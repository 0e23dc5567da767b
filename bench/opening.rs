//! What it takes to open a huge backup: `cargo bench --bench opening`.
//!
//! Four backups that are made up, in a local archive that the `walfs` binary serves: a small one, one of a million files, one
//! of 10 TB, and one of 10 TB of which one page in a hundred lies in a later backup. One page of a file is read by a mount
//! that knows nothing yet, then one of a file elsewhere, then `find` goes through all of it.
//! `WALFS_BENCH_LARGEST` leaves out what has more files than that (1000000).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::made_up::{self, MadeUp, REAL};
use common::user::User;
use common::walfs::{Mount, Options};
use common::world::World;
use measure::ms;
use walfs::archive::{self, Archive};
use walfs::store::{self, Location, Patience};

const COLUMNS: [&str; 9] = [
    "backup",
    "manifest MiB (stored)",
    "first page ms",
    "requests",
    "KiB",
    "peak MiB",
    "find s",
    "find requests",
    "peak MiB after it",
];

const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    measure::print_machine();
    measure::meter::adopt_orphans();
    let largest = measure::setting("WALFS_BENCH_LARGEST", 1_000_000) as u32;
    let small = MadeUp {
        small: 1000,
        large: 2,
        one_changed_of: 0,
    };
    let ten_terabytes = MadeUp { large: 9313, ..small };
    let rows = [
        ("1000 files, 2 GiB", small),
        (
            "a million files",
            MadeUp {
                small: 1_000_000,
                ..small
            },
        ),
        ("10 TB", ten_terabytes),
        (
            "10 TB, 1 % changed",
            MadeUp {
                one_changed_of: 100,
                ..ten_terabytes
            },
        ),
    ];
    let rows = rows.into_iter().filter(|(_, made_up)| made_up.small <= largest);
    let rows: Vec<_> = rows.map(|(what, made_up)| row(what, made_up)).collect();
    measure::print_table("Opening a backup", &COLUMNS, &rows);
}

/// Makes up a backup in the archive of a world, and gives the first bytes of its file and its manifest's length.
fn make_up(world: &World, made_up: MadeUp) -> (Vec<u8>, u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let content = runtime.block_on(async {
        let location = Location::Dir(world.archive());
        let store = store::open(&location, &store::Options::default()).await;
        let create = archive::Options {
            create: true,
            ..Default::default()
        };
        let patience = Patience::for_at_most(PATIENCE);
        let archive = Archive::open(store.expect("a store"), &create, patience).await;
        let name = "monday".parse().expect("a name");
        made_up::store(&archive.expect("an archive"), &name, made_up, patience).await
    });
    let objects = measure::files::beneath(&world.archive()).into_iter();
    let mut manifests = objects.filter(|path| path.to_string_lossy().contains("/manifest."));
    let manifest = fs::metadata(manifests.next().expect("a manifest")).expect("look at it");
    (content, manifest.len())
}

fn row(what: &str, made_up: MadeUp) -> Vec<String> {
    let world = World::new("opening");
    let (content, manifest) = make_up(&world, made_up);
    let mut options = Options::local(&world);
    // The bench itself looks at the mount.
    options.user = User::caller();
    let mount = options.mount();
    let backup = mount.path().join("basebackups/monday");
    let (gets, bytes) = asked(&mount);
    let begin = Instant::now();
    let file = File::open(backup.join(REAL)).expect("open a file");
    let mut page = [0; 8192];
    file.read_exact_at(&mut page, 0).expect("read a page");
    let first = begin.elapsed();
    assert!(page == content[..8192], "another page");
    let opened = asked(&mount);
    let peak = measure::memory_mib(mount.process(), "VmHWM");
    let found = measure::run(Command::new("find").arg(&backup), None);
    vec![
        what.to_owned(),
        format!("{:.1}", manifest as f64 / f64::from(1 << 20)),
        format!("{:.1}", ms(first)),
        (opened.0 - gets).to_string(),
        ((opened.1 - bytes) >> 10).to_string(),
        format!("{peak:.0}"),
        format!("{:.2}", found.wall.as_secs_f64()),
        (asked(&mount).0 - opened.0).to_string(),
        format!("{:.0}", measure::memory_mib(mount.process(), "VmHWM")),
    ]
}

/// Requests for objects so far, and the bytes that these brought.
fn asked(mount: &Mount) -> (u64, u64) {
    let status = mount.status();
    let count = |name: &str| status["store_requests"][name].as_u64().expect("a count");
    (count("gets"), count("bytes_in"))
}
