//! Losing a server and getting it back: a base backup by plain file copy between `pg_backup_start` and
//! `pg_backup_stop`, and recovery of that copy through a `restore_command`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use super::postgres::{Postgres, Version};
use super::user::{User, said};
use super::wait;

/// How a recovery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The database is open for writing on a new timeline.
    Promoted,
    /// The server ended by itself.
    Failed,
    /// Neither, when the given time was over.
    Waiting,
}

impl Postgres {
    /// A base backup into `to/data` (a new directory), while the server goes on: `to` is what [`Self::recover`] takes.
    #[track_caller]
    pub fn copy_data_dir(&self, to: &Path) {
        let label = self.in_backup_mode(|| copy_files(&self.user, &self.data, &to.join("data"), to));
        let label_file = to.join("data/backup_label");
        fs::write(&label_file, label).expect("write backup_label");
        self.user.own(&label_file);
    }

    /// Copies while the server is in backup mode, and returns the `backup_label` that belongs to the copy.
    #[track_caller]
    pub fn in_backup_mode(&self, copy: impl FnOnce()) -> Vec<u8> {
        let session = Session::start_backup(self);
        copy();
        session.stop_backup().0
    }

    /// Prepares the copy in `dir` for recovery with these settings (`restore_command`, targets), not started.
    pub fn recovering(dir: &Path, version: Version, settings: &[(&str, &str)]) -> Postgres {
        let postgres = Postgres::in_dir(dir, version);
        let signal = postgres.data.join("recovery.signal");
        fs::write(&signal, "").expect("write recovery.signal");
        postgres.user.own(&signal);
        // A copy that archived to the same place would be a second cluster in it.
        postgres.configure(&[("archive_mode", "off")]);
        postgres.configure(settings);
        postgres
    }

    /// Starts the data directory `dir/data` as it is, with these variables in the environment of its commands.
    pub fn start_as_it_is(dir: &Path, version: Version, env: &[(&str, String)]) -> Postgres {
        let mut postgres = Postgres::in_dir(dir, version);
        postgres.spawn_with(env);
        postgres
    }

    /// Starts what [`Self::recovering`] prepared; it recovers on its own.
    pub fn start_recovery(&mut self) {
        self.spawn();
    }

    /// Starts it again, after its recovery has failed.
    pub fn restart_recovery(&mut self) {
        if let Some(mut ended) = self.server.take() {
            wait::for_exit("the failed server to end", &mut ended);
        }
        // Old messages would be taken for new ones.
        fs::write(&self.log, "").expect("empty the server's log");
        self.user.own(&self.log);
        self.spawn();
    }

    /// Waits at most `deadline` for the end of recovery.
    pub fn recovery_within(&mut self, deadline: Duration) -> Recovery {
        let ended = wait::within(deadline, || {
            match self.psql("SELECT pg_is_in_recovery()").as_deref() {
                Ok("f") => Some(Recovery::Promoted),
                Ok(_) => None,
                Err(_) => (!self.is_running()).then_some(Recovery::Failed),
            }
        });
        ended.unwrap_or(Recovery::Waiting)
    }

    /// Recovers the copy in `dir` through `restore_command` to the end of its WAL, and answers then.
    #[track_caller]
    pub fn recover(dir: &Path, version: Version, restore_command: &str) -> Postgres {
        let mut postgres = Postgres::recovering(dir, version, &[("restore_command", restore_command)]);
        postgres.start_recovery();
        let ended = postgres.recovery_within(wait::LONG);
        assert_eq!(
            ended,
            Recovery::Promoted,
            "recovery did not end well\n{}",
            wait::tail(&postgres.log, 40)
        );
        postgres
    }
}

/// One psql that stays connected: PostgreSQL ends a backup whose session ends.
pub struct Session {
    major: u32,
    psql: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Session {
    /// Begins a backup with an immediate checkpoint; files may be copied from now on.
    #[track_caller]
    pub fn start_backup(postgres: &Postgres) -> Session {
        let mut session = Session::open(postgres);
        let start = match session.major {
            ..=14 => "pg_start_backup('copy', true, false)",
            _ => "pg_backup_start('copy', true)",
        };
        session.ask(&format!("SELECT {start}"));
        session
    }

    /// Ends it without waiting for the archiver: the bytes of `backup_label` and of `tablespace_map`.
    #[track_caller]
    pub fn stop_backup(mut self) -> (Vec<u8>, Vec<u8>) {
        let stop = match self.major {
            ..=14 => "pg_stop_backup(false, false)",
            _ => "pg_backup_stop(false)",
        };
        // In hex, because they have several lines and are to be kept byte for byte.
        let hex = |column: &str| format!("encode(convert_to(coalesce({column}, ''), 'UTF8'), 'hex')");
        let (label, map) = (hex("labelfile"), hex("spcmapfile"));
        let answer = self.ask(&format!("SELECT {label}, {map} FROM {stop}"));
        self.close();
        let (label, map) = answer.split_once('|').expect("two columns");
        (from_hex(label), from_hex(map))
    }

    fn open(postgres: &Postgres) -> Session {
        let mut command = postgres.program("psql");
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut psql = command.spawn().expect("run psql");
        let input = psql.stdin.take().expect("a piped input");
        let answers = BufReader::new(psql.stdout.take().expect("a piped output"));
        Session {
            major: postgres.version.major,
            psql,
            input,
            answers,
        }
    }

    /// Runs one statement whose answer is one line.
    #[track_caller]
    fn ask(&mut self, statement: &str) -> String {
        writeln!(self.input, "{statement};").expect("write to psql");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("read from psql");
        assert!(line.ends_with('\n'), "psql ended at {statement}");
        line.trim_end().into()
    }

    #[track_caller]
    fn close(mut self) {
        drop(self.input);
        let status = wait::for_exit("psql to end", &mut self.psql);
        assert!(status.success(), "psql: {status}");
    }
}

/// Copies a data directory under a running server, without its WAL and what belongs to the running server only.
#[track_caller]
fn copy_files(user: &User, from: &Path, to: &Path, parent: &Path) {
    user.make_dir(parent);
    let mut rsync = user.command("rsync");
    rsync.args([
        "-a",
        "--exclude=/pg_wal/*",
        "--exclude=/postmaster.*",
        "--exclude=/pg_replslot/*",
    ]);
    let output = rsync.arg(from.join("")).arg(to).output().expect("run rsync");
    // 24: files vanished on the way, which is usual in a database that works; recovery knows how to go on.
    assert!(
        matches!(output.status.code(), Some(0 | 24)),
        "rsync of the data directory: {}",
        said(&output)
    );
}

#[track_caller]
fn from_hex(text: &str) -> Vec<u8> {
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(pair).collect()
}
