//! `kill -9` at random moments: nothing incomplete is shown as complete, and the next run is right.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::rig::{NOISE, Rig};
use crate::common::postgres::send;

/// Processes named `pg_dump` of this test, by what their command line has.
fn pg_dumps(of: &str) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("list").flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let is_one = |number: &u32| {
        let read = |file| fs::read(format!("/proc/{number}/{file}")).unwrap_or_default();
        read("comm") == b"pg_dump\n" && String::from_utf8_lossy(&read("environ")).contains(of)
    };
    numbers.filter(is_one).collect()
}

#[test]
fn s2_killed_at_any_moment_the_next_run_is_right() {
    let rig = Rig::local("dumps-killed");
    rig.fill("app", 100_000);
    let mark = rig.world.path().join("pg").display().to_string();
    rig.dump("app");
    let mut told = vec![rig.told("app")];
    for number in 0..16_u32 {
        let from = number * 1000 + 1;
        rig.sql(
            "app",
            &format!(
                "UPDATE t SET noise = {NOISE} FROM generate_series({from}, {from} + 300) i WHERE id = i"
            ),
        );
        told.push(rig.told("app"));
        let complete = rig.versions("app");
        let mut run = rig.walfs("dump");
        let mut run = run.arg("app").stderr(Stdio::null()).spawn().expect("run walfs");
        thread::sleep(Duration::from_millis(fastrand::u64(50..1200)));
        let by_dump = number % 2 == 0;
        match by_dump {
            true => pg_dumps(&mark)
                .into_iter()
                .for_each(|number| send(number, libc::SIGKILL)),
            false => run.kill().expect("kill walfs"),
        }
        let status = run.wait().expect("wait for walfs");
        let versions = rig.versions("app");
        // What failed is not there; what is there is whole, as the database was at one of these moments.
        if by_dump && !status.success() {
            assert_eq!(versions, complete, "after kill {number}");
        }
        if versions.len() > complete.len() {
            let restored = rig.restored("app");
            assert!(told.contains(&restored), "the newest version after kill {number}");
        }
    }
    for version in rig.versions("app") {
        let restored = rig.restored(&format!("app/{version}"));
        assert!(told.contains(&restored), "version {version}");
    }
    rig.dump("app");
    assert!(rig.restored("app") == rig.told("app"));
    // What the killed ones have left goes, but for what may have lost its summary, which it is asked for.
    rig.sql("app", "CREATE TABLE last AS SELECT 1");
    rig.dump("app");
    let mut folders: Vec<String> = rig
        .place
        .keys("trees")
        .iter()
        .map(|key| key[..key.rfind('/').unwrap_or(0)].to_owned())
        .collect();
    folders.dedup();
    let unfinished = folders
        .iter()
        .filter(|folder| !rig.place.keys(folder).iter().any(|key| key.contains("manifest.")));
    assert_eq!(unfinished.count(), 0, "{folders:?}");
    // Nothing else is found: whatever is shown is whole.
    let verified = rig.walfs("verify").arg("--json").output().expect("run walfs");
    let verified: Value = serde_json::from_slice(&verified.stdout).expect("JSON");
    let shown = rig.versions("app");
    for finding in verified["findings"].as_array().expect("a list") {
        let object = finding["object"].as_str().expect("a key");
        let version = object
            .strip_prefix("dumps/app@")
            .and_then(|rest| rest.strip_suffix(".json"));
        assert!(
            finding["kind"] == "missing"
                && version.is_some_and(|version| !shown.iter().any(|one| one == version)),
            "{verified:#}"
        );
    }
}
