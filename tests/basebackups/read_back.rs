//! `walfs verify` (promise K6): whatever is done to an object, it is named, with what that costs; what was read back is
//! remembered.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::incremental::{Files, PAGE};
use super::pruning::{going, prune, try_prune};
use super::received::receive;
use crate::common::basebackup::{Place, Site};
use crate::common::postgres::StopMode;
use crate::common::s3::S3Server;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::wal;
use crate::common::walfs::Mount;
use crate::common::world::World;

/// What is done to an object, of which another one of its kind is at hand; `None` removes it.
type Hurt = (&'static str, fn(&[u8], &[u8]) -> Option<Vec<u8>>);

const HURTS: [Hurt; 6] = [
    ("removed", |_, _| None),
    ("emptied", |_, _| Some(Vec::new())),
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

fn replace(path: &Path, content: Option<&[u8]>) {
    let _ = fs::remove_file(path);
    if let Some(content) = content {
        fs::write(path, content).expect("write an object");
        User::postgres().own(path);
    }
}

/// What `verify --json` says, and its exit code.
#[track_caller]
fn verify(site: &Site<'_>, arguments: &[&str]) -> (Option<i32>, Value) {
    let mut verify = site.walfs("verify");
    let output = verify.arg("--json").args(arguments).output().expect("run walfs");
    let told = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        told.unwrap_or_else(|_| panic!("{}", said(&output))),
    )
}

#[track_caller]
fn is_sound(site: &Site<'_>, arguments: &[&str]) -> Value {
    let (code, told) = verify(site, arguments);
    assert_eq!(
        (code, &told["is_sound"]),
        (Some(0), &Value::Bool(true)),
        "{told:#}"
    );
    told
}

fn objects(told: &Value) -> Vec<String> {
    let findings = told["findings"].as_array().expect("a list");
    let object = |finding: &Value| finding["object"].as_str().expect("a key").to_owned();
    findings.iter().map(object).collect()
}

fn number(told: &Value, what: &str, of: &str) -> u64 {
    told[what][of]
        .as_u64()
        .unwrap_or_else(|| panic!("{what}.{of} of {told:#}"))
}

fn current_segment(site: &Site<'_>) -> String {
    site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

/// Two backups of which the second builds on the first, WAL behind them, what a prune has said, and one object of every other
/// kind. The keys of two objects of each kind, or of one.
fn every_kind(site: &Site<'_>, world: &World) -> Vec<[String; 2]> {
    let mut files = Files::new(site, 6);
    files.make(60 * PAGE);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.backup("saturday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    let sunday = site.try_backup("sunday", &["--full"]);
    assert!(sunday.status.success(), "{}", said(&sunday));
    let sunday: Value = serde_json::from_slice(&sunday.stdout).expect("JSON");
    site.server
        .query("CREATE TABLE u AS SELECT generate_series(1, 1000) AS id");
    let monday = site.backup("monday");
    assert_eq!(monday["builds_on"][0]["id"], sunday["id"]);
    let [order, record] = prune_twice(site, world);
    for name in ["sunday", "monday"] {
        let mut pin = site.walfs("backup-pin");
        let output = pin
            .args([name, "--reason", "the audit"])
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
    }
    let mut behind = Vec::new();
    for _ in 0..3 {
        behind.push(current_segment(site));
        site.server.query("INSERT INTO t VALUES (1)");
        site.server.archive_all();
    }
    site.server.query("INSERT INTO t VALUES (1)");
    let segment = current_segment(site);
    let content = fs::read(site.server.data().join("pg_wal").join(&segment)).expect("read a segment");
    let push = |name: &str, content: &[u8]| {
        let file = world.owned_file(name, content);
        let output = site.walfs("wal-push").arg(&file).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
    };
    push(&format!("{segment}.partial"), &content);
    push("00000002.history", &wal::history(1, "0/70000000"));
    push("00000003.history", &wal::history(1, "0/70000000"));
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    site.server.query("INSERT INTO t VALUES (1)");
    let mount = Mount::local(world);
    receive(site, &mount, &current_segment(site));
    drop(mount);
    let fragment = site.place.keys("receiving").pop().expect("a fragment");
    let key = |name: &str| format!("wal/{name}.lz4");
    let tree = |taken: &Value, what: &str| {
        let keys = site
            .place
            .keys(&format!("trees/{}", taken["id"].as_str().expect("an id")));
        keys.into_iter()
            .find(|key| key.contains(what))
            .expect("an object")
    };
    let backup = |place: usize| {
        let keys = site.place.keys("wal");
        keys.into_iter()
            .filter(|key| key.contains(".backup"))
            .nth(place)
            .expect("a .backup file")
    };
    vec![
        [key(&behind[1]), key(&behind[0])],
        [key(&format!("{segment}.partial")), key(&behind[0])],
        [fragment, key(&behind[0])],
        [key("00000002.history"), key("00000003.history")],
        [backup(1), backup(0)],
        ["basebackups/monday.json".into(), "basebackups/sunday.json".into()],
        ["basebackups/sunday.json".into(), "basebackups/monday.json".into()],
        [tree(&monday, "manifest"), tree(&sunday, "manifest")],
        [tree(&sunday, "manifest"), tree(&monday, "manifest")],
        [tree(&monday, ".tar."), tree(&sunday, ".tar.")],
        [tree(&sunday, ".tar."), tree(&monday, ".tar.")],
        [tree(&sunday, "begun.json"), "walfs.json".into()],
        ["walfs.json".into(), "cluster.json".into()],
        ["cluster.json".into(), "walfs.json".into()],
        ["pins/sunday.json".into(), "pins/monday.json".into()],
        [order, "pins/sunday.json".into()],
        [record, "pins/sunday.json".into()],
    ]
}

/// The order of a prune that was killed, and the record of the next one, which has removed saturday.
fn prune_twice(site: &Site<'_>, world: &World) -> [String; 2] {
    let rules = ["--keep-last", "2"];
    let mut killed = site.walfs("prune");
    let mut killed = killed
        .args(["--grace", "1h"])
        .args(rules)
        .spawn()
        .expect("run walfs");
    let order = wait::until("its order", || site.place.keys("prune").pop());
    killed.kill().expect("kill walfs");
    killed.wait().expect("wait for walfs");
    let text = site.place.object(&order);
    prune(site, &rules);
    let keys = site.place.keys("prune");
    let [record] = &keys[..] else { panic!("{keys:?}") };
    replace(&world.archive().join(&order), Some(&text));
    [order, record.clone()]
}

/// What nothing refers to is not missed, and what does not say whose it is may be another's.
fn is_excused(key: &str, hurt: &str) -> bool {
    match hurt {
        "removed" => [
            ".partial",
            ".backup",
            ".history",
            "begun.json",
            "receiving/",
            "pins/",
            "prune/",
        ]
        .iter()
        .any(|kind| key.contains(kind)),
        // The last byte is a line feed.
        "cut by a byte" => key == "walfs.json" || key == "cluster.json",
        // Words without a sum: a letter of the host's name or of a reason, a digit of the archive's.
        "flipped in the middle" => {
            ["begun.json", "pins/", "prune/"]
                .iter()
                .any(|kind| key.contains(kind))
                || key == "walfs.json"
        }
        "another's" => key.contains(".history") || key.contains("begun.json"),
        _ => false,
    }
}

/// Each kind of object, damaged in each way: `verify` names it and what it costs, and nothing else crashes, or says that all
/// is well with a backup that is not.
#[test]
fn k6_whatever_is_done_to_an_object_it_is_named_with_what_it_costs() {
    let world = World::new("readback");
    let site = Site::local(&world);
    let kinds = every_kind(&site, &world);
    is_sound(&site, &[]);
    for [key, other] in &kinds {
        let path = world.archive().join(key);
        let (whole, other) = (site.place.object(key), site.place.object(other));
        for (what, hurt) in HURTS {
            replace(&path, hurt(&whole, &other).as_deref());
            let output = site.walfs("verify").output().expect("run walfs");
            let text = said(&output);
            let case = format!("{key} {what}: {text}");
            assert!(!text.contains("panicked"), "{case}");
            if !is_excused(key, what) {
                assert_eq!(output.status.code(), Some(1), "{case}");
                assert!(names_it(&text, key) && text.contains("HINT: "), "{case}");
                assert!(costs(key).iter().all(|cost| text.contains(cost)), "{case}");
            }
            for command in ["backup-list", "wal-verify", "wal-find"] {
                let output = site.walfs(command).output().expect("run walfs");
                let told = said(&output);
                let code = output.status.code();
                assert!(
                    matches!(code, Some(0 | 1)) && !told.contains("panicked"),
                    "{command}: {case}: {told}"
                );
                let is_backups = command == "backup-list" && code == Some(0);
                if is_backups
                    && (what == "removed" || what == "emptied")
                    && key.contains("monday")
                    && !key.contains("begun")
                {
                    let line = told
                        .lines()
                        .find(|line| line.contains("monday"))
                        .unwrap_or_default();
                    assert!(!line.contains("complete"), "{case}: {told}");
                }
            }
            if key != "pins/sunday.json" || what != "removed" {
                assert_keeps_both(&site, &case);
            }
        }
        replace(&path, Some(&[]));
        looks_without_a_crash(&site, &world, key);
        replace(&path, Some(&whole));
    }
    is_sound(&site, &[]);
}

/// K3: sunday is pinned, and monday the newest. A prune that cannot know says so.
#[track_caller]
fn assert_keeps_both(site: &Site<'_>, case: &str) {
    let output = try_prune(site, &["--keep-last", "1", "--dry-run"]);
    let told = said(&output);
    assert!(!told.contains("panicked"), "prune: {case}: {told}");
    match output.status.code() {
        Some(0) => {
            let plan = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(going(&plan), Vec::<String>::new(), "prune: {case}: {told}");
        }
        code => assert!(
            code == Some(1) && told.contains("HINT: "),
            "prune: {case}: {told}"
        ),
    }
}

/// `ls -lR` of the mount, and a restore that is only planned: an answer or an error.
fn looks_without_a_crash(site: &Site<'_>, world: &World, key: &str) {
    let mut restore = site.walfs("restore");
    restore
        .args(["--no-archiving", "--dry-run", "LATEST"])
        .arg(world.path().join("none"));
    let output = restore.output().expect("run walfs");
    assert!(
        matches!(output.status.code(), Some(0 | 1)) && !said(&output).contains("panicked"),
        "{key}: {}",
        said(&output)
    );
    if !key.contains('/') {
        return;
    }
    let mount = Mount::local(world);
    let listed = mount.user().shell("ls -lR \"$1\"", &[mount.path()]);
    assert!(said(&listed).contains("basebackups"), "{key}: {}", said(&listed));
    assert!(!mount.log().contains("panicked"), "{key}: {}", mount.log());
}

/// By its key, or by the one field of it that does not fit.
fn names_it(text: &str, key: &str) -> bool {
    let by_field =
        key == "walfs.json" && (text.contains("format version") || text.contains("is not a walfs archive"));
    text.contains(key) || by_field
}

/// What is said of what an object's loss costs.
fn costs(key: &str) -> &'static [&'static str] {
    match key {
        "basebackups/monday.json" => &["backup monday cannot be restored"],
        "basebackups/sunday.json" => &["backup sunday cannot be restored"],
        _ if key.contains("manifest") && key.contains("monday") => &["backup monday cannot be restored"],
        _ if key.contains("manifest") => &["backup sunday cannot be restored"],
        _ if key.contains(".tar.") && key.contains("sunday") => {
            &["backup sunday cannot restore", "backup monday cannot restore"]
        }
        _ if key.contains(".tar.") => &["backup monday cannot restore"],
        _ if key.contains(".partial") => &["nothing is lost"],
        _ if key.contains("pins/") => {
            &["no prune removes backup sunday, but why, and until when, is not known"]
        }
        _ if key.contains(".order.json") => &["backups are taken as if there were none before"],
        _ if key.contains(".done.json") => &["removed cannot be told from a loss"],
        _ if key.contains("receiving/") => &["backup monday recovers no further than"],
        _ if key.contains(".history") => &["recovers onto timeline 2"],
        _ if key.contains(".backup") => &["no backup needs it"],
        _ if key.contains("wal/") => &[
            "backup monday recovers no further than",
            "backup sunday recovers no further than",
        ],
        _ => &[],
    }
}

/// The first finding about an object.
#[track_caller]
fn finding<'a>(told: &'a Value, key: &str) -> &'a Value {
    let findings = told["findings"].as_array().expect("a list");
    let found = findings.iter().find(|finding| finding["object"] == key);
    found.unwrap_or_else(|| panic!("{key} in {told:#}"))
}

/// A byte that rots: neither length nor time tell of it.
fn rot(path: &Path, at: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open an object");
    let modified = file.metadata().expect("its times").modified().expect("a time");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("flip a bit");
    file.set_times(FileTimes::new().set_modified(modified))
        .expect("set its time");
}

/// What was read back is remembered in the archive: the next run reads what is new, or was read longest ago, or was found
/// damaged, and nothing else. A record that is damaged or gone only costs reading.
#[test]
fn k6_what_was_read_back_is_remembered() {
    let world = World::new("remembered");
    let site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.backup("monday");
    let first = is_sound(&site, &[]);
    let all = number(&first, "read", "objects");
    assert!(all > 8 && number(&first, "left", "objects") == 0, "{first:#}");
    let young = ["--max-age", "1d"];
    let second = is_sound(&site, &young);
    assert_eq!(
        (
            number(&second, "read", "objects"),
            number(&second, "left", "objects")
        ),
        (0, all)
    );
    assert!(
        second["oldest"].is_string() && number(&second, "never", "objects") == 0,
        "{second:#}"
    );
    assert_eq!(site.place.keys("verified").len(), 1);

    // What a run was not about is still known.
    for arguments in [&["--wal"][..], &["monday"], &["--backups"]] {
        is_sound(&site, arguments);
        assert_eq!(
            number(&is_sound(&site, &young), "read", "objects"),
            0,
            "{arguments:?}"
        );
    }

    // What is new is due, and comes before what was read: the budget is for that.
    site.server.query("INSERT INTO t VALUES (1)");
    let segment = current_segment(&site);
    site.server.archive_all();
    let third = is_sound(&site, &young);
    assert_eq!(number(&third, "read", "objects"), 1, "{third:#}");
    let fourth = is_sound(&site, &["--budget", "1"]);
    assert_eq!(number(&fourth, "read", "objects"), 1, "{fourth:#}");
    assert_eq!(number(&is_sound(&site, &["--sample", "0"]), "read", "objects"), 0);
    let half = is_sound(&site, &["--sample", "50"]);
    let bytes = number(&half, "read", "bytes") + number(&half, "left", "bytes");
    assert!(number(&half, "read", "bytes") * 10 >= bytes * 4, "{half:#}");

    // Rot is found when its turn comes, and from then on it is due until it is mended.
    let key = format!("wal/{segment}.lz4");
    let path = world.archive().join(&key);
    rot(&path, 5000);
    is_sound(&site, &young);
    for arguments in [&[][..], &young[..]] {
        let (code, told) = verify(&site, arguments);
        assert_eq!((code, objects(&told)), (Some(1), vec![key.clone()]), "{told:#}");
    }
    assert_eq!(number(&verify(&site, &young).1, "read", "objects"), 1);
    let record = site.place.keys("verified").pop().expect("a record");
    let text = User::postgres().shell("lz4 -dc \"$1\"", &[&world.archive().join(&record)]);
    assert!(
        said(&text).contains(&format!("\"object\":\"{key}\"")),
        "{}",
        said(&text)
    );
    rot(&path, 5000);
    assert_eq!(number(&is_sound(&site, &young), "read", "objects"), 1);

    // Records: lost, damaged, of another place.
    let remove = |key: &String| replace(&world.archive().join(key), None);
    site.place.keys("verified").iter().for_each(remove);
    assert_eq!(number(&is_sound(&site, &young), "read", "objects"), all + 1);
    let record = site.place.keys("verified").pop().expect("a record");
    rot(&world.archive().join(&record), 20);
    let (code, told) = verify(&site, &young);
    assert_eq!((code, objects(&told)), (Some(1), vec![record]), "{told:#}");
    assert_eq!(number(&told, "read", "objects"), all + 1);
    assert_eq!(number(&is_sound(&site, &young), "read", "objects"), 0);
    let copy = world.path().join("copy");
    let copied = User::postgres().shell(
        "cp -a \"$1\" \"$2\"",
        &[&world.archive(), &world.owned_dir("copies").join("copy")],
    );
    assert!(copied.status.success(), "{} {copy:?}", said(&copied));
    let mut elsewhere = crate::common::walfs::walfs(&world, &User::postgres());
    elsewhere
        .args(["verify", "--json", "--max-age", "1d", "--archive"])
        .arg(world.path().join("copies/copy"));
    let output = elsewhere.output().expect("run walfs");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(number(&told, "read", "objects"), all + 1, "{told:#}");
}

/// Two runs at once harm nothing: the next one knows what both have proved.
#[test]
fn k6_two_runs_at_once_lose_nothing() {
    let world = World::new("two-runs");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    site.backup("monday");
    let begin = |scope: &str| {
        let mut verify = site.walfs("verify");
        verify
            .args(["--json", scope])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("run walfs")
    };
    let runs = [begin("--wal"), begin("--backups"), begin("--wal")];
    for run in runs {
        let output = run.wait_with_output().expect("wait for walfs");
        assert!(output.status.success(), "{}", said(&output));
    }
    let after = is_sound(&site, &["--max-age", "1d"]);
    assert_eq!(number(&after, "read", "objects"), 0, "{after:#}");
    assert_eq!(site.place.keys("verified").len(), 1);
}

/// A part is read once, and named for every backup that points to it, with the files that are lost; one backup can be
/// verified alone.
#[test]
fn k6_a_part_that_rots_is_named_for_every_backup_that_points_to_it() {
    let world = World::new("rot");
    let site = Site::local(&world);
    let mut files = Files::new(&site, 9);
    let large = files.make(40 << 20);
    let name = format!(
        "kept_by_us/{}",
        large.strip_prefix(&files.root).expect("below").display()
    );
    for backup in ["sunday", "monday", "tuesday"] {
        site.backup(backup);
        site.server
            .query("CREATE TABLE IF NOT EXISTS t (id int); INSERT INTO t VALUES (1)");
        site.server.archive_all();
    }
    let slices: Vec<String> = site
        .place
        .keys("trees")
        .into_iter()
        .filter(|key| key.contains(".00001.tar."))
        .collect();
    let [slice] = &slices[..] else {
        panic!("{slices:?}")
    };
    rot(&world.archive().join(slice), 1 << 20);
    for arguments in [
        &[][..],
        &["--backups"],
        &["monday"],
        &["LATEST", "--max-age", "1d"],
    ] {
        let (code, told) = verify(&site, arguments);
        assert_eq!(
            (code, objects(&told)),
            (Some(1), vec![slice.clone()]),
            "{arguments:?}: {told:#}"
        );
        let costs = finding(&told, slice)["costs"].as_array().expect("a list").clone();
        let lost: Vec<(&str, &str)> = costs
            .iter()
            .map(|cost| {
                (
                    cost["backup"].as_str().expect("a backup"),
                    cost["files"][0].as_str().expect("a file"),
                )
            })
            .collect();
        assert_eq!(
            lost,
            ["sunday", "monday", "tuesday"].map(|backup| (backup, &*name)),
            "{told:#}"
        );
    }
    let (_, wal) = verify(&site, &["--wal"]);
    assert_eq!(objects(&wal), [""; 0]);
    // Without its summary sunday is none any more; what is left of it is still read for the others.
    replace(&world.archive().join("basebackups/sunday.json"), None);
    let (_, told) = verify(&site, &[]);
    let costs = finding(&told, slice)["costs"].as_array().expect("a list").len();
    assert_eq!(costs, 2, "{told:#}");
    assert_eq!(finding(&told, "basebackups/sunday.json")["kind"], "missing");
    // And what is gone is missed by both.
    replace(&world.archive().join(slice), None);
    let (_, told) = verify(&site, &["--max-age", "1d"]);
    assert_eq!(finding(&told, slice)["kind"], "missing");
    assert_eq!(
        finding(&told, slice)["costs"].as_array().expect("a list").len(),
        2,
        "{told:#}"
    );
}

/// A page that was damaged when it came is what was stored, and what a restore brings: it is found by its own checksum. Of
/// what the backup itself has said no more is made.
#[test]
fn k6_damaged_pages_are_found_unless_the_backup_has_said_so() {
    let world = World::new("bad-page");
    let mut site = Site::local(&world);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 10000) AS id; CHECKPOINT");
    let path = site.server.query("SELECT pg_relation_filepath('t')");
    site.server.stop(StopMode::Fast);
    rot(&site.server.data().join(path.trim()), 3 * PAGE as u64 + 5000);
    site.server.start();
    let output = site.try_backup("silent", &["--no-verify-checksums"]);
    assert!(output.status.success(), "{}", said(&output));
    let (code, told) = verify(&site, &[]);
    assert_eq!(code, Some(1), "{told:#}");
    let findings = told["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1, "{told:#}");
    let reason = findings[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains(&format!("page 3 of {}", path.trim())), "{told:#}");
    assert_eq!(
        (&findings[0]["kind"], &findings[0]["costs"][0]["backup"]),
        (&"page".into(), &"silent".into())
    );
    let discarded = world.archive().join("basebackups/silent.json");
    fs::remove_file(&discarded).expect("remove a summary");
    let id = site
        .place
        .keys("trees")
        .first()
        .expect("a tree")
        .split('/')
        .nth(1)
        .expect("an id")
        .to_owned();
    fs::remove_dir_all(world.archive().join("trees").join(id)).expect("remove a backup");
    assert_eq!(site.try_backup("open", &[]).status.code(), Some(3));
    let told = is_sound(&site, &[]);
    let remark = told["remarks"][0].as_str().expect("a remark");
    assert!(
        remark.contains("page 3 of") && remark.contains("when backup open was taken"),
        "{told:#}"
    );
}

/// S3, O1, O2: in the store, quiet where nobody watches, by one JSON object, and with the way a person reads it.
#[test]
fn k6_verify_is_quiet_when_all_is_well_and_plain_when_not() {
    let world = World::new("quiet");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    site.backup("monday");
    let output = site.walfs("verify").output().expect("run walfs");
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{}",
        said(&output)
    );
    let output = site.walfs("verify").arg("-v").output().expect("run walfs");
    assert!(
        said(&output).contains("objects,") && output.status.success(),
        "{}",
        said(&output)
    );
    let output = site.walfs("verify").arg("tuesday").output().expect("run walfs");
    assert!(
        output.status.code() == Some(1) && said(&output).contains("HINT: "),
        "{}",
        said(&output)
    );
    assert_eq!(
        site.walfs("verify")
            .args(["--sample", "101"])
            .output()
            .expect("run walfs")
            .status
            .code(),
        Some(2)
    );
}
