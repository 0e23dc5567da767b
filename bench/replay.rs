//! Seconds per segment of a recovery's `cp`: `cargo bench --bench replay`.
//!
//! A row of 16 MiB segments, restored one after the other as PostgreSQL asks for them, from a real S3 server (Garage on
//! loopback), directly and behind 30 ms of added round trip. The ways take turns row by row, the mount each time a new
//! one with nothing in memory: `cp` from the local disk; one GET for each segment on a warm connection, unpacked and
//! written by this process, which is what can be had without fetching ahead; `cp` from a mount. Content compresses five
//! to one, as WAL of pgbench does.
//!
//! Once one `cp` follows the other, which measures what a segment costs; once each segment is "replayed" before the next
//! one is asked for, as recovery does, which measures how long recovery waits for it. `WALFS_BENCH_SEGMENTS` sets the
//! length of a row (30), `WALFS_BENCH_ROUNDS` how many (3), `WALFS_BENCH_PAUSE_MS` how long replay takes (100).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::garage::Garage;
use common::wal;
use common::walfs::{Mount, Options};
use common::world::World;
use measure::{Cost, median, ms};
use tokio::runtime::Runtime;
use walfs::codec;
use walfs::store::{self, ByteRange, Key, Location, Patience, Store};

/// Columns of the tables.
const COLUMNS: [&str; 8] = [
    "one segment",
    "wall ms",
    "times cp from disk",
    "first ms",
    "once running ms",
    "times cp from disk",
    "client CPU ms",
    "daemon CPU ms",
];

/// Memory for a copy, for the daemon and for what it works with.
const SPARE_MIB: usize = 512;

/// Of each page so much repeats one byte.
const CALM_BYTES: usize = wal::PAGE_BYTES * 6 / 10;

fn main() {
    measure::print_machine();
    let segments = measure::setting("WALFS_BENCH_SEGMENTS", 30);
    let world = World::new("replay");
    let garage = Garage::start(&world.path().join("garage"), false);
    let names = wal::segment_names(1, 1, segments as u64);
    let row = Row::archived(&world, &garage, names);
    for round_trip in [0, 30] {
        let server = garage.endpoint();
        let address = server
            .trim_start_matches("http://")
            .parse()
            .expect("Garage's address");
        let endpoint = match round_trip {
            0 => server,
            _ => format!(
                "http://{}",
                measure::lag::proxy(address, Duration::from_millis(round_trip / 2))
            ),
        };
        let replay = Duration::from_millis(measure::setting("WALFS_BENCH_PAUSE_MS", 100) as u64);
        for pause in [Duration::ZERO, replay] {
            let title = format!(
                "One of {segments} segments, Garage behind {round_trip} ms, {:.0} ms of replay after each",
                ms(pause)
            );
            row.report(&world, &garage, &endpoint, pause, &title);
        }
    }
}

/// The segments, on the local disk and in the archive.
struct Row {
    names: Vec<String>,
    local: PathBuf,
    target: PathBuf,
}

impl Row {
    fn archived(world: &World, garage: &Garage, names: Vec<String>) -> Self {
        let local = world.owned_dir("pg_wal");
        let mount = mount(world, garage, &garage.endpoint());
        for name in &names {
            let path = local.join(name);
            fs::write(&path, content(name)).expect("write a segment");
            mount.user().own(&path);
            let mut cp = mount.user().command("cp");
            cp.arg(&path).arg(mount.wal().join(name));
            measure::run(&mut cp, None);
        }
        Self {
            names,
            local,
            target: world.owned_dir("restored").join("RECOVERYXLOG"),
        }
    }

    /// Restores all segments by `cp` from a directory. The daemon's CPU is that of replay, too: it fetches meanwhile.
    fn copy(&self, from: &Path, mount: &Mount, pause: Duration, daemon: Option<u32>) -> Vec<Cost> {
        measure::host::bring(SPARE_MIB);
        let copy = |name: &String| {
            let mut cp = mount.user().command("cp");
            cp.arg(from.join(name)).arg(&self.target);
            let before = daemon.map(measure::cpu_of);
            let cost = measure::run(&mut cp, None);
            fs::remove_file(&self.target).expect("remove the copy");
            thread::sleep(pause);
            let daemon = daemon.map(measure::cpu_of).unwrap_or_default() - before.unwrap_or_default();
            Cost { daemon, ..cost }
        };
        self.names.iter().map(copy).collect()
    }

    /// Restores all segments by one GET each.
    fn get(&self, runtime: &Runtime, store: &Store, pause: Duration) -> Vec<Cost> {
        measure::host::bring(SPARE_MIB);
        let get = |name: &String| {
            let (begin, before) = (Instant::now(), measure::cpu_of(std::process::id()));
            let key = Key::parse(&format!("wal/{name}.lz4")).expect("a key");
            let patience = Patience::for_at_most(Duration::from_secs(60));
            let fetched = runtime.block_on(store.get(&key, ByteRange::AtMost(u64::MAX), patience));
            let plain = codec::unpack_all(&fetched.expect("an archived segment").bytes).expect("undamaged");
            fs::write(&self.target, plain).expect("write the copy");
            let cost = Cost {
                wall: begin.elapsed(),
                client: measure::cpu_of(std::process::id()) - before,
                daemon: Duration::ZERO,
            };
            fs::remove_file(&self.target).expect("remove the copy");
            thread::sleep(pause);
            cost
        };
        self.names.iter().map(get).collect()
    }

    fn report(&self, world: &World, garage: &Garage, endpoint: &str, pause: Duration, title: &str) {
        let runtime = Runtime::new().expect("threads");
        let store = runtime.block_on(open(world, garage, endpoint));
        self.get(&runtime, &store, Duration::ZERO);
        let (mut disk, mut got, mut mounted) = (Vec::new(), Vec::new(), Vec::new());
        let mut memory_mib: f64 = 0.0;
        for _ in 0..measure::setting("WALFS_BENCH_ROUNDS", 3) {
            got.push(self.get(&runtime, &store, pause));
            let mount = mount(world, garage, endpoint);
            disk.push(self.copy(&self.local, &mount, pause, None));
            mounted.push(self.copy(&mount.wal(), &mount, pause, Some(mount.process())));
            memory_mib = memory_mib.max(measure::memory_mib(mount.process(), "VmHWM"));
        }
        let base = (per_segment(&disk), once_running(&disk));
        let rows = [
            ("cp from disk", &disk),
            ("one GET each", &got),
            ("**cp from the mount**", &mounted),
        ]
        .map(|(what, rounds)| table_row(what, rounds, base));
        measure::print_table(title, &COLUMNS, &rows);
        println!("the daemon took {memory_mib:.0} MiB at most");
    }
}

/// Milliseconds for each segment of a row, the first included: of the median round.
fn per_segment(rounds: &[Vec<Cost>]) -> f64 {
    median(rounds.iter().map(|costs| mean(costs, |cost| cost.wall)).collect())
}

/// Milliseconds for a segment of the second half of a row: of the median one of all rounds.
fn once_running(rounds: &[Vec<Cost>]) -> f64 {
    let later = rounds.iter().flat_map(|costs| &costs[costs.len() / 2..]);
    median(later.map(|cost| ms(cost.wall)).collect())
}

fn mean(costs: &[Cost], figure: impl Fn(&Cost) -> Duration) -> f64 {
    costs.iter().map(|cost| ms(figure(cost))).sum::<f64>() / costs.len() as f64
}

fn table_row(what: &str, rounds: &[Vec<Cost>], base: (f64, f64)) -> Vec<String> {
    let middle =
        |figure: &dyn Fn(&Cost) -> Duration| median(rounds.iter().map(|costs| mean(costs, figure)).collect());
    let first = median(rounds.iter().map(|costs| ms(costs[0].wall)).collect());
    vec![
        what.to_owned(),
        format!("{:.1}", per_segment(rounds)),
        format!("{:.2}", per_segment(rounds) / base.0),
        format!("{first:.0}"),
        format!("{:.1}", once_running(rounds)),
        format!("{:.2}", once_running(rounds) / base.1),
        format!("{:.1}", middle(&|cost| cost.client)),
        format!("{:.1}", middle(&|cost| cost.daemon)),
    ]
}

fn content(name: &str) -> Vec<u8> {
    let mut content = wal::segment(name, 7, wal::SEGMENT_BYTES, 1);
    for page in content.chunks_mut(wal::PAGE_BYTES) {
        page[wal::PAGE_BYTES - CALM_BYTES..].fill(7);
    }
    content
}

fn mount(world: &World, garage: &Garage, endpoint: &str) -> Mount {
    let archive = format!("s3://{}/replay", garage.bucket());
    Options::s3(world, &archive, endpoint, &garage.env()).mount()
}

/// The same archive, without walfs around it.
async fn open(world: &World, garage: &Garage, endpoint: &str) -> Store {
    let keys = world.path().join("credentials");
    let value = |wanted: &str| {
        let pairs = garage.env().into_iter();
        pairs
            .filter(|(name, _)| name == wanted)
            .map(|(_, value)| value)
            .collect::<String>()
    };
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        value("AWS_ACCESS_KEY_ID"),
        value("AWS_SECRET_ACCESS_KEY")
    );
    fs::write(&keys, text).expect("write the credentials");
    let location = Location::parse(&format!("s3://{}/replay", garage.bucket())).expect("a place");
    let options = store::Options {
        endpoint: Some(endpoint.to_owned()),
        region: Some(value("AWS_REGION")),
        credentials_file: Some(keys),
        ..store::Options::default()
    };
    store::open(&location, &options).await.expect("open the store")
}
