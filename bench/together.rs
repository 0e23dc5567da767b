//! What an archiving `cp` waits for others in the same mount: `cargo bench --bench together`.
//!
//! Segments that a PostgreSQL under pgbench has filled are copied into `wal/` one after another at an even pace, first
//! alone, then while `walfs backup` takes one backup of that cluster after the other and `ls -l wal/` and
//! `find basebackups` go through the mount (see `together/load.rs`). The two take turns, so that neither has the better
//! minutes. What the machine does by itself under the same load is measured in between: a copy of the same file with
//! fsync to the same disk, and, where the archive is in S3, one PUT of the stored bytes on a warm connection.
//!
//! The archive is in a directory, in Garage, and in Garage behind 30 ms. `WALFS_BENCH_SCALE` is pgbench's scale (100),
//! `WALFS_BENCH_SEGMENTS` how many are copied alone and as many together (120), `WALFS_BENCH_ROUNDS` in how many turns
//! (4), `WALFS_BENCH_PACE_MS` the time from one start to the next (150), `WALFS_BENCH_PAUSE_MS` the pause between two
//! listings (100), `WALFS_BENCH_PLACES` some of `directory,s3,s3-far`.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "together/floor.rs"]
mod floor;
#[path = "together/load.rs"]
mod load;
mod measure;
mod scene;
#[path = "together/sheet.rs"]
mod sheet;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::postgres::Postgres;
use common::walfs::{Mount, Options};
use common::world::World;
use floor::Floor;
use load::{Load, Others};
use measure::{interrupt, line, setting};
use scene::cluster;
use scene::site::{Place, Site};
use sheet::Sheet;

const PLACES: [(&str, Place); 3] = [
    ("directory", Place::Directory),
    ("s3", Place::S3 { round_trip_ms: 0 }),
    ("s3-far", Place::S3 { round_trip_ms: 30 }),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == line::ARGUMENT) {
        return line::serve(&arguments);
    }
    interrupt::watch();
    measure::print_machine();
    let world = World::new("together");
    let count = setting("WALFS_BENCH_SEGMENTS", 120);
    let (server, _) = cluster::large(&world, setting("WALFS_BENCH_SCALE", 100));
    let supply = world.owned_dir("supply");
    cluster::archive_by(&server, &format!("cp %p {}/%f", supply.display()));
    let segments = scene::segments::filled(&server, &supply, 2 * count);
    for (name, place) in PLACES {
        if measure::chosen("WALFS_BENCH_PLACES", name) {
            Bench::new(&world, &server, place).report(&segments);
        }
    }
    server.destroy();
}

/// One archive, mounted, whose cluster is backed up.
struct Bench<'a> {
    server: &'a Postgres,
    place: Place,
    mount: Mount,
    others: Others,
    floor: Floor,
    pace: Duration,
    /// What lies on the disk; ends after the mount.
    _site: Site,
}

impl<'a> Bench<'a> {
    fn new(world: &World, server: &'a Postgres, place: Place) -> Self {
        let site = Site::new(world, "site", place);
        let (archive, options) = site.walfs_archive();
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let mountpoint = site.mountpoint();
        let mount = Options::of(world, &archive).at(&mountpoint).args(&words).mount();
        cluster::archive_by(server, &mount.archive_command());
        Self {
            server,
            place,
            mount,
            others: Others::new(world, &site, server.data(), &mountpoint),
            floor: Floor::new(&site),
            pace: Duration::from_millis(setting("WALFS_BENCH_PACE_MS", 150) as u64),
            _site: site,
        }
    }

    /// Half of the segments alone and half of them together, in turns; each is archived once.
    fn report(mut self, segments: &[PathBuf]) {
        let turns = 2 * setting("WALFS_BENCH_ROUNDS", 4);
        let mut sheet = Sheet::default();
        for (turn, segments) in segments.chunks(segments.len().div_ceil(turns)).enumerate() {
            let load = (turn % 2 == 1).then(|| Load::start(&self.others, turn));
            self.copy(segments, load.is_some(), &mut sheet);
            sheet.busy.extend(load.map(Load::end));
        }
        cluster::archive_by(self.server, "/bin/true");
        self.mount.terminate();
        sheet.print(&format!("Archive: {}", self.place.name()));
    }

    /// Into the mount, and what the machine does without walfs with the same files.
    fn copy(&self, segments: &[PathBuf], loaded: bool, sheet: &mut Sheet) {
        let wal = self.mount.wal();
        let copied = self.paced(segments, |segment| {
            let mut cp = self.mount.user().command("cp");
            measure::run(cp.arg(segment).arg(&wal), None).wall
        });
        sheet.add("**cp into the mount**", loaded, copied);
        let written = self.paced(segments, |segment| self.floor.write(segment));
        sheet.add("dd, fsync, to the disk", loaded, written);
        if self.floor.has_store() {
            let put = self.paced(segments, |segment| self.floor.put(segment));
            sheet.add("LZ4, one warm PUT", loaded, put);
        }
    }

    /// One piece of work for each segment, begun at an even pace, or at once if the one before took longer.
    fn paced(&self, segments: &[PathBuf], mut work: impl FnMut(&Path) -> Duration) -> Vec<Duration> {
        let mut next = Instant::now();
        let paced = |segment: &PathBuf| {
            interrupt::check();
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = next.max(Instant::now()) + self.pace;
            work(segment)
        };
        segments.iter().map(paced).collect()
    }
}
