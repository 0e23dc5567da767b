//! What `walfs verify` has found (promise K6) is known to everybody who chooses a backup, or builds on one.

use std::fs;

use serde_json::Value;

use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::walfs::Mount;
use crate::common::world::World;

fn told(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut walfs = site.walfs(command);
    let output = walfs.arg("--json").args(arguments).output().expect("run walfs");
    let told = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        told.unwrap_or_else(|_| panic!("{}", said(&output))),
    )
}

/// Flips a bit in each part that has content of tables.
fn damage(site: &Site<'_>, taken: &Value) {
    let keys = site
        .place
        .keys(&format!("trees/{}", taken["id"].as_str().expect("an id")));
    for key in keys.iter().filter(|key| key.contains(".tar.")) {
        let path = site.world.archive().join(key);
        let mut object = fs::read(&path).expect("read a part");
        let middle = object.len() / 2;
        object[middle] ^= 1;
        fs::remove_file(&path).expect("remove a part");
        fs::write(&path, object).expect("write a part");
        User::postgres().own(&path);
    }
}

fn states(site: &Site<'_>) -> Vec<(String, String)> {
    let (_, listed) = told(site, "backup-list", &[]);
    let listed = listed.as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    listed
        .map(|backup| (text(&backup["name"]), text(&backup["state"])))
        .collect()
}

/// What `LATEST` means to whom restores, who asks, and who looks into the mount.
fn latest(site: &Site<'_>, world: &World) -> String {
    let dir = world.owned_dir("restored").display().to_string();
    let mut restore = site.walfs("restore");
    let output = restore
        .args(["--dry-run", "LATEST", &dir])
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let (_, shown) = told(site, "backup-show", &["LATEST"]);
    let shown = shown["name"].as_str().expect("a name").to_owned();
    assert!(
        said(&output).contains(&format!("would restore {shown} ")),
        "{shown}: {}",
        said(&output)
    );
    let mount = Mount::local(world);
    let link = mount
        .user()
        .shell("readlink \"$1\"/basebackups/LATEST", &[mount.path()]);
    assert_eq!(
        String::from_utf8_lossy(&link.stdout).trim(),
        shown,
        "{}",
        said(&link)
    );
    shown
}

/// LATEST means a backup that is whole, and the next one stores again what was damaged in those before it.
#[test]
fn k6_what_verify_has_found_is_known_to_latest_and_to_the_next_backup() {
    let world = World::new("found");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n");
    let first = site.backup("b1");
    site.server
        .query("CREATE TABLE u AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n");
    let second = site.backup("b2");
    site.server.archive_all();
    assert_eq!(latest(&site, &world), "b2");

    // Only what the second has stored itself.
    damage(&site, &second);
    let (code, found) = told(&site, "verify", &[]);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(latest(&site, &world), "b1");
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, state)| (name.to_string(), state.to_string()))
            .collect()
    };
    assert_eq!(states(&site), pairs(&[("b1", "complete"), ("b2", "damaged")]));
    site.backup("b3");
    site.server.archive_all();
    assert_eq!(latest(&site, &world), "b3");

    // What all of them have from the first.
    damage(&site, &first);
    let (code, found) = told(&site, "verify", &[]);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(
        states(&site),
        pairs(&[("b1", "damaged"), ("b2", "damaged"), ("b3", "damaged")])
    );
    site.backup("b4");
    site.server.archive_all();
    assert_eq!(latest(&site, &world), "b4");
    let dir = world.owned_dir("back");
    let mut restore = site.walfs("restore");
    let restored = restore.arg("b4").arg(&dir).output().expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    let (_, found) = told(&site, "verify", &[]);
    assert!(!found["findings"].to_string().contains("\"b4\""), "{found:#}");
    assert_eq!(states(&site)[3], ("b4".into(), "complete".into()));
}
