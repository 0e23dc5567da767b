//! A real archive in a directory that grows: first in the files of its backups, then in its segments. The backups are
//! taken by `walfs backup` of a server whose data directory has so many small files more; the segments are empty objects,
//! as whoever lists them looks at names and sizes only.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::common::walfs::{Mount, Options, walfs};
use crate::common::world::World;
use crate::measure::meter::{self, Cost, Others};
use crate::measure::{self, median, ms};
use crate::scene::cluster;
use crate::{LOOKS, name};

/// Of backups.
const OF_FILES: [&str; 8] = [
    "files",
    "backup s",
    "peak MiB",
    "backup-list ms",
    "backup-show ms",
    "find in the mount s",
    "stat ms",
    "peak MiB of the mount",
];

/// Of segments, with three backups.
const OF_SEGMENTS: [&str; 9] = [
    "segments",
    "mount ms",
    "stat ms",
    "stat of none ms",
    "wal-list s",
    "peak MiB",
    "backup-list ms",
    "peak MiB",
    "peak MiB of the mount",
];

/// The first made-up segment: far behind those of the server.
const FIRST: u64 = 1 << 20;

/// The archive, mounted so that the benchmark itself may look, and the server that is backed up.
struct Growing<'a> {
    world: &'a World,
    mount: Mount,
    server: Postgres,
}

/// Both tables.
pub(super) fn report(largest: u64) {
    let world = World::new("growth");
    let mount = Options::local(&world).args(&["--allow-other"]).mount();
    let (server, _) = cluster::large(&world, 1);
    cluster::archive_by(&server, &mount.archive_command());
    let mut growing = Growing {
        world: &world,
        mount,
        server,
    };
    let files = [1_000, 10_000, 100_000]
        .into_iter()
        .filter(|count| *count <= largest);
    let rows: Vec<Vec<String>> = files.map(|count| growing.files(count)).collect();
    measure::print_table("Files of a backup, archive in a directory", &OF_FILES, &rows);
    let segments = [1_000, 10_000, 100_000, 1_000_000]
        .into_iter()
        .filter(|count| *count <= largest);
    let mut made = 0;
    let rows: Vec<Vec<String>> = segments.map(|count| growing.segments(&mut made, count)).collect();
    measure::print_table(
        "Segments of an archive with backups, in a directory",
        &OF_SEGMENTS,
        &rows,
    );
    growing.server.destroy();
}

impl Growing<'_> {
    /// A backup of so many files more than a new cluster has.
    fn files(&mut self, count: u64) -> Vec<String> {
        self.add_files(count);
        let backup = format!("files-{count}");
        let taken = run(self.walfs("backup").args([&backup, "--fast", "--json"]));
        self.mount.restart();
        let mounted = self.mount.path().join("basebackups").join(&backup);
        // Before the kernel has heard of any.
        let file = |look: u64| mounted.join("extra").join((look * count / LOOKS).to_string());
        let looked = median((0..LOOKS).map(|look| look_at(&file(look))).collect());
        let mut find = User::postgres().command("find");
        let found = run(find.arg(&mounted).args(["-type", "f", "-printf", "%s"]));
        vec![
            count.to_string(),
            seconds(taken.wall),
            mib(&taken),
            format!("{:.0}", ms(run(&mut self.walfs("backup-list")).wall)),
            format!("{:.0}", ms(run(self.walfs("backup-show").arg(&backup)).wall)),
            seconds(found.wall),
            format!("{looked:.2}"),
            format!("{:.0}", measure::memory_mib(self.mount.process(), "VmHWM")),
        ]
    }

    /// Into the data directory, until there are so many.
    fn add_files(&self, count: u64) {
        let extra = self.server.data().join("extra");
        User::postgres().make_dir(&extra);
        let there = fs::read_dir(&extra).expect("read a directory").count() as u64;
        for number in there..count {
            let file = extra.join(number.to_string());
            fs::write(&file, number.to_string()).expect("write a file");
            User::postgres().own(&file);
        }
    }

    /// `count` segments, of which `made` are there.
    fn segments(&mut self, made: &mut u64, count: u64) -> Vec<String> {
        for number in *made..count {
            let object = format!("wal/{}.lz4", name(FIRST + number));
            File::create(self.world.archive().join(object)).expect("make an object");
        }
        *made = count;
        let begin = Instant::now();
        self.mount.restart();
        let mounted = begin.elapsed();
        let wal = self.mount.wal();
        let looks = |far: u64| {
            let number = move |look: u64| FIRST + far + look * count / LOOKS;
            median(
                (0..LOOKS)
                    .map(|look| look_at(&wal.join(name(number(look)))))
                    .collect(),
            )
        };
        let (present, absent) = (looks(0), looks(count));
        let listed = run(&mut self.walfs("wal-list"));
        let backups = run(&mut self.walfs("backup-list"));
        vec![
            count.to_string(),
            format!("{:.0}", ms(mounted)),
            format!("{present:.2}"),
            format!("{absent:.2}"),
            seconds(listed.wall),
            mib(&listed),
            format!("{:.0}", ms(backups.wall)),
            mib(&backups),
            format!("{:.0}", measure::memory_mib(self.mount.process(), "VmHWM")),
        ]
    }

    /// `walfs VERB --archive ...`, beside the server.
    fn walfs(&self, verb: &str) -> Command {
        let mut command = walfs(self.world, &User::postgres());
        command.args([verb, "--archive"]).arg(self.world.archive());
        command
            .env("PGHOST", self.server.data().with_file_name(""))
            .env("PGUSER", "postgres");
        command
    }
}

fn run(command: &mut Command) -> Cost {
    meter::run(command, &Others::default())
}

/// Milliseconds of one look, found or not.
fn look_at(path: &Path) -> f64 {
    let begin = Instant::now();
    // Both answers are wanted here.
    let _ = fs::symlink_metadata(path);
    ms(begin.elapsed())
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

/// Nothing if it ended before anybody could look.
fn mib(cost: &Cost) -> String {
    match cost.peak_bytes {
        0 => String::new(),
        bytes => format!("{:.0}", bytes as f64 / f64::from(1 << 20)),
    }
}
