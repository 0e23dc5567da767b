//! The ways of base backups in and out of walfs: `cargo bench --bench backups`. Beside other tools: `--bench peers`.
//!
//! A cluster of pgbench's tables (1.5 GB, with data checksums) is backed up and restored by `walfs` in a local
//! directory and in a real S3 server (Garage on loopback, with fsync), by `pg_basebackup` to disk and into the mount,
//! and by `tar` with `lz4`. After each restore a server is started on what came, and must answer. Then the same with a
//! cluster of 10,000 small files.
//!
//! The ways take turns, each from an empty page cache (as root; otherwise it is warm); figures are medians. CPU is
//! that of the tool with its children, of the PostgreSQL server, and of helpers: the mount that archives the WAL
//! meanwhile, and Garage. All of them read or write with fsync, verify page checksums
//! (but for `tar`) and wait until the WAL of the backup is archived. Nothing of it survives: Ctrl-C cleans up, too.
//!
//! `WALFS_BENCH_SCALE` is pgbench's scale (100), `WALFS_BENCH_RUNS` how often (1), `WALFS_BENCH_TABLES` the tables of
//! the small files (5000; 0 leaves them out). What is not installed (`.ci/needs bench`) is left out and named.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's result is its output"
)]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;
#[path = "backups/rounds.rs"]
mod rounds;
mod scene;
#[path = "backups/sheet.rs"]
mod sheet;

use common::postgres::Postgres;
use common::world::World;
use measure::{files, first_line, interrupt, meter};
use rounds::Bench;
use scene::cluster;

fn main() {
    interrupt::watch();
    meter::adopt_orphans();
    measure::print_machine();
    for (program, argument) in [("lz4", "--version"), ("tar", "--version")] {
        println!(
            "{}",
            first_line(program, argument).unwrap_or(format!("no {program}: left out"))
        );
    }
    println!(
        "PostgreSQL {}",
        first_line(
            cluster::version().bin.join("postgres").to_str().expect("UTF-8"),
            "--version"
        )
        .unwrap_or_default()
    );
    if !has_garage() {
        println!("no Garage: S3 is left out");
    }
    println!(
        "page cache: {}",
        if files::empty_page_cache() {
            "emptied before each"
        } else {
            "warm"
        }
    );
    let world = World::new("backups");
    let runs = measure::setting("WALFS_BENCH_RUNS", 1);
    large(&world, runs);
    let tables = measure::setting("WALFS_BENCH_TABLES", 5000);
    if tables > 0 {
        small(&world, tables, runs);
    }
}

fn large(world: &World, runs: usize) {
    let scale = measure::setting("WALFS_BENCH_SCALE", 100);
    report(
        world,
        cluster::large(world, scale),
        &format!("pgbench -s {scale}"),
        runs,
    );
}

fn small(world: &World, tables: usize, runs: usize) {
    report(
        world,
        cluster::of_small_files(world, tables),
        &format!("{tables} tables"),
        runs,
    );
}

fn report(world: &World, cluster: (Postgres, cluster::Question), name: &str, runs: usize) {
    let mut bench = Bench::new(world, cluster);
    let title = format!("{name}: {}", size(&bench.server));
    for _ in 0..runs {
        bench.round(has_garage());
    }
    bench.end(&title);
}

fn has_garage() -> bool {
    common::copiers::cache_dir()
        .join("garage-2.5.0/bin/garage")
        .exists()
}

/// Files and bytes of a data directory without its WAL.
fn size(server: &Postgres) -> String {
    let wal = server.data().join("pg_wal");
    let count = files::beneath(server.data()).len() - files::beneath(&wal).len();
    let bytes = files::bytes_beneath(server.data()) - files::bytes_beneath(&wal);
    format!("{} MiB in {count} files", bytes >> 20)
}
