//! What the next version of a dump or of a directory costs: `cargo bench --bench versions`.
//!
//! A database is dumped ten nights, each after a share of its rows were updated and as many added, and once more without a
//! change: by `walfs dump`, as a file of `pg_dump -Fc` each, and as a stream of `pg_dump -Fc -Z0` into borg and restic, if
//! they are installed (`.ci/needs bench`). Then a tree of small files is stored three times by `walfs files`, borg and restic: first,
//! without a change, and with one byte changed; and `/etc` twice. Nothing is encrypted but by restic, which does so always.
//!
//! `WALFS_BENCH_SCALE` is pgbench's scale (20), `WALFS_BENCH_FILES` the number of files (100000).
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]
#![allow(unreachable_pub, reason = "`pub` here means: for this benchmark")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(
    unused_imports,
    clippy::print_stderr,
    reason = "the tests' worlds, of which a benchmark needs a few"
)]
#[path = "../tests/common/mod.rs"]
mod common;
mod measure;

use common::postgres::{Options, Postgres, newest};
use common::user::User;
use common::walfs::walfs;
use common::world::World;
use measure::meter::{self, Cost, Others};
use measure::{files, interrupt};

const NIGHTS: usize = 10;

/// Of so many rows one is updated in a night, and one is added.
const ONE_OF: usize = 100;

/// Files of a directory of the tree.
const FILES_OF_ONE: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tool {
    Walfs,
    PgDump,
    Borg,
    Restic,
}

fn main() {
    interrupt::watch();
    meter::adopt_orphans();
    measure::print_machine();
    let world = World::new("versions");
    let bench = Bench::new(&world);
    bench.dumps(measure::setting("WALFS_BENCH_SCALE", 20));
    let tree = world.path().join("tree");
    let one = make_tree(&tree, measure::setting("WALFS_BENCH_FILES", 100_000));
    let (path, unchanged) = (tree.as_path(), || {});
    let changed = || change_a_byte(&one);
    bench.files(
        "A tree of files",
        path,
        &[
            ("first", &unchanged),
            ("unchanged", &unchanged),
            ("one byte changed", &changed),
        ],
    );
    bench.files(
        "/etc",
        Path::new("/etc"),
        &[("first", &unchanged), ("unchanged", &unchanged)],
    );
}

struct Bench<'a> {
    world: &'a World,
    tools: Vec<Tool>,
}

impl<'a> Bench<'a> {
    fn new(world: &'a World) -> Bench<'a> {
        let mut tools = vec![Tool::Walfs, Tool::PgDump];
        for (tool, program, version) in [
            (Tool::Borg, "borg", "--version"),
            (Tool::Restic, "restic", "version"),
        ] {
            match measure::first_line(program, version) {
                Some(version) => {
                    println!("{version}");
                    tools.push(tool);
                }
                None => println!("no {program}: left out"),
            }
        }
        Bench { world, tools }
    }

    /// What one of them does not say by itself.
    fn command(&self, script: &str, words: &[&Path]) -> Command {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("set -e; {script}"))
            .arg("sh")
            .args(words);
        command
            .env("HOME", self.world.path())
            .env("BORG_BASE_DIR", self.world.path().join("of-borg"))
            .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            .env("RESTIC_PASSWORD", "bench");
        command
    }

    /// Where a tool keeps what it stores, made now.
    fn place(&self, tool: Tool, what: &str) -> PathBuf {
        let place = self.world.path().join(format!("{what}-{}", tool.name()));
        let script = match tool {
            Tool::Walfs | Tool::PgDump => r#"mkdir "$1""#,
            Tool::Borg => r#"borg init -e none "$1""#,
            Tool::Restic => r#"restic -q init -r "$1""#,
        };
        meter::run(&mut self.command(script, &[&place]), &Others::default());
        place
    }

    fn walfs(&self, verb: &str, place: &Path) -> Command {
        let mut command = walfs(self.world, &User::caller());
        command.arg(verb).arg("--create").arg("--archive").arg(place);
        command
    }

    fn dumps(&self, scale: usize) {
        let mut server = Postgres::init(&self.world.path().join("cluster"), &Options::of(newest()));
        server.start();
        println!("PostgreSQL {}", server.query("SHOW server_version"));
        server.pgbench_init(u32::try_from(scale).expect("a scale"));
        let places: Vec<PathBuf> = self.tools.iter().map(|tool| self.place(*tool, "dumps")).collect();
        let mut costs: Vec<Vec<Cost>> = self.tools.iter().map(|_| Vec::new()).collect();
        for night in 0..=NIGHTS {
            if (1..NIGHTS).contains(&night) {
                change_rows(&server, night, scale * 100_000);
            }
            for ((tool, place), costs) in self.tools.iter().zip(&places).zip(&mut costs) {
                let mut command = self.dump(*tool, &server, place, night);
                costs.push(stored(&mut command, &server, place));
            }
        }
        let rows = self.tools.iter().zip(&costs).map(|(tool, costs)| {
            let (nights, unchanged) = costs.split_at(NIGHTS);
            let later: u64 = nights[1..].iter().map(|cost| cost.stored_bytes).sum();
            let median = |of: fn(&Cost) -> f64| measure::median(nights[1..].iter().map(of).collect());
            vec![
                tool.name().to_owned(),
                kib(nights[0].stored_bytes),
                kib(later / (NIGHTS as u64 - 1)),
                kib(nights[0].stored_bytes + later),
                kib(unchanged[0].stored_bytes),
                format!("{:.2}", nights[0].wall.as_secs_f64()),
                format!("{:.2}", median(|cost| cost.wall.as_secs_f64())),
                format!("{:.2}", median(|cost| cost.tool().as_secs_f64())),
            ]
        });
        let columns = [
            "",
            "first KiB",
            "each later",
            "all ten",
            "unchanged",
            "first s",
            "later s",
            "later CPU s",
        ];
        measure::print_table("Ten nightly dumps", &columns, &rows.collect::<Vec<_>>());
    }

    fn dump(&self, tool: Tool, server: &Postgres, place: &Path, night: usize) -> Command {
        let bin = newest().bin;
        let program = &*bin.join("pg_dump");
        let night = PathBuf::from(format!("night{night}"));
        let mut command = match tool {
            Tool::Walfs => self.walfs("dump", place),
            Tool::PgDump => self.command(r#""$1" -Fc -f "$2/$3" postgres"#, &[program, place, &night]),
            Tool::Borg => self.command(
                r#""$1" -Fc -Z0 postgres | borg create --stdin-name app.dump "$2::$3" -"#,
                &[program, place, &night],
            ),
            Tool::Restic => self.command(
                r#""$1" -Fc -Z0 postgres | restic -q backup -r "$2" --stdin --stdin-filename app.dump"#,
                &[program, place],
            ),
        };
        if tool == Tool::Walfs {
            command.arg("--bin-dir").arg(bin).arg("postgres");
        }
        command
            .env("PGHOST", server.data().with_file_name(""))
            .env("PGUSER", "postgres");
        command
    }

    /// Stores a directory again and again, each time after something was done to it.
    fn files(&self, title: &str, tree: &Path, runs: &[(&str, &dyn Fn())]) {
        let tools: Vec<Tool> = self
            .tools
            .iter()
            .copied()
            .filter(|tool| *tool != Tool::PgDump)
            .collect();
        let what = tree.file_name().expect("a name").to_string_lossy();
        let places: Vec<PathBuf> = tools.iter().map(|tool| self.place(*tool, &what)).collect();
        let mut rows = Vec::new();
        for (run, prepare) in runs {
            prepare();
            for (tool, place) in tools.iter().zip(&places) {
                let mut command = match tool {
                    Tool::Borg => self.command(
                        r#"borg create "$1::$3" "$2""#,
                        &[place, tree, &PathBuf::from(run.replace(' ', "-"))],
                    ),
                    Tool::Restic => self.command(r#"restic -q backup -r "$1" "$2""#, &[place, tree]),
                    Tool::Walfs | Tool::PgDump => self.walfs("files", place),
                };
                if *tool == Tool::Walfs {
                    command.arg("tree").arg(tree);
                }
                files::empty_page_cache();
                let before = files::bytes_beneath(place);
                let cost = meter::run(&mut command, &Others::default());
                rows.push(vec![
                    (*run).to_owned(),
                    tool.name().to_owned(),
                    kib(files::bytes_beneath(place).saturating_sub(before)),
                    format!("{:.2}", cost.wall.as_secs_f64()),
                    format!("{:.2}", cost.tool().as_secs_f64()),
                    (cost.peak_bytes >> 20).to_string(),
                ]);
            }
        }
        measure::print_table(title, &["run", "", "stored KiB", "s", "CPU s", "peak MiB"], &rows);
    }
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Walfs => "walfs",
            Self::PgDump => "pg_dump -Fc",
            Self::Borg => "borg",
            Self::Restic => "restic",
        }
    }
}

fn stored(command: &mut Command, server: &Postgres, place: &Path) -> Cost {
    let others = Others {
        server: Some(server.process()),
        ..Others::default()
    };
    let before = files::bytes_beneath(place);
    let mut cost = meter::run(command, &others);
    cost.stored_bytes = files::bytes_beneath(place).saturating_sub(before);
    cost
}

/// Updates rows that lie together, as those of a day do, and adds as many.
fn change_rows(server: &Postgres, night: usize, rows: usize) {
    let many = rows / ONE_OF;
    let (from, new) = (night * many * 7, rows + night * many);
    server.query(&format!(
        "UPDATE pgbench_accounts SET abalance = abalance + 1, filler = md5(aid::text) \
         WHERE aid BETWEEN {from} AND {from} + {many}"
    ));
    server.query(&format!(
        "INSERT INTO pgbench_accounts SELECT i, 1, i, md5(i::text) FROM generate_series({new} + 1, {new} + {many}) AS i"
    ));
}

/// Makes a tree of so many files of some KiB, and gives the path of one.
fn make_tree(tree: &Path, many: usize) -> PathBuf {
    let mut random = fastrand::Rng::with_seed(1);
    let path = |number: usize| tree.join(format!("{}/{number}", number / FILES_OF_ONE));
    for number in 0..many {
        let path = path(number);
        if number % FILES_OF_ONE == 0 {
            fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        }
        let mut content = vec![0; random.usize(100..4000)];
        content.fill_with(|| random.u8(b'a'..=b'p'));
        fs::write(path, content).expect("write a file");
    }
    path(many / 2)
}

fn change_a_byte(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 1], 50).expect("change a byte");
}

fn kib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / 1024.0)
}
