//! walfs beside other tools, in one table of ratios: `cargo bench --bench peers`.
//!
//! WAL of a busy PostgreSQL is archived, with and without a backlog, fetched in a row, and asked for in vain; a cluster
//! of pgbench's tables (1.5 GB, with data checksums) is backed up, restored and started. In a local directory and in S3
//! (Garage with fsync, one for each tool), near and with 30 ms of round trip. The tools take turns, segment for segment
//! or batch for batch; figures of time are medians, CPU is a mean, memory the most there ever was. What is fetched is
//! compared with what was archived. The rows are in `peers/rows.rs`, each tool with its settings.
//!
//! Each measurement goes to `target/bench/peers.jsonl` as it is made; the table and the drawing `docs/bench.svg` are made
//! of that file. A tool that is not installed (`.ci/needs bench`) is left out, one that fails is left out from there on;
//! both are named. Ctrl-C cleans up.
//!
//! `WALFS_BENCH_ONLY=push,fetch` leaves sections out (push, backlog, fetch, missing, backup; `report`: measure nothing,
//! draw what the file has), `WALFS_BENCH_TOOLS=walfs,floor` tools whose names begin otherwise, `WALFS_BENCH_ROUNDS` is how often (3), `WALFS_BENCH_SEGMENTS` the segments of a batch (8),
//! `WALFS_BENCH_SCALE` pgbench's scale (100), `WALFS_BENCH_SVG` where to draw.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's result is its output"
)]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

#[path = "peers/barman.rs"]
mod barman;
#[path = "peers/base.rs"]
mod base;
#[path = "peers/client.rs"]
mod client;
#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "peers/contender.rs"]
mod contender;
#[path = "peers/local.rs"]
mod local;
mod measure;
#[path = "peers/pgbackrest.rs"]
mod pgbackrest;
#[path = "peers/plain.rs"]
mod plain;
#[path = "peers/plot.rs"]
mod plot;
#[path = "peers/rclone.rs"]
mod rclone;
#[path = "peers/results.rs"]
mod results;
#[path = "peers/rows.rs"]
mod rows;
#[path = "peers/s3fs.rs"]
mod s3fs;
mod scene;
#[path = "peers/table.rs"]
mod table;
#[path = "peers/tar.rs"]
mod tar;
#[path = "peers/wal.rs"]
mod wal;
#[path = "peers/walfs.rs"]
mod walfs;

use std::path::{Path, PathBuf};

use common::world::World;
use contender::Section;
use measure::{interrupt, line, meter};
use results::{About, Log, Results};
use scene::segments::Source;
use scene::site::Place;

pub use base::BaseGround;
pub use wal::WalGround;

/// The places, in the order of the table.
pub const PLACES: [Place; 3] = [
    Place::Directory,
    Place::S3 { round_trip_ms: 0 },
    Place::S3 { round_trip_ms: 30 },
];

/// Chooses sections.
const ONLY: &str = "WALFS_BENCH_ONLY";

/// Chooses tools.
const TOOLS: &str = "WALFS_BENCH_TOOLS";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(line::ARGUMENT) => return line::serve(&arguments),
        Some(client::ARGUMENT) => return client::serve(&arguments),
        _ => {}
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("bench")
        .join("peers.jsonl");
    if !measure::named(ONLY, "report") {
        measure_all(&file);
    }
    let results = Results::read(&file);
    print!("{}", table::render(&results));
    let drawing = std::env::var_os("WALFS_BENCH_SVG").map_or_else(usual_drawing, PathBuf::from);
    std::fs::write(&drawing, plot::draw(&results)).expect("write the drawing");
    println!(
        "\nMeasurements: {}; drawing: {}",
        file.display(),
        drawing.display()
    );
}

fn usual_drawing() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/bench.svg")
}

fn measure_all(file: &Path) {
    interrupt::watch();
    meter::adopt_orphans();
    let mut log = Log::create(file);
    let rounds = measure::setting("WALFS_BENCH_ROUNDS", 3);
    let scale = measure::setting("WALFS_BENCH_SCALE", 100);
    let batch = measure::setting("WALFS_BENCH_SEGMENTS", 8);
    let world = World::new("peers");
    log.about(&About::now(rounds, batch, scale));
    let chosen = |sections: &[Section]| sections.iter().any(|section| is_chosen(*section));
    if chosen(&[Section::Push, Section::Backlog, Section::Fetch, Section::Missing]) {
        let source = Source::new(&world, 1 + 2 * rounds * batch);
        println!("{}", source.about);
        for place in PLACES {
            wal::Sections::new(&world, &source, place, &mut log).run(rounds, batch);
        }
    }
    if chosen(&[Section::Backup, Section::Restore, Section::Answer]) {
        base::run(&world, scale, rounds, &mut log);
    }
}

/// Whether a tool was asked for, by the beginning of its name.
pub fn is_asked_for(row: &contender::Row) -> bool {
    std::env::var(TOOLS).map_or(true, |tools| {
        tools.split(',').any(|tool| row.name.starts_with(tool.trim()))
    })
}

/// Whether a section was asked for.
pub fn is_chosen(section: Section) -> bool {
    measure::chosen(ONLY, section.word())
}
