use std::process::{Child, Output};

use serde_json::Value;

use crate::common::basebackup::Site;
use crate::common::user::said;
use crate::common::wait;
use crate::common::world::World;

#[track_caller]
fn synced(site: &Site<'_>, arguments: &[&str]) -> Output {
    let mut sync = site.walfs("sync");
    sync.args(arguments).output().expect("run walfs")
}

/// What `--json` says of what is not in the store yet.
#[track_caller]
fn listed(site: &Site<'_>, arguments: &[&str]) -> Value {
    let output = synced(site, &[&["--list", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A backup that takes long, once something of it is stored.
fn begun(site: &Site<'_>, name: &str) -> Child {
    let backup = site.slow_backup(name, "64KiB");
    wait::until("the backup to begin", || site.state(name));
    backup
}

/// S7, B9: what is begun and what waits is told, and only what nobody is at is removed.
#[test]
fn s7_what_is_not_in_the_store_yet_is_told_and_what_nobody_is_at_is_removed() {
    let world = World::new("unsynced");
    let site = Site::local(&world);
    site.server.archive_all();
    let nothing = listed(&site, &[]);
    assert_eq!(nothing["unfinished"], serde_json::json!([]), "{nothing}");
    let mut running = begun(&site, "running");
    let mut killed = begun(&site, "killed");
    killed.kill().expect("kill it");
    killed.wait().expect("wait for it");
    // A segment that nobody archives.
    site.server.configure(&[("archive_command", "false")]);
    site.server.reload();
    let segment = site
        .server
        .query("CREATE TABLE news (); SELECT pg_walfile_name(pg_current_wal_lsn())");
    site.server.query("SELECT pg_switch_wal()");
    let data = site.server.data().display().to_string();
    let pg_wal = site.server.data().join("pg_wal");
    let mark = pg_wal.join(format!("archive_status/{segment}.ready"));
    wait::until("the segment to be finished", || mark.exists().then_some(()));
    let told = listed(&site, &["--pgdata", &data]);
    let waiting: Vec<&Value> = told["wal"].as_array().expect("a list").iter().collect();
    assert!(
        waiting.iter().any(|file| file["name"] == segment.as_str()),
        "{told}"
    );
    let unfinished = |told: &Value| -> Vec<(String, String, bool)> {
        let trees = told["unfinished"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        trees
            .map(|tree| {
                assert!(tree["kind"] == "backup" && tree["pid"].is_u64(), "{tree}");
                (text(&tree["name"]), text(&tree["maker"]), tree["goes"] == true)
            })
            .collect()
    };
    let both = [
        ("killed".to_owned(), "dead".to_owned(), true),
        ("running".to_owned(), "running".to_owned(), false),
    ];
    assert_eq!(unfinished(&told), both);
    // Without the word nothing goes.
    for arguments in [&["--reset"][..], &["--reset", "--dry-run"]] {
        let output = synced(&site, arguments);
        let text = said(&output);
        assert!(
            output.status.success() && text.contains("would go: begun"),
            "{text}"
        );
        assert!(
            text.contains("stays: begun") && text.contains("HINT: --confirm"),
            "{text}"
        );
    }
    assert_eq!(unfinished(&listed(&site, &[])), both);
    let output = synced(&site, &["--reset", "--confirm", "--pgdata", &data]);
    assert!(
        output.status.success() && said(&output).contains("removed: begun"),
        "{}",
        said(&output)
    );
    assert_eq!(unfinished(&listed(&site, &[])), both[1..]);
    assert!(pg_wal.join(&segment).exists() && mark.exists());
    assert_eq!(synced(&site, &[]).status.code(), Some(2));
    running.kill().expect("kill it");
    running.wait().expect("wait for it");
}
