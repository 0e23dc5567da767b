//! What an incremental backup of PostgreSQL is to be combined with stays, or it is not complete (promises B2, K3).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::pruning::prune;
use super::written_again::written;
use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::{Mount, walfs};
use crate::common::world::World;

/// A server of which incremental backups can be taken, and a full backup of it, in the mount.
fn with_full(world: &World) -> (Site<'_>, Mount) {
    let site = Site::local(world);
    site.server.query("ALTER SYSTEM SET summarize_wal = on");
    site.server.query("SELECT pg_reload_conf()");
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 100000) AS id, md5(random()::text) AS text");
    let mount = Mount::local(world);
    written(&site, &mount, "full", &["-X", "none"]);
    (site, mount)
}

/// `pg_basebackup` into the mount of what has changed since the backup of that manifest.
fn incremental(site: &Site<'_>, mount: &Mount, name: &str, manifest: &Path) -> Command {
    site.server.query("UPDATE t SET id = -id WHERE id % 7 = 0");
    let mut command = site.server.program("pg_basebackup");
    command
        .args(["--checkpoint=fast", "--no-sync", "-X", "none"])
        .arg(format!("--incremental={}", manifest.display()))
        .arg("-D")
        .arg(mount.path().join("basebackups").join(name));
    command
}

/// K3: the base of an incremental backup in the making is not pruned.
#[test]
fn k3_what_an_incremental_backup_in_the_making_is_combined_with_stays() {
    let world = World::new("making-incr");
    let (site, mount) = with_full(&world);
    site.backup("newer");
    let full = mount.path().join("basebackups/full");
    let mut slow = incremental(&site, &mount, "changes", &full.join("backup_manifest"));
    slow.arg("--max-rate=1000k").stderr(Stdio::piped());
    let mut slow = slow.spawn().expect("run pg_basebackup");
    wait::until("it to have begun", || {
        let keys = site.place.keys("trees");
        keys.iter().any(|key| key.contains("/changes.")).then_some(())
    });
    let done = prune(&site, &["--keep-last", "1"]);
    assert_eq!(done["removed"]["backup_objects"], 0, "{done}");
    assert!(
        done.to_string()
            .contains("changes, which is unfinished, may be incremental from it"),
        "{done}"
    );
    assert!(slow.try_wait().expect("its state").is_none(), "it was too quick");
    let status = wait::for_exit("the backup to end", &mut slow);
    assert!(status.success(), "{}", mount.log());
    assert_eq!(site.state("changes").as_deref(), Some("complete"));
    let mut combine = site.server.program("pg_combinebackup");
    let changes = mount.path().join("basebackups/changes");
    combine.args([&full, &changes]).arg("-o");
    let combined = combine.arg(world.owned_dir("combined").join("data")).output();
    let combined = combined.expect("run pg_combinebackup");
    assert!(combined.status.success(), "{}", said(&combined));
    // It is the one that is kept now, with its base.
    let done = prune(&site, &["--keep-last", "1"]);
    assert!(
        done.to_string().contains("changes is to be combined with it"),
        "{done}"
    );
    assert_eq!(site.state("changes").as_deref(), Some("complete"));
}

/// B2, B9: an incremental backup of which the base is gone is not complete, and its writer is told so.
#[test]
fn b2_an_incremental_backup_without_its_base_is_not_complete() {
    let world = World::new("baseless");
    let (site, mount) = with_full(&world);
    let manifest = world.owned_dir("elsewhere").join("backup_manifest");
    let full = mount.path().join("basebackups/full/backup_manifest");
    let copied = mount.user().shell("cp \"$1\" \"$2\"", &[&full, &manifest]);
    assert!(copied.status.success(), "{}", said(&copied));
    let first = incremental(&site, &mount, "changes", &manifest).output();
    let first = first.expect("run pg_basebackup");
    assert!(first.status.success(), "{}", said(&first));
    let to = world.owned_dir("copy");
    let copy = || {
        let mut copy = walfs(&world, &User::postgres());
        copy.args(["copy", "--create", &site.place.archive()]);
        copy.arg(&to).output().expect("run walfs")
    };
    // Its base is lost.
    let (summary, aside) = (
        world.archive().join("basebackups/full.json"),
        world.path().join("full.json"),
    );
    fs::rename(&summary, &aside).expect("lose the summary");
    assert_eq!(site.state("changes").as_deref(), Some("damaged"));
    let copied = copy();
    assert!(
        !copied.status.success() && said(&copied).contains("is to be combined with"),
        "{}",
        said(&copied)
    );
    let mut refused = incremental(&site, &mount, "later", &manifest);
    let refused = refused.arg("--no-clean").output();
    let refused = refused.expect("run pg_basebackup");
    assert!(!refused.status.success(), "{}", said(&refused));
    mount.wait_for_log("it is to be combined with the backup that began at");
    assert_eq!(site.state("later").as_deref(), Some("incomplete"));
    // It is back, and the backup can be completed.
    fs::rename(&aside, &summary).expect("bring it back");
    let later = mount.path().join("basebackups/later");
    let named = mount
        .user()
        .shell("mv \"$1\"/backup_manifest.tmp \"$1\"/backup_manifest", &[&later]);
    assert!(named.status.success(), "{}", said(&named));
    for name in ["changes", "later"] {
        assert_eq!(site.state(name).as_deref(), Some("complete"), "{name}");
    }
    assert!(copy().status.success(), "{}", said(&copy()));
}
