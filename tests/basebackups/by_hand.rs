//! Copies of data directories, finished by `walfs backup-finish`: with links in them, of running servers and of stopped ones
//! (promise S6, S7, B9, B10).

use std::fs;
use std::path::{Path, PathBuf};

use super::mounted::Site;
use crate::common::postgres::{Postgres, StopMode};
use crate::common::recovery::{Recovery, Session};
use crate::common::user::said;
use crate::common::wait;
use crate::common::walfs::walfs;

/// S6, S7: the server's `pg_wal` is on a disk of its own, so that the copy has a link to it. What is in it is the server's.
#[test]
fn s7_a_linked_pg_wal_stays_the_servers() {
    let mut site = Site::local("linked");
    site.server.stop(StopMode::Fast);
    let (data, wal) = (
        site.server.data().to_owned(),
        site.world.owned_dir("disk").join("wal"),
    );
    site.shell(
        "mv \"$1\"/pg_wal \"$2\" && ln -s \"$2\" \"$1\"/pg_wal",
        &[&data, &wal],
    );
    site.server.start();
    let directory = copy(&site, "b");
    let before = names(&wal);
    assert!(before.iter().any(|name| name.len() == 24), "{before:?}");
    let plan = finish(&site, &directory, &["--dry-run"], 0);
    assert!(plan.contains("replace the link pg_wal"), "{plan}");
    site.shell("test -L \"$1\"/pg_wal", &[&directory]);
    let done = finish(&site, &directory, &[], 0);
    assert!(done.contains("is complete") && done.contains("pg_wal"), "{done}");
    let after = names(&wal);
    assert!(
        before.iter().all(|name| after.contains(name)),
        "{before:?}: {after:?}"
    );
    site.shell(
        "test ! -L \"$1\"/pg_wal && test -d \"$1\"/pg_wal/archive_status",
        &[&directory],
    );
    site.assert_listed_complete("b");
    site.verify(&directory);
    made_up_trees_are_no_mounts(&site);
    links_out_are_named(&site);
    let mut back = restored(&site, "b");
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM pgbench_accounts"), "400000");
}

/// A directory that looks like a mount is none; nor is `LATEST` a backup that somebody copies.
fn made_up_trees_are_no_mounts(site: &Site) {
    let fake = site.world.owned_dir("fake");
    let line = "mkdir -p \"$1\"/.walfs \"$1\"/wal \"$1\"/basebackups/x && echo 1 >\"$1\"/.walfs/version && \
                cp -a \"$2\"/. \"$1\"/basebackups/x/ && rm \"$1\"/basebackups/x/backup_manifest && \
                mkdir -p \"$1\"/basebackups/x/pg_wal && \
                touch \"$1\"/basebackups/x/pg_wal/000000010000000000000001";
    let backup = site.backup("b");
    site.shell(line, &[&fake, &backup]);
    let fake = fake.join("basebackups/x");
    let refused = finish(site, &fake, &[], 1);
    assert!(refused.contains("not a backup in a mount"), "{refused}");
    assert!(fake.join("pg_wal/000000010000000000000001").exists());
    let link = site.world.owned_dir("links").join("b");
    site.shell("ln -s \"$1\" \"$2\"", &[&backup, &link]);
    finish(site, &link, &[], 0);
    let latest = finish(site, &site.backup("LATEST"), &[], 1);
    assert!(latest.contains("name the backup"), "{latest}");
}

/// B10: "Data behind links in the data directory, settings outside it: brought along, or the backup is not complete and says
/// which."
fn links_out_are_named(site: &Site) {
    let disk = site.world.owned_dir("disk2");
    let file = |name: &str| disk.join(name);
    for (name, inside) in [
        ("1", "base/1"),
        ("postgresql.conf", "postgresql.conf"),
        ("16999", "pg_tblspc/16999"),
    ] {
        let directory = copy(site, "c");
        site.shell(
            "mv \"$1\" \"$2\" 2>/dev/null || mkdir \"$2\"; ln -s \"$2\" \"$1\"",
            &[&directory.join(inside), &file(name)],
        );
        let kept = names(&disk);
        let refused = finish(site, &directory, &[], 1);
        assert!(refused.contains(inside) && refused.contains("link"), "{refused}");
        assert_eq!(names(&disk), kept);
        site.shell("rm -r \"$1\"", &[&directory]);
    }
    // With a manifest that somebody else wrote, the mount says so.
    let directory = site.backup("d");
    let source = site.local_backup();
    let line = "cp -a \"$1\" \"$2\" && rm -r \"$2\"/pg_wal && ln -s \"$3\" \"$2\"/pg_wal";
    site.shell(line, &[&source, &directory, &disk]);
    site.sync_fails(&directory);
    assert!(
        site.mount.log().contains("pg_wal is a link"),
        "{}",
        site.mount.log()
    );
    site.shell("rm -r \"$1\"", &[&directory]);
}

/// The directory of a server that was stopped cleanly is a backup, from which recovery follows the archive.
#[test]
fn a_stopped_servers_copy_is_a_backup() {
    let mut site = Site::local("cold");
    let data = site.server.data().to_owned();
    let running = site.backup("running");
    copy_files(&site, &running);
    let refused = finish(&site, &running, &["--wal-timeout", "1s"], 1);
    assert!(
        refused.contains("no backup_label") && refused.contains("ran"),
        "{refused}"
    );
    site.shell("rm -r \"$1\"", &[&running]);
    site.server.stop(StopMode::Fast);
    let directory = site.backup("cold");
    site.shell("cp -a \"$1\" \"$2\" && rm \"$2\"/pg_wal/0*", &[&data, &directory]);
    let refused = finish(&site, &directory, &[], 1);
    assert!(refused.contains("last checkpoint"), "{refused}");
    site.shell("cp -a \"$1\"/pg_wal/. \"$2\"/pg_wal/", &[&data, &directory]);
    assert!(finish(&site, &directory, &[], 0).contains("is complete"));
    site.assert_listed_complete("cold");
    site.verify(&directory);
    let listed = site.listed("cold");
    assert_eq!(listed["backup"]["ended"]["known_from"], "shutdown", "{listed}");
    site.server.start();
    site.server.query("CREATE TABLE later AS SELECT 1 AS id");
    site.server.archive_all();
    let mut back = restored(&site, "cold");
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM later"), "1");
}

/// B2, B4: files of several moments are no backup, and damaged pages are named, as by `walfs backup`.
#[test]
fn b4_pages_of_a_copy_are_looked_at() {
    let mut site = Site::local("pages");
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id");
    let table = site.server.query("SELECT pg_relation_filepath('t')");
    site.server.stop(StopMode::Fast);
    let data = site.server.data().to_owned();

    let damaged = site.backup("damaged");
    site.shell("cp -a \"$1\" \"$2\"", &[&data, &damaged]);
    site.shell(
        "printf xxxxxxxx | dd of=\"$1\" bs=1 seek=24672 conv=notrunc status=none; truncate -s -100 \"$1\"",
        &[&damaged.join(&table)],
    );
    let said = finish(&site, &damaged, &[], 3);
    assert!(said.contains("is complete"), "{said}");
    let at_fault: Vec<&str> = said.lines().filter(|line| line.contains(&table)).collect();
    assert!(at_fault.len() >= 2 && at_fault[0].contains("block 3 "), "{said}");

    // A control file from when the server was stopped, and the rest from later.
    let late = site.backup("late");
    site.shell("cp -a \"$1\" \"$2\"", &[&data, &late]);
    site.server.start();
    site.server.query("UPDATE t SET id = -id");
    site.server.query("CHECKPOINT");
    site.server.archive_all();
    site.shell("cp \"$1\" \"$2\"", &[&data.join(&table), &late.join(&table)]);
    let said = finish(&site, &late, &[], 1);
    assert!(
        said.contains(&table) && said.contains("several moments"),
        "{said}"
    );
    assert!(site.summary("late").is_none());
}

/// A copy as README has it, with its label.
fn copy(site: &Site, name: &str) -> PathBuf {
    let directory = site.backup(name);
    let session = Session::start_backup(&site.server);
    copy_files(site, &directory);
    let (label, _) = session.stop_backup();
    let file = site.world.owned_file("backup_label", &label);
    site.shell("cp \"$1\" \"$2\"/backup_label", &[&file, &directory]);
    directory
}

/// Files may vanish under it: the server works.
fn copy_files(site: &Site, to: &Path) {
    let line = "cp -a \"$1\" \"$2\" 2>/dev/null; test -f \"$2\"/global/pg_control";
    site.shell(line, &[site.server.data(), to]);
}

#[track_caller]
fn finish(site: &Site, directory: &Path, arguments: &[&str], code: i32) -> String {
    let mut command = walfs(&site.world, site.mount.user());
    let output = command
        .arg("backup-finish")
        .args(arguments)
        .arg(directory)
        .output();
    let output = output.expect("run walfs");
    let message = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{message}\n{}",
        site.mount.log()
    );
    message
}

fn names(directory: &Path) -> Vec<String> {
    let listed = fs::read_dir(directory).expect("list a directory").flatten();
    let mut names: Vec<String> = listed
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Restored beside, started.
fn restored(site: &Site, name: &str) -> Postgres {
    let dir = site.world.owned_dir(&format!("back-{name}"));
    let mut restore = site.mount.command(&site.world, "restore");
    let output = restore
        .args(["--no-archiving", "--no-sync", name])
        .arg(dir.join("data"))
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    Postgres::start_as_it_is(&dir, site.server.version.clone(), &[])
}
