//! Base backups written through the mount by PostgreSQL's own tools and by ordinary copiers (promise B1, B2, B7).

use std::fs;
use std::path::Path;

use super::mounted::{Site, directory_has, on_s3};
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::said;
use crate::common::version::{Version, installed_versions};
use crate::common::wait;
use crate::common::world::World;

#[test]
fn pg_basebackup_plain() {
    let site = Site::local("plain");
    for (name, arguments) in [
        ("none", &["-Xnone"][..]),
        ("fetch", &["-Xfetch"]),
        ("stream", &["-Xstream"]),
        ("unsynced", &["-Xstream", "--no-sync"]),
        (
            "sums",
            &["-Xfetch", "--manifest-checksums=SHA256", "-l", "a label"],
        ),
        ("unsummed", &["-Xfetch", "--manifest-checksums=NONE"]),
        // It writes to postgresql.auto.conf, of which the manifest says what the server has.
        ("standby", &["-Xstream", "-R"]),
    ] {
        let directory = site.take(name, arguments);
        site.verify(&directory);
        site.assert_complete(name);
        let summary = site.summary(name).expect("complete");
        let own = summary["backup"]
            .get("own_wal")
            .map_or(0, |own| own.as_array().expect("a list").len());
        assert_eq!(own > 0, name != "none", "{summary}");
        assert_eq!(summary["method"], "mount");
        // The others point to what the first one has.
        assert_eq!(summary["plain_tar"], name == "none", "{name}");
    }
    // WAL beside its backup would not be in it.
    let beside = format!("--waldir={}", site.backup("beside").display());
    let refused = site.run_backup(&site.backup("without"), &["-Xstream", &beside]);
    assert!(
        !refused.status.success() && said(&refused).contains("pg_wal"),
        "{}",
        said(&refused)
    );
    assert!(
        site.mount.log().contains("without --waldir"),
        "{}",
        site.mount.log()
    );
}

/// Whatever names a backup well: a time, a host, a user.
const ODD_NAME: &str = "2026-11-28T03:00:00+01@höst=1,x";

/// B4: nothing says which files there should be, so it is not complete until `walfs backup-finish` has made a manifest of
/// those that are there.
#[test]
fn b4_without_a_manifest_a_backup_is_not_complete() {
    let site = Site::local("manifestless");
    let directory = site.backup("m");
    let told = site.run_backup(&directory, &["-Xfetch", "--no-manifest", "--no-clean"]);
    assert!(!told.status.success(), "pg_basebackup was told that it is done");
    site.sync_fails(&directory);
    assert_eq!(site.listed("m")["state"], "incomplete");
    assert_eq!(site.latest(), None);
    let log = site.mount.log();
    assert!(
        log.contains("no backup_manifest") && log.contains("backup-finish"),
        "{log}"
    );
    site.finish(&directory, 0);
    site.assert_complete("m");
    site.verify(&directory);
}

/// A copy of a backup with its manifest: finished by that, or the file is named that is wrong.
#[test]
fn b2_a_copy_with_its_manifest_is_finished_by_that() {
    let site = Site::local("copied");
    let source = site.local_backup();
    let directory = site.backup("x");
    site.shell(
        "cp -a \"$1\" \"$2\" && rm \"$2\"/base/1/1259",
        &[&source, &directory],
    );
    site.sync_fails(&directory);
    let refused = site.finish(&directory, 1);
    assert!(
        refused.contains("not complete") && refused.contains("HINT"),
        "{refused}"
    );
    let listed = site.listed("x");
    let reason = listed["maker"]["refused"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("base/1/1259"), "{listed}");
    site.shell(
        "cp -a \"$1\"/base/1/1259 \"$2\"/base/1/1259",
        &[&source, &directory],
    );
    for _ in 0..2 {
        assert!(site.finish(&directory, 0).contains("is complete"));
    }
    site.assert_listed_complete("x");
    site.verify(&directory);
}

#[test]
fn pg_basebackup_tar() {
    let site = Site::local("tar");
    for (name, arguments) in [
        ("none", &["-Ft", "-Xnone"][..]),
        ("fetch", &["-Ft", "-Xfetch"]),
        ("stream", &["-Ft", "-Xstream"]),
        ("packed", &["-Ft", "-Xstream", "-z"]),
    ] {
        let directory = site.take(name, arguments);
        site.assert_complete(name);
        let out = site.world.owned_dir(&format!("out-{name}"));
        let line = "cd \"$2\" && for t in base pg_wal; do \
                    d=.; [ $t = pg_wal ] && d=pg_wal; \
                    for f in \"$1\"/$t.tar*; do [ ! -e \"$f\" ] || tar -xf \"$f\" -C $d || exit 1; done; done && \
                    cp \"$1\"/backup_manifest .";
        site.shell(line, &[&directory, &out]);
        if name == "none" {
            site.shell("cp \"$1\"/0* \"$2\"/pg_wal/", &[&site.mount.wal(), &out]);
        }
        site.verify(&out);
        let summary = site.summary(name).expect("complete");
        assert_eq!(summary["backup"]["shape"], "tar");
        let own = summary["backup"].get("own_wal").is_some();
        assert_eq!(own, name == "stream", "{summary}");
    }
}

#[test]
fn tablespaces_come_along() {
    let site = Site::local("spaces");
    let space = site.world.owned_dir("space");
    site.server
        .query(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display()));
    site.server
        .query("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 10000)");
    let outside = site.world.owned_dir("outside");
    let mapping = |to: &Path| format!("--tablespace-mapping={}={}", space.display(), to.display());
    let refused = site.run_backup(&site.backup("out"), &[&mapping(&outside.join("s"))]);
    assert!(!refused.status.success());
    assert!(site.summary("out").is_none());
    assert!(
        site.mount.log().contains("--tablespace-mapping"),
        "{}",
        site.mount.log()
    );
    let mapping = mapping(&site.backup("in").join("spaces/s"));
    let directory = site.take("in", &[&mapping]);
    site.verify(&directory);
    site.assert_complete("in");
    let tablespaces = &site.summary("in").expect("complete")["backup"]["tablespaces"];
    assert_eq!(tablespaces.as_array().map(Vec::len), Some(1), "{tablespaces}");
    site.shell("test -d \"$1\"/pg_tblspc/*/PG_*", &[&directory]);
}

#[test]
fn ordinary_copiers_do() {
    let site = Site::local("copiers");
    let source = site.local_backup();
    site.shell("chmod 0750 \"$1\"", &[&source]);
    for (name, line) in [
        ("cp", "cp -a \"$1\" \"$2\""),
        (
            "tar",
            "mkdir \"$2\" && tar -C \"$1\" --format=posix -c . | tar -C \"$2\" -xp",
        ),
        ("rsync", "rsync -a \"$1\"/ \"$2\"/"),
    ] {
        if name == "rsync" && !Path::new("/usr/bin/rsync").exists() {
            continue;
        }
        let directory = site.backup(name);
        site.shell(line, &[&source, &directory]);
        assert!(
            site.summary(name).is_none(),
            "{name}: nobody has said that it is whole"
        );
        site.shell("sync \"$1\"", &[&directory]);
        site.assert_complete(name);
        site.verify(&directory);
        let same = "diff -r \"$1\" \"$2\" && cd \"$1\" && find . -mindepth 1 -printf '%p %m %T@ %l\\n' | sort >/tmp/a.$$ && \
                    cd \"$2\" && find . -mindepth 1 -printf '%p %m %T@ %l\\n' | sort >/tmp/b.$$; diff /tmp/a.$$ /tmp/b.$$; \
                    e=$?; rm -f /tmp/a.$$ /tmp/b.$$; exit $e";
        site.shell(same, &[&source, &directory]);
        site.shell("test \"$(stat -c %a \"$1\")\" = 750", &[&directory]);
        if name == "rsync" {
            // What is so already is set once more, and the time of the top directory.
            site.shell(line, &[&source, &directory]);
            site.shell("touch -r \"$1\"/PG_VERSION \"$1\"/PG_VERSION", &[&directory]);
        }
        assert_eq!(site.summary(name).expect("complete")["method"], "by-hand");
    }
}

#[test]
fn half_a_copy_is_not_completed() {
    let site = Site::local("half");
    let source = site.local_backup();
    let directory = site.backup("half");
    site.shell(
        "cp -a \"$1\" \"$2\" && rm \"$2\"/base/1/1259",
        &[&source, &directory],
    );
    site.sync_fails(&directory);
    assert!(site.summary("half").is_none());
    assert!(site.mount.log().contains("base/1/1259"), "{}", site.mount.log());
    site.shell("rm -r \"$1\" && test ! -e \"$1\"", &[&directory]);
    let left = site.shell(
        "find \"$1\" -type f ! -name .archive_id",
        &[&site.world.archive().join("trees")],
    );
    assert!(left.stdout.is_empty(), "still stored: {}", said(&left));
}

#[test]
fn a_store_that_fails_fails_the_backup() {
    // Up to 17, pg_basebackup does not look at what close says.
    for version in installed_versions().into_iter().filter(Version::has_tools) {
        fail_a_backup(version);
    }
}

fn fail_a_backup(version: Version) {
    let store = S3Server::start();
    let options = |world: &World| on_s3(&store, world).args(&["--deadline", "2s"]);
    let site = Site::of("failing", version, options);
    let directory = site.backup("x");
    let child = site.start_backup(&directory, &["-Xfetch", "--max-rate=16M"]);
    wait::until("the copy to have begun", || {
        directory_has(&site, &directory, "base")
    });
    let rule = Rule::new(Action::slow_down())
        .operation(Operation::Put)
        .key("trees/");
    let rule = store.add_rule(rule);
    let failed = child.wait_with_output().expect("wait for pg_basebackup");
    assert!(!failed.status.success(), "{}", said(&failed));
    assert!(store.hits(rule) > 0);
    store.remove_rule(rule);
    let listed = site.mount.user().shell("ls \"$1\"", &[&site.backups()]);
    assert!(!said(&listed).contains("LATEST"), "{}", said(&listed));
    site.shell("rm -rf \"$1\"", &[&site.backup("x")]);
    let directory = site.take(ODD_NAME, &["-Xfetch"]);
    site.verify(&directory);
    wait::until("LATEST to be it", || (site.latest()? == ODD_NAME).then_some(()));
}

#[test]
fn a_killed_pg_basebackup_leaves_nothing_complete() {
    let site = Site::local("killed");
    let directory = site.backup("x");
    let mut child = site.start_backup(&directory, &["-Xfetch", "--max-rate=8M"]);
    wait::until("the copy to have begun", || {
        directory_has(&site, &directory, "base")
    });
    child.kill().expect("kill pg_basebackup");
    wait::for_exit("pg_basebackup", &mut child);
    // B9: whoever asks is told.
    let synced = site.mount.user().shell("sync \"$1\"", &[&directory]);
    assert!(
        !synced.status.success(),
        "a backup without its manifest is called done"
    );
    assert!(site.summary("x").is_none());
    assert_eq!(site.latest(), None);
    site.shell("rm -r \"$1\"", &[&directory]);
    let directory = site.take("x", &["-Xfetch"]);
    site.verify(&directory);
    site.assert_complete("x");
}

#[test]
fn a_killed_daemon_leaves_nothing_complete() {
    let mut site = Site::local("dead");
    let directory = site.backup("x");
    let mut child = site.start_backup(&directory, &["-Xfetch", "--max-rate=8M"]);
    wait::until("the copy to have begun", || {
        directory_has(&site, &directory, "base")
    });
    site.mount.kill9();
    let ended = wait::for_exit("pg_basebackup", &mut child);
    assert!(!ended.success());
    site.mount.restart();
    assert!(site.summary("x").is_none());
    let directory = site.take("x", &["-Xfetch"]);
    site.verify(&directory);
    site.assert_complete("x");
}

#[test]
fn small_files_go_out_together() {
    let store = S3Server::start();
    let world = World::new("small");
    let mount = on_s3(&store, &world).mount();
    let source = world.path().join("source");
    fs::create_dir(&source).expect("make a directory");
    for index in 0..2000 {
        let content = format!("{index}\n").repeat(1000);
        fs::write(source.join(format!("f{index}")), content).expect("write a file");
    }
    let before = puts(&store);
    let target = mount.path().join("basebackups").join(ODD_NAME);
    let copied = mount
        .user()
        .shell("cp -r \"$1\" \"$2\" && sync \"$2\"", &[&source, &target]);
    assert!(copied.status.success(), "{}", said(&copied));
    let puts = puts(&store) - before;
    assert!((1..=5).contains(&puts), "{puts} requests for 2000 files");
    let same = mount.user().shell("diff -r \"$1\" \"$2\"", &[&source, &target]);
    assert!(same.status.success(), "{}", said(&same));
}

fn puts(store: &S3Server) -> usize {
    store.count(|request| request.operation == Operation::Put)
}

/// The kernel keeps names and attributes of a backup that is being written. What is done through it shows at once all the
/// same, and a complete backup is found under the name of the unfinished one.
#[test]
fn what_is_written_shows_at_once() {
    let site = Site::local("shows");
    let directory = site.backup("x");
    let line = r#"
        set -e
        is() { test "$(stat -c "$2" "$1")" = "$3" || { echo "$1: $(stat -c "$2" "$1"), not $3"; exit 1; }; }
        mkdir "$1" "$1/d" && cd "$1"
        printf one >f; is f %s 3
        printf seven7 >>f; is f %s 9; test "$(cat f)" = oneseven7
        truncate -s 5 f; is f %s 5; test "$(cat f)" = onese
        chmod 640 f; is f %a 640
        touch -d @1000000000 f; is f %Y 1000000000
        printf x >>f; test "$(stat -c %Y f)" != 1000000000
        exec 5>>f; printf yy >&5; is f %s 8; exec 5>&-
        touch -d @1000000000 d; is d %Y 1000000000
        printf a >d/a; test "$(stat -c %Y d)" != 1000000000
        mv f d/g; test ! -e f; is d/g %s 8
        printf new >f; mv f d/g; test ! -e f; is d/g %s 3; test "$(cat d/g)" = new
        rm d/g; test ! -e d/g; printf again >d/g; is d/g %s 5
        mv d e; test ! -e d; test "$(cat e/g)" = again
        mkdir d; test -z "$(ls d)"
        ln -s e/g l; test "$(readlink l)" = e/g; test "$(cat l)" = again
        rm l; printf file >l; is l %F 'regular file'
        rm -r d e l; test -z "$(ls -A .)"
    "#;
    site.shell(line, &[&directory]);
    site.shell("rmdir \"$1\" && test ! -e \"$1\"", &[&directory]);
    let directory = site.take("x", &["-Xfetch"]);
    let line = r#"find "$1" >/dev/null && ! touch "$1/PG_VERSION" 2>/dev/null && ! rm -f "$1/PG_VERSION" 2>/dev/null"#;
    site.shell(line, &[&directory]);
    site.assert_complete("x");
}

/// Names and attributes that a listing brings are those of when it is read, not of when its directory was opened: the
/// kernel would keep old ones, not let go of a name that is gone, and append where the file ended once.
#[test]
fn a_listing_brings_nothing_back() {
    let site = Site::local("brings");
    let directory = site.backup("x");
    let program = r#"
import os, subprocess, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for name in ("changed", "gone", "old", *map(str, range(400))):
    with open(name, "w") as file:
        file.write("one")
opened = os.scandir()
others = "printf more >>changed && chmod 640 changed && rm gone [0-9]* && mv old new && printf X >last"
subprocess.check_call(others, shell=True)
listed = [entry.name for entry in opened]
assert "changed" in listed, listed
changed = os.stat("changed")
assert (changed.st_size, changed.st_mode & 0o777) == (7, 0o640), changed
assert not os.path.exists("gone") and not os.path.exists("old")
subprocess.check_call("printf X >>changed && printf again >gone", shell=True)
assert open("changed").read() == "onemoreX"
assert open("gone").read() == "again"
assert sorted(os.listdir()) == ["changed", "gone", "last", "new"], os.listdir()
"#;
    let mut python = site.mount.user().command("/usr/bin/python3");
    let output = python.args(["-c", program]).arg(&directory).output();
    let output = output.expect("run python3");
    assert!(output.status.success(), "{}", said(&output));
}
