//! What one WAL segment of 16 MiB costs on its way in and out, beside plain copies on the same disk:
//! `cargo bench --bench segments`.
//!
//! Segments are real ones, of a throw-away PostgreSQL under pgbench, or made up where there is none. For each segment
//! every operation is done once, one after the other, so that what disturbs the machine disturbs them all; figures are
//! medians over the segments. The archive is a local directory, then a real S3 server (Garage on loopback) if
//! `.ci/needs bench` has built it. `WALFS_BENCH_SEGMENTS` sets how many segments (20).
//!
//! "Out, first" finds nothing in walfs's own cache, but its object in the page cache of the kernel, as it does on a
//! host that archived it a moment ago: the disk's reading speed is not what is measured here.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;
#[path = "scene/segments.rs"]
mod scene;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::garage::Garage;
use common::walfs::{BINARY, Mount, Options};
use common::world::World;
use measure::{Cost, median, ms};

/// Columns of the tables.
const COLUMNS: [&str; 6] = [
    "one segment",
    "wall ms",
    "times cp",
    "client CPU ms",
    "daemon CPU ms",
    "store requests",
];

/// Names of `.walfs/mount.json`, under `store_requests`.
const REQUESTS: [&str; 5] = ["heads", "gets", "puts", "parts", "lists"];

fn main() {
    measure::print_machine();
    let world = World::new("bench");
    let source = scene::Source::new(&world, measure::setting("WALFS_BENCH_SEGMENTS", 20));
    println!("\n{}", source.about);
    let segments = source.segments;
    let local = Options::local(&world);
    let direct = vec![world.owned_dir("direct").display().to_string()];
    Bench::new(&world, local.mount(), direct, Vec::new()).report("a local directory on ext4", &segments);

    let garage_is_built =
        std::panic::catch_unwind(|| common::copiers::cached_program("garage-2.5.0/bin/garage"));
    if garage_is_built.is_err() {
        return println!("\nNo Garage: the S3 table is left out.");
    }
    let garage = Garage::start(&world.path().join("garage"), true);
    let archive = |prefix: &str| format!("s3://{}/{prefix}", garage.bucket());
    let options = Options::s3(&world, &archive("mounted"), &garage.endpoint(), &garage.env());
    let direct = vec![archive("direct"), "--endpoint".into(), garage.endpoint()];
    Bench::new(&world, options.mount(), direct, garage.env())
        .report("Garage, an S3 server on loopback, with fsync", &segments);
}

/// One operation, and for each segment what it cost and how many requests of each kind it made.
type Row = (&'static str, Vec<(Cost, [u64; 5])>);

/// One archive, mounted, and what has been measured with it.
struct Bench<'a> {
    world: &'a World,
    mount: Mount,
    scratch: PathBuf,
    /// Archive and options of `wal-push` and `wal-fetch`: another prefix of the same store.
    direct: Vec<String>,
    environment: Vec<(String, String)>,
    rows: Vec<Row>,
}

impl<'a> Bench<'a> {
    fn new(world: &'a World, mount: Mount, direct: Vec<String>, environment: Vec<(String, String)>) -> Self {
        let scratch = world.owned_dir("scratch");
        Bench {
            world,
            mount,
            scratch,
            direct,
            environment,
            rows: Vec::new(),
        }
    }

    fn report(mut self, place: &str, segments: &[PathBuf]) {
        let before = measure::memory_mib(self.mount.process(), "VmRSS");
        segments.iter().for_each(|segment| self.segment(segment));
        let rows: Vec<Vec<String>> = self.rows.iter().map(|row| self.row(row)).collect();
        measure::print_table(&format!("One segment, archive in {place}"), &COLUMNS, &rows);
        let status = self.mount.status();
        let stored = status["store_requests"]["bytes_out"].as_f64().unwrap_or_default() / (1 << 20) as f64;
        println!(
            "\n{} segments take {stored:.1} MiB of {} MiB. Daemon: {before:.0} MiB resident at the start, {:.0} now, {:.0} at most.",
            segments.len(),
            segments.len() * 16,
            measure::memory_mib(self.mount.process(), "VmRSS"),
            measure::memory_mib(self.mount.process(), "VmHWM"),
        );
    }

    /// Every operation once.
    fn segment(&mut self, segment: &Path) {
        let name = segment.file_name().expect("a segment has a name");
        let copy = self.scratch.join("copy");
        let archived = self.mount.wal().join(name);
        self.remove(&copy);
        self.measure("cp file → ext4", self.cp(segment, &copy));
        self.remove(&copy);
        self.measure("cp + fsync → ext4", self.cp_and_fsync(segment, &copy));
        self.remove(&copy);
        self.measure("lz4 -1 file → ext4", self.lz4(segment, &copy));
        self.remove(&copy);
        self.measure("**cp in**, new", self.cp(segment, &archived));
        self.measure("cp in, archived already", self.cp(segment, &archived));
        self.measure("**cp out**, first", self.cp(&archived, &copy));
        assert_eq!(
            std::fs::read(segment).ok(),
            std::fs::read(&copy).ok(),
            "what came back"
        );
        self.remove(&copy);
        self.measure("cp out, again", self.cp(&archived, &copy));
        self.remove(&copy);
        self.measure("walfs wal-push", self.direct("wal-push", &[segment]));
        self.measure(
            "walfs wal-fetch",
            self.direct("wal-fetch", &[Path::new(name), &copy]),
        );
        self.remove(&copy);
    }

    fn measure(&mut self, what: &'static str, mut command: Command) {
        let before = self.requests();
        let cost = measure::run(&mut command, Some(self.mount.process()));
        let after = self.requests();
        let requests = std::array::from_fn(|index| after[index] - before[index]);
        match self.rows.iter_mut().find(|(known, _)| *known == what) {
            Some((_, costs)) => costs.push((cost, requests)),
            None => self.rows.push((what, vec![(cost, requests)])),
        }
    }

    fn requests(&self) -> [u64; 5] {
        let status = self.mount.status();
        REQUESTS.map(|name| status["store_requests"][name].as_u64().expect("a count"))
    }

    fn row(&self, (what, costs): &Row) -> Vec<String> {
        let middle =
            |figure: &dyn Fn(&Cost) -> f64| median(costs.iter().map(|(cost, _)| figure(cost)).collect());
        let plain = median(self.rows[0].1.iter().map(|(cost, _)| ms(cost.wall)).collect());
        let wall = middle(&|cost| ms(cost.wall));
        let counts =
            |index: usize| median(costs.iter().map(|(_, counts)| counts[index] as f64).collect()) as u64;
        let named = REQUESTS
            .iter()
            .enumerate()
            .map(|(index, name)| (counts(index), name));
        let named: Vec<String> = named
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        vec![
            (*what).to_owned(),
            format!("{wall:.0}"),
            format!("{:.1}", wall / plain),
            format!("{:.0}", middle(&|cost| ms(cost.client))),
            format!("{:.0}", middle(&|cost| ms(cost.daemon))),
            named.join(", "),
        ]
    }

    fn cp(&self, from: &Path, to: &Path) -> Command {
        let mut command = self.mount.user().command("cp");
        command.arg(from).arg(to);
        command
    }

    /// As a careful archive script does; the directory is not fsynced.
    fn cp_and_fsync(&self, from: &Path, to: &Path) -> Command {
        let mut command = self.mount.user().command("dd");
        command.args([&format!("if={}", from.display()), &format!("of={}", to.display())]);
        command.args(["bs=1M", "conv=fsync", "status=none"]);
        command
    }

    fn lz4(&self, from: &Path, to: &Path) -> Command {
        let mut command = self.mount.user().command("lz4");
        command.args(["-1", "-q"]).arg(from).arg(to);
        command
    }

    /// `walfs VERB ... --archive ...`
    fn direct(&self, verb: &str, arguments: &[&Path]) -> Command {
        let mut command = self
            .mount
            .user()
            .command(self.world.public_program(Path::new(BINARY)));
        command
            .arg(verb)
            .args(arguments)
            .arg("--archive")
            .args(&self.direct);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn remove(&self, file: &Path) {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("remove {}: {error}", file.display())
            }
            _ => {}
        }
    }
}
