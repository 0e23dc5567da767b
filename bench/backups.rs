//! Base backups beside other tools: `cargo bench --bench backups`.
//!
//! A cluster of pgbench's tables (1.5 GB, with data checksums) is backed up and restored by `walfs` in a local
//! directory and in a real S3 server (Garage on loopback, with fsync), by `pg_basebackup` to disk and into the mount,
//! by pgBackRest on disk and in the same Garage, and by `tar` with `lz4`. After each restore a server is started on
//! what came, and must answer. Then `pg_basebackup` of a cluster of 10,000 small files, to disk and into the mount.
//!
//! The tools take turns, each from an empty page cache (as root; otherwise it is warm); figures are medians. CPU is
//! that of the tool with its children, of the PostgreSQL server, and of helpers: the mount that archives the WAL
//! meanwhile, Garage, the TLS before it for pgBackRest. All of them read or write with fsync, verify page checksums
//! (but for `tar`) and wait until the WAL of the backup is archived. Nothing of it survives: Ctrl-C cleans up, too.
//!
//! `WALFS_BENCH_SCALE` is pgbench's scale (100), `WALFS_BENCH_RUNS` how often (3), `WALFS_BENCH_TABLES` the tables of
//! the small files (5000; 0 leaves them out). What is not installed (`.ci/needs bench`) is left out and named.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's result is its output"
)]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

#[path = "backups/cluster.rs"]
mod cluster;
#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "backups/interrupt.rs"]
mod interrupt;
mod measure;
#[path = "backups/meter.rs"]
mod meter;
#[path = "backups/pgbackrest.rs"]
mod pgbackrest;
#[path = "backups/rounds.rs"]
mod rounds;
#[path = "backups/sheet.rs"]
mod sheet;

use std::process::Command;

use common::garage::Garage;
use common::postgres::Postgres;
use common::world::World;
use pgbackrest::{Stanza, Tls};
use rounds::{Bench, S3};

fn main() {
    interrupt::watch();
    measure::print_machine();
    for (program, argument) in [
        ("lz4", "--version"),
        ("tar", "--version"),
        ("pgbackrest", "version"),
    ] {
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
    if !has_tls() {
        println!("no socat or no openssl: pgBackRest in S3 is left out");
    }
    println!(
        "page cache: {}",
        if meter::empty_page_cache() {
            "emptied before each"
        } else {
            "warm"
        }
    );
    let world = World::new("backups");
    let runs = measure::setting("WALFS_BENCH_RUNS", 3);
    large(&world, runs);
    let tables = measure::setting("WALFS_BENCH_TABLES", 5000);
    if tables > 0 {
        small(&world, tables, runs);
    }
}

fn large(world: &World, runs: usize) {
    let scale = measure::setting("WALFS_BENCH_SCALE", 100);
    let mut bench = Bench::new(world, cluster::large(world, scale));
    let title = format!("pgbench -s {scale}: {}", size(&bench.server));
    let repository = world.owned_dir("pgbackrest").join("repository");
    let disk =
        first_line("pgbackrest", "version").map(|_| Stanza::in_directory(world, &bench.server, &repository));
    for round in 0..runs {
        new_garage(&mut bench);
        bench.round(round);
        let Some(disk) = &disk else { continue };
        bench.pgbackrest("directory", disk, &repository, &[]);
        pgbackrest_in_garage(&mut bench);
    }
    bench.end(&title);
}

fn small(world: &World, tables: usize, runs: usize) {
    let mut bench = Bench::new(world, cluster::of_small_files(world, tables));
    let title = format!("{tables} tables: {}", size(&bench.server));
    for round in 0..runs {
        new_garage(&mut bench);
        bench.round(round);
    }
    bench.end(&title);
}

fn pgbackrest_in_garage(bench: &mut Bench<'_>) {
    let Some((s3, tls)) = bench.s3.as_ref().and_then(|s3| Some((s3, s3.tls.as_ref()?))) else {
        return;
    };
    let stanza = Stanza::in_garage(bench.world, &bench.server, &s3.garage, tls, "pgbackrest");
    let (dir, helpers) = (s3.dir.clone(), [s3.garage.process(), tls.process()]);
    bench.pgbackrest("S3 over TLS", &stanza, &dir, &helpers);
}

/// A new S3 server for each round: Garage keeps equal blocks once, and a second backup of the same files would be cheap.
fn new_garage(bench: &mut Bench<'_>) {
    bench.s3 = None;
    if !has_garage() {
        return;
    }
    let dir = bench.world.path().join("garage");
    cluster::remove(&dir);
    let garage = Garage::start(&dir, true);
    let tls = has_tls().then(|| Tls::before(bench.world, &garage));
    bench.s3 = Some(S3 { garage, dir, tls });
}

fn has_garage() -> bool {
    common::copiers::cache_dir()
        .join("garage-2.5.0/bin/garage")
        .exists()
}

/// What stands between pgBackRest and Garage.
fn has_tls() -> bool {
    first_line("socat", "-V").is_some() && first_line("openssl", "version").is_some()
}

/// Files and bytes of a data directory without its WAL.
fn size(server: &Postgres) -> String {
    let wal = server.data().join("pg_wal");
    let files = meter::files_beneath(server.data()).len() - meter::files_beneath(&wal).len();
    let bytes = meter::bytes_beneath(server.data()) - meter::bytes_beneath(&wal);
    format!("{} MiB in {files} files", bytes >> 20)
}

/// What a program says of itself; `None` if there is none.
fn first_line(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}
