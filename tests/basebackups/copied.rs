//! `walfs copy` (promise K8): a second archive elsewhere has what the first one has, proved on the way; it goes on after any
//! end, refuses what is another's, and never has a summary without its parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use walfs::archive::Archive;
use walfs::archive::tree::{TreeKind, TreeName};
use walfs::job::copy::{Options, copy};
use walfs::job::progress::{Phase, Progress};
use walfs::pg::Lsn;
use walfs::store::{self, Location, Patience};

use super::incremental::{Files, PAGE, assert_same};
use super::received::receive;
use crate::common::basebackup::{Place, Site};
use crate::common::below::LONG;
use crate::common::packed;
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::wal;
use crate::common::walfs::{Mount, walfs};
use crate::common::world::World;

const FOLDERS: [&str; 4] = ["basebackups", "receiving", "trees", "wal"];

/// `walfs copy`, with the keys of whichever of the two is in S3.
fn copying(world: &World, from: &Place, to: &Place) -> Command {
    let mut copy = walfs(world, &User::postgres());
    copy.envs(from.env())
        .envs(to.env())
        .args(["copy", "--json", &from.archive(), &to.archive()]);
    copy
}

#[track_caller]
fn copied(world: &World, from: &Place, to: &Place) -> Value {
    let output = copying(world, from, to).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(told["is_complete"], true, "{told:#}");
    told
}

fn keys(place: &Place) -> Vec<String> {
    let keys = FOLDERS.iter().flat_map(|folder| place.keys(folder));
    // What was built on is claimed by whoever stores a backup: once of each by a copy.
    keys.filter(|key| !key.contains("/base.")).collect()
}

/// Both have the same objects, byte for byte.
#[track_caller]
fn assert_copy(from: &Place, to: &Place) {
    assert_eq!(keys(from), keys(to));
    for key in keys(from) {
        assert!(from.object(&key) == to.object(&key), "{key}");
    }
}

fn on(world: &World, place: &Place, command: &str, arguments: &[&str]) -> Output {
    let mut run = walfs(world, &User::postgres());
    run.envs(place.env())
        .args([command, "--archive", &place.archive()])
        .args(arguments);
    run.output().expect("run walfs")
}

/// Two backups, the second on the first, WAL, a history and a fragment.
fn filled<'a>(world: &'a World) -> (Site<'a>, Files) {
    let site = Site::local(world);
    let mut files = Files::new(&site, 8);
    files.make(60 * PAGE);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.backup("sunday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.backup("monday");
    let history = world.owned_file("00000002.history", &wal::history(1, "0/70000000"));
    let output = site.walfs("wal-push").arg(&history).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    site.server.query("INSERT INTO t VALUES (1)");
    let mount = Mount::local(world);
    let segment = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    receive(&site, &mount, &segment);
    settled(&site);
    (site, files)
}

/// Until nothing waits to be archived: the `.backup` file of a backup comes behind it.
fn settled(site: &Site<'_>) {
    let marks = site.server.data().join("pg_wal/archive_status");
    wait::until("everything to be archived", || {
        let mut names = fs::read_dir(&marks).expect("list the marks").flatten();
        let waits = names.any(|mark| mark.file_name().to_string_lossy().ends_with(".ready"));
        (!waits).then_some(())
    });
}

fn directory(world: &World, name: &str) -> Place {
    Place::Local(world.owned_dir(name))
}

/// From a directory to a bucket, from there to a directory: the same objects, a backup that is restored from the last one,
/// and a second run that copies nothing, or what is new.
#[test]
fn k8_a_copy_has_what_the_original_has() {
    let world = World::new("copy");
    let (site, mut files) = filled(&world);
    let (bucket, last) = (Place::S3(S3Server::start()), directory(&world, "last"));
    for (from, to) in [(&site.place, &bucket), (&bucket, &last)] {
        let told = copied(&world, from, to);
        assert_eq!(
            told["backups"],
            serde_json::json!(["sunday", "monday"]),
            "{told:#}"
        );
        assert_copy(from, to);
        let told = copied(&world, from, to);
        assert_eq!(
            (&told["copied"]["objects"], &told["backups"]),
            (&0.into(), &serde_json::json!([])),
            "{told:#}"
        );
        let verified = on(&world, to, "verify", &[]);
        assert!(verified.status.success(), "{}", said(&verified));
    }
    // As `cp -a` would have made it: also by its id.
    let id = |place: &Place| -> Value { serde_json::from_slice(&place.object("walfs.json")).expect("JSON") };
    assert_eq!(id(&site.place)["archive_id"], id(&last)["archive_id"]);
    // Without the key every page would have changed.
    assert_eq!(id(&site.place)["page_key"], id(&last)["page_key"]);
    assert!(id(&last)["page_key"].is_string());
    assert_eq!(site.place.object("cluster.json"), last.object("cluster.json"));

    // What is new, and nothing else; first only said.
    files.change();
    site.backup("tuesday");
    settled(&site);
    let mut dry = copying(&world, &site.place, &last);
    let output = dry.arg("--dry-run").output().expect("run walfs");
    let planned: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(planned["backups"], serde_json::json!(["tuesday"]), "{planned:#}");
    assert!(!keys(&last).iter().any(|key| key.contains("tuesday")));
    let before = keys(&last).len();
    let told = copied(&world, &site.place, &last);
    assert_copy(&site.place, &last);
    assert_eq!(
        told["copied"]["objects"].as_u64(),
        Some((keys(&last).len() - before) as u64),
        "{told:#}"
    );
    let data = world.owned_dir("back").join("data");
    let restored = on(
        &world,
        &last,
        "restore",
        &[
            "--no-archiving",
            "--no-sync",
            "tuesday",
            &data.display().to_string(),
        ],
    );
    assert!(restored.status.success(), "{}", said(&restored));
    assert_same(&User::caller(), &data.join("kept_by_us"), &files.root);

    // `cp -a` of the original over the copy changes nothing but what says who made it.
    let Place::Local(there) = &last else {
        unreachable!()
    };
    let synced = User::postgres().shell("cp -a \"$1/.\" \"$2\"", &[&world.archive(), there]);
    assert!(synced.status.success(), "{}", said(&synced));
    assert_eq!(copied(&world, &site.place, &last)["copied"]["objects"], 0);
}

/// Killed at any moment it goes on, and what is there meanwhile is whole: no backup without its parts, no hole in the WAL.
#[test]
fn k8_a_copy_that_is_killed_goes_on() {
    let world = World::new("copy-killed");
    let (site, mut files) = filled(&world);
    files.make(40 << 20);
    site.backup("tuesday");
    settled(&site);
    for _ in 0..6 {
        site.server.query("INSERT INTO t VALUES (1)");
        site.server.archive_all();
    }
    let to = directory(&world, "to");
    let mut killed = 0;
    for delay in (20..).step_by(15) {
        let mut copy = copying(&world, &site.place, &to);
        let mut child = copy
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run walfs");
        thread::sleep(Duration::from_millis(delay));
        let is_done = child.try_wait().expect("look at walfs").is_some();
        let _ = child.kill();
        child.wait().expect("wait for walfs");
        if is_done {
            break;
        }
        killed += 1;
        let listed = on(&world, &to, "backup-list", &[]);
        let text = said(&listed);
        assert!(
            !text.contains("damaged") && !text.contains("WAL missing"),
            "{text}"
        );
        let unbroken = on(&world, &to, "wal-verify", &[]);
        let is_new = said(&unbroken).contains("is not a walfs archive");
        assert!(unbroken.status.success() || is_new, "{}", said(&unbroken));
    }
    assert!(killed > 2, "{killed} times");
    copied(&world, &site.place, &to);
    assert_copy(&site.place, &to);
}

/// W4, W5: nothing is copied over another server's WAL, another backup, or another cluster's archive; each is named.
#[test]
fn k8_what_is_anothers_is_refused_and_named() {
    let world = World::new("copy-other");
    let (site, _) = filled(&world);
    let to = directory(&world, "to");
    copied(&world, &site.place, &to);
    let Place::Local(root) = &to else { unreachable!() };
    let segments: Vec<String> = to
        .keys("wal")
        .into_iter()
        .filter(|key| key.len() == "wal/.lz4".len() + 24)
        .collect();
    let find = |what: &str| {
        keys(&to)
            .into_iter()
            .find(|key| key.contains(what))
            .expect("an object")
    };
    let cases = [
        (segments[1].clone(), to.object(&segments[2])),
        (
            find(".history"),
            to.object(&find(".history")).iter().map(|byte| byte ^ 1).collect(),
        ),
        (find(".tar."), to.object(&find("manifest"))),
        (
            "basebackups/monday.json".to_owned(),
            to.object("basebackups/sunday.json"),
        ),
    ];
    for (key, other) in cases {
        let own = to.object(&key);
        replace(&root.join(&key), &other);
        fs::remove_file(root.join(&segments[0])).expect("remove a segment");
        let before = keys(&to);
        let output = copying(&world, &site.place, &to).output().expect("run walfs");
        let text = said(&output);
        assert!(
            output.status.code() == Some(1) && text.contains(&key) && text.contains("HINT: "),
            "{key}: {text}"
        );
        assert_eq!(keys(&to), before, "{key}: {text}");
        replace(&root.join(&key), &own);
        copied(&world, &site.place, &to);
        assert_copy(&site.place, &to);
    }

    // What the copy has lost it gets back.
    for lost in [find(".tar."), find("manifest"), find("begun.json")] {
        let own = to.object(&lost);
        fs::remove_file(root.join(&lost)).expect("remove an object");
        copied(&world, &site.place, &to);
        assert!(lost.contains("begun.json") || to.object(&lost) == own, "{lost}");
    }

    let output = copying(&world, &site.place, &site.place)
        .output()
        .expect("run walfs");
    assert!(
        output.status.code() == Some(1) && said(&output).contains("to itself"),
        "{}",
        said(&output)
    );
    let other = directory(&world, "other");
    let name = wal::segment_name(1, 7, 1 << 20);
    let file = world.owned_file(&name, &wal::segment(&name, 4711, 1 << 20, 1));
    let pushed = on(&world, &other, "wal-push", &[&file.display().to_string()]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let before = keys(&other);
    for (from, to) in [(&site.place, &other), (&other, &site.place)] {
        let output = copying(&world, from, to).output().expect("run walfs");
        let text = said(&output);
        assert!(
            output.status.code() == Some(1) && text.contains("4711") && text.contains("HINT: "),
            "{text}"
        );
    }
    assert_eq!(keys(&other), before);
    let zstd = directory(&world, "zstd");
    let pushed = on(
        &world,
        &zstd,
        "wal-push",
        &["--compression", "zstd", &file.display().to_string()],
    );
    assert!(pushed.status.success(), "{}", said(&pushed));
    let output = copying(&world, &site.place, &zstd).output().expect("run walfs");
    assert!(
        said(&output).contains("compressed with") && output.status.code() == Some(1),
        "{}",
        said(&output)
    );
}

fn replace(path: &Path, content: &[u8]) {
    fs::remove_file(path).expect("remove an object");
    fs::write(path, content).expect("write an object");
    User::postgres().own(path);
}

/// What is damaged is not copied, nor a backup that needs it; all else is.
#[test]
fn k8_what_is_damaged_is_named_and_not_copied() {
    let world = World::new("copy-damaged");
    let (site, mut files) = filled(&world);
    files.make(60 * PAGE);
    site.backup("tuesday");
    settled(&site);
    let own = site
        .place
        .keys("trees")
        .into_iter()
        .find(|key| key.contains("tuesday") && key.contains(".tar."));
    let segment = site
        .place
        .keys("wal")
        .into_iter()
        .rev()
        .find(|key| key.len() == "wal/.lz4".len() + 24);
    let damaged = [own.expect("a part"), segment.expect("a segment")];
    let originals: Vec<Vec<u8>> = damaged.iter().map(|key| site.place.object(key)).collect();
    for (key, original) in damaged.iter().zip(&originals) {
        let mut flipped = original.clone();
        let middle = flipped.len() / 3;
        flipped[middle] ^= 1;
        replace(&world.archive().join(key), &flipped);
    }
    let to = directory(&world, "to");
    let output = copying(&world, &site.place, &to).output().expect("run walfs");
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        damaged.iter().all(|key| text.contains(key)) && text.contains("HINT: "),
        "{text}"
    );
    let there = keys(&to);
    assert!(damaged.iter().all(|key| !there.contains(key)), "{there:?}");
    let has = |name: &str| there.contains(&format!("basebackups/{name}.json"));
    assert!(has("sunday") && has("monday") && !has("tuesday"), "{there:?}");
    for (key, original) in damaged.iter().zip(&originals) {
        replace(&world.archive().join(key), original);
    }
    copied(&world, &site.place, &to);
    assert_copy(&site.place, &to);
}

/// From one server to another; what does not fit into one request is proved and stored piece by piece, or not at all.
#[test]
fn k8_a_large_object_goes_from_one_bucket_to_another_in_pieces() {
    let world = World::new("copy-large");
    let (from, to) = (Place::S3(S3Server::start()), Place::S3(S3Server::start()));
    let bytes = 128 << 20;
    for number in [7, 8] {
        let name = wal::segment_name(1, number, bytes);
        let file = world.owned_file(&name, &wal::segment(&name, 4711, bytes, number));
        let pushed = on(
            &world,
            &from,
            "wal-push",
            &["--compression", "none", &file.display().to_string()],
        );
        assert!(pushed.status.success(), "{}", said(&pushed));
        fs::remove_file(&file).expect("remove the file");
    }
    let Place::S3(other) = &to else { unreachable!() };
    let mut copy = walfs(&world, &User::postgres());
    copy.envs(from.env())
        .args(["copy", "--json", &from.archive(), &to.archive(), "--to-endpoint"]);
    let output = copy.arg(other.endpoint()).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    assert_copy(&from, &to);
    let verified = on(&world, &to, "verify", &["-v"]);
    assert!(
        verified.status.success() && said(&verified).contains("2 objects"),
        "{}",
        said(&verified)
    );

    let last = directory(&world, "last");
    let Place::S3(server) = &from else { unreachable!() };
    let key = &from.keys("wal")[1];
    let mut flipped = from.object(key);
    flipped[100 << 20] ^= 1;
    server.put_object(&format!("pg/main/{key}"), flipped);
    let output = copying(&world, &from, &last).output().expect("run walfs");
    assert!(
        output.status.code() == Some(1) && said(&output).contains(key),
        "{}",
        said(&output)
    );
    assert_eq!(last.keys("wal"), from.keys("wal")[..1]);
    let verified = on(&world, &from, "verify", &[]);
    assert!(
        verified.status.code() == Some(1) && said(&verified).contains(key),
        "{}",
        said(&verified)
    );
}

/// Prunes a backup of the original, or takes one of its parts, when the look at both is over.
#[derive(Debug)]
struct Pruner(Vec<PathBuf>);

impl Progress for Pruner {
    fn phase(&self, phase: Phase<'_>) {
        if matches!(phase, Phase::Copying { .. }) {
            self.0
                .iter()
                .for_each(|path| fs::remove_file(path).expect("remove an object"));
        }
    }

    fn advance(&self, _: u64) {}
}

async fn archive(directory: &Path) -> Arc<Archive> {
    let location = Location::Dir(directory.to_owned());
    let options = store::Options {
        create: true,
        ..Default::default()
    };
    let store = store::open(&location, &options).await.expect("open a store");
    let options = walfs::archive::Options {
        create: true,
        ..Default::default()
    };
    Arc::new(
        Archive::open(store, &options, Patience::for_at_most(LONG))
            .await
            .expect("open an archive"),
    )
}

/// A backup that is pruned while it is copied leaves no summary in the copy; nor does one that loses a part.
#[tokio::test(flavor = "multi_thread")]
async fn k8_a_backup_that_goes_while_it_is_copied_has_no_summary_in_the_copy() {
    for takes_summary in [true, false] {
        let world = World::new("copy-pruned");
        let (here, there) = (world.path().join("here"), world.path().join("there"));
        let (from, to) = (archive(&here).await, archive(&there).await);
        let data = world.path().join("data");
        fs::create_dir(&data).expect("make a directory");
        fs::write(data.join("file"), [7; 100_000]).expect("write a file");
        for name in ["sunday", "monday"] {
            packed::pack(
                &from,
                name,
                &data,
                packed::backup(1 << 20, Lsn(0x10_0028), Lsn(0x10_0100)),
            )
            .await;
        }
        let place = Place::Local(here.clone());
        let parts = place
            .keys("trees")
            .into_iter()
            .filter(|key| key.contains("monday") && key.contains(".tar."));
        let mut goes: Vec<PathBuf> = parts.map(|key| here.join(key)).collect();
        goes.extend(takes_summary.then(|| here.join("basebackups/monday.json")));
        let pruner: Arc<dyn Progress> = Arc::new(Pruner(goes));
        let report = copy(&from, &to, Options::default(), &pruner, LONG)
            .await
            .expect("copied");
        let name: TreeName = "monday".parse().expect("a name");
        let summary = to
            .summary(TreeKind::BaseBackup, &name, Patience::for_at_most(LONG))
            .await;
        assert!(summary.expect("an answer").is_none(), "{report:?}");
        assert_eq!(report.backups, ["sunday"], "{report:?}");
        assert_eq!(
            (report.is_complete, report.left_out.len()),
            (takes_summary, usize::from(takes_summary)),
            "{report:?}"
        );
    }
}
