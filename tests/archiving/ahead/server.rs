//! A real PostgreSQL with a backlog: its archive command fails for a while, and then does not.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::common::postgres::{Options as ServerOptions, Postgres, send};
use crate::common::walfs::Mount;

/// A server whose archive command works while a file called `gate` exists, and what it was told is archived: of that
/// the command keeps a second copy.
struct Behind {
    server: Postgres,
    mount: Mount,
    store: S3Server,
    kept: PathBuf,
    gate: PathBuf,
    _world: World,
}

impl Behind {
    /// With `segments` of them waiting.
    #[track_caller]
    fn new(segments: usize) -> Self {
        let world = World::new("behind");
        let store = S3Server::start();
        let mount = s3_options(&world, &store).mount();
        let (kept, gate) = (world.owned_dir("kept"), world.path().join("gate"));
        let options = ServerOptions {
            segment_mib: 1,
            ..ServerOptions::default()
        };
        let mut server = Postgres::init(&world.path().join("pg"), &options);
        let to = mount.wal().display().to_string();
        // As PostgreSQL's manual has it: what is there is never replaced.
        server.archive_with(&format!(
            "test -e {gate} && test ! -f {to}/%f && cp %p {to}/%f && cp %p {kept}/%f",
            gate = gate.display(),
            kept = kept.display()
        ));
        fs::write(&gate, "").expect("open the gate");
        server.start();
        server.archive_all();
        fs::remove_file(&gate).expect("close the gate");
        while server.ready_segments().len() < segments {
            server.query("CREATE TABLE IF NOT EXISTS filler AS SELECT 1 AS id, '' AS note");
            server.query(
                "INSERT INTO filler SELECT id, md5(random()::text) FROM generate_series(1, 500) AS id",
            );
            server.switch_wal();
        }
        store.clear_requests();
        Self {
            server,
            mount,
            store,
            kept,
            gate,
            _world: world,
        }
    }

    fn open_gate(&self) {
        fs::write(&self.gate, "").expect("open the gate");
        self.server.switch_wal();
    }

    /// Opens the gate, and returns how many tries had failed until then. The archiver stands still meanwhile: of what
    /// fails later, one try at most had begun before.
    fn open_gate_after_failures(&self) -> u64 {
        let archiver = self
            .server
            .number("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'");
        send(archiver, libc::SIGSTOP);
        let failed = self.server.archiver_stats().failed_count;
        self.open_gate();
        send(archiver, libc::SIGCONT);
        failed
    }

    /// Waits until all is archived, and compares every acknowledged file with what is in the mount.
    #[track_caller]
    fn assert_all_archived(&self) -> Vec<String> {
        wait::until("the backlog to be archived", || {
            if self.server.ready_segments().is_empty() {
                return Some(());
            }
            // The archiver sleeps for a minute after three failures; this wakes it.
            self.server.reload();
            None
        });
        let names: Vec<String> = fs::read_dir(&self.kept)
            .expect("read what is kept")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"))
            .collect();
        for name in &names {
            let kept = fs::read(self.kept.join(name)).expect("read what is kept");
            assert!(
                self.mount.read(name).as_ref() == Ok(&kept),
                "{name} is not what was archived"
            );
        }
        names
    }

    fn puts(&self, name: &str) -> usize {
        self.store
            .count(|request| request.operation == Operation::Put && request.key.contains(name))
    }
}

/// W8: "While it waits, walfs works ahead": several uploads at a time, each segment sent once, all of them true, and
/// none of them refused by `test ! -f`.
#[test]
fn w8_a_backlog_is_sent_side_by_side() {
    let behind = Behind::new(20);
    let latency = Rule::new(Action::Delay(Duration::from_millis(150)));
    behind.store.add_rule(latency);
    let waiting = behind.server.ready_segments();
    let failed = behind.open_gate_after_failures();
    behind.store.wait_for(3, is_open_put);
    behind.store.clear_rules();
    let names = behind.assert_all_archived();
    assert!(waiting.iter().all(|name| names.contains(name)));
    for name in &waiting {
        assert_eq!(behind.puts(name), 1, "{name}");
    }
    // It may have been in the middle of a try when the gate was opened.
    assert!(behind.server.archiver_stats().failed_count <= failed + 1);
    assert!(behind.mount.status()["sent_ahead"].as_u64() >= Some(10));
}

/// S2: "`kill -9` of walfs at any moment": what was sent ahead and never asked for is in nobody's way afterwards.
#[test]
fn s2_walfs_is_killed_while_it_works_ahead() {
    let mut behind = Behind::new(30);
    behind
        .store
        .add_rule(Rule::new(Action::Delay(Duration::from_millis(100))).operation(Operation::Put));
    behind.open_gate();
    for _ in 0..4 {
        behind.store.clear_requests();
        behind.store.wait_for(2, is_open_put);
        behind.mount.kill9();
        behind.mount.restart();
        behind.server.reload();
    }
    behind.store.clear_rules();
    let names = behind.assert_all_archived();
    assert!(names.len() >= 30, "{} files", names.len());
}

/// S1: a store that fails now and then, and then for longer than a deadline.
#[test]
fn s1_the_store_fails_while_walfs_works_ahead() {
    let behind = Behind::new(20);
    behind.store.add_rule(
        Rule::new(Action::slow_down())
            .operation(Operation::Put)
            .probability(0.3, 7),
    );
    behind.store.add_rule(
        Rule::new(Action::LoseAnswer)
            .operation(Operation::Put)
            .probability(0.2, 8),
    );
    behind.open_gate();
    let names = behind.assert_all_archived();
    assert!(names.len() >= 20, "{} files", names.len());
}
