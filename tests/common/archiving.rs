//! The archiver of a throw-away PostgreSQL, seen from outside: what it was told to do, what it has done, what waits.

use std::fs::{self, File};
use std::path::Path;
use std::process::Child;

use super::postgres::Postgres;
use super::wait;

/// What `pg_stat_archiver` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverStats {
    pub archived_count: u64,
    pub last_archived_wal: String,
    pub failed_count: u64,
    pub last_failed_wal: String,
}

impl Postgres {
    /// Turns archiving on with this command; before the start, as `archive_mode` needs it.
    pub fn archive_with(&self, archive_command: &str) {
        self.configure(&[("archive_mode", "on"), ("archive_command", archive_command)]);
    }

    /// `pg_receivewal` into this directory, until it is killed or the directory refuses a file.
    pub fn receive_wal(&self, into: &Path) -> Child {
        self.receive_wal_with(into, &[])
    }

    /// The same, with more arguments. For the server it is the standby `receiver`.
    pub fn receive_wal_with(&self, into: &Path, arguments: &[&str]) -> Child {
        let output = File::create(self.sockets.join("pg_receivewal.log")).expect("make pg_receivewal.log");
        let mut receiver = self.program("pg_receivewal");
        receiver
            .arg("-D")
            .arg(into)
            .arg("--no-loop")
            .args(arguments)
            .env("PGAPPNAME", "receiver")
            .stdout(output.try_clone().expect("share the log"));
        receiver.stderr(output).spawn().expect("run pg_receivewal")
    }

    /// Ends the current segment, whatever is in it, and names it.
    pub fn switch_wal(&self) -> String {
        // A segment without a record would not be switched.
        self.query("SELECT pg_create_restore_point('switch')");
        self.query("SELECT pg_walfile_name(pg_switch_wal())")
    }

    /// What the archiver has done since the cluster began.
    pub fn archiver_stats(&self) -> ArchiverStats {
        let row = self.query(
            "SELECT archived_count, coalesce(last_archived_wal, ''), failed_count, coalesce(last_failed_wal, '')
               FROM pg_stat_archiver",
        );
        let fields: Vec<&str> = row.split('|').collect();
        ArchiverStats {
            archived_count: fields[0].parse().expect("a count"),
            last_archived_wal: fields[1].into(),
            failed_count: fields[2].parse().expect("a count"),
            last_failed_wal: fields[3].into(),
        }
    }

    /// Names that `archive_status` marks `.done`: archived, and still in pg_wal.
    pub fn done_segments(&self) -> Vec<String> {
        self.marked(".done")
    }

    /// Names that wait to be archived.
    pub fn ready_segments(&self) -> Vec<String> {
        self.marked(".ready")
    }

    fn marked(&self, mark: &str) -> Vec<String> {
        let marks = fs::read_dir(self.data.join("pg_wal/archive_status")).expect("read archive_status");
        let names = marks.map(|entry| {
            entry
                .expect("read archive_status")
                .file_name()
                .into_string()
                .expect("ASCII")
        });
        let mut names: Vec<String> = names
            .filter_map(|name| name.strip_suffix(mark).map(String::from))
            .collect();
        names.sort();
        names
    }

    /// Waits until the archiver has been told success for `name`.
    #[track_caller]
    pub fn wait_archived(&self, name: &str) {
        let wal = self.data.join("pg_wal");
        let (ready, file) = (wal.join(format!("archive_status/{name}.ready")), wal.join(name));
        let done = wal.join(format!("archive_status/{name}.done"));
        // The mark goes with its segment when a checkpoint recycles it, which happens to archived ones only.
        let archived = || done.exists() || (!ready.exists() && !file.exists());
        if wait::within(wait::LONG, || archived().then_some(())).is_none() {
            panic!("{name} was never archived\n{}", wait::tail(&self.log, 30));
        }
    }

    /// Ends the current segment and waits until it, and so all before it, is archived. Returns its name.
    #[track_caller]
    pub fn archive_all(&self) -> String {
        let last = self.switch_wal();
        self.wait_archived(&last);
        wait::until("every earlier segment to be archived", || {
            self.ready_segments()
                .iter()
                .all(|name| *name > last)
                .then_some(())
        });
        last
    }
}
