//! Does the daemon's memory stay bounded? `cargo bench --bench memory`.
//!
//! Made-up segments are archived and restored, one after the other as PostgreSQL does and four at a time as nobody
//! should; resident memory is told on the way, and the most there ever was. Content compresses to half. The archive is
//! a local directory: what the daemon holds of a segment does not depend on the store.
//! `WALFS_BENCH_MEMORY_SEGMENTS` sets how many segments (200).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;

use std::path::{Path, PathBuf};
use std::process::Child;

use common::wal;
use common::walfs::{Mount, Options};
use common::world::World;

const COLUMNS: [&str; 5] = [
    "what",
    "segments",
    "CPU s of the daemon",
    "resident MiB",
    "most MiB so far",
];

/// Segments on their way at once, in the second half.
const AT_ONCE: usize = 4;

fn main() {
    measure::print_machine();
    let count = measure::setting("WALFS_BENCH_MEMORY_SEGMENTS", 200) as u64;
    let world = World::new("memory");
    let mount = Options::local(&world).mount();
    let mut rows = vec![row(&mount, "mounted", 0)];
    for (name, at_once) in [("one at a time", 1), ("four at a time", AT_ONCE)] {
        let first = if at_once == 1 { 1 } else { 1 + count };
        let names = wal::segment_names(1, first, count);
        for quarter in names.chunks(names.len().div_ceil(4)) {
            archive(&world, &mount, quarter, at_once);
            rows.push(row(&mount, &format!("in, {name}"), quarter.len()));
        }
        for quarter in names.chunks(names.len().div_ceil(4)) {
            restore(&world, &mount, quarter, at_once);
            rows.push(row(&mount, &format!("out, {name}"), quarter.len()));
        }
    }
    measure::print_table("Memory of the daemon", &COLUMNS, &rows);
}

fn row(mount: &Mount, what: &str, segments: usize) -> Vec<String> {
    let daemon = mount.process();
    vec![
        what.to_owned(),
        segments.to_string(),
        format!("{:.1}", measure::cpu_of(daemon).as_secs_f64()),
        format!("{:.0}", measure::memory_mib(daemon, "VmRSS")),
        format!("{:.0}", measure::memory_mib(daemon, "VmHWM")),
    ]
}

fn archive(world: &World, mount: &Mount, names: &[String], at_once: usize) {
    for group in names.chunks(at_once) {
        let files: Vec<PathBuf> = group.iter().map(|name| made_up(world, name)).collect();
        all_end(files.iter().map(|file| cp(mount, file, &mount.wal())).collect());
        files
            .iter()
            .for_each(|file| std::fs::remove_file(file).expect("remove a segment"));
    }
}

fn restore(world: &World, mount: &Mount, names: &[String], at_once: usize) {
    let dir = world.owned_dir("restored");
    for group in names.chunks(at_once) {
        let copies = group.iter().map(|name| cp(mount, &mount.wal().join(name), &dir));
        all_end(copies.collect());
        group
            .iter()
            .for_each(|name| std::fs::remove_file(dir.join(name)).expect("remove a segment"));
    }
}

fn made_up(world: &World, name: &str) -> PathBuf {
    let seed = u64::from_str_radix(&name[16..], 16).expect("hex digits");
    world.owned_file(name, &wal::segment(name, 7, wal::SEGMENT_BYTES, seed))
}

fn cp(mount: &Mount, from: &Path, to: &Path) -> Child {
    let mut command = mount.user().command("cp");
    command.arg(from).arg(to).spawn().expect("run cp")
}

fn all_end(copies: Vec<Child>) {
    for mut copy in copies {
        assert!(copy.wait().expect("wait for cp").success(), "a copy failed");
    }
}
