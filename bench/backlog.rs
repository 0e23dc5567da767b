//! Seconds per segment when segments wait to be archived, and when none does: `cargo bench --bench backlog`.
//!
//! One `cp` after the other, as PostgreSQL's archiver makes them, of 16 MiB segments of half noise, to a real S3 server
//! (Garage on loopback), directly and behind 30 ms of added round trip. The three ways take turns segment for segment,
//! each on a mount and a prefix of its own: with a backlog (all of a batch are marked `.ready` at once, as after an
//! outage), without one (each is marked when it is brought), and told not to work ahead. Beside them the floor: `cp` to
//! the local disk. `WALFS_BENCH_SEGMENTS` sets how many segments (30).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "measure/lag.rs"]
mod lag;
mod measure;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::garage::Garage;
use common::wal;
use common::walfs::{Mount, Options};
use common::world::World;
use measure::{Cost, median, ms};

/// Columns of the tables.
const COLUMNS: [&str; 5] = [
    "one segment",
    "wall ms",
    "times none",
    "client CPU ms",
    "daemon CPU ms",
];

fn main() {
    measure::print_machine();
    let segments = measure::setting("WALFS_BENCH_SEGMENTS", 30);
    let world = World::new("backlog");
    let garage = Garage::start(&world.path().join("garage"), false);
    for round_trip in [0, 30] {
        let one_way = Duration::from_millis(round_trip / 2);
        let server = garage.endpoint();
        let address = server
            .trim_start_matches("http://")
            .parse()
            .expect("Garage's address");
        let endpoint = match round_trip {
            0 => server,
            _ => format!("http://{}", lag::proxy(address, one_way)),
        };
        let ways = Way::all(&world, &garage, &endpoint, round_trip);
        report(&format!("{round_trip} ms of added round trip"), ways, segments);
    }
}

/// One way of archiving, and what it cost for each segment.
struct Way {
    what: &'static str,
    mount: Mount,
    pg_wal: PathBuf,
    backlog: bool,
    costs: Vec<Cost>,
}

impl Way {
    fn all(world: &World, garage: &Garage, endpoint: &str, round_trip: u64) -> [Way; 3] {
        let way = |what: &'static str, name: &str, backlog: bool, pg_wal: &str| {
            let name = format!("{name}{round_trip}");
            let mountpoint = world.owned_dir(&format!("mnt-{name}"));
            let archive = format!("s3://{}/{name}", garage.bucket());
            let options = Options::s3(world, &archive, endpoint, &garage.env());
            let directory = world.owned_dir(&format!("pg_wal-{name}"));
            world.owned_dir(&format!("pg_wal-{name}/archive_status"));
            Way {
                what,
                mount: options.at(&mountpoint).args(&["--pg-wal", pg_wal]).mount(),
                pg_wal: directory,
                backlog,
                costs: Vec::new(),
            }
        };
        [
            way("backlog, not working ahead", "off", true, "off"),
            way("**backlog**", "backlog", true, "auto"),
            way("no backlog", "none", false, "auto"),
        ]
    }

    /// Puts a segment in `pg_wal`.
    fn write(&self, name: &str) {
        let path = self.pg_wal.join(name);
        fs::write(&path, wal::segment(name, 7, wal::SEGMENT_BYTES, 1)).expect("write a segment");
        self.mount.user().own(&path);
        if self.backlog {
            self.mark(name);
        }
    }

    fn mark(&self, name: &str) {
        fs::write(self.pg_wal.join(format!("archive_status/{name}.ready")), "").expect("mark a segment");
    }

    /// As the archiver: brings it, and marks it done.
    fn bring(&mut self, name: &str) {
        self.mark(name);
        let mut cp = self.mount.user().command("cp");
        cp.arg(self.pg_wal.join(name)).arg(self.mount.wal().join(name));
        let cost = measure::run(&mut cp, Some(self.mount.process()));
        self.costs.push(cost);
        fs::remove_file(self.pg_wal.join(format!("archive_status/{name}.ready")))
            .expect("take the mark away");
        remove(&self.pg_wal.join(name));
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).expect("remove a segment");
}

/// Batches of ten: within a batch one way brings all its segments, then the next way does.
fn report(place: &str, mut ways: [Way; 3], segments: usize) {
    let names = wal::segment_names(1, 1, segments as u64 + 1);
    let (first, names) = names.split_first().expect("one more than asked for");
    for way in &mut ways {
        // Ties the archive to its cluster, and makes the connection.
        way.write(first);
        way.bring(first);
        way.costs.clear();
    }
    for batch in names.chunks(10) {
        for way in &mut ways {
            batch.iter().for_each(|name| way.write(name));
            batch.iter().for_each(|name| way.bring(name));
        }
    }
    let middle = |way: &Way, figure: &dyn Fn(&Cost) -> f64| median(way.costs.iter().map(figure).collect());
    let mean = |way: &Way| way.costs.iter().map(|cost| ms(cost.wall)).sum::<f64>() / way.costs.len() as f64;
    let none = mean(&ways[2]);
    let rows: Vec<Vec<String>> = ways
        .iter()
        .map(|way| {
            vec![
                way.what.to_owned(),
                format!(
                    "{:.0} (mean {:.0})",
                    middle(way, &|cost| ms(cost.wall)),
                    mean(way)
                ),
                format!("{:.2}", mean(way) / none),
                format!("{:.0}", middle(way, &|cost| ms(cost.client))),
                format!("{:.0}", middle(way, &|cost| ms(cost.daemon))),
            ]
        })
        .collect();
    measure::print_table(&format!("One segment, Garage behind {place}"), &COLUMNS, &rows);
    for way in &ways {
        println!(
            "{}: {} of {segments} sent ahead, {:.0} MiB at most",
            way.what,
            way.mount.status()["sent_ahead"],
            measure::memory_mib(way.mount.process(), "VmHWM")
        );
    }
}
