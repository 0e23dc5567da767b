//! Damaged backups and `walfs restore` (promise R3): whatever is done to an object, the restored files are those of the
//! backup, or the command fails, names the backup and leaves nothing that a server would start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::world::World;

/// What is done to an object; `None` removes it.
type Hurt = (&'static str, fn(&[u8], &[u8]) -> Option<Vec<u8>>);

const HURTS: [Hurt; 6] = [
    ("removed", |_, _| None),
    ("empty", |_, _| Some(Vec::new())),
    ("cut in half", |whole, _| Some(whole[..whole.len() / 2].to_vec())),
    ("cut by a byte", |whole, _| {
        Some(whole[..whole.len() - 1].to_vec())
    }),
    ("flipped in the middle", |whole, _| {
        let mut flipped = whole.to_vec();
        flipped[whole.len() / 2] ^= 0x40;
        Some(flipped)
    }),
    ("another's", |_, other| Some(other.to_vec())),
];

fn restore(site: &Site, data: &Path) -> Output {
    site.walfs("restore")
        .args(["--json", "--no-archiving", "--no-sync", "monday"])
        .arg(data)
        .output()
        .expect("run walfs")
}

/// What the backup's own manifest says of a restored directory.
fn is_right(site: &Site, data: &Path) -> bool {
    let verify = site.server.program("pg_verifybackup").arg(data).output();
    verify.expect("run pg_verifybackup").status.success()
}

/// All objects of a backup but the word of who began it, which nothing is read from.
fn objects(site: &Site, world: &World, id: &str, name: &str) -> Vec<PathBuf> {
    let keys = site.place.keys(&format!("trees/{id}"));
    let told = ["begun.json", "/base."];
    let inside = keys
        .iter()
        .filter(|key| !told.iter().any(|told| key.contains(told)));
    let summary = format!("basebackups/{name}.json");
    let keys = inside.map(String::as_str).chain([summary.as_str()]);
    keys.map(|key| world.archive().join(key)).collect()
}

fn replace(path: &Path, content: Option<&[u8]>) {
    let _ = fs::remove_file(path);
    if let Some(content) = content {
        fs::write(path, content).expect("write an object");
        User::postgres().own(path);
    }
}

#[test]
fn r3_whatever_is_done_to_a_backup_nothing_wrong_is_restored() {
    let world = World::new("hurt");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    let other = site.backup("sunday");
    site.server
        .query("CREATE TABLE u AS SELECT generate_series(1, 1000) AS id");
    let taken = site.backup("monday");
    let id = |taken: &serde_json::Value| taken["id"].as_str().expect("an id").to_owned();
    let others = objects(&site, &world, &id(&other), "sunday");
    let mut failed = 0;
    for (path, other) in objects(&site, &world, &id(&taken), "monday").iter().zip(&others) {
        let whole = fs::read(path).expect("read an object");
        let other = fs::read(other).expect("read the other's");
        for (what, hurt) in HURTS {
            let damaged = hurt(&whole, &other);
            // Two backups may have a part with the very same content.
            if damaged.as_ref() == Some(&whole) {
                continue;
            }
            replace(path, damaged.as_deref());
            let dir = world.path().join("back");
            User::postgres().make_dir(&dir);
            let output = restore(&site, &dir.join("data"));
            let case = format!("{} {what}: {}", path.display(), said(&output));
            if output.status.success() {
                // Page hashes are not needed when there is nothing to compare with, and what is wrong is said.
                assert!(said(&output).contains("page hashes"), "{case}");
                assert!(is_right(&site, &dir.join("data")), "{case}");
            } else {
                assert_eq!(output.status.code(), Some(1), "{case}");
                let message = said(&output);
                assert!(message.contains("monday") && message.contains("HINT: "), "{case}");
                assert!(!dir.join("data/global/pg_control").exists(), "{case}");
                failed += 1;
            }
            fs::remove_dir_all(&dir).expect("remove what was restored");
        }
        replace(path, Some(&whole));
    }
    assert!(failed >= 3 * HURTS.len(), "{failed} failed");
    let dir = world.path().join("whole");
    User::postgres().make_dir(&dir);
    let output = restore(&site, &dir.join("data"));
    assert!(
        output.status.success() && is_right(&site, &dir.join("data")),
        "{}",
        said(&output)
    );
}
