//! What the store keeps although a prune would remove it (promise K4), and uploads that nobody completes.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::pruning::{prune, try_prune};
use crate::common::basebackup::{Place, Site};
use crate::common::s3::{Lock, S3Server};
use crate::common::user::said;
use crate::common::world::World;

const HOUR: Duration = Duration::from_secs(3600);

#[track_caller]
fn assert_whole(site: &Site<'_>) {
    let verified = site.walfs("verify").output().expect("run walfs");
    assert!(verified.status.success(), "{}", said(&verified));
}

#[test]
fn k4_what_is_locked_is_kept_and_is_no_error() {
    let world = World::new("locked");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 10000)");
    for name in ["monday", "tuesday", "wednesday"] {
        let taken = site.try_backup(name, &["--full"]);
        assert!(taken.status.success(), "{}", said(&taken));
        site.server
            .query("INSERT INTO t SELECT generate_series(1, 10000)");
        site.server.archive_all();
    }
    let until = SystemTime::now() + HOUR;
    server.lock("basebackups/monday.json", Some(Lock::Until(until)));
    let rules = ["--keep-last", "1"];
    let planned = prune(&site, &[&rules[..], &["--dry-run"]].concat());
    let why = planned["backups"][0]["why"].to_string();
    assert!(why.contains("locked until"), "{planned}");
    prune(&site, &rules);
    let names: Vec<String> = site
        .list()
        .iter()
        .map(|backup| backup["name"].to_string())
        .collect();
    assert_eq!(names, ["\"monday\"", "\"wednesday\""]);
    assert_whole(&site);

    // Not its summary, but a part of it: it stays whole.
    server.lock("basebackups/monday.json", None);
    let parts = site.place.keys("trees").into_iter();
    let mut parts = parts.filter(|key| key.contains("monday") && key.contains(".tar."));
    server.lock(&parts.next().expect("a part"), Some(Lock::Hold));
    let pruned = prune(&site, &rules);
    let why = pruned["backups"][0]["why"].to_string();
    assert!(why.contains("legal hold"), "{pruned}");
    assert_eq!(pruned["removed"]["backup_objects"], 0, "{pruned}");
    assert_whole(&site);

    // A segment that only it needs.
    server.lock("", None);
    let mut segments = site.place.keys("wal").into_iter();
    let segment = segments.find(|key| key.len() == "wal/".len() + 24 + 4);
    let segment = segment.expect("a segment");
    server.lock(&segment, Some(Lock::Until(until)));
    let planned = prune(&site, &[&rules[..], &["--dry-run"]].concat());
    let removed = prune(&site, &rules);
    for told in [&planned, &removed] {
        assert_eq!(told["removed"]["locked_objects"], 1, "{told}");
        assert!(told["removed"]["locked_until"].is_string(), "{told}");
    }
    assert_eq!(planned["removed"], removed["removed"]);
    assert!(site.place.keys("wal").contains(&segment));
    assert!(site.state("monday").is_none());
    assert_whole(&site);
    // Once more, while it is locked, changes nothing and says the same.
    let again = prune(&site, &rules);
    assert_eq!(again["removed"]["locked_objects"], 1, "{again}");
    assert!(site.place.keys("wal").contains(&segment));

    // When nothing is locked any more they go.
    server.lock("", None);
    let removed = prune(&site, &rules);
    assert_eq!(removed["removed"]["locked_objects"], 0, "{removed}");
    assert!(!site.place.keys("wal").contains(&segment));
    assert_whole(&site);

    // What a prune that was killed has left of a backup.
    let parts = site.place.keys("trees").into_iter();
    let part = parts
        .into_iter()
        .find(|key| key.contains(".tar."))
        .expect("a part");
    let left = "trees/sunday.0123456789abcdef/000001.00000.tar.lz4";
    server.put_object(&format!("pg/main/{left}"), site.place.object(&part));
    let order = json!({
        "at": "2026-01-01T00:00:00Z", "boot_id": "", "host": "gone", "pid": 1, "pid_began_ticks": 0,
        "trees": ["sunday.0123456789abcdef"], "wal": [],
    });
    let order_key = "pg/main/prune/0123456789abcdef.order.json";
    server.put_object(order_key, order.to_string().into_bytes());
    server.lock(left, Some(Lock::Until(until)));
    let planned = prune(&site, &[&rules[..], &["--dry-run"]].concat());
    let removed = prune(&site, &rules);
    assert_eq!(planned["removed"]["locked_objects"], 1, "{planned}");
    assert_eq!(planned["removed"], removed["removed"]);
    assert!(site.place.keys("trees").contains(&left.to_owned()));
}

#[test]
fn k3_uploads_that_nobody_completes_are_removed() {
    let world = World::new("uploads");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    site.backup("monday");
    let prefix = "pg/main";
    assert!(site.place.archive().ends_with(prefix));
    server.begin_upload(&format!("{prefix}/trees/old/0.tar.lz4"));
    server.begin_upload("others/old");
    server.age_uploads(24 * 8 * HOUR);
    let young = format!("{prefix}/trees/young/0.tar.lz4");
    server.begin_upload(&young);
    let pruned = try_prune(&site, &["--keep-last", "1"]);
    assert!(pruned.status.success(), "{}", said(&pruned));
    assert!(said(&pruned).contains("never completed"), "{}", said(&pruned));
    let left = server.uploads_in_progress();
    assert!(
        left.contains(&young) && left.contains(&"others/old".to_owned()),
        "{left:?}"
    );
    assert!(!left.iter().any(|key| key.contains("trees/old")), "{left:?}");
}
