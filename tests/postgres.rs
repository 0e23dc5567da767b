//! The main job, by a real PostgreSQL: it archives into the mount by `cp`, is lost, and another one comes back from a
//! file copy and the mount. Once more while the store, walfs or PostgreSQL itself is hurt.
//!
//! Here is what these tests share: a store, a mount of it and a server that archives there ([`Site`]), what was
//! committed ([`Committed`]), and what recovery reads. What "acknowledged" means is taken from the archive command
//! itself: after a successful `cp` into the mount it keeps a second copy, so what is kept was acknowledged.

mod forking;
mod holes;
mod killing;
mod library;
mod losing;
mod outages;
mod proof;
mod receiving;
mod records;
mod rewinding;
mod standby;
mod unreachable;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::common::garage::Garage;
use crate::common::postgres::{Options as ServerOptions, Postgres, Version, newest};
use crate::common::recovery::Recovery;
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::{Mount, Options, walfs};
use crate::common::world::World;

/// Where an archive is.
enum Place {
    Local,
    Garage(Garage),
    /// In this process, to be hurt.
    S3(S3Server),
}

impl Place {
    fn garage(world: &World) -> Place {
        Place::Garage(Garage::start(&world.path().join("garage"), false))
    }

    fn options(&self, world: &World) -> Options {
        match self {
            Place::Local => Options::local(world),
            Place::Garage(garage) => {
                let archive = format!("s3://{}/pg/main", garage.bucket());
                Options::s3(world, &archive, &garage.endpoint(), &garage.env())
            }
            Place::S3(server) => {
                let environment: Vec<(String, String)> = server
                    .env()
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                let archive = format!("s3://{}/pg/main", server.bucket());
                Options::s3(world, &archive, &server.endpoint(), &environment)
            }
        }
    }

    /// Mounts the archive at another place than `mnt/`.
    #[track_caller]
    fn mount_at(&self, world: &World, name: &str, arguments: &[&str]) -> Mount {
        let mountpoint = world.path().join(name);
        fs::create_dir(&mountpoint).expect("make a mount point");
        self.options(world).at(&mountpoint).args(arguments).mount()
    }
}

/// How a site is made.
struct Plan {
    version: Version,
    segment_mib: u32,
    /// More arguments of the archiving mount.
    mount: Vec<&'static str>,
}

impl Default for Plan {
    /// The newest PostgreSQL, with small segments: many of them in little time.
    fn default() -> Plan {
        Plan {
            version: newest(),
            segment_mib: 1,
            mount: Vec::new(),
        }
    }
}

/// A server that archives into a mount. Dropped in this order: a copy tool that hangs in a mount ends with the mount.
struct Site {
    server: Postgres,
    mount: Mount,
    kept: PathBuf,
}

impl Site {
    #[track_caller]
    fn new(world: &World, place: &Place, plan: &Plan) -> Site {
        let mount = place.options(world).args(&plan.mount).mount();
        let kept = world.owned_dir("kept");
        let options = ServerOptions {
            version: plan.version.clone(),
            segment_mib: plan.segment_mib,
            ..ServerOptions::default()
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.archive_with(&keeping(&mount, &kept));
        server.start();
        server.pgbench_init(1);
        server.query("CREATE TABLE filler (id bigint, note text)");
        server.query("CREATE TABLE last (word text)");
        Site { server, mount, kept }
    }

    /// The machine is lost, walfs on it as well. What stays is the store, the file copy, and our notes.
    fn lose(mut self) -> PathBuf {
        self.mount.kill9();
        self.server.destroy();
        self.kept
    }
}

/// Archives by `cp`, and keeps another copy of what `cp` has acknowledged.
fn keeping(mount: &Mount, kept: &Path) -> String {
    let kept = kept.display();
    format!(
        r#"{} && cp "%p" {kept}/%f.tmp && mv {kept}/%f.tmp {kept}/%f"#,
        mount.archive_command()
    )
}

/// Writes and commits until the server has begun at least `segments` new ones, while others may write as well. In one
/// session: a client for each statement would cost more than the statement.
fn fill(server: &Postgres, segments: u64) {
    let segment_bytes: u64 = server.number("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
    let bytes = segments * segment_bytes;
    // A quarter of a MiB of WAL with the rows and with each message, half of it hex digits of no use to a compressor. Messages
    // are WAL only: nothing has to be copied and replayed for them.
    let messages = 3 * segment_bytes.div_ceil(1 << 20).min(5);
    server.query(&format!(
        "DO $$
         DECLARE start CONSTANT pg_lsn := pg_current_wal_lsn();
                 noise CONSTANT text := (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 4096));
         BEGIN
             WHILE pg_current_wal_lsn() - start < {bytes} LOOP
                 INSERT INTO filler SELECT id, md5(random()::text) || repeat(md5(id::text), 12)
                   FROM generate_series(1, 500) AS id;
                 PERFORM pg_logical_emit_message(false, 'filler', noise || repeat(md5(at::text), 4096))
                   FROM generate_series(1, {messages}) AS at;
                 COMMIT;
             END LOOP;
         END $$"
    ));
}

/// Some load that may go on for longer than anything waits; end it with [`end_load`].
fn load(server: &Postgres) -> Child {
    server.pgbench(600, 2)
}

fn end_load(mut load: Child) {
    load.kill().expect("kill pgbench");
    load.wait().expect("wait for pgbench");
}

/// What is committed, as one answer: rows, and the sums that pgbench keeps equal.
#[derive(Debug, PartialEq, Eq)]
struct Committed(String);

impl Committed {
    /// Writes a last row, and notes everything.
    #[track_caller]
    fn note(server: &Postgres, word: &str) -> Committed {
        server.query(&format!("INSERT INTO last VALUES ('{word}')"));
        let found = Committed::found(server);
        assert!(found.0.ends_with(word), "{found:?}");
        found
    }

    /// What is there now; panics if pgbench's sums differ.
    #[track_caller]
    fn found(server: &Postgres) -> Committed {
        let sums = server.query(
            "SELECT (SELECT coalesce(sum(delta), 0) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts),
                    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches)",
        );
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(
            sums.iter().all(|sum| *sum == sums[0]),
            "sums of deltas, accounts, tellers, branches: {sums:?}"
        );
        let counts = server.query(
            "SELECT (SELECT count(*) FROM pgbench_history), (SELECT count(*) FROM filler),
                    (SELECT coalesce(sum(hashtext(note)), 0) FROM filler),
                    (SELECT coalesce(string_agg(word, ' ' ORDER BY word), '') FROM last)",
        );
        Committed(format!("{} {counts}", sums[0]))
    }
}

/// The `restore_command` of `walfs postgres-config`, as a person copies it into postgresql.conf.
fn printed_restore_command(world: &World, mountpoint: &Path) -> String {
    let mut command = walfs(world, &User::postgres());
    let output = command
        .args(["postgres-config", "--mountpoint"])
        .arg(mountpoint)
        .output()
        .expect("run walfs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("restore_command = '")?.strip_suffix('\''));
    let value = value.unwrap_or_else(|| panic!("no restore_command in {text}"));
    assert!(value.contains(".absent"), "{value}");
    value.replace("''", "'").replace(r"\\", r"\")
}

/// A copy of a copied data directory, to recover from more than once.
#[track_caller]
fn copy_again(from: &Path, to: &Path) {
    let user = User::postgres();
    user.make_dir(to);
    let output = user.shell(r#"cp -a "$1/." "$2""#, &[from, to]);
    assert!(
        output.status.success(),
        "copy {}: {}",
        from.display(),
        said(&output)
    );
}

/// Waits for the end of a recovery that must end well, and returns what it brought back.
#[track_caller]
fn recovered(server: &mut Postgres) -> Committed {
    let ended = server.recovery_within(wait::LONG);
    assert_eq!(ended, Recovery::Promoted, "{}", server.log());
    Committed::found(server)
}

/// Names of segments in a directory or of a listing, ascending.
fn segments(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let is_segment = |name: &String| name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut names: Vec<String> = names.into_iter().filter(is_segment).collect();
    names.sort();
    names
}

/// Names in a directory.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("read a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("ASCII")
    };
    entries.map(name).filter(|name| !name.ends_with(".tmp")).collect()
}

/// Asserts that every file that was acknowledged is in the mount with the same bytes, and returns how many there are.
#[track_caller]
fn assert_all_kept(mount: &Mount, kept: &Path) -> usize {
    let names = names_in(kept);
    let script = r#"cd "$1" && for f in $(ls | grep -v tmp); do cmp "$f" "$2/$f" || exit; done"#;
    let output = mount.user().shell(script, &[kept, &mount.wal()]);
    assert!(
        output.status.success(),
        "acknowledged, and not in the archive as it was: {}",
        said(&output)
    );
    names.len()
}
