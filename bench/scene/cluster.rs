//! The clusters that are backed up, and the servers that are started on what was restored.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::postgres::{self, Postgres, Version};
use crate::common::version::of_the_system;
use crate::common::wait;
use crate::common::world::World;
use crate::measure::interrupt;

/// What a restored server is asked, and what it must say.
#[derive(Clone, Debug)]
pub struct Question {
    pub sql: String,
    pub answer: String,
}

/// The system's own PostgreSQL, which the pgBackRest of the same distribution knows.
pub fn version() -> Version {
    of_the_system()
}

/// pgbench's tables: `scale` times 15 MB.
pub fn large(world: &World, scale: usize) -> (Postgres, Question) {
    let server = started(world, "large");
    server.pgbench_init(u32::try_from(scale).expect("a scale"));
    let question = Question {
        sql: "SELECT count(*) FROM pgbench_branches".into(),
        answer: scale.to_string(),
    };
    (settled(server), question)
}

/// Relation files of a server that has worked for a while: pgbench's largest table, its index, its history.
pub fn relation_files(world: &World) -> Vec<PathBuf> {
    let (server, _) = large(world, 4);
    wait::for_exit("pgbench", &mut server.pgbench(5, 4));
    server.query("CHECKPOINT");
    let dir = world.owned_dir("relations");
    let copies = ["pgbench_accounts", "pgbench_accounts_pkey", "pgbench_history"].map(|relation| {
        let file = server.query(&format!("SELECT pg_relation_filepath('{relation}')"));
        let copy = dir.join(relation);
        fs::copy(server.data().join(file), &copy).expect("copy a relation");
        copy
    });
    server.destroy();
    copies.to_vec()
}

/// `tables` tables of one row with their indexes: twice as many files of one or two pages.
pub fn of_small_files(world: &World, tables: usize) -> (Postgres, Question) {
    let server = started(world, "small");
    // A transaction can lock so many tables and no more.
    server.query(&format!(
        "DO $$ BEGIN FOR number IN 1..{tables} LOOP
             EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY)', number);
             EXECUTE format('INSERT INTO small_%s VALUES (%s)', number, number);
             IF number % 100 = 0 THEN COMMIT; END IF;
         END LOOP; END $$"
    ));
    let question = Question {
        sql: format!("SELECT id FROM small_{tables}"),
        answer: tables.to_string(),
    };
    (settled(server), question)
}

/// Quiet but for what it is asked: two backups of it are of the same files.
fn started(world: &World, name: &str) -> Postgres {
    let options = postgres::Options::of(version());
    let mut server = Postgres::init(&world.path().join(name), &options);
    server.configure(&[
        ("autovacuum", "off"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "1h"),
    ]);
    server.archive_with("/bin/true");
    server.start();
    server
}

fn settled(server: Postgres) -> Postgres {
    server.query("CHECKPOINT");
    server
}

/// Archives by this command from now on; what the server had to archive before is archived.
pub fn archive_by(server: &Postgres, command: &str) {
    interrupt::check();
    server.configure(&[("archive_command", command)]);
    server.reload();
    // The archiver may take a segment before it reads the settings, and reads them before the next one.
    server.archive_all();
    server.archive_all();
}

/// Starts a server on `restored/data`, and returns how long it took until it answered; it is destroyed then. The
/// command restores WAL for those whose tool has not written one into postgresql.auto.conf, which wins.
pub fn time_to_answer(restored: &Path, question: &Question, restore_command: &str) -> Duration {
    let begin = Instant::now();
    let settings = [("restore_command", restore_command), ("hot_standby", "on")];
    let mut server = Postgres::recovering(restored, version(), &settings);
    server.start_recovery();
    let answer = wait::until("the restored server to answer", || {
        interrupt::check();
        match server.psql(&question.sql) {
            Ok(answer) => Some(answer),
            Err(_) if server.is_running() => None,
            Err(error) => panic!("{error}\n{}", server.log()),
        }
    });
    let took = begin.elapsed();
    assert_eq!(answer, question.answer, "what the restored server says");
    server.destroy();
    took
}

/// Removes a directory and what is in it, if there is one.
pub fn remove(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("remove {}: {error}", dir.display())
        }
        _ => {}
    }
}
