//! A throw-away PostgreSQL: a cluster in a directory of its own, reached through a socket in that directory only, run
//! as user postgres, gone with the test. Recovery from a copied data directory is in `recovery.rs`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::user::{User, said};
pub use super::version::{Version, installed_versions, newest};
use super::wait;
use super::world::kept_for_all;

/// What `initdb` is told, and whether the server may lie about fsync.
#[derive(Clone, Debug)]
pub struct Options {
    pub version: Version,
    /// Size of a WAL segment in MiB: 1, 2, 4 ... 1024.
    pub segment_mib: u32,
    pub data_checksums: bool,
    /// Off by default: what the tests end with SIGKILL loses no page that the kernel has.
    pub fsync: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            version: newest(),
            segment_mib: 16,
            data_checksums: true,
            fsync: false,
        }
    }
}

impl Options {
    /// The default, of another version than the newest.
    pub fn of(version: Version) -> Options {
        Options {
            version,
            ..Options::default()
        }
    }
}

/// A data directory as `initdb` makes it: two seconds of both cores, for hundreds of tests.
fn initialised(options: &Options) -> PathBuf {
    let Options {
        version,
        segment_mib,
        data_checksums,
        ..
    } = options;
    let initdb = fs::metadata(version.program("initdb")).expect("look at initdb");
    let key = format!(
        "cluster-{}-{}-{segment_mib}-{data_checksums}",
        initdb.ino(),
        initdb.mtime()
    );
    let kept = kept_for_all(&key, |place| {
        Postgres::in_dir(&place.join("pg"), version.clone()).initdb(options);
    });
    kept.join("pg/data")
}

/// How to stop a server, in PostgreSQL's words.
#[derive(Clone, Copy, Debug)]
pub enum StopMode {
    Smart,
    Fast,
    Immediate,
}

/// One cluster and, while it runs, its server.
#[derive(Debug)]
pub struct Postgres {
    pub version: Version,
    pub(super) data: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) log: PathBuf,
    pub(super) user: User,
    pub(super) server: Option<Child>,
}

impl Postgres {
    /// A new cluster in `dir` (made here; its log and socket are beside the data), not started.
    pub fn init(dir: &Path, options: &Options) -> Postgres {
        let postgres = Postgres::in_dir(dir, options.version.clone());
        // The first one in a world is copied; a second one must be another cluster.
        static HAVE_ONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
        let world = dir.parent().expect("a world").to_owned();
        let is_first = HAVE_ONE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(world);
        match is_first {
            true => postgres.copy_of(&initialised(options)),
            false => postgres.initdb(options),
        }
        postgres.configure(&[
            ("listen_addresses", ""),
            ("fsync", if options.fsync { "on" } else { "off" }),
            ("shared_buffers", "32MB"),
            // In the data directory, which goes with the test: what a killed server leaves in /dev/shm nobody removes.
            ("dynamic_shared_memory_type", "mmap"),
            ("max_connections", "30"),
            ("log_line_prefix", "%m [%p] "),
            ("log_min_messages", "info"),
        ]);
        postgres
    }

    fn initdb(&self, options: &Options) {
        let mut initdb = self.program("initdb");
        initdb
            .arg("-D")
            .arg(&self.data)
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]);
        initdb
            .arg("--no-sync")
            .arg(format!("--wal-segsize={}", options.segment_mib));
        if options.data_checksums {
            initdb.arg("--data-checksums");
        } else if options.version.major >= 18 {
            // Since 18 they are on unless told otherwise (initdb.c); before, the word is not known.
            initdb.arg("--no-data-checksums");
        }
        let output = initdb.output().expect("run initdb");
        assert!(output.status.success(), "initdb: {}", said(&output));
    }

    fn copy_of(&self, data: &Path) {
        let mut copy = Command::new("cp");
        let output = copy.arg("-a").arg(data).arg(&self.data).output().expect("run cp");
        assert!(output.status.success(), "cp: {}", said(&output));
    }

    /// The places of a cluster in `dir`, whose data directory may exist already, or be made by what a test runs.
    pub fn in_dir(dir: &Path, version: Version) -> Postgres {
        let user = User::postgres();
        user.make_dir(dir);
        let (data, log) = (dir.join("data"), dir.join("server.log"));
        Postgres {
            version,
            data,
            sockets: dir.into(),
            log,
            user,
            server: None,
        }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Appends settings to postgresql.conf, quoted; a later one wins. A running server learns them from [`Self::reload`].
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let conf = self.data.join("postgresql.conf");
        let mut file = OpenOptions::new()
            .append(true)
            .open(&conf)
            .expect("open postgresql.conf");
        for (name, value) in settings {
            writeln!(file, "{name} = '{}'", value.replace('\'', "''")).expect("write postgresql.conf");
        }
    }

    /// Makes a running server read its settings again.
    pub fn reload(&self) {
        self.query("SELECT pg_reload_conf()");
    }

    /// Starts the server and waits until it answers; panics with its log if it ends instead.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same, with more in its environment.
    #[track_caller]
    pub fn start_with(&mut self, env: &[(&str, String)]) {
        self.spawn_with(env);
        let answer = wait::until("PostgreSQL to answer", || match self.psql("SELECT 1") {
            Ok(_) => Some(true),
            Err(_) => (!self.is_running()).then_some(false),
        });
        assert!(answer, "PostgreSQL did not start\n{}", wait::tail(&self.log, 30));
    }

    /// Starts the server process without waiting for anything.
    pub(super) fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    /// The same, with more in its environment: what its commands need.
    pub(super) fn spawn_with(&mut self, env: &[(&str, String)]) {
        assert!(self.server.is_none(), "the server has been started already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("open the server's log");
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.sockets);
        command
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        self.server = Some(command.spawn().expect("run postgres"));
    }

    /// The process id of the postmaster.
    pub fn process(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Whether the server process lives.
    pub fn is_running(&mut self) -> bool {
        self.server
            .as_mut()
            .is_some_and(|server| server.try_wait().expect("wait for postgres").is_none())
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) -> ExitStatus {
        let mut server = self.server.take().expect("the server runs");
        let signal = match mode {
            StopMode::Smart => libc::SIGTERM,
            StopMode::Fast => libc::SIGINT,
            StopMode::Immediate => libc::SIGQUIT,
        };
        send(server.id(), signal);
        wait::for_exit("PostgreSQL to stop", &mut server)
    }

    /// `kill -9` of the server, its backends and the copy tools it started: what a machine's crash leaves. A copy
    /// tool inside a call of a mount that does not answer cannot die; this waits for it.
    pub fn kill9(&mut self) {
        self.kill9_postmaster();
        wait::until("every process of the server to be gone", || self.kill_processes());
        self.remove_shared_memory();
    }

    /// Kills what still works in the data directory; `Some` when nothing does.
    fn kill_processes(&self) -> Option<()> {
        let left = processes_in(&self.data);
        left.iter().for_each(|process| send(*process, libc::SIGKILL));
        left.is_empty().then_some(())
    }

    /// `kill -9` of the postmaster alone; a copy tool of the archiver lives on and finishes its work.
    pub fn kill9_postmaster(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("kill postgres");
            server.wait().expect("wait for postgres");
        }
    }

    /// The System V segment by which a server sees that another one is still there: one that was killed leaves it, and the
    /// system has room for some thousands only.
    fn remove_shared_memory(&self) {
        let pid_file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let line = pid_file.lines().nth(6).unwrap_or_default();
        if let Some(Ok(id)) = line.split_whitespace().nth(1).map(str::parse) {
            // SAFETY: IPC_RMID takes no buffer; the server that made the segment has ended.
            unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }

    /// Stops fast and starts again.
    pub fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Ends a standby's recovery, and waits until it is open for writing.
    pub fn promote(&self) {
        self.query("SELECT pg_promote(true)");
        wait::until("the promotion", || {
            (self.query("SELECT pg_is_in_recovery()") == "f").then_some(())
        });
    }

    /// A client or server program of this version, or a client that does for it, as postgres, pointed at this server.
    #[track_caller]
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.user.command(self.version.program(name));
        command
            .env("PGHOST", &self.sockets)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// `pg_verifybackup` with these arguments. It reads WAL of its own major only: another's is told to leave it.
    pub fn verify_backup(&self, arguments: &[&str]) -> Command {
        let mut verify = self.program("pg_verifybackup");
        if !self.version.has_tools() {
            verify.arg("-n");
        }
        verify.args(arguments);
        verify
    }

    /// Runs SQL; rows come as lines, columns divided by `|`. The error is what psql said. What waits for ever is cancelled.
    pub fn psql(&self, sql: &str) -> Result<String, String> {
        let mut psql = self.program("psql");
        let output = psql
            .env("PGOPTIONS", "-c statement_timeout=10min")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .expect("run psql");
        // A commit whose wait for a standby is cancelled is one here, with a warning.
        let cancelled = String::from_utf8_lossy(&output.stderr).contains("canceling wait");
        if !output.status.success() || cancelled {
            return Err(said(&output));
        }
        Ok(String::from_utf8(output.stdout).expect("UTF-8").trim_end().into())
    }

    /// Runs SQL that must not fail.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        self.psql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}\n{}", wait::tail(&self.log, 20)))
    }

    /// One number.
    #[track_caller]
    pub fn number<T: FromStr>(&self, sql: &str) -> T {
        let answer = self.query(sql);
        answer
            .parse()
            .unwrap_or_else(|_| panic!("{sql}: no number: {answer:?}"))
    }

    /// Makes pgbench's tables: `scale` times 100,000 accounts, about 13 MiB of WAL each.
    pub fn pgbench_init(&self, scale: u32) {
        let mut pgbench = self.program("pgbench");
        let output = pgbench
            .args(["-i", "-q", "-s", &scale.to_string()])
            .output()
            .expect("run pgbench");
        assert!(output.status.success(), "pgbench -i: {}", said(&output));
    }

    /// Load for that long, from that many clients. Its output goes beside the data directory.
    pub fn pgbench(&self, seconds: u32, clients: u32) -> Child {
        let output = File::create(self.sockets.join("pgbench.log")).expect("make pgbench.log");
        let mut pgbench = self.program("pgbench");
        pgbench.args(["-n", "-c", &clients.to_string(), "-T", &seconds.to_string()]);
        pgbench
            .stdout(output.try_clone().expect("share the log"))
            .stderr(output)
            .spawn()
            .expect("run pgbench")
    }

    /// Where the next record goes: "0/3000158".
    pub fn current_lsn(&self) -> String {
        self.query("SELECT pg_current_wal_lsn()")
    }

    /// The number that `initdb` gave this cluster.
    pub fn system_identifier(&self) -> u64 {
        self.number("SELECT system_identifier FROM pg_control_system()")
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the server has logged `text`.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        if wait::within(wait::LONG, || self.log().contains(text).then_some(())).is_none() {
            panic!("the server never logged {text:?}\n{}", wait::tail(&self.log, 30));
        }
    }

    /// The machine is lost: everything killed, the data directory removed.
    pub fn destroy(mut self) {
        self.kill9();
        fs::remove_dir_all(&self.data).expect("remove the data directory");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", wait::tail(&self.log, 40));
        }
        self.kill9_postmaster();
        // A copy tool that waits for a mount dies with it only, which may be dropped after this.
        wait::within(Duration::from_secs(5), || self.kill_processes());
        self.remove_shared_memory();
    }
}

/// Processes whose working directory is `dir`: a postmaster's, its backends', and of the commands that they run.
fn processes_in(dir: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let numbered = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbered
        .filter(|id| fs::read_link(format!("/proc/{id}/cwd")).is_ok_and(|cwd| cwd == dir))
        .collect()
}

/// Sends a signal; a process that is gone already is no error.
pub fn send(process: u32, signal: i32) {
    let id = libc::pid_t::try_from(process).expect("a process id");
    // SAFETY: kill has no memory effects; the id is of a process that the test started.
    unsafe { libc::kill(id, signal) };
}
