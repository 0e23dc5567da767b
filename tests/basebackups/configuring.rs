//! A restored server runs, whatever its backup's settings were (promise B11), and what is printed about it is true.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::mounted::Site as Mounted;
use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, newest};
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::{BINARY, walfs};
use crate::common::world::World;

/// Settings that no restored server survives, or none of its users.
const HARMFUL: [(&str, &str); 7] = [
    ("recovery_min_apply_delay", "4h"),
    ("primary_slot_name", "gone"),
    ("synchronous_standby_names", "nobody"),
    ("recovery_target_time", "2020-01-01 00:00:00+00"),
    ("data_directory", "/var/lib/nowhere"),
    ("external_pid_file", "/var/run/nowhere.pid"),
    ("hba_file", "/etc/nowhere/pg_hba.conf"),
];

fn restore(site: &Site, data: &Path, arguments: &[&str]) -> Output {
    let mut restore = site.walfs("restore");
    let output = restore
        .arg("--no-sync")
        .args(arguments)
        .arg("monday")
        .arg(data)
        .output();
    let output = output.expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn room(world: &World, name: &str) -> PathBuf {
    let dir = world.path().join(name);
    User::postgres().make_dir(&dir);
    dir
}

#[track_caller]
fn opened(dir: &Path) -> Postgres {
    let mut server = Postgres::start_as_it_is(dir, newest(), &[]);
    assert_eq!(
        server.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        server.log()
    );
    server
}

#[test]
fn b11_a_restored_server_runs() {
    let world = World::new("settings");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    let conf = site.server.data().join("postgresql.conf");
    let before = fs::read(&conf).expect("read the settings");
    site.server.configure(&HARMFUL);
    fs::write(
        site.server.data().join("more.conf"),
        "archive_cleanup_command = 'rm -f nowhere/%r'\n",
    )
    .expect("write");
    User::postgres().own(&site.server.data().join("more.conf"));
    site.server.configure(&[("include", "more.conf")]);
    let text = fs::read_to_string(&conf)
        .expect("read")
        .replace("include = ", "include ");
    fs::write(&conf, text).expect("write the settings");
    site.backup("monday");
    fs::write(&conf, before).expect("write the settings");
    site.server.query("SELECT pg_create_restore_point('here')");
    // Raised after the backup: recovery would wait for somebody to raise it in the copy, too.
    site.server.configure(&[("max_connections", "60")]);
    site.server.restart();
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();

    let dir = room(&world, "a back's");
    let output = restore(&site, &dir.join("data"), &[]);
    for (name, _) in HARMFUL.into_iter().chain([("archive_cleanup_command", "")]) {
        assert!(
            said(&output).contains(&format!("set aside: {name} = '")),
            "{name}: {}",
            said(&output)
        );
    }
    assert!(said(&output).contains("archive_mode is off"), "{}", said(&output));
    site.verify(&dir.join("data"));
    let back = opened(&dir);
    assert_eq!(
        back.query("INSERT INTO t VALUES (2); SELECT count(*) FROM t"),
        "2"
    );
    drop(back);

    // Of a target nothing is left when recovery has ended: not in the server, nor in a clone of it.
    let dir = room(&world, "target");
    restore(
        &site,
        &dir.join("data"),
        &["--target-name", "here", "--target-action", "promote"],
    );
    let target = opened(&dir);
    wait::until("the settings to be gone", || {
        (!auto(&dir).contains("'here'")).then_some(())
    });
    let left = auto(&dir);
    assert!(
        !left.contains("restore_command") && left.contains("archive_mode = 'off'"),
        "{left}"
    );
    assert!(left.contains("recovery_target_time = ''"), "{left}");
    let clone = room(&world, "clone");
    let output = target
        .program("pg_basebackup")
        .args(["-R", "-c", "fast", "-D"])
        .arg(clone.join("data"))
        .output();
    let output = output.expect("run pg_basebackup");
    assert!(output.status.success(), "{}", said(&output));
    let standby = Postgres::start_as_it_is(&clone, newest(), &[]);
    target.query("INSERT INTO t VALUES (3)");
    wait::until("the row to come", || {
        (standby.psql("SELECT count(*) FROM t").as_deref() == Ok("1")).then_some(())
    });
    assert_eq!(standby.query("SELECT pg_is_in_recovery()"), "t");
}

fn auto(dir: &Path) -> String {
    fs::read_to_string(dir.join("data/postgresql.auto.conf")).expect("read the settings")
}

/// A copy made by hand where the settings lie elsewhere, as on Debian: "Next" must say how its server starts without them.
#[test]
fn b11_a_backup_without_settings_says_how_its_server_starts() {
    let site = Mounted::local("debian");
    let copy = site.world.path().join("copy");
    site.server.copy_data_dir(&copy);
    let files = ["postgresql.conf", "pg_hba.conf"];
    for file in files {
        fs::remove_file(copy.join("data").join(file)).expect("remove a file");
    }
    let backup = site.backup("monday");
    site.shell("cp -a \"$1\" \"$2\"", &[&copy.join("data"), &backup]);
    site.server.archive_all();
    let program = site.world.public_program(Path::new(BINARY));
    site.shell("\"$1\" backup-finish \"$2\"", &[&program, &backup]);

    let dir = room(&site.world, "back");
    let mut restore = walfs(&site.world, site.mount.user());
    restore
        .args(["restore", "--no-sync", "--archive"])
        .arg(site.world.archive());
    let output = restore
        .arg("monday")
        .arg(dir.join("data"))
        .output()
        .expect("run walfs");
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let etc = Path::new("/etc/postgresql").join(newest().major.to_string());
    if etc.is_dir() {
        assert!(
            text.contains("-c config_file=") && text.contains("-c data_directory="),
            "{text}"
        );
        return;
    }
    let commands: Vec<&str> = text
        .lines()
        .filter(|line| line.trim_start().starts_with("echo "))
        .collect();
    let done = Command::new("sh")
        .args(["-ec", &commands.join("\n")])
        .output()
        .expect("run sh");
    assert!(
        done.status.success() && commands.len() == 2,
        "{commands:?}: {}",
        said(&done)
    );
    assert!(files.iter().all(|file| dir.join("data").join(file).exists()));
    // What the settings that are not seen may say is overridden, too.
    assert!(
        auto(&dir).contains("recovery_min_apply_delay = '0'"),
        "{}",
        auto(&dir)
    );
}

/// From PostgreSQL 17 on the end of a recovery waits for summaries of the WAL, which nobody makes while the server cannot be
/// read. They are made again as soon as it is open, wherever the setting stands.
#[test]
fn b11_a_server_that_summarizes_its_wal_opens() {
    if newest().major < 17 {
        return;
    }
    for in_auto in [false, true] {
        let world = World::new(if in_auto { "summaries-auto" } else { "summaries" });
        let mut site = Site::local(&world);
        match in_auto {
            true => drop(site.server.query("ALTER SYSTEM SET summarize_wal = on")),
            false => site.server.configure(&[("summarize_wal", "on")]),
        }
        site.server.reload();
        site.server.query("CREATE TABLE t (id int)");
        site.backup("monday");
        site.server.query("INSERT INTO t VALUES (1)");
        site.server.archive_all();
        site.server.query("INSERT INTO t VALUES (2)");
        site.server.kill9();
        let data = site.server.data().to_owned();
        let output = restore(&site, &data, &["--take-over", "--delta", "--keep-wal"]);
        assert!(
            said(&output).contains("set aside: summarize_wal = 'on'"),
            "{}",
            said(&output)
        );
        let back = opened(&world.path().join("pg"));
        assert_eq!(back.query("SELECT count(*) FROM t"), "2");
        wait::until("the WAL to be summarized", || {
            back.query("CHECKPOINT");
            let made = back.query("SELECT count(*) > 0 FROM pg_available_wal_summaries() WHERE tli = 2");
            (back.query("SHOW summarize_wal") == "on" && made == "t").then_some(())
        });
        let auto = fs::read_to_string(data.join("postgresql.auto.conf")).expect("read it");
        assert_eq!(auto.contains("summarize_wal = 'on'"), in_auto, "{auto}");
        assert!(!auto.contains("'off'"), "{auto}");
    }
}
