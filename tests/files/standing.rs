//! Versions that stand alone, by limit or by word, and to whom what is in a version belongs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;

use super::rig::Rig;
use crate::common::basebackup::Place;
use crate::common::user::User;

/// Stores a version in which one file of two is another one.
#[track_caller]
fn next(rig: &Rig, number: u64, arguments: &[&str]) -> Value {
    rig.change(&format!("echo {number} > number"));
    again(rig, arguments)
}

#[track_caller]
fn again(rig: &Rig, arguments: &[&str]) -> Value {
    let source = rig.source.display().to_string();
    let told = rig.succeeds("files", &[&["--json"], arguments, &["etc", &source]].concat());
    serde_json::from_str(&told).expect("JSON")
}

fn is_whole(told: &Value) -> bool {
    told["base"].is_null() && told["stored_bytes"].as_u64() > Some(1 << 20)
}

/// A5: "limits of count and span": what one version has lost reaches no more than so many.
#[test]
fn a5_after_so_many_versions_one_stands_alone() {
    let rig = Rig::local("files-limits");
    rig.noise("large", 1 << 20, 1);
    let limit = ["--max-incrementals", "2"];
    let stored: Vec<Value> = (0..5).map(|number| next(&rig, number, &limit)).collect();
    let whole: Vec<bool> = stored.iter().map(is_whole).collect();
    assert_eq!(whole, [true, false, false, true, false], "{stored:?}");
    // What has not changed is not stored, however many there are.
    next(&rig, 5, &limit);
    let same = again(&rig, &limit);
    assert!(same["unchanged"] == true && same["stored_bytes"] == 0, "{same}");
    assert!(is_whole(&next(&rig, 6, &limit)));
    // A setting, too; and the word for one run, whatever has changed.
    let source = rig.source.display().to_string();
    for number in 7..10 {
        assert!(!is_whole(&next(&rig, number, &[])));
    }
    rig.change("echo 10 > number");
    let mut files = rig.walfs("files");
    files.env("WALFS_MAX_SPAN", "1s");
    let output = files
        .args(["--json", "etc", &source])
        .output()
        .expect("run walfs");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(is_whole(&told), "{told}");
    assert!(is_whole(&again(&rig, &["--full"])));
    // All that the first ones have stored is lost; the fourth and fifth are whole.
    let Place::Local(root) = &rig.place else {
        unreachable!()
    };
    let versions = rig.versions("etc");
    for key in rig.place.keys("trees") {
        if versions[..3].iter().any(|version| key.contains(version)) {
            fs::remove_file(root.join(&key)).expect("remove an object");
        }
    }
    for (version, number) in [(&versions[3], 3), (&versions[4], 4)] {
        let restored = rig.restore(&format!("etc/{version}"));
        let text = fs::read_to_string(restored.join("number")).expect("read a file");
        assert_eq!(text.trim(), number.to_string());
        assert_eq!(
            fs::read(restored.join("large")).expect("read a file").len(),
            1 << 20
        );
    }
}

#[test]
fn a5_a_version_belongs_to_whom_it_is_to() {
    let mut rig = Rig::local("files-owner");
    rig.change("mkdir d && echo x > d/file && ln -s file d/link && : > d/empty");
    rig.noise("large", 300_000, 1);
    rig.archive.user = User::caller();
    again(&rig, &["--owner", "1234:4321"]);
    assert_eq!(again(&rig, &["--owner", "1234:4321"])["unchanged"], true);
    let restored = rig.restore("etc");
    for name in ["d", "d/file", "d/link", "d/empty", "large"] {
        let found = fs::symlink_metadata(restored.join(name)).expect("look");
        assert_eq!((found.uid(), found.gid()), (1234, 4321), "{name}");
    }
    let refused = rig.run("files", &["--owner", "postgres", "etc", "/etc"]);
    assert_eq!(refused.status.code(), Some(2));
}
