//! `kill -9` at random moments: nothing incomplete is shown as complete, and the next run is right.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use super::rig::Rig;

#[test]
fn s2_killed_at_any_moment_the_next_run_is_right() {
    let rig = Rig::local("files-killed");
    rig.noise("large", 40 << 20, 1);
    (0..200).for_each(|number| rig.noise(&format!("small{number}"), 10_000, number));
    let mut told = Vec::new();
    for number in 0..20 {
        rig.change(&format!("echo {number} > number"));
        rig.noise(&format!("small{number}"), 300_000, 1000 + number);
        let mut run = rig.walfs("files");
        run.args(["etc", &rig.source.display().to_string()]);
        let mut run = run.stderr(Stdio::null()).spawn().expect("run walfs");
        thread::sleep(Duration::from_millis(fastrand::u64(5..600)));
        run.kill().expect("kill walfs");
        run.wait().expect("wait for walfs");
        told.push(rig.told(&rig.source));
        // What is shown is whole: as the directory was at one of these moments.
        if !rig.versions("etc").is_empty() {
            let restored = rig.told(&rig.restore("etc"));
            assert!(told.contains(&restored), "the newest version after kill {number}");
        }
    }
    for version in rig.versions("etc") {
        let restored = rig.told(&rig.restore(&format!("etc/{version}")));
        assert!(told.contains(&restored), "version {version}");
    }
    rig.store("etc");
    assert_eq!(rig.told(&rig.restore("etc")), rig.told(&rig.source));
    // What the killed ones have left goes, but for what may have lost its summary, which it is asked for.
    rig.change("echo last > number");
    rig.store("etc");
    let complete = rig.versions("etc").len();
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
    assert_eq!(unfinished.count(), 0, "{complete} versions, and {folders:?}");
}
