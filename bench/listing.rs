//! What an archive of many segments and files costs: `cargo bench --bench listing`.
//!
//! A thousand, ten thousand and a hundred thousand objects are real files in a local archive, served by the `walfs`
//! binary; so many and a million more are made up by a store that invents the pages of its listing (see
//! `simulated.rs`), served by this program started a second time: at once, and with 20 ms for every request as from a
//! distant S3. All of it goes through the kernel. While `ls -l` runs over and over, a `stat` and a `cp` show whether
//! they wait for it. Then a real archive grows in a directory, in the files of its backups and in its segments (see
//! `growth.rs`). `WALFS_BENCH_LARGEST` leaves out what is larger (1000000).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
#[path = "listing/growth.rs"]
mod growth;
mod measure;
mod scene;
#[path = "listing/simulated.rs"]
mod simulated;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::postgres::send;
use common::user::User;
use common::wal;
use common::walfs::Options;
use common::world::World;
use measure::{median, ms};

const COLUMNS: [&str; 12] = [
    "segments",
    "store",
    "ls -f s",
    "ls -l s",
    "daemon CPU s of ls -l",
    "pages",
    "first name ms",
    "stat ms",
    "stat during ls -l",
    "cp in ms",
    "cp in during ls -l",
    "peak MiB",
];

/// Looks at single names, of which the median is told.
const LOOKS: u64 = 20;

/// What every segment here belongs to.
const SYSTEM_ID: u64 = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, mountpoint, count, delay_ms, ..] = &arguments[..]
        && verb == "--serve"
    {
        let number = |text: &String| text.parse().expect("a number");
        return simulated::serve(
            Path::new(mountpoint),
            number(count),
            Duration::from_millis(number(delay_ms)),
        );
    }
    measure::print_machine();
    measure::meter::adopt_orphans();
    let largest = measure::setting("WALFS_BENCH_LARGEST", 1_000_000) as u64;
    let fits = |count: &u64| *count <= largest;
    let mut rows: Vec<Vec<String>> = [1_000, 10_000, 100_000]
        .into_iter()
        .filter(fits)
        .map(real)
        .collect();
    for (count, delay_ms) in [(100_000, 0), (100_000, 20), (1_000_000, 0), (1_000_000, 20)] {
        if fits(&count) {
            rows.push(made_up(count, delay_ms));
        }
    }
    measure::print_table("Listing `wal/`", &COLUMNS, &rows);
    growth::report(largest);
}

/// Objects of one byte in a local archive: a listing looks at names and sizes only.
fn real(count: u64) -> Vec<String> {
    let world = World::new("listing");
    let mut options = Options::local(&world);
    // The bench itself looks at the mount.
    options.user = User::caller();
    let mut mount = options.mount();
    let first = segment(&world, 0);
    measure::run(Command::new("cp").arg(&first).arg(mount.wal()), None);
    mount.terminate();
    for number in 1..count {
        let object = format!("wal/{}.lz4", name(number));
        File::create(world.archive().join(object)).expect("make an object");
    }
    mount.restart();
    let place = Place {
        world: &world,
        mountpoint: mount.path().to_owned(),
        daemon: mount.process(),
        count,
    };
    place.row("directory")
}

fn made_up(count: u64, delay_ms: u64) -> Vec<String> {
    let world = World::new("listing");
    let mountpoint = world.mountpoint();
    let own = std::env::current_exe().expect("the path of this program");
    let mut server = Command::new(own);
    server
        .arg("--serve")
        .arg(&mountpoint)
        .args([count, delay_ms].map(|number| number.to_string()));
    let mut server = server.spawn().expect("run this program again");
    common::wait::until("the mount to answer", || {
        assert!(
            server.try_wait().expect("wait for it").is_none(),
            "the simulation ended"
        );
        mountpoint.join("wal").exists().then_some(())
    });
    let place = Place {
        world: &world,
        mountpoint,
        daemon: server.id(),
        count,
    };
    let row = place.row(&format!("made up, {delay_ms} ms"));
    send(server.id(), libc::SIGTERM);
    common::wait::for_exit("the simulation", &mut server);
    row
}

fn name(number: u64) -> String {
    wal::segment_name(1, number, wal::SEGMENT_BYTES)
}

fn segment(world: &World, number: u64) -> PathBuf {
    let content = wal::segment(&name(number), SYSTEM_ID, wal::SEGMENT_BYTES, number);
    world.owned_file(&name(number), &content)
}

/// A mount with so many segments, and the process that serves it.
struct Place<'a> {
    world: &'a World,
    mountpoint: PathBuf,
    daemon: u32,
    count: u64,
}

impl Place<'_> {
    fn row(&self, store: &str) -> Vec<String> {
        let names = measure::run(&mut self.ls("-f"), Some(self.daemon));
        let pages_before = self.lists();
        let attributes = measure::run(&mut self.ls("-l"), Some(self.daemon));
        let pages = self.lists() - pages_before;
        let first = self.first_name();
        let (stat, cp) = (self.stat(0), self.cp_in(0));
        let (stat_meanwhile, cp_meanwhile) = self.while_listed(|| (self.stat(1), self.cp_in(1)));
        let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
        vec![
            self.count.to_string(),
            store.to_owned(),
            seconds(names.wall),
            seconds(attributes.wall),
            seconds(attributes.daemon),
            pages.to_string(),
            format!("{:.1}", ms(first)),
            format!("{stat:.1}"),
            format!("{stat_meanwhile:.1}"),
            format!("{cp:.0}"),
            format!("{cp_meanwhile:.0}"),
            format!("{:.0}", measure::memory_mib(self.daemon, "VmHWM")),
        ]
    }

    fn wal(&self) -> PathBuf {
        self.mountpoint.join("wal")
    }

    fn ls(&self, how: &str) -> Command {
        let mut command = Command::new("ls");
        command.arg(how).arg(self.wal()).env("LC_ALL", "C");
        command
    }

    fn lists(&self) -> u64 {
        let text = fs::read(self.mountpoint.join(".walfs/mount.json")).expect("read the status");
        let status: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        status["store_requests"]["lists"].as_u64().expect("a count")
    }

    /// From `opendir` to the first name.
    fn first_name(&self) -> Duration {
        let begin = Instant::now();
        let mut names = fs::read_dir(self.wal()).expect("open the directory");
        names.next().expect("a name").expect("read the directory");
        begin.elapsed()
    }

    /// Median milliseconds of a look at names all over the archive, other ones in every `round`.
    fn stat(&self, round: u64) -> f64 {
        let look = |number: u64| {
            let name = name((number * 2 + round) * self.count / (LOOKS * 2));
            let begin = Instant::now();
            fs::metadata(self.wal().join(name)).expect("look at a segment");
            ms(begin.elapsed())
        };
        median((0..LOOKS).map(look).collect())
    }

    /// Milliseconds of archiving one more segment; the median of three.
    fn cp_in(&self, round: u64) -> f64 {
        let archive = |number: u64| {
            let segment = segment(self.world, self.count + round * 3 + number);
            ms(measure::run(Command::new("cp").arg(&segment).arg(self.wal()), None).wall)
        };
        median((0..3).map(archive).collect())
    }

    /// Runs `work` while `ls -l` runs over and over.
    fn while_listed<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let listing = self.ls("-l").stdout(Stdio::null()).spawn().expect("run ls");
                    listed_or_ended(listing, &done);
                }
            });
            let outcome = work();
            done.store(true, Ordering::Release);
            outcome
        })
    }
}

/// Waits for `ls`, or ends it when nobody needs it any more.
fn listed_or_ended(mut listing: Child, done: &AtomicBool) {
    while listing.try_wait().expect("wait for ls").is_none() {
        if done.load(Ordering::Acquire) {
            listing.kill().expect("end ls");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
