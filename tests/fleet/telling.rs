use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

use super::showing::{Place, run};
use crate::common::user::{User, said};
use crate::common::walfs::walfs;

fn status(place: &Place, arguments: &[&str]) -> Output {
    let mut status = walfs(&place.world, &User::postgres());
    status.args(["status", "--all", "--archive"]).arg(place.path());
    status.args(arguments).output().expect("run walfs status")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

#[test]
fn o4_status_of_many_is_a_line_each_and_the_worst_comes_first() {
    let place = Place::new("fleet");
    for (name, seed) in [("alpha", 1), ("beta", 2), ("zeta", 3)] {
        place.archive(&place.path().join(name), seed);
    }
    // Of files alone, with nothing to complain of.
    let source = place.world.owned_dir("source");
    fs::write(source.join("f"), "text").expect("write a file");
    let mut files: Command = walfs(&place.world, &User::postgres());
    files.args(["files", "--create", "--archive"]);
    run(files.arg(place.path().join("files")).arg("etc").arg(&source));
    fs::write(place.path().join("zeta/walfs.json"), "{").expect("damage a marker");

    let told = status(&place, &[]);
    assert_eq!(told.status.code(), Some(1), "{}", said(&told));
    let told = text(&told);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert!(
        lines[0].starts_with("STATE") && lines[0].ends_with("TROUBLE"),
        "{told}"
    );
    assert!(
        lines[1].starts_with("UNREAD  zeta") && lines[1].contains("walfs.json"),
        "{told}"
    );

    let told = text(&status(&place, &["--json"]));
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        (told.len(), &told[0]["name"], &told[0]["state"]),
        (4, &"zeta".into(), &"unread".into())
    );
    let alpha = told
        .iter()
        .find(|brief| brief["name"] == "alpha")
        .expect("alpha is told");
    assert_eq!(alpha["last_segment"], "000000010000000000000001");

    let told = text(&status(&place, &["--metrics"]));
    for line in [
        "walfs_archive_readable{archive=\"zeta\"} 0",
        "walfs_archive_readable{archive=\"alpha\"} 1",
    ] {
        assert!(told.lines().any(|own| own == line), "{line} is not in {told}");
    }

    // Without it the worst is what somebody should look at: alpha and beta have no backup.
    fs::remove_dir_all(place.path().join("zeta")).expect("remove an archive");
    let told = status(&place, &[]);
    let expected = match text(&told).contains("LOOK") {
        true => 3,
        false => 0,
    };
    assert_eq!(told.status.code(), Some(expected), "{}", said(&told));
}
