//! `walfs status`: what can be restored and what is wrong, in every state of an archive (promise K7).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use walfs::job::status::{Shown, Status};

use crate::common::basebackup::{Place, Site};
use crate::common::postgres::StopMode;
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::walfs::{BINARY, Mount, Options};
use crate::common::world::World;

fn try_status(site: &Site<'_>, arguments: &[&str]) -> Output {
    let mut status = site.walfs("status");
    status.env("XDG_CACHE_HOME", site.world.path().join("cache"));
    status.args(arguments).output().expect("run walfs")
}

/// With this exit code: the screen, what `--json` says, and the picture.
#[track_caller]
fn status(site: &Site<'_>, code: i32, arguments: &[&str]) -> (String, Value) {
    let picture = site.world.path().join("cache/status.svg");
    let shown = try_status(site, arguments);
    assert_eq!(shown.status.code(), Some(code), "{}", said(&shown));
    let svg = picture.display().to_string();
    let json = try_status(site, &[arguments, &["--json", "--svg", &svg]].concat());
    assert_eq!(json.status.code(), Some(code), "{}", said(&json));
    let drawn = fs::read_to_string(&picture).expect("the picture");
    assert!(
        drawn.starts_with("<svg") && drawn.ends_with("</svg>\n"),
        "{drawn}"
    );
    if let Ok(kept) = std::env::var("WALFS_TEST_PICTURES") {
        let name = format!("{}/{}.{code}", kept, fastrand::u32(..));
        fs::write(format!("{name}.svg"), &drawn).expect("keep the picture");
        fs::write(format!("{name}.txt"), &shown.stdout).expect("keep the screen");
        fs::write(format!("{name}.json"), &json.stdout).expect("keep the facts");
    }
    let text = String::from_utf8(shown.stdout).expect("text");
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    // The same facts.
    assert_eq!(
        text.contains("All is well."),
        value["troubles"] == Value::Array(vec![]),
        "{text}"
    );
    // A second may pass between the two.
    let without_digits = |text: &str| text.replace(|character: char| character.is_ascii_digit(), "");
    for trouble in value["troubles"].as_array().expect("a list") {
        let what = without_digits(trouble["what"].as_str().expect("text"));
        assert!(without_digits(&text).contains(&what), "{text}");
    }
    (text, value)
}

/// The value of a metric.
#[track_caller]
fn metric(text: &str, name: &str) -> i64 {
    let is_it = |line: &&str| line.starts_with(&format!("walfs_{name} "));
    let line = text.lines().find(is_it);
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.rsplit(' ')
        .next()
        .expect("a value")
        .parse()
        .expect("a number")
}

/// The only row of the time line.
fn row(text: &str) -> String {
    let row = text.lines().find(|line| line.contains('|')).expect("a time line");
    row.split('|').nth(1).expect("a row").to_owned()
}

#[test]
fn k7_status_tells_what_can_be_restored_and_what_is_wrong() {
    let world = World::new("status");
    let site = Site::local(&world);
    let cache = world.owned_dir("cache");
    assert!(cache.is_dir());
    site.server.query("CREATE TABLE t (id int)");
    site.server.archive_all();
    // WAL, and nothing that it could be replayed on.
    let (text, value) = status(&site, 3, &[]);
    assert!(text.contains("nothing can be restored"), "{text}");
    assert_eq!(value["backups"], Value::Array(vec![]));

    site.backup("monday");
    let (text, value) = status(&site, 0, &[]);
    assert!(row(&text).contains('B'), "{text}");
    assert_eq!(value["recoverable"][0]["backup"], "monday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    let committed = site.server.query("SELECT now()");
    let (_, value) = status(&site, 0, &[]);
    let last = &value["recoverable"][0]["last_commit"];
    let last: jiff::Timestamp = last.as_str().expect("a time").parse().expect("a time");
    let now = jiff::Timestamp::now();
    assert!(now.duration_since(last).as_secs() < 120, "{last}, {committed}");

    // The same in the mount, and as metrics.
    let mount = Mount::local(&world);
    let in_mount: Value = serde_json::from_str(&mount.told("status.json")).expect("JSON");
    let facts = |mut value: Value| {
        value.as_object_mut().expect("an object").remove("at");
        value
    };
    assert_eq!(facts(in_mount), facts(value.clone()));
    assert!(mount.told("status.txt").contains("All is well."));
    assert!(mount.told("status.svg").starts_with("<svg"));
    let metrics = mount.told("metrics.prom");
    let printed = String::from_utf8(try_status(&site, &["--metrics"]).stdout).expect("text");
    for text in [&metrics, &printed] {
        assert_eq!(metric(text, "archive_readable"), 1, "{text}");
        assert_eq!(metric(text, "backups{state=\"complete\"}"), 1, "{text}");
        let told = metric(text, "recoverable_timestamp_seconds{timeline=\"1\"}");
        assert_eq!(told, last.as_second(), "{text}");
    }
    assert!(
        metric(
            &metrics,
            "store_request_duration_seconds_count{operation=\"list\"}"
        ) > 0,
        "{metrics}"
    );

    // Ages, for those who watch.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let (text, _) = status(&site, 3, &["--backup-max-age", "1s", "--wal-max-age", "1s"]);
    assert_eq!(text.matches("LOOK: ").count(), 2, "{text}");

    // What waits in pg_wal.
    let pg_wal = world.owned_dir("pg_wal");
    fs::create_dir(pg_wal.join("archive_status")).expect("make a directory");
    let mark = pg_wal.join("archive_status/000000010000000000000009.ready");
    fs::write(&mark, "").expect("write a mark");
    let pg_wal_option = pg_wal.display().to_string();
    let (text, value) = status(&site, 0, &["--pg-wal", &pg_wal_option]);
    assert!(text.contains("1 files wait"), "{text}");
    assert_eq!(value["backlog"]["waiting"], 1);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let file = fs::File::options()
        .write(true)
        .open(&mark)
        .expect("open the mark");
    file.set_modified(old).expect("set its time");
    let (text, _) = status(&site, 3, &["--pg-wal", &pg_wal_option]);
    assert!(text.contains("wait in"), "{text}");

    // A hole behind the backup.
    let segments = site.place.keys("wal");
    let names = segments
        .iter()
        .filter(|key| key.len() == "wal/".len() + 24 + ".lz4".len());
    let last: Vec<&String> = names.collect();
    site.server.query("INSERT INTO t VALUES (2)");
    site.server.archive_all();
    let lost = world.archive().join(last[last.len() - 1]);
    let kept = fs::read(&lost).expect("read a segment");
    fs::remove_file(&lost).expect("remove a segment");
    let (text, value) = status(&site, 3, &[]);
    assert!(row(&text).contains('x'), "{text}");
    assert!(value["recoverable"][0]["gap"].is_string(), "{value}");
    fs::write(&lost, kept).expect("put it back");

    // A summary that cannot be read.
    let summary = world.archive().join("basebackups/monday.json");
    let kept = fs::read(&summary).expect("read the summary");
    fs::write(&summary, &kept[..100]).expect("cut the summary");
    let (text, _) = status(&site, 3, &[]);
    assert!(
        text.contains("nothing can be restored") && text.contains("monday"),
        "{text}"
    );
    fs::write(&summary, kept).expect("put it back");

    // What was found when it was read.
    let part = site
        .place
        .keys("trees")
        .into_iter()
        .find(|key| key.contains(".tar."))
        .expect("a part");
    let part = world.archive().join(part);
    let mut object = fs::read(&part).expect("read a part");
    object[20] ^= 1;
    fs::write(&part, object).expect("damage a part");
    let verified = site.walfs("verify").output().expect("run walfs");
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
    let (text, _) = status(&site, 3, &[]);
    assert!(text.contains("damaged when it was read last"), "{text}");
}

/// K7: with the store away it says so, and shows what it last knew.
#[test]
fn k7_with_the_store_away_status_shows_what_it_saw_last() {
    let world = World::new("away");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    world.owned_dir("cache");
    site.backup("monday");
    let mut options = Options::of(&world, &site.place.archive()).args(&["--deadline", "3s"]);
    for (name, value) in site.place.env() {
        options = options.env(name, &value);
    }
    let mount = options.mount();
    assert!(mount.told("status.txt").contains("monday"));
    let patient = ["--deadline", "3s"];
    status(&site, 0, &patient);
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    server.stop();
    let away = try_status(&site, &patient);
    assert_eq!(away.status.code(), Some(1), "{}", said(&away));
    let text = String::from_utf8_lossy(&away.stdout).into_owned();
    assert!(
        text.starts_with("THE ARCHIVE CANNOT BE READ NOW.") && text.contains("monday"),
        "{text}"
    );
    let json = try_status(&site, &[&patient[..], &["--json"]].concat());
    let value: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(value["is_remembered"], true);
    let metrics = String::from_utf8(try_status(&site, &[&patient[..], &["--metrics"]].concat()).stdout);
    let metrics = metrics.expect("text");
    assert_eq!(metric(&metrics, "archive_readable"), 0, "{metrics}");
    assert_eq!(metric(&metrics, "backups{state=\"complete\"}"), 1, "{metrics}");
    // Nor in the mount.
    let away = "THE ARCHIVE CANNOT BE READ NOW.";
    let text = wait::within(wait::LONG, || {
        Some(mount.told("status.txt")).filter(|text| text.starts_with(away))
    });
    assert!(
        text.expect("a look that is not fresh any more")
            .contains("monday")
    );
    // Who asks at once does not wait for the deadline once more.
    let begun = std::time::Instant::now();
    assert_eq!(metric(&mount.told("metrics.prom"), "archive_readable"), 0);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // Of another archive nothing is known.
    let mut other = Command::new(site.world.public_program(Path::new(BINARY)));
    other
        .envs(site.place.env())
        .env("XDG_CACHE_HOME", world.path().join("cache"));
    other.args(["status", "--deadline", "3s", "--archive", "s3://bucket/other"]);
    let output = other.output().expect("run walfs");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(output.stdout.is_empty());
    server.resume();
    status(&site, 0, &patient);
}

/// `walfs check`: a segment gets there, or why it does not.
#[test]
fn k7_check_waits_for_a_segment() {
    let world = World::new("check");
    let mut site = Site::local(&world);
    let check = |site: &Site<'_>, timeout: &str| {
        let mut check = site.walfs("check");
        check.args(["--timeout", timeout]).output().expect("run walfs")
    };
    site.server.query("CREATE TABLE t (id int)");
    site.server.archive_all();
    let checked = check(&site, "60s");
    assert!(checked.status.success(), "{}", said(&checked));
    // Again, with nothing written: what is there is there.
    assert!(check(&site, "60s").status.success());
    site.server.query("CREATE TABLE u (id int)");
    site.server.archive_with("false");
    site.server.reload();
    let failed = check(&site, "3s");
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(said(&failed).contains("HINT: "), "{}", said(&failed));
    let command = site.archive_command();
    site.server.archive_with(&command);
    site.server.restart();
    assert!(check(&site, "60s").status.success());
    // The archive of another cluster, or of another server with the same identifier.
    let other = World::new("check_other");
    let theirs = Site::local(&other);
    theirs.server.query("CREATE TABLE t (id int)");
    theirs.server.archive_all();
    let mut wrong = site.walfs("check");
    wrong
        .env("PGHOST", other.path().join("pg"))
        .args(["--timeout", "5s"]);
    let wrong = wrong.output().expect("run walfs");
    assert_eq!(wrong.status.code(), Some(1), "{}", said(&wrong));
}

/// Two branches that both go on, and one that lost its history.
#[test]
fn k7_status_tells_branches_apart() {
    let world = World::new("branches");
    let site = Site::local(&world);
    world.owned_dir("cache");
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    let wal = world.archive().join("wal");
    // What a promoted copy would have archived: a history, and its segments, which are as those of its parent.
    let segments: Vec<String> = site.place.keys("wal");
    let last = segments
        .iter()
        .rfind(|key| key.len() == 4 + 24 + 4)
        .expect("a segment");
    let number = &last["wal/".len() + 8..];
    let history = walfs::codec::pack_all(
        walfs::codec::Compression::None,
        format!(
            "1\t0/{:X}\tmade up\n",
            u64::from_str_radix(&number[8..16], 16).expect("hexadecimal") * (1 << 20) + 40
        )
        .as_bytes(),
    );
    let copy = wal.join(format!("00000002{number}"));
    fs::copy(world.archive().join(last), &copy).expect("copy a segment");
    User::postgres().own(&copy);
    let (text, value) = status(&site, 3, &[]);
    assert!(text.contains("00000002.history is missing"), "{text}");
    let file = wal.join("00000002.history.lz4");
    fs::write(&file, &history.0).expect("write a history");
    User::postgres().own(&file);
    site.server.query("INSERT INTO t VALUES (2)");
    site.server.archive_all();
    let (text, value_with) = status(&site, 3, &[]);
    assert!(text.contains("2 lines of history go on"), "{text}");
    assert_eq!(value["recoverable"].as_array().map(Vec::len), Some(1), "{text}");
    assert_eq!(
        value_with["recoverable"].as_array().map(Vec::len),
        Some(2),
        "{text}"
    );
    assert!(text.matches("timeline ").count() >= 4, "{text}");
}

/// K7: what was looked at by a person, and found to be clear. After a change: look again at what WALFS_TEST_PICTURES keeps.
#[test]
fn k7_screens_and_pictures_are_those_that_were_looked_at() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/basebackups/pictures");
    let mut seen = 0;
    for entry in fs::read_dir(&directory).expect("the pictures") {
        let facts = entry.expect("an entry").path();
        if facts.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let read = |extension: &str| fs::read_to_string(facts.with_extension(extension)).expect("a snapshot");
        let status: Status = serde_json::from_str(&read("json")).expect("a status");
        assert_eq!(Shown::now(&status).screen(), read("txt"), "{}", facts.display());
        assert_eq!(Shown::now(&status).picture(), read("svg"), "{}", facts.display());
        let remembered = Shown::remembered(&status).screen();
        assert!(
            remembered.starts_with("THE ARCHIVE CANNOT BE READ NOW.") && remembered.ends_with(&read("txt"))
        );
        seen += 1;
    }
    assert!(seen >= 5, "{seen} pictures");
}

/// K7: what another server has archived under a segment's name is not this server's WAL.
#[test]
fn k7_check_looks_at_what_is_archived() {
    let world = World::new("check-others");
    world.owned_dir("cache");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.archive_all();
    site.server.stop(StopMode::Fast);
    let data = site.server.data().to_path_buf();
    let kept = world.path().join("kept");
    let copy = |from: &Path, to: &Path| {
        let copied = User::caller().shell("rm -rf \"$2\"; cp -a \"$1\" \"$2\"", &[from, to]);
        assert!(copied.status.success(), "{}", said(&copied));
    };
    copy(&data, &kept);
    site.server.start();
    for id in 0..4 {
        site.server.query(&format!("INSERT INTO t VALUES ({id})"));
        site.server.archive_all();
    }
    site.server.stop(StopMode::Fast);
    // The machine is put back to a snapshot of its disk.
    copy(&kept, &data);
    site.server.start();
    site.server.query("INSERT INTO t VALUES (100)");
    let checked = site
        .walfs("check")
        .args(["--timeout", "20s"])
        .output()
        .expect("run walfs");
    assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
    assert!(
        said(&checked).contains("another server") && said(&checked).contains("HINT: "),
        "{}",
        said(&checked)
    );
    // It stands still for ever: what waits first is archived otherwise.
    let pg_wal = data.join("pg_wal").display().to_string();
    let (text, _) = status(&site, 3, &["--pg-wal", &pg_wal]);
    assert!(text.contains("with other content"), "{text}");
}
