//! Databases that cannot be dumped, programs that are too old or not there, signals, and what is in the way of a restore.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::rig::{Rig, dumps_in};
use crate::common::postgres::send;
use crate::common::user::said;
use crate::common::version::{Version, of_the_system};
use crate::common::wait;

#[test]
fn b9_of_all_databases_one_that_fails_does_not_keep_the_others() {
    let rig = Rig::local("dumps-one-fails");
    for name in ["broken", "whole"] {
        rig.fill(name, 1000);
    }
    // A table whose file is gone.
    let path = rig.sql("broken", "CHECKPOINT; SELECT pg_relation_filepath('t')");
    fs::remove_file(rig.server.data().join(&path)).expect("remove the table's file");
    rig.sql("broken", "SELECT 1");
    let mut rig = rig;
    rig.server.restart();
    let failed = rig.run("dump", &["--all", "--json"]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    let words = String::from_utf8_lossy(&failed.stderr).into_owned();
    // Which one, in pg_dump's words, and a table of all.
    assert!(words.contains("cannot dump broken"), "{words}");
    assert!(words.contains(&path) && words.contains("No such file"), "{words}");
    assert!(
        words.contains("1 of 5 dumps failed") && words.contains("RESULT"),
        "{words}"
    );
    let told = dumps_in(&failed.stdout);
    let errors = told.iter().filter(|told| told["error"].is_string());
    assert_eq!(errors.map(|told| &told["name"]).collect::<Vec<_>>(), ["broken"]);
    assert_eq!(
        (rig.versions("broken").len(), rig.versions("whole").len()),
        (0, 1)
    );
    assert!(rig.restored("whole") == rig.told("whole"));
    // Nothing of it is left.
    let parts = rig.place.keys("trees");
    assert!(parts.iter().all(|key| !key.contains("broken")), "{parts:?}");
    rig.succeeds("verify", &[]);
}

#[test]
fn o1_a_pg_dump_that_is_too_old_is_named() {
    let mut rig = Rig::local("dumps-old");
    let Version { major, bin } = of_the_system();
    assert!(
        major < rig.server.version.major,
        "the tests have a newer one than the system"
    );
    let newer = rig.server.version.major;
    rig.use_tools(bin.clone());
    let refused = rig.run("dump", &["postgres"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let words = said(&refused);
    assert!(
        words.contains(&format!("the server is PostgreSQL {newer}")),
        "{words}"
    );
    assert!(
        words.contains(&format!("{} is {major}", bin.join("pg_dump").display())),
        "{words}"
    );
    assert!(words.contains("HINT: install"), "{words}");
    // Not there at all.
    rig.use_tools(rig.world.owned_dir("empty"));
    let refused = rig.run("dump", &["postgres"]);
    assert!(said(&refused).contains("is not here"), "{}", said(&refused));
    assert!(rig.place.keys("dumps").is_empty());
}

#[test]
fn b9_a_dump_that_does_not_end_with_0_is_none_whatever_it_wrote() {
    let mut rig = Rig::local("dumps-liar");
    rig.fill("app", 1000);
    // A pg_dump that writes all of it, and then says that it has failed; or says nothing, and is killed.
    let real = rig.bin.join("pg_dump");
    let liar = rig.world.owned_dir("liar");
    for (end, said_by_it) in [
        ("echo 'not really' >&2; exit 1", "not really"),
        ("kill -9 $$", "signal: 9"),
    ] {
        let script = format!(
            "#!/bin/sh\n{} \"$@\"\n[ \"$1\" = --version ] || {{ {end}; }}\n",
            real.display()
        );
        fs::write(liar.join("pg_dump"), script).expect("write a program");
        fs::set_permissions(liar.join("pg_dump"), PermissionsExt::from_mode(0o755)).expect("make it one");
        rig.use_tools(liar.clone());
        let failed = rig.run("dump", &["app"]);
        assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
        assert!(said(&failed).contains(said_by_it), "{}", said(&failed));
        assert_eq!(rig.versions("app"), Vec::<String>::new());
        assert!(rig.place.keys("trees").is_empty());
    }
}

#[test]
fn b9_no_such_database_is_said_and_leaves_nothing() {
    let rig = Rig::local("dumps-none");
    let failed = rig.run("dump", &["nowhere"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        said(&failed).contains("database \"nowhere\" does not exist"),
        "{}",
        said(&failed)
    );
    assert!(rig.place.keys("trees").is_empty() && rig.place.keys("dumps").is_empty());
    // Nothing to do is wrong usage.
    assert_eq!(rig.run("dump", &[]).status.code(), Some(2));
    assert_eq!(rig.run("dump", &["--all", "app"]).status.code(), Some(2));
}

#[test]
fn b9_a_signal_ends_it_and_nothing_is_kept() {
    let rig = Rig::local("dumps-signal");
    rig.fill("app", 1000);
    // So that it waits.
    let mut holder = rig.server.program("psql");
    let mut holder = holder
        .env("PGDATABASE", "app")
        .args(["-Xq", "-c", "BEGIN; LOCK t; SELECT pg_sleep(600)"])
        .stdout(Stdio::null())
        .spawn()
        .expect("run psql");
    wait::until("the lock", || {
        let held =
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%' AND wait_event = 'PgSleep'";
        (rig.server.query(held) == "1").then_some(())
    });
    let mut dump = rig.walfs("dump");
    let dump = dump.arg("app").stderr(Stdio::piped()).spawn().expect("run walfs");
    wait::until("pg_dump to wait", || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump' AND wait_event_type = 'Lock'";
        (rig.server.query(waits) == "1").then_some(())
    });
    // Both of setpriv and of walfs: it has become walfs.
    send(dump.id(), libc::SIGTERM);
    let output = dump.wait_with_output().expect("wait for walfs");
    assert_eq!(output.status.code(), Some(143), "{}", said(&output));
    // pg_dump has ended with it.
    wait::until("pg_dump to be gone", || {
        let there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
        (rig.server.query(there) == "0").then_some(())
    });
    assert!(rig.place.keys("trees").is_empty());
    holder.kill().expect("kill psql");
    holder.wait().expect("wait for psql");
}

#[test]
fn s5_a_password_is_in_no_command_line() {
    let rig = Rig::local("dumps-secret");
    rig.fill("app", 200_000);
    let mut refused = rig.walfs("dump");
    let refused = refused
        .args(["-d", "dbname=app password=sesame", "app"])
        .output()
        .expect("run walfs");
    assert!(
        said(&refused).contains("command lines") && !said(&refused).contains("sesame"),
        "{}",
        said(&refused)
    );
    let mut dump = rig.walfs("dump");
    let mut dump = dump
        .env("PGPASSWORD", "sesame")
        .arg("app")
        .spawn()
        .expect("run walfs");
    let mut seen = false;
    while dump.try_wait().expect("wait for walfs").is_none() {
        for process in fs::read_dir("/proc").expect("list").flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            seen |= line.contains("--format=custom");
            assert!(!line.contains("sesame"), "{line}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(seen, "pg_dump was never seen");
    assert_eq!(rig.versions("app").len(), 1);
}

#[test]
fn s7_a_restore_writes_over_nothing() {
    let rig = Rig::local("dumps-over");
    rig.fill("app", 100);
    rig.dump("app");
    let place = rig.world.owned_dir("place");
    let (there, link) = (place.join("there"), place.join("link"));
    fs::write(&there, "mine").expect("write");
    symlink("/nonexistent/at/all", &link).expect("a link");
    for taken in [&there, &link] {
        let refused = rig.run("dump-restore", &["app", &taken.display().to_string()]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            said(&refused).contains("nothing is written over"),
            "{}",
            said(&refused)
        );
    }
    assert_eq!(fs::read(&there).expect("read"), b"mine");
    let missing = rig.run("dump-restore", &["other", "-"]);
    assert!(said(&missing).contains("dump-list"), "{}", said(&missing));
    assert_eq!(fs::read_dir(&place).expect("list").count(), 2);
}
