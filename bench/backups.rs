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
use sheet::Sheet;

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
    println!(
        "page cache: {}",
        if meter::empty_page_cache() {
            "emptied before each"
        } else {
            "warm"
        }
    );
    let world = World::new("backups");
    let s3 = garage(&world);
    let runs = measure::setting("WALFS_BENCH_RUNS", 3);
    large(&world, s3.as_ref(), runs);
    let tables = measure::setting("WALFS_BENCH_TABLES", 5000);
    if tables > 0 {
        small(&world, s3.as_ref(), tables, runs);
    }
}

fn large(world: &World, s3: Option<&S3>, runs: usize) {
    let scale = measure::setting("WALFS_BENCH_SCALE", 100);
    let (server, question) = cluster::large(world, scale);
    let title = format!("pgbench -s {scale}: {}", size(&server));
    let mut bench = Bench {
        world,
        server,
        question,
        s3,
        backups: Sheet::default(),
        restores: Sheet::default(),
    };
    let repository = world.path().join("pgbackrest/repository");
    let stanzas = first_line("pgbackrest", "version").map(|_| stanzas(world, &bench.server, s3));
    for round in 0..runs {
        bench.round(round);
        let Some((disk, garage)) = &stanzas else { continue };
        bench.pgbackrest("directory", disk, &repository, &[]);
        if let (
            Some(stanza),
            Some(S3 {
                garage,
                dir,
                tls: Some(tls),
            }),
        ) = (garage, s3)
        {
            bench.pgbackrest("S3 over TLS", stanza, dir, &[garage.process(), tls.process()]);
        }
    }
    bench.backups.print_backups(&format!("Backup of {title}"));
    bench.restores.print_restores(&format!("Restore of {title}"));
    bench.server.destroy();
}

fn small(world: &World, s3: Option<&S3>, tables: usize, runs: usize) {
    let (server, question) = cluster::of_small_files(world, tables);
    let title = format!("{tables} tables: {}", size(&server));
    let mut bench = Bench {
        world,
        server,
        question,
        s3,
        backups: Sheet::default(),
        restores: Sheet::default(),
    };
    for round in 0..runs {
        bench.round(round);
    }
    bench.backups.print_backups(&format!("Backup of {title}"));
    bench.restores.print_restores(&format!("Restore of {title}"));
    bench.server.destroy();
}

/// pgBackRest's repositories: in a directory, and in Garage.
fn stanzas(world: &World, server: &Postgres, s3: Option<&S3>) -> (Stanza, Option<Stanza>) {
    let repository = world.owned_dir("pgbackrest").join("repository");
    let disk = Stanza::in_directory(world, server, &repository);
    let garage = s3.and_then(|s3| {
        Some(Stanza::in_garage(
            world,
            server,
            &s3.garage,
            s3.tls.as_ref()?,
            "pgbackrest",
        ))
    });
    (disk, garage)
}

fn garage(world: &World) -> Option<S3> {
    if !common::copiers::cache_dir()
        .join("garage-2.5.0/bin/garage")
        .exists()
    {
        println!("no Garage: S3 is left out");
        return None;
    }
    let dir = world.path().join("garage");
    let garage = Garage::start(&dir, true);
    let tls = match (first_line("socat", "-V"), first_line("openssl", "version")) {
        (Some(_), Some(_)) => Some(Tls::before(world, &garage)),
        _ => None,
    };
    if tls.is_none() {
        println!("no socat or no openssl: pgBackRest in S3 is left out");
    }
    Some(S3 { garage, dir, tls })
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
