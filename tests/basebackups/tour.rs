//! The whole life of base backups, with every PostgreSQL that is installed: taken in four ways while the server works,
//! verified where they are and where they are brought back, recovered to four ends, and whole.
//!
//! One cluster and few starts for each version. The newest version's archive is in S3, the others' in a directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::common::basebackup::{Place, Site, balanced};
use crate::common::postgres::{Options as ServerOptions, Postgres, Version, installed_versions, newest};
use crate::common::recovery::{Recovery, Session};
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::{BINARY, Mount, Options, walfs};
use crate::common::world::World;

/// What nobody expects in a data directory, and all must keep.
const ODD: &[u8] = b"odd \xff\n name";

/// First version that verifies backups in tar format; it cannot read the WAL in them.
const VERIFIES_TAR: u32 = 18;

#[test]
fn b1_to_b6_in_a_directory() {
    every_second_older(0);
}

#[test]
fn b1_to_b6_in_a_directory_with_the_others() {
    every_second_older(1);
}

/// Half of the versions but the newest, in turn: both halves side by side take half the time.
fn every_second_older(first: usize) {
    let mut versions = installed_versions();
    versions.pop();
    for version in versions.into_iter().skip(first).step_by(2) {
        let world = World::new(&format!("tour-{}", version.major));
        let mount = Mount::local(&world);
        let place = Place::Local(world.archive());
        tour(&world, place, &mount, version);
    }
}

#[test]
fn b1_to_b6_in_s3() {
    let version = newest();
    let world = World::new(&format!("tour-s3-{}", version.major));
    let server = S3Server::start();
    let environment = server.env().into_iter();
    let environment: Vec<_> = environment
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let endpoint = server.endpoint();
    let place = Place::S3(server);
    let mount = Options::s3(&world, &place.archive(), &endpoint, &environment).mount();
    tour(&world, place, &mount, version);
}

fn tour(world: &World, place: Place, mount: &Mount, version: Version) {
    let tour = Tour::begin(world, place, mount, version);
    let mut load = tour.load();
    tour.take_directly("direct");
    tour.take_plain("plain");
    tour.take_tar("tar");
    tour.take_by_hand("hand");
    let ended = load.try_wait().expect("look at pgbench");
    assert_eq!(ended, None, "the backups were to be taken under load");
    load.kill().expect("kill pgbench");
    load.wait().expect("wait for pgbench");
    let marks = tour.mark();
    for name in ["direct", "plain", "tar", "hand"] {
        tour.verify(name);
    }
    tour.all_come_back(&marks);
    tour.comes_back_by_hand(&marks);
    // One standby is enough: what differs between versions, the others have shown.
    if tour.site.server.version.major == installed_versions()[0].major {
        tour.comes_back_from_a_standby(&marks);
    }
}

/// A server, which archives by `cp` into a mount, and works.
struct Tour<'a> {
    site: Site<'a>,
    mount: &'a Mount,
    /// Where its tablespace is, and the tablespace's number.
    space: PathBuf,
    oid: String,
}

/// What the server was when the load had ended; rows in `marks` are 1 up to `time`, 2 up to the restore point `here`,
/// and 3 at the end.
struct Marks {
    transactions: u64,
    time: String,
}

impl<'a> Tour<'a> {
    fn begin(world: &'a World, place: Place, mount: &'a Mount, version: Version) -> Self {
        let options = ServerOptions {
            segment_mib: 1,
            ..ServerOptions::of(version)
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        server.archive_with(&mount.archive_command());
        let odd = server.data().join(OsStr::from_bytes(ODD));
        fs::write(&odd, "odd").expect("write a file with an odd name");
        User::postgres().own(&odd);
        server.start();
        // More than 32 MiB, so in several slices.
        server.pgbench_init(3);
        let large = server.query("SELECT pg_relation_size('pgbench_accounts') > 32 << 20");
        assert_eq!(large, "t", "a relation of several slices");
        let space = world.owned_dir("space");
        server.query(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
        server.query("CREATE TABLE there TABLESPACE fast AS SELECT generate_series(1, 20000) AS id");
        server.query("CREATE INDEX ON there (id) TABLESPACE fast");
        server.query("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) AS id");
        server.query("CREATE TABLE marks (id int)");
        let oid = server.query("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
        let site = Site { world, place, server };
        Self {
            site,
            mount,
            space,
            oid,
        }
    }

    /// Transactions at a rate that leaves something of the machine to the backups.
    fn load(&self) -> Child {
        let mut pgbench = self.site.server.program("pgbench");
        pgbench
            .args(["-n", "-c", "2", "-T", "600", "-R", "30"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        pgbench.spawn().expect("run pgbench")
    }

    fn take_directly(&self, name: &str) {
        let taken = self.site.backup(name);
        assert_eq!(taken["backup"]["pages"]["bad"], 0, "{taken:#}");
        self.assert_newest(name);
    }

    fn take_plain(&self, name: &str) {
        let inside = self.at(name).join("tablespaces/fast");
        let mapping = format!("-T{}={}", self.space.display(), inside.display());
        self.pg_basebackup(name, &["-Fp", "-Xnone", &mapping]);
    }

    fn take_tar(&self, name: &str) {
        self.pg_basebackup(name, &["-Ft", "-Xstream"]);
    }

    #[track_caller]
    fn pg_basebackup(&self, name: &str, arguments: &[&str]) {
        let mut command = self.site.server.program("pg_basebackup");
        command.args(["-c", "fast"]).args(arguments);
        let output = command.arg("-D").arg(self.at(name)).output();
        let output = output.expect("run pg_basebackup");
        assert!(output.status.success(), "{}", said(&output));
        self.assert_newest(name);
    }

    /// As the manual of `walfs backup-finish` has it.
    fn take_by_hand(&self, name: &str) {
        let session = Session::start_backup(&self.site.server);
        let to = self.at(name);
        let copied = self.shell(r#"cp -a "$1" "$2""#, &[self.site.server.data(), &to]);
        // A server that works recycles its WAL meanwhile, and removes files.
        let lines = String::from_utf8_lossy(&copied.stderr).into_owned();
        let vanished = |line: &str| line.ends_with("No such file or directory");
        assert!(lines.lines().all(vanished), "{lines}");
        let own = to.join("pg_tblspc").join(&self.oid);
        self.succeeds(
            r#"rm "$2" && mkdir -m 0700 "$2" && cp -a "$1/." "$2""#,
            &[&self.space, &own],
        );
        let (label, map) = session.stop_backup();
        let files = [("backup_label", label), ("tablespace_map", map)];
        for (name, content) in files {
            let file = self.site.world.owned_file(name, &content);
            self.succeeds(r#"cp "$1" "$2""#, &[&file, &to.join(name)]);
        }
        let mut finish = walfs(self.site.world, &User::postgres());
        let output = finish.arg("backup-finish").arg(&to).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        self.assert_newest(name);
    }

    /// Whatever else is listed: this one is complete, and LATEST.
    #[track_caller]
    fn assert_newest(&self, name: &str) {
        // The segment that a backup by hand ends in may be archived after what says so.
        wait::until("the backup to be complete", || {
            (self.site.state(name).as_deref() == Some("complete")).then_some(())
        });
        wait::until("LATEST to follow", || {
            let latest = self.shell(r#"readlink "$1""#, &[&self.at("LATEST")]);
            (latest.stdout == format!("{name}\n").as_bytes()).then_some(())
        });
    }

    /// Moments to recover to.
    fn mark(&self) -> Marks {
        let server = &self.site.server;
        server.query("INSERT INTO marks VALUES (1)");
        let now = "SELECT pg_sleep(0.1), clock_timestamp() AT TIME ZONE 'UTC' || '+00', pg_sleep(0.1)";
        let time = server.query(now).trim_matches('|').to_owned();
        server.query("INSERT INTO marks VALUES (2)");
        server.query("SELECT pg_create_restore_point('here')");
        server.query("INSERT INTO marks VALUES (3)");
        server.archive_all();
        Marks {
            transactions: balanced(server),
            time,
        }
    }

    /// B4: "`pg_verifybackup` passes on the mounted directory".
    fn verify(&self, name: &str) {
        let tar = name == "tar";
        if !tar {
            self.verifies(&self.at(name), &[]);
        } else if self.site.server.version.clients() >= VERIFIES_TAR {
            self.verifies(&self.at(name), &["-n"]);
        }
    }

    #[track_caller]
    fn verifies(&self, directory: &Path, arguments: &[&str]) {
        let mut verify = self.site.server.verify_backup(arguments);
        let output = verify.arg(directory).output();
        let output = output.expect("run pg_verifybackup");
        assert!(
            output.status.success(),
            "{}: {}",
            directory.display(),
            said(&output)
        );
    }

    /// To a time, to the end, to a restore point, and no further than needed.
    fn all_come_back(&self, marks: &Marks) {
        let space = self.space.to_str().expect("UTF-8");
        let all = marks.transactions;
        let in_time = ["--target-time", &marks.time, "--target-action", "promote"];
        self.comes_back("direct", space, &in_time, Some((all, 1)));
        // pg_basebackup in plain format does not tell where the tablespace was.
        let mountpoint = self.mount.path().to_str().expect("UTF-8");
        self.comes_back("plain", &self.oid, &["--mountpoint", mountpoint], Some((all, 3)));
        let to_point = ["--target-name", "here", "--target-action", "promote"];
        self.comes_back("tar", space, &to_point, Some((all, 2)));
        self.comes_back(
            "hand",
            space,
            &["--immediate", "--target-action", "promote"],
            None,
        );
    }

    /// B6 and B4, by `walfs restore`. `space` is what the tablespace is called.
    #[track_caller]
    fn comes_back(&self, name: &str, space: &str, arguments: &[&str], expected: Option<(u64, u64)>) {
        let dir = self.restore(name, &format!("back-{name}"), space, arguments);
        self.verifies(&dir.join("data"), &[]);
        self.assert_whole(&mut self.started(&dir), expected);
    }

    /// Restored to a directory of that name, not started.
    #[track_caller]
    fn restore(&self, name: &str, directory: &str, space: &str, arguments: &[&str]) -> PathBuf {
        let dir = self.site.world.owned_dir(directory);
        let mut restore = self.site.walfs("restore");
        let mapping = format!("{space}={}", dir.join("space").display());
        restore
            .args(["--no-archiving", "--no-sync", "--tablespace-mapping", &mapping])
            .args(arguments)
            .arg(name)
            .arg(dir.join("data"));
        let output = restore.output().expect("run walfs");
        assert!(output.status.success(), "{name}: {}", said(&output));
        dir
    }

    /// A restored directory's server; its commands find what the store needs in the environment.
    fn started(&self, dir: &Path) -> Postgres {
        let version = self.site.server.version.clone();
        Postgres::start_as_it_is(dir, version, &self.site.place.env())
    }

    /// B1: a directory in the mount is a data directory, and what stock tools make of it recovers.
    fn comes_back_by_hand(&self, marks: &Marks) {
        let dir = self.site.world.owned_dir("by-hand");
        let data = dir.join("data");
        User::postgres().make_dir(&data);
        self.succeeds(r#"cp -a "$1/." "$2""#, &[&self.at("LATEST"), &data]);
        // The tablespace goes elsewhere: where it was, the first server works.
        let space = dir.join("space");
        let own = data.join("pg_tblspc").join(&self.oid);
        self.succeeds(r#"mv "$1" "$2""#, &[&own, &space]);
        let map = format!("{} {}\n", self.oid, space.display());
        fs::write(data.join("tablespace_map"), map).expect("remap it");
        let mut back = Postgres::recovering(&dir, self.site.server.version.clone(), &[]);
        let program = self.site.world.public_program(Path::new(BINARY));
        self.succeeds(
            r#""$1" postgres-config --mountpoint "$2" | grep ^restore_command >> "$3/postgresql.conf""#,
            &[&program, self.mount.path(), &data],
        );
        back.start_recovery();
        self.assert_whole(&mut back, Some((marks.transactions, 3)));
    }

    /// B3: a backup of a standby, which follows the archive.
    fn comes_back_from_a_standby(&self, marks: &Marks) {
        let space = self.space.to_str().expect("UTF-8");
        let dir = self.restore("direct", "standby", space, &["--standby"]);
        let mut standby = self.started(&dir);
        wait::until("the standby to answer", || standby.psql("SELECT 1").ok());
        let server = &self.site.server;
        // A restart point, so that there is a checkpoint to begin from; and WAL that the backup ends in.
        server.query("CHECKPOINT");
        let position = server.current_lsn();
        server.archive_all();
        // Its backup ends where it has replayed to, and is the newest if that is behind the others.
        wait::until("the standby to follow", || {
            let followed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
            (standby.query(&followed) == "t").then_some(())
        });
        // Without --fast it would begin slowly, and what this replays meanwhile may cancel that.
        let mut backup = self.site.walfs("backup");
        backup
            .env("PGHOST", &dir)
            .args(["--fast", "--json", "standby"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut backup = backup.spawn().expect("run walfs");
        wait::until("the backup to end", || {
            server.archive_all();
            backup.try_wait().expect("wait for walfs")
        });
        let output = backup.wait_with_output().expect("read what it said");
        assert!(output.status.success(), "{}", said(&output));
        standby.kill9();
        self.assert_newest("standby");
        self.verify("standby");
        let moved = dir.join("space");
        let moved = moved.to_str().expect("UTF-8");
        self.comes_back("standby", moved, &[], Some((marks.transactions, 3)));
    }

    /// Recovered, and nothing is missing, broken or too much. Ends it.
    #[track_caller]
    fn assert_whole(&self, back: &mut Postgres, expected: Option<(u64, u64)>) {
        let ended = back.recovery_within(wait::LONG);
        assert_eq!(ended, Recovery::Promoted, "{}", back.log());
        let transactions = balanced(back);
        let marks: u64 = back.number("SELECT count(*) FROM marks");
        match expected {
            Some(expected) => assert_eq!((transactions, marks), expected),
            None => assert_eq!(marks, 0, "it went on behind the end of the backup"),
        }
        assert_eq!(back.query("SELECT count(*) FROM there"), "20000");
        assert_eq!(back.query("SELECT count(*) FROM unlogged"), "0");
        let odd = fs::read(back.data().join(OsStr::from_bytes(ODD)));
        assert_eq!(odd.expect("the odd file"), b"odd");
        let location = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'";
        assert_ne!(Path::new(&back.query(location)), self.space);
        back.check_all();
        back.kill9();
    }

    /// The backup's directory in the mount.
    fn at(&self, name: &str) -> PathBuf {
        self.mount.path().join("basebackups").join(name)
    }

    fn shell(&self, line: &str, arguments: &[&Path]) -> std::process::Output {
        self.mount.user().shell(line, arguments)
    }

    #[track_caller]
    fn succeeds(&self, line: &str, arguments: &[&Path]) {
        let output = self.shell(line, arguments);
        assert!(output.status.success(), "{line}: {}", said(&output));
    }
}
