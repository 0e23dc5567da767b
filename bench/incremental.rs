//! What the next backup costs, after so many pages have changed: `cargo bench --bench incremental`.
//!
//! A cluster of pgbench's tables (1.2 GB) is backed up in full; then 0.1 %, 1 % and 10 % of the pages of its largest table
//! are changed, each at random, then rows are appended, and each time it is backed up by `walfs backup`, by pgBackRest with
//! bundles and blocks, if it is installed, and by `pg_basebackup --incremental`. What has changed is found by comparing a
//! copy with the one before, page by page; it is compressed as a backup is. At the end come more backups with 1 % each, so
//! that the last one is the tenth in a row: it is restored, and copied out of the mount, beside a full one of the same moment.
//! A second archive has the same row in an S3 server that is 30 ms away, if there is one (`.ci/needs bench`).
//!
//! `WALFS_BENCH_SCALE` is pgbench's scale (80).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark's result is its output"
)]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use walfs::codec::{self, Compression};

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;
mod scene;

use common::postgres::{Options, Postgres, newest};
use common::user::User;
use common::walfs::{Mount, Options as MountOptions, walfs};
use common::world::World;
use measure::meter::{self, Cost, Others};
use measure::{files, interrupt, line};
use scene::cluster;
use scene::site::{Place, Site};

const PAGE_BYTES: usize = 8192;

/// What a base backup leaves out.
const LEFT_OUT: [&str; 10] = [
    "pg_wal",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "postmaster.pid",
    "postmaster.opts",
];

/// A copy of what there is, fsync included.
const COPY: &str = r#"cp -a "$1" "$2" && find "$2" -exec sync {} +"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == line::ARGUMENT) {
        return line::serve(&arguments);
    }
    interrupt::watch();
    meter::adopt_orphans();
    measure::print_machine();
    let world = World::new("incremental");
    let mut bench = Bench::new(&world, measure::setting("WALFS_BENCH_SCALE", 80));
    println!("PostgreSQL {}", bench.server.query("SHOW server_version"));
    bench.backup("full");
    for (title, share) in [
        ("0.1 % of pages", 0.001),
        ("1 % of pages", 0.01),
        ("10 % of pages", 0.1),
    ] {
        bench.change_pages(share);
        bench.backup(title);
    }
    bench.append();
    bench.backup("rows appended");
    bench.print();
    for round in 6..=10 {
        bench.change_pages(0.01);
        bench.take(&format!("b{round}"), &[]);
    }
    bench.restores();
}

/// An archive, and its mount.
struct Store {
    place: Place,
    mount: Mount,
    /// How walfs is told of it.
    arguments: Vec<String>,
    site: Site,
}

impl Store {
    fn new(world: &World, name: &str, place: Place) -> Store {
        let site = Site::new(world, name, place);
        let (archive, options) = site.walfs_archive();
        let words: Vec<&str> = options.iter().map(String::as_str).collect();
        let mount = MountOptions::of(world, &archive)
            .at(&site.mountpoint())
            .args(&words)
            .mount();
        Store {
            place,
            mount,
            arguments: [vec!["--archive".into(), archive], options].concat(),
            site,
        }
    }

    /// `walfs VERB` on it.
    fn walfs(&self, world: &World, verb: &str) -> Command {
        let mut command = walfs(world, &User::postgres());
        command.arg(verb).args(&self.arguments);
        command
    }

    /// Bytes of its base backups, if they lie in a directory.
    fn backup_bytes(&self) -> u64 {
        let archive = self.site.archive();
        files::bytes_beneath(&archive.join("trees")) + files::bytes_beneath(&archive.join("basebackups"))
    }
}

struct Bench<'a> {
    world: &'a World,
    server: Postgres,
    near: Store,
    far: Store,
    /// The data directory as it was at the last backup.
    before: PathBuf,
    /// Configuration of pgBackRest, and its repository.
    pgbackrest: Option<(PathBuf, PathBuf)>,
    rows: Vec<Vec<String>>,
    taken: usize,
}

/// Pages that are not as they were before.
struct Changed {
    pages: usize,
    packed_bytes: u64,
}

impl<'a> Bench<'a> {
    fn new(world: &'a World, scale: usize) -> Bench<'a> {
        let near = Store::new(world, "near", Place::Directory);
        let far = Store::new(world, "far", Place::S3 { round_trip_ms: 30 });
        let mut server = Postgres::init(&world.path().join("cluster"), &Options::of(newest()));
        server.configure(&[
            ("autovacuum", "off"),
            ("max_wal_size", "4GB"),
            ("checkpoint_timeout", "1h"),
            ("summarize_wal", "on"),
        ]);
        let both = [&near, &far].map(|store| store.mount.archive_command());
        server.archive_with(&both.join(" && "));
        server.start();
        server.pgbench_init(u32::try_from(scale).expect("a scale"));
        server.query("VACUUM FREEZE");
        let pgbackrest = measure::first_line("pgbackrest", "version");
        println!("{}", pgbackrest.as_deref().unwrap_or("no pgbackrest: left out"));
        let pgbackrest = pgbackrest.map(|_| stanza(world, &server));
        Bench {
            world,
            pgbackrest,
            server,
            near,
            far,
            before: world.owned_dir("copies").join("none"),
            rows: Vec::new(),
            taken: 0,
        }
    }

    /// Locks a row of so many pages of the largest table: its page changes, and no other.
    fn change_pages(&self, share: f64) {
        self.server.query(&format!(
            "SELECT count(*) FROM (SELECT FROM pgbench_accounts WHERE ctid = ANY (ARRAY(
                 SELECT format('(%s,1)', (random() * (pages - 1))::int)::tid
                 FROM (SELECT pg_relation_size('pgbench_accounts') / {PAGE_BYTES} AS pages) AS size,
                      generate_series(1, (pages * {share})::int))) FOR UPDATE) AS locked"
        ));
    }

    fn append(&self) {
        self.server.query(
            "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
             SELECT i % 10, i % 80, i, i, now() FROM generate_series(1, 2000000) AS i",
        );
    }

    /// One row of the table.
    fn backup(&mut self, title: &str) {
        self.server.query("CHECKPOINT");
        let changed = self.changed();
        let number = self.taken;
        let own = self.take(&format!("b{number}"), &[]);
        let peer = self.pg_basebackup(number);
        let rest = self.pgbackrest(number);
        let of_rest = |show: fn(&Cost) -> String| rest.as_ref().map_or("-".to_owned(), show);
        let ratio = own.stored_bytes as f64 / changed.packed_bytes.max(1) as f64;
        self.rows.push(vec![
            title.to_owned(),
            changed.pages.to_string(),
            kib(changed.packed_bytes),
            kib(own.stored_bytes),
            format!("{ratio:.2}"),
            format!("{:.2}", own.wall.as_secs_f64()),
            format!("{:.2}", own.tool().as_secs_f64()),
            of_rest(|cost| kib(cost.stored_bytes)),
            of_rest(|cost| format!("{:.2}", cost.wall.as_secs_f64())),
            of_rest(|cost| format!("{:.2}", cost.tool().as_secs_f64())),
            kib(peer.stored_bytes),
            format!("{:.2}", peer.wall.as_secs_f64()),
        ]);
        self.taken += 1;
    }

    /// In both archives; what it cost in the near one.
    fn take(&self, name: &str, more: &[&str]) -> Cost {
        let before = self.near.backup_bytes();
        let [mut cost, _] = [&self.near, &self.far].map(|store| {
            let mut command = store.walfs(self.world, "backup");
            command.args(["--fast", name]).args(more);
            command
                .env("PGHOST", self.server.data().with_file_name(""))
                .env("PGUSER", "postgres");
            let others = Others {
                server: Some(self.server.process()),
                helpers: vec![store.mount.process()],
                ..Others::default()
            };
            files::empty_page_cache();
            meter::run(&mut command, &others)
        });
        cost.stored_bytes = self.near.backup_bytes() - before;
        cost
    }

    fn pgbackrest(&self, number: usize) -> Option<Cost> {
        let (config, repository) = self.pgbackrest.as_ref()?;
        let mut command = pgbackrest(config, "backup");
        command.arg(if number == 0 { "--type=full" } else { "--type=incr" });
        let others = Others {
            server: Some(self.server.process()),
            ..Others::default()
        };
        files::empty_page_cache();
        let before = files::bytes_beneath(repository);
        let mut cost = meter::run(&mut command, &others);
        cost.stored_bytes = files::bytes_beneath(repository) - before;
        Some(cost)
    }

    /// To disk, uncompressed, on top of the one before.
    fn pg_basebackup(&self, number: usize) -> Cost {
        let dir = |number: usize| self.world.path().join(format!("peer{number}"));
        let mut command = self.server.program("pg_basebackup");
        command
            .arg("-D")
            .arg(dir(number))
            .args(["-X", "none", "-c", "fast", "--no-sync"]);
        if let Some(before) = number.checked_sub(1) {
            command
                .arg("--incremental")
                .arg(dir(before).join("backup_manifest"));
        }
        self.world.owned_dir(&format!("peer{number}"));
        files::empty_page_cache();
        let mut cost = meter::run(&mut command, &Others::default());
        cost.stored_bytes = files::bytes_beneath(&dir(number));
        cost
    }

    /// What has changed since this was asked last.
    fn changed(&mut self) -> Changed {
        let now = self.world.path().join(format!("copies/{}", self.taken));
        meter::run(
            &mut shell(r#"cp -a "$1" "$2""#, &[self.server.data(), &now]),
            &Others::default(),
        );
        for path in LEFT_OUT.map(|name| now.join(name)) {
            match path.is_dir() {
                true => cluster::remove(&path),
                false => drop(fs::remove_file(&path)),
            }
        }
        let mut pages = Vec::new();
        for path in files::beneath(&now) {
            let Ok(content) = fs::read(&path) else { continue };
            let below = path.strip_prefix(&now).expect("below");
            let old = fs::read(self.before.join(below)).unwrap_or_default();
            let mut old = old.chunks(PAGE_BYTES);
            for page in content.chunks(PAGE_BYTES) {
                if old.next() != Some(page) {
                    pages.extend_from_slice(page);
                }
            }
        }
        cluster::remove(&self.before);
        self.before = now;
        let (packed, _) = codec::pack_all(Compression::default(), &pages);
        Changed {
            pages: pages.len() / PAGE_BYTES,
            packed_bytes: packed.len() as u64,
        }
    }

    fn print(&self) {
        let columns = [
            "after",
            "changed pages",
            "these, packed KiB",
            "**walfs** stored KiB",
            "ratio",
            "s",
            "CPU s",
            "pgBackRest KiB",
            "s",
            "CPU s",
            "pg_basebackup --incremental KiB",
            "s",
        ];
        measure::print_table("The next backup", &columns, &self.rows);
    }

    /// The tenth in a row, beside a full one of the same moment.
    fn restores(&self) {
        self.take("full-again", &["--full"]);
        let data = self.world.owned_dir("restored").join("data");
        let mut rows = Vec::new();
        for store in [&self.near, &self.far] {
            let mut seconds: BTreeMap<(&str, &str), f64> = BTreeMap::new();
            for name in ["full-again", "b10"] {
                let mut restore = store.walfs(self.world, "restore");
                restore.args(["--no-archiving", name]).arg(&data);
                seconds.insert(("walfs restore", name), self.timed(restore, &data));
                let shown = store.mount.path().join("basebackups").join(name);
                let copy = shell(COPY, &[&shown, &data]);
                seconds.insert(("cp -a from the mount, fsync", name), self.timed(copy, &data));
            }
            for way in ["walfs restore", "cp -a from the mount, fsync"] {
                let [full, tenth] = ["full-again", "b10"].map(|name| seconds[&(way, name)]);
                rows.push(vec![
                    store.place.name(),
                    way.to_owned(),
                    format!("{full:.2}"),
                    format!("{tenth:.2}"),
                    format!("{:.2}", tenth / full),
                ]);
            }
        }
        measure::print_table(
            "The tenth in a row, beside a full one",
            &["where", "what", "full s", "tenth s", "ratio"],
            &rows,
        );
    }

    /// The best of three.
    fn timed(&self, mut command: Command, data: &Path) -> f64 {
        let run = |_| {
            cluster::remove(data);
            files::empty_page_cache();
            meter::run(&mut command, &Others::default()).wall.as_secs_f64()
        };
        let best = (0..3).map(run).fold(f64::INFINITY, f64::min);
        cluster::remove(data);
        best
    }
}

/// Makes a stanza, whose segments are walfs's business.
fn stanza(world: &World, server: &Postgres) -> (PathBuf, PathBuf) {
    let dir = world.owned_dir("pgbackrest");
    let (data, repository) = (server.data(), dir.join("repository"));
    let text = format!(
        "[global]\ncompress-type=lz4\ncompress-level=1\nrepo1-path={repository}\nrepo1-bundle=y\nrepo1-block=y\n\
         repo1-retention-full=99\nstart-fast=y\narchive-check=n\nlog-level-file=off\nlock-path={dir}/lock\n\
         process-max={cores}\n[bench]\npg1-path={data}\npg1-socket-path={sockets}\npg1-user=postgres\n",
        repository = repository.display(),
        dir = dir.display(),
        cores = std::thread::available_parallelism().map_or(1, usize::from),
        data = data.display(),
        sockets = data.with_file_name("").display(),
    );
    let config = world.owned_file("pgbackrest.conf", text.as_bytes());
    meter::run(&mut pgbackrest(&config, "stanza-create"), &Others::default());
    (config, repository)
}

fn pgbackrest(config: &Path, verb: &str) -> Command {
    let mut command = User::postgres().command("pgbackrest");
    command.arg(format!("--config={}", config.display()));
    command.args(["--stanza=bench", verb]);
    command
}

/// A line of bash as postgres.
fn shell(line: &str, arguments: &[&Path]) -> Command {
    let mut command = User::postgres().command("/bin/bash");
    command.args(["-c", line, "bash"]).args(arguments);
    command
}

fn kib(bytes: u64) -> String {
    (bytes >> 10).to_string()
}
