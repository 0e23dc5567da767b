//! What it costs to look at an archive of years: `cargo bench --bench years`.
//!
//! The archive is made up (see `years/past.rs`): each day has a thousand segments and a backup of 100,000 files, which builds
//! on earlier ones as those of `walfs backup` do. At 10, 100 and 1,000 days the commands that look at all of it run in turn,
//! first on the directory, then on the same objects in an S3 server that answers each request after 30 ms and counts them.
//! `WALFS_BENCH_LARGEST` leaves out what has more days (1000), `WALFS_BENCH_FILES` is the number of files of a backup.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "years/far.rs"]
mod far;
mod measure;
#[path = "years/past.rs"]
mod past;

use std::process::Command;
use std::time::Duration;

use common::user::User;
use common::walfs::walfs;
use common::world::World;
use far::Far;
use measure::meter::{self, Cost, Others};
use past::Past;

const COLUMNS: [&str; 8] = [
    "days",
    "command",
    "s",
    "CPU s",
    "peak MiB",
    "S3 + 30 ms: s",
    "requests (lists)",
    "peak MiB",
];

/// Before each answer of the S3 server.
const DELAY: Duration = Duration::from_millis(30);

/// What looks at all of an archive. What stays after the prunes points to what goes: its manifests are read.
const COMMANDS: [&[&str]; 7] = [
    &["backup-list"],
    &["status"],
    &["status", "--json"],
    &["wal-list"],
    &["wal-verify"],
    &["prune", "--keep-last", "7", "--dry-run"],
    &["prune", "--keep-last", "500", "--dry-run"],
];

fn main() {
    measure::print_machine();
    meter::adopt_orphans();
    let largest = measure::setting("WALFS_BENCH_LARGEST", 1000) as u64;
    let files = measure::setting("WALFS_BENCH_FILES", 100_000) as u32;
    let world = World::new("years");
    let (mut past, mut far) = (Past::new(&world, files), Far::start(DELAY));
    let mut rows = Vec::new();
    for days in [10, 100, 1000].into_iter().filter(|days| *days <= largest) {
        past.go_on_to(days);
        far.take(&world.archive());
        println!(
            "{days} days: {days} backups of {files} files, {} segments, {} objects, {} MiB",
            days * past::SEGMENTS_OF_A_DAY,
            far.objects(),
            far.stored_bytes() >> 20
        );
        rows.extend(COMMANDS.map(|command| row(&world, &far, days, command)));
    }
    measure::print_table("Looking at years", &COLUMNS, &rows);
}

fn row(world: &World, far: &Far, days: u64, words: &[&str]) -> Vec<String> {
    let walfs = |archive: &str| {
        let mut command = walfs(world, &User::caller());
        command.args(words).args(["--archive", archive]);
        command
    };
    let near = run(&mut walfs(&world.archive().display().to_string()));
    far.forget_requests();
    let there = run(walfs(&far.archive()).envs(far.env()));
    let requests = far.requests();
    vec![
        days.to_string(),
        words.join(" "),
        seconds(near.wall),
        seconds(near.client),
        mib(&near),
        seconds(there.wall),
        format!("{} ({})", requests.all, requests.lists),
        mib(&there),
    ]
}

fn run(command: &mut Command) -> Cost {
    meter::run(command, &Others::default())
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn mib(cost: &Cost) -> String {
    format!("{:.0}", cost.peak_bytes as f64 / f64::from(1 << 20))
}
