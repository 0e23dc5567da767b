//! A backup is as old as its stop position, whenever it was stored (promise B8).

use jiff::Timestamp;

use super::mounted::Site;
use crate::common::user::said;
use crate::common::wait;
use crate::common::walfs::Options;
use crate::common::world::World;

#[test]
fn b8_an_imported_backup_is_as_old_as_its_end() {
    let site = Site::in_world(World::new("aging"), Options::local);
    // An abbreviation that says nothing by itself.
    site.server.configure(&[("log_timezone", "Europe/Berlin")]);
    site.server.reload();
    let old = site.local_backup();
    let pause = || site.server.query("SELECT pg_sleep(2)");
    pause();
    site.server.query("CREATE TABLE early AS SELECT 1 AS id");
    let time = site
        .server
        .query("SELECT clock_timestamp() AT TIME ZONE 'UTC' || '+00'");
    pause();
    site.server.query("INSERT INTO early VALUES (2)");
    site.server.archive_all();
    site.take("new", &["-Xnone"]);
    site.assert_listed_complete("new");

    let imported = site.backup("old");
    site.shell("cp -a \"$1\" \"$2\" && sync \"$2\"", &[&old, &imported]);
    assert_eq!(site.listed("old")["state"], "complete");
    assert_eq!(
        site.latest().as_deref(),
        Some("new"),
        "an old backup became LATEST"
    );
    let order: Vec<String> = list(&site)
        .iter()
        .map(|listed| listed["name"].to_string())
        .collect();
    assert_eq!(order, ["\"old\"", "\"new\""]);
    let ended = &site.listed("old")["backup"]["ended"];
    assert_eq!(ended["known_from"], "backup-history", "{ended}");
    let at: Timestamp = ended["at"].as_str().expect("a time").parse().expect("a time");
    let target: Timestamp = time.replace(' ', "T").parse().expect("a time");
    assert!(at < target, "{at} {target}");
    assert!(target.duration_since(at).as_secs() < 1800, "{at} {target}");
    let restored = site.world.owned_dir("back").join("data");
    let mut restore = site.mount.command(&site.world, "restore");
    let restore = restore.args(["--no-archiving", "--no-sync", "--target-time", &time]);
    let output = restore.arg("LATEST").arg(restored).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let text = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stdout));
    assert!(text.contains("old"), "{text}");

    // A name that no WAL has: neither backup ends before it.
    let mut restore = site.mount.command(&site.world, "restore");
    let restore = restore.args(["--no-archiving", "--dry-run", "--target-name", "x", "LATEST"]);
    let output = restore
        .arg(site.world.path().join("nowhere"))
        .output()
        .expect("run walfs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("no such restore point") && text.contains("the last commit is of"),
        "{text}"
    );

    // Deleted by hand: it is damaged, and LATEST is the one before it. That builds on its parts, which stay.
    site.shell("rm \"$1\"/trees/new.*/manifest.*", &[&site.world.archive()]);
    let listed = site.listed("new");
    assert_eq!(listed["state"], "damaged", "{listed}");
    wait::until("LATEST to be the other", || {
        (site.latest()? == "old").then_some(())
    });
    let mut restore = site.mount.command(&site.world, "restore");
    let restore = restore.args(["--no-archiving", "--dry-run", "LATEST"]);
    let output = restore
        .arg(site.world.owned_dir("again").join("data"))
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains("new is passed over") && text.contains("old"),
        "{text}"
    );
    let shown = site
        .mount
        .command(&site.world, "backup-list")
        .output()
        .expect("run walfs");
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(table.contains("KIND") && table.contains("plain"), "{table}");
}

fn list(site: &Site) -> Vec<serde_json::Value> {
    let mut list = site.mount.command(&site.world, "backup-list");
    let output = list.arg("--json").output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
