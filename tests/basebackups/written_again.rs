//! A backup that is written into the mount stores what has changed since the one before, as `walfs backup` does (promises B5,
//! K1).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::incremental::{Files, PAGE, assert_same, restored};
use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::walfs::Mount;
use crate::common::world::World;

/// `pg_basebackup` into the mount, which must do.
pub(super) fn written(site: &Site<'_>, mount: &Mount, name: &str, arguments: &[&str]) {
    let mut command = site.server.program("pg_basebackup");
    command.args(["--checkpoint=fast", "--no-sync"]).args(arguments);
    let output = command
        .arg("-D")
        .arg(mount.path().join("basebackups").join(name))
        .output();
    let output = output.expect("run pg_basebackup");
    assert!(output.status.success(), "{name}: {}", said(&output));
}

fn verified(mut command: Command, name: &str) {
    let output = command.output().expect("run pg_verifybackup");
    assert!(output.status.success(), "{name}: {}", said(&output));
}

fn stored_bytes(site: &Site<'_>, name: &str) -> u64 {
    let listed = site.list();
    let backup = listed.iter().find(|backup| backup["name"] == name);
    let backup = backup.unwrap_or_else(|| panic!("no backup {name} in {listed:?}"));
    backup["stored_bytes"].as_u64().expect("a number of bytes")
}

/// Whoever wrote them, and in whatever turn: each of a row of backups is what was there at its moment, restored, in the
/// mount, and for `pg_verifybackup` in both.
#[test]
fn b5_every_backup_of_a_row_that_was_written_is_what_was_there() {
    let world = World::new("written");
    let site = Site::local(&world);
    let mount = Mount::local(&world);
    let mut files = Files::new(&site, 24);
    for bytes in [40 << 20, (36 << 20) + 100, (4 << 20) + 1, 0, 1, 8191, 8193] {
        files.make(bytes);
    }
    let mut copies = Vec::new();
    for round in 0..5 {
        let name = format!("m{round}");
        match round {
            2 => drop(site.backup(&name)),
            // Its checksums are of what is read back.
            3 => written(&site, &mount, &name, &["--manifest-checksums=SHA256"]),
            _ => written(&site, &mount, &name, &[]),
        }
        let copy = world.path().join(format!("copy{round}"));
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[&files.root, &copy]);
        assert!(copied.status.success(), "{}", said(&copied));
        copies.push((name, copy));
        for _ in 0..30 {
            files.change();
        }
    }
    let first = stored_bytes(&site, "m0");
    for (name, copy) in copies {
        let shown = mount.path().join("basebackups").join(&name);
        assert_same(mount.user(), &shown.join("kept_by_us"), &copy);
        let mut verify = site.server.program("pg_verifybackup");
        verify.arg(&shown);
        verified(verify, &name);
        let data = restored(&site, &name);
        assert_same(&User::caller(), &data.join("kept_by_us"), &copy);
        let mut verify = site.server.program("pg_verifybackup");
        verify.arg(&data);
        verified(verify, &name);
        fs::remove_dir_all(&data).expect("remove what was restored");
        let stored = stored_bytes(&site, &name);
        assert!(name == "m0" || stored < first / 2, "{name}: {stored} of {first}");
    }
}

/// K1: what is stored is what has changed, of files below and above the length from which they are sent in slices.
#[test]
fn k1_a_backup_that_is_written_again_stores_what_has_changed() {
    let world = World::new("again");
    let site = Site::local(&world);
    let mount = Mount::local(&world);
    let mut files = Files::new(&site, 25);
    let large = files.make(70 << 20);
    let small: Vec<_> = (0..20).map(|_| files.make(20 * PAGE)).collect();
    written(&site, &mount, "full", &["-X", "none"]);
    written(&site, &mount, "same", &["-X", "none"]);
    let same = stored_bytes(&site, "same");
    assert!(same < 100 << 10, "{same}");
    let change = |path: &std::path::Path, at: u64, page: &[u8]| {
        let file = OpenOptions::new().write(true).open(path).expect("open a file");
        file.write_all_at(page, at).expect("write a page");
    };
    for path in &small {
        change(path, 7 * PAGE as u64, &files.noise(PAGE));
    }
    for megabyte in 0..70 {
        change(&large, (megabyte << 20) + 5 * PAGE as u64, &files.noise(PAGE));
    }
    written(&site, &mount, "changed", &["-X", "none"]);
    let changed = stored_bytes(&site, "changed") - same;
    assert!(
        changed < 90 * PAGE as u64 * 12 / 10,
        "{changed} bytes for 90 pages"
    );
    let shown = mount.path().join("basebackups/changed/kept_by_us");
    assert_same(mount.user(), &shown, &files.root);
}

/// B1: an incremental backup of PostgreSQL's own is written into the mount and combined out of it. It is none to start from, so
/// it is not LATEST, and no restore takes it.
#[test]
fn b1_an_incremental_pg_basebackup_is_combined_from_the_mount() {
    let world = World::new("incremental");
    let site = Site::local(&world);
    let server = &site.server;
    server.query("ALTER SYSTEM SET summarize_wal = on");
    server.query("SELECT pg_reload_conf()");
    server.query("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id");
    let mount = Mount::local(&world);
    let backups = mount.path().join("basebackups");
    written(&site, &mount, "full", &[]);
    server.query("UPDATE t SET id = -id WHERE id % 1000 = 0");
    let before = backups.join("full/backup_manifest");
    let since = format!("--incremental={}", before.display());
    written(&site, &mount, "changes", &[&since]);
    let listed = site.list();
    let changes = listed
        .iter()
        .find(|backup| backup["name"] == "changes")
        .expect("it is listed");
    assert_eq!(changes["state"], "complete", "{changes}");
    assert!(changes["backup"]["incremental_from"].is_string(), "{changes}");
    assert!(stored_bytes(&site, "changes") < stored_bytes(&site, "full") / 4);
    let mut verify = server.program("pg_verifybackup");
    verify.arg(backups.join("changes"));
    verified(verify, "changes");

    let latest = mount.user().shell("readlink \"$1\"", &[&backups.join("LATEST")]);
    assert_eq!(
        String::from_utf8_lossy(&latest.stdout).trim(),
        "full",
        "{}",
        said(&latest)
    );
    let refused = site
        .walfs("restore")
        .args(["--no-archiving", "changes"])
        .arg(world.path().join("none"))
        .output();
    let refused = refused.expect("run walfs");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("HINT: pg_combinebackup"),
        "{}",
        said(&refused)
    );
    // What is taken next builds on the full one.
    assert_eq!(site.backup("next")["base"], "full");

    let whole = world.owned_dir("combined").join("data");
    let mut combine = server.program("pg_combinebackup");
    combine
        .args([&backups.join("full"), &backups.join("changes")])
        .arg("-o")
        .arg(&whole);
    let combined = combine.output().expect("run pg_combinebackup");
    assert!(combined.status.success(), "{}", said(&combined));
    let mut verify = server.program("pg_verifybackup");
    verify.arg(&whole);
    verified(verify, "what was combined");
    let relation = server.query("SELECT pg_relation_filepath('t')");
    let next = backups.join("next").join(relation.trim());
    let compared = mount
        .user()
        .shell("cmp \"$1\" \"$2\"", &[&whole.join(relation.trim()), &next]);
    assert!(compared.status.success(), "{}", said(&compared));
}

/// K1: of a tablespace, which `pg_basebackup` writes to another directory of the backup, too.
#[test]
fn k1_a_tablespace_that_is_written_again_stores_what_has_changed() {
    let world = World::new("again-fast");
    let site = Site::local(&world);
    let mount = Mount::local(&world);
    let place = world.owned_dir("fast");
    site.server
        .query(&format!("CREATE TABLESPACE fast LOCATION '{}'", place.display()));
    site.server
        .query("CREATE TABLE t TABLESPACE fast AS SELECT generate_series(1, 300000) AS id, md5(random()::text) AS text");
    let mapped = |name: &str| {
        let to = mount.path().join("basebackups").join(name).join("fast");
        format!("--tablespace-mapping={}={}", place.display(), to.display())
    };
    for name in ["full", "same", "again"] {
        written(&site, &mount, name, &["-X", "none", &mapped(name)]);
    }
    let full = stored_bytes(&site, "full");
    for name in ["same", "again"] {
        let stored = stored_bytes(&site, name);
        assert!(stored < 400 << 10, "{name}: {stored} of {full}");
    }
    let shown = |name: &str| mount.path().join("basebackups").join(name).join("pg_tblspc");
    assert_same(mount.user(), &shown("full"), &shown("again"));
}
