//! PostgreSQL's own tools on base backups in the mount: they write there and read from there as from any directory.

use std::path::Path;
use std::process::Output;

use super::mounted::Site;
use crate::common::postgres::{Postgres, StopMode};
use crate::common::user::{User, said};
use crate::common::version::{Version, installed_versions};
use crate::common::walfs::Options;

/// First version that combines backups.
const COMBINES: u32 = 17;

/// Runs a tool of the server's version as the mount's user.
fn tool(site: &Site, name: &str, arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = site.server.program(name);
    command.args(arguments).args(paths).output().expect("run a tool")
}

#[track_caller]
fn does(site: &Site, name: &str, arguments: &[&str], paths: &[&Path]) -> String {
    let output = tool(site, name, arguments, paths);
    let message = said(&output);
    assert!(output.status.success(), "{name}: {message}\n{}", site.mount.log());
    message
}

/// What it says when it fails, as it must.
#[track_caller]
fn fails(site: &Site, name: &str, arguments: &[&str], paths: &[&Path]) -> String {
    let output = tool(site, name, arguments, paths);
    assert!(!output.status.success(), "{name}: {}", said(&output));
    said(&output)
}

/// B1: a full backup in the mount and an increment elsewhere make a full backup in the mount, and one elsewhere.
#[test]
fn b1_pg_combinebackup_reads_from_and_writes_into_the_mount() {
    let whole = installed_versions().into_iter().filter(Version::has_tools);
    for version in whole.filter(|version| version.major >= COMBINES) {
        combine(version);
    }
}

fn combine(version: Version) {
    let site = Site::of("combine", version, Options::local);
    site.server.configure(&[("summarize_wal", "on")]);
    site.server.reload();
    let full = site.take("full", &["-Xnone"]);
    let change = "UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 5000 = 0";
    site.server.query(change);
    let increment = site.world.owned_dir("increment");
    let since = format!("--incremental={}", full.join("backup_manifest").display());
    let taken = site.run_backup(&increment, &["-Xnone", &since]);
    assert!(taken.status.success(), "{}\n{}", said(&taken), site.mount.log());

    let elsewhere = site.world.owned_dir("elsewhere");
    does(
        &site,
        "pg_combinebackup",
        &["-o"],
        &[&elsewhere, &full, &increment],
    );
    let (combined, again) = (site.backup("combined"), site.backup("again"));
    does(
        &site,
        "pg_combinebackup",
        &["-o"],
        &[&combined, &full, &increment],
    );
    // Over file systems the kernel refuses this way to copy.
    does(
        &site,
        "pg_combinebackup",
        &["--copy-file-range", "-o"],
        &[&again, &combined],
    );
    for name in ["combined", "again"] {
        let listed = site.listed(name);
        assert_eq!(listed["state"], "complete", "{listed}\n{}", site.mount.log());
        site.verify(&site.backup(name));
        // Each manifest says when its files were written; `pg_wal` of the mount shows what is archived.
        let same = r#"diff -r -x backup_manifest -x pg_wal "$1" "$2""#;
        site.shell(same, &[&site.backup(name), &elsewhere]);
    }
    increments_are_plain(&site, &since);
    comes_back(&site, "combined");
}

/// One that is combined out of the mount is taken. No tool combines those in tar files: the writer is told so before it calls
/// it done. Compressed, the label cannot always be read.
fn increments_are_plain(site: &Site, since: &str) {
    let latest = site.latest();
    site.take("increment", &["-Xnone", since]);
    assert_eq!(site.listed("increment")["state"], "complete");
    assert_eq!(site.latest(), latest, "no server starts from it");
    for (name, more) in [("in-tar", &["-Ft"][..]), ("in-gzip", &["-Ft", "-z"])] {
        let refused = site.run_backup(&site.backup(name), &[&["-Xnone", since], more].concat());
        assert!(!refused.status.success(), "{}", said(&refused));
        assert!(site.summary(name).is_none());
        assert!(site.mount.log().contains("incremental"), "{}", site.mount.log());
    }
}

/// Recovered from the mount by `cp`, and sound: by PostgreSQL's own look at all pages of the stopped cluster.
#[track_caller]
fn comes_back(site: &Site, name: &str) {
    site.server.archive_all();
    let dir = site.world.owned_dir("back");
    let data = dir.join("data");
    User::postgres().make_dir(&data);
    site.shell(r#"cp -a "$1/." "$2""#, &[&site.backup(name), &data]);
    let restore = site.mount.restore_command();
    let mut back = Postgres::recover(&dir, site.server.version.clone(), &restore);
    let changed = "SELECT count(*) FROM pgbench_accounts WHERE abalance = 1";
    assert_eq!(back.query(changed), site.server.query(changed));
    back.stop(StopMode::Fast);
    does(site, "pg_checksums", &["--check", "-D"], &[&data]);
}

/// B1: written by the server's own process. It gives the manifest its last name at once.
#[test]
fn b1_pg_basebackup_lets_the_server_write_into_the_mount() {
    let site = Site::local("target");
    for (name, wal) in [("none", "-Xnone"), ("fetched", "-Xfetch")] {
        let directory = site.backup(name);
        let target = format!("--target=server:{}", directory.display());
        does(&site, "pg_basebackup", &["-c", "fast", wal, &target], &[]);
        site.assert_listed_complete(name);
        // It cannot read the WAL that is in a tar file.
        does(&site, "pg_verifybackup", &["-n"], &[&directory]);
    }
}

/// B4: in the mount, what is packed is verified as well, and the control file can be read.
#[test]
fn b4_packed_backups_are_verified_in_the_mount() {
    let site = Site::local("packed");
    for (name, how) in [
        ("gzip", "--gzip"),
        ("lz4", "--compress=server-lz4"),
        ("tar", "-Ft"),
    ] {
        let directory = site.take(name, &["-Ft", "-Xfetch", how]);
        does(&site, "pg_verifybackup", &["-n"], &[&directory]);
    }
    let plain = site.take("plain", &["-Xnone"]);
    does(&site, "pg_verifybackup", &[], &[&plain]);
    let control = does(&site, "pg_controldata", &["-D"], &[&plain]);
    assert!(
        control.contains(&site.server.system_identifier().to_string()),
        "{control}"
    );
    let refused = fails(&site, "pg_checksums", &["--disable", "-D"], &[&plain]);
    assert!(refused.contains("cluster must be shut down"), "{refused}");
    site.verify(&plain);
}

/// `pg_waldump` finds its way through the segments of `wal/`; `pg_archivecleanup` says why it removes none.
#[test]
fn pg_waldump_follows_the_archive_from_segment_to_segment() {
    let site = Site::local("waldump");
    let start = site.server.current_lsn();
    for _ in 0..3 {
        site.server
            .query("CREATE TABLE IF NOT EXISTS rows AS SELECT generate_series(1, 1000)");
        site.server.switch_wal();
    }
    let end = site.server.current_lsn();
    let last = site.server.archive_all();
    let wal = site.mount.wal();
    let range = ["--stats=record", "-s", &start, "-e", &end, "-p"];
    let dumped = does(&site, "pg_waldump", &range, &[&wal]);
    assert!(dumped.contains("XLOG/RESTORE_POINT"), "{dumped}");
    let switches = does(
        &site,
        "pg_waldump",
        &["-r", "XLOG", "-s", &start, "-e", &end, "-p"],
        &[&wal],
    );
    assert_eq!(switches.matches("SWITCH").count(), 3, "{switches}");

    let before = site.mount.list();
    let refused = fails(&site, "pg_archivecleanup", &[], &[&wal, Path::new(&last)]);
    assert!(refused.contains("Operation not permitted"), "{refused}");
    assert_eq!(site.mount.list(), before);
}
