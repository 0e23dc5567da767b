//! `walfs restore` and what is there before it: WAL that is nowhere else (promise S7), a disk for the WAL, tablespaces in
//! the data directory, a group that may read (B6, B11), directories that cannot be made (O1).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, StopMode, newest};
use crate::common::recovery::Recovery;
use crate::common::user::{User, is_root, said};
use crate::common::wait;
use crate::common::walfs::walfs;
use crate::common::world::World;

/// `walfs restore`, by postgres, of a server that archives nothing.
fn restoring(site: &Site, arguments: &[&str], data: &Path) -> Output {
    let mut restore = site.walfs("restore");
    restore.args(["--no-archiving", "--no-sync"]).args(arguments);
    restore.arg("LATEST").arg(data).output().expect("run walfs")
}

#[track_caller]
fn restore(site: &Site, arguments: &[&str], data: &Path) -> Value {
    let output = restoring(site, &[arguments, &["--json"]].concat(), data);
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    let message = said(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("HINT: "), "{message}");
    assert!(
        texts.iter().all(|text| message.contains(text)),
        "{texts:?}: {message}"
    );
}

#[track_caller]
fn recovered(dir: &Path, query: &str) -> String {
    let mut back = Postgres::start_as_it_is(dir, newest(), &[]);
    let ended = back.recovery_within(wait::LONG);
    assert_eq!(ended, Recovery::Promoted, "{}", back.log());
    let answer = back.query(query);
    back.stop(StopMode::Fast);
    answer
}

/// Hash and mode of every file below a directory.
fn seen(directory: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).expect("look at a file");
        if meta.is_dir() {
            let names = fs::read_dir(&path).expect("list a directory");
            left.extend(names.map(|name| name.expect("a name").path()));
        }
        let content = match meta.is_file() {
            true => blake3::hash(&fs::read(&path).expect("read a file")).to_string(),
            false => String::new(),
        };
        found.insert(path, (meta.mode(), content));
    }
    found
}

/// Names of segments in a directory.
fn segments(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).expect("list a directory");
    let names = names.map(|name| name.expect("a name").file_name().into_string().expect("ASCII"));
    let mut names: Vec<String> = names.filter(|name| name.len() == 24).collect();
    names.sort();
    names
}

fn copied(from: &Path, to: &Path) -> PathBuf {
    let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[from, to]);
    assert!(copied.status.success(), "{}", said(&copied));
    to.join("data")
}

/// The worst day: a server that could not archive for a while has crashed, and its newest commits are only in its pg_wal.
#[test]
fn s7_wal_that_is_nowhere_else_is_never_removed() {
    let world = World::new("only-here");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    site.server.configure(&[("archive_command", "false")]);
    site.server.reload();
    let mut only_here = Vec::new();
    for round in 2..=3 {
        only_here.push(site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())"));
        let insert = format!("INSERT INTO t VALUES ({round})");
        site.server.query(&insert);
        site.server.query("SELECT pg_switch_wal()");
    }
    site.server.query("INSERT INTO t VALUES (4)");
    only_here.push(site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())"));
    site.server.kill9();

    let data = world.path().join("pg/data");
    let before = seen(&data);
    for arguments in [&["--delta"][..], &["--delta", "--dry-run"]] {
        let output = restoring(&site, arguments, &data);
        let names: Vec<&str> = only_here.iter().map(String::as_str).collect();
        assert_refused(&output, &names);
        assert_refused(&output, &["walfs wal-push", "--keep-wal", "--set-aside-wal"]);
    }
    assert_eq!(seen(&data), before);
    // A mark says that some command returned 0, not that this archive has the same.
    let marked = copied(&world.path().join("pg"), &world.path().join("marked"));
    let names = segments(&marked.join("pg_wal"));
    let archived = names.iter().rfind(|name| **name < only_here[0]);
    let archived = archived.expect("an archived segment");
    let mark = format!("pg_wal/archive_status/{archived}.done");
    assert!(marked.join(mark).exists());
    let segment = marked.join("pg_wal").join(archived);
    let mut bytes = fs::read(&segment).expect("read a segment");
    // In the last of its records, which is short; behind it is nothing.
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("WAL");
    bytes[end] ^= 1;
    fs::write(&segment, bytes).expect("change it");
    assert_refused(&restoring(&site, &["--delta"], &marked), &[archived]);
    let ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t";

    // Left in its place, recovery goes through it.
    let kept = world.path().join("kept");
    let there = copied(&world.path().join("pg"), &kept);
    let report = restore(&site, &["--delta", "--keep-wal"], &there);
    let names = report["wal_kept"].to_string();
    assert!(only_here.iter().all(|name| names.contains(name)), "{report}");
    assert_eq!(recovered(&kept, ids), "1 2 3 4");

    // Moved aside, it is what it was.
    let aside = world.path().join("aside");
    let there = copied(&world.path().join("pg"), &aside);
    let dry = restore(&site, &["--delta", "--set-aside-wal", "--dry-run"], &there);
    assert_eq!(
        segments(&there.join("pg_wal")),
        segments(&data.join("pg_wal")),
        "{dry}"
    );
    let report = restore(&site, &["--delta", "--set-aside-wal"], &there);
    let moved = PathBuf::from(report["wal_set_aside"]["directory"].as_str().expect("a path"));
    assert!(moved.starts_with(&aside), "{report}");
    assert_eq!(segments(&moved), only_here);
    for name in &only_here {
        let is = fs::read(moved.join(name)).expect("read a segment");
        let (_, was) = &before[&data.join("pg_wal").join(name)];
        assert_eq!(blake3::hash(&is).to_string(), *was, "{name}");
    }
    assert_eq!(recovered(&aside, ids), "1");

    the_wal_set_aside_is_its_owners(&site);

    // The commands that the refusal prints do what it says.
    let message = said(&restoring(&site, &["--delta"], &data));
    let program = world.public_program(Path::new(crate::common::walfs::BINARY));
    let commands: Vec<&str> = message
        .lines()
        .filter(|line| line.starts_with("  walfs"))
        .collect();
    assert_eq!(commands.len(), 2, "{message}");
    for command in commands {
        let command = command.replacen("walfs", &program.display().to_string(), 1);
        let pushed = User::postgres().shell(&command, &[]);
        assert!(pushed.status.success(), "{command}: {}", said(&pushed));
    }
    let output = restoring(&site, &["--delta"], &data);
    assert_refused(&output, &[&only_here[2]]);
    assert!(!said(&output).contains(&only_here[0]), "{}", said(&output));
}

/// S7: what recovery does not go through cannot stay in `pg_wal`, where the server would remove it in time.
#[test]
fn s7_wal_of_another_timeline_is_not_kept_for_nothing() {
    let world = World::new("other-line");
    let mut site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.archive_all();
    site.server.kill9();
    let dir = world.owned_dir("copy");
    let data = dir.join("data");
    let output = restoring(&site, &[], &data);
    assert!(output.status.success(), "{}", said(&output));
    let mut copy = Postgres::start_as_it_is(&dir, newest(), &[]);
    assert_eq!(
        copy.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        copy.log()
    );
    copy.query("INSERT INTO t VALUES (1)");
    copy.kill9();
    let before = seen(&data);
    assert_refused(
        &restoring(&site, &["--delta", "--keep-wal"], &data),
        &["00000002", "timeline 1", "--set-aside-wal"],
    );
    assert_eq!(seen(&data), before);
    let report = restore(&site, &["--delta", "--set-aside-wal"], &data);
    let moved = report["wal_set_aside"]["directory"].as_str().expect("a path");
    assert!(
        segments(Path::new(moved))
            .iter()
            .any(|name| name.starts_with("00000002")),
        "{report}"
    );
}

/// S6: root makes the directory, and gives that one to whom the WAL belongs.
fn the_wal_set_aside_is_its_owners(site: &Site) {
    let there = copied(&site.world.path().join("pg"), &site.world.path().join("by-root"));
    let mut restore = walfs(site.world, &User::caller());
    restore.args([
        "restore",
        "--no-archiving",
        "--no-sync",
        "--json",
        "--delta",
        "--set-aside-wal",
    ]);
    restore.args(["--archive", &site.place.archive(), "LATEST"]);
    let output = restore.arg(&there).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let moved = report["wal_set_aside"]["directory"].as_str().expect("a path");
    let meta = fs::symlink_metadata(moved).expect("look at it");
    assert!(meta.is_dir() && meta.uid() == User::postgres().uid, "{report}");
    assert_eq!(meta.mode() & 0o777, 0o700);
}

/// S6, S7: a copy of a data directory has the links of its original. What they lead to is that one's, which lives.
#[test]
fn s7_what_the_links_of_a_copy_lead_to_stays_the_originals() {
    let world = World::new("a-copy");
    let mut site = Site::local(&world);
    let space = world.owned_dir("spaces").join("space");
    User::postgres().make_dir(&space);
    site.server
        .query(&format!("CREATE TABLESPACE s LOCATION '{}'", space.display()));
    site.server
        .query("CREATE TABLE t TABLESPACE s AS SELECT generate_series(1, 1000) AS id");
    site.backup("monday");
    site.server.stop(StopMode::Fast);
    let copy = copied(&world.path().join("pg"), &world.path().join("copy"));
    site.server.start();
    site.server.query("INSERT INTO t VALUES (1001)");
    site.server.query("CHECKPOINT");
    site.server.archive_all();

    let before = seen(&space);
    let delta = ["--delta", "--set-aside-wal"];
    let output = restoring(&site, &delta, &copy);
    let named = format!("{0}={0}", space.display());
    assert_refused(&output, &["outside of it", "--tablespace-mapping="]);
    let said_so = [&delta[..], &["--tablespace-mapping", &named]].concat();
    assert_refused(
        &restoring(&site, &said_so, &copy),
        &["is used by the PostgreSQL server"],
    );
    assert_eq!(seen(&space), before);
    assert_eq!(site.server.query("SELECT count(*) FROM t"), "1001");
}

/// "permissions right", a disk for the WAL, a tablespace in the data directory: as the cluster had it.
#[test]
fn b6_a_cluster_comes_back_to_its_places() {
    let world = World::new("its-places");
    let mut site = Site::local(&world);
    let data = world.path().join("pg/data");
    // As `initdb --allow-group-access` makes it.
    site.server.stop(StopMode::Fast);
    let shared = User::caller().shell("chmod -R g+rX \"$1\"", &[&data]);
    assert!(shared.status.success(), "{}", said(&shared));
    site.server.start();
    let nested = data.join("more/space");
    for directory in [data.join("more"), nested.clone()] {
        User::postgres().make_dir(&directory);
    }
    let server = &site.server;
    server.query(&format!(
        "CREATE TABLESPACE nested LOCATION '{}'",
        nested.display()
    ));
    server.query("CREATE TABLE t TABLESPACE nested AS SELECT generate_series(1, 1000) AS id");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1001)");
    site.server.archive_all();
    let elsewhere = world.owned_dir("spaces").join("elsewhere");
    let mapping = |to: &Path| format!("{}={}", nested.display(), to.display());
    let mapping = mapping(&elsewhere);
    let mapped = ["--tablespace-mapping", &mapping];
    let count = "SELECT count(*) FROM t";

    group_access_is_kept(&site, &mapped);
    fs::remove_dir_all(&elsewhere).expect("remove the tablespace");
    wal_has_its_own_directory(&site, &mapped, count);
    fs::remove_dir_all(&elsewhere).expect("remove the tablespace");
    what_cannot_be_made_is_known_before(&site, &mapped);

    // The machine is lost; everything comes back to where it was, twice.
    site.server.kill9();
    let lost = world.path().join("lost");
    fs::rename(&data, &lost).expect("move the data directory");
    restore(&site, &[], &data);
    assert_eq!(recovered(&world.path().join("pg"), count), "1001");
    assert!(nested.read_dir().expect("list the tablespace").next().is_some());
    fs::write(data.join("more/stranger"), "x").expect("write a file");
    let report = restore(&site, &["--delta", "--set-aside-wal"], &data);
    assert!(
        report["removed"].to_string().contains("more/stranger"),
        "{report}"
    );
    assert!(!report["removed"].to_string().contains("more/space"), "{report}");
    assert_eq!(recovered(&world.path().join("pg"), count), "1001");
}

/// Whatever umask, and for WAL that comes later.
fn group_access_is_kept(site: &Site, mapped: &[&str]) {
    let dir = site.world.owned_dir("shared");
    let data = dir.join("data");
    let mut restore = User::postgres().command("/bin/sh");
    let program = site.world.public_program(Path::new(crate::common::walfs::BINARY));
    restore.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(&program);
    restore.args(["restore", "--no-archiving", "--archive", &site.place.archive()]);
    let output = restore
        .args(mapped)
        .arg("LATEST")
        .arg(&data)
        .output()
        .expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    for (path, (mode, _)) in seen(&data) {
        let expected = match mode & libc::S_IFMT {
            libc::S_IFDIR => 0o750,
            libc::S_IFLNK => continue,
            _ => 0o640,
        };
        // Directories that nobody has changed since they were made.
        let is_own = path.starts_with(data.join("more"));
        assert!(is_own || mode & 0o777 == expected, "{}: {mode:o}", path.display());
    }
    let segment = segments(&data.join("pg_wal")).swap_remove(0);
    let fetched = data.join("pg_wal/RECOVERYXLOG");
    let mut fetch = site.walfs("wal-fetch");
    let output = fetch.arg(segment).arg(&fetched).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let mode = fs::metadata(&fetched).expect("look at it").mode();
    assert_eq!(mode & 0o777, 0o640, "{mode:o}");
    fs::remove_dir_all(&dir).expect("remove what was restored");
}

fn wal_has_its_own_directory(site: &Site, mapped: &[&str], count: &str) {
    let world = site.world;
    let (dir, wal) = (world.owned_dir("split"), world.path().join("wal-disk"));
    User::postgres().make_dir(&wal);
    let data = dir.join("data");
    let named = wal.join("wal").display().to_string();
    let report = restore(site, &[mapped, &["--waldir", &named]].concat(), &data);
    assert_eq!(report["waldir"], named.as_str());
    let link = |data: &Path| fs::read_link(data.join("pg_wal")).expect("pg_wal is a link");
    assert_eq!(link(&data), Path::new(&named));
    assert!(!segments(Path::new(&named)).is_empty());
    assert_eq!(recovered(&dir, count), "1001");
    // --delta leaves the link and the disk as they are, and what is only there comes aside on that disk.
    // A copy of the directory has the same links: what lies behind them is replaced only if it is named.
    let before = seen(&wal);
    let output = restoring(site, &[mapped, &["--delta", "--set-aside-wal"]].concat(), &data);
    assert_refused(&output, &["outside of it", "--waldir=", &named]);
    assert_eq!(seen(&wal), before);
    let delta = [mapped, &["--delta", "--set-aside-wal", "--waldir", &named]].concat();
    let report = restore(site, &delta, &data);
    assert_eq!(link(&data), Path::new(&named));
    let moved = report["wal_set_aside"]["directory"].as_str().expect("a path");
    assert!(Path::new(moved).starts_with(&wal), "{report}");
    assert_eq!(recovered(&dir, count), "1001");
    let other = world.path().join("other").display().to_string();
    let output = restoring(site, &[mapped, &["--delta", "--waldir", &other]].concat(), &data);
    assert_refused(&output, &["--delta leaves it where it is"]);
    let fresh = dir.join("fresh");
    let within = fresh.join("x").display().to_string();
    for (wrong, why) in [(&named, "not empty"), (&within, "one another")] {
        let output = restoring(site, &[mapped, &["--waldir", wrong]].concat(), &fresh);
        assert_refused(&output, &[why, "--waldir"]);
        assert!(!fresh.exists());
    }
    prepared_places_are_accepted(site, &dir, &wal);
    fs::remove_dir_all(&dir).expect("remove what was restored");
}

/// A link, and a mount point with what its file system has at its top.
fn prepared_places_are_accepted(site: &Site, dir: &Path, wal: &Path) {
    let data = dir.join("linked");
    User::postgres().make_dir(&data);
    let prepared = wal.join("prepared");
    symlink(&prepared, data.join("pg_wal")).expect("make a link");
    let elsewhere = |name: &str| {
        let nested = site.server.data().join("more/space");
        format!("{}={}", nested.display(), dir.join(name).display())
    };
    let arguments = ["--tablespace-mapping", &elsewhere("space-1")];
    assert_refused(
        &restoring(site, &arguments, &data),
        &["is a link to", "not there"],
    );
    User::postgres().make_dir(&prepared);
    fs::create_dir(prepared.join("lost+found")).expect("what a file system has");
    restore(site, &arguments, &data);
    assert!(data.join("pg_wal").is_symlink() && !segments(&prepared).is_empty());
    assert!(prepared.join("lost+found").is_dir());
    if !is_root() {
        return;
    }
    let data = dir.join("mounted");
    let point = data.join("pg_wal");
    for directory in [&data, &point] {
        User::postgres().make_dir(directory);
    }
    let options = format!("size=64M,mode=0700,uid={}", User::postgres().uid);
    let mut mount = Command::new("mount");
    let mounted = mount
        .args(["-t", "tmpfs", "-o", &options, "none"])
        .arg(&point)
        .output();
    let mounted = mounted.expect("run mount");
    assert!(mounted.status.success(), "{}", said(&mounted));
    fs::create_dir(point.join("lost+found")).expect("what a file system has");
    let arguments = ["--tablespace-mapping", &elsewhere("space-2")];
    restore(site, &arguments, &data);
    assert!(!segments(&point).is_empty() && point.join("lost+found").is_dir());
    let unmounted = Command::new("umount").arg(&point).status().expect("run umount");
    assert!(unmounted.success() && segments(&point).is_empty());
}

/// A dry run that is content means something.
fn what_cannot_be_made_is_known_before(site: &Site, mapped: &[&str]) {
    let world = site.world;
    let dangling = world.owned_dir("dangling").join("data");
    symlink(world.path().join("nowhere"), &dangling).expect("make a link");
    let output = restoring(site, mapped, &dangling);
    assert_refused(&output, &["is a link to", "nowhere"]);
    if !is_root() {
        return;
    }
    let closed = world.path().join("closed");
    fs::create_dir(&closed).expect("a directory of root's");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).expect("set its mode");
    let closed = closed.join("x");
    let fine = world.owned_dir("fine").join("data");
    let wal = ["--waldir", closed.to_str().expect("UTF-8")];
    for arguments in [&[][..], &["--dry-run"]] {
        let output = restoring(site, &[mapped, arguments].concat(), &closed);
        assert_refused(&output, &["may not write", "install -d"]);
        let output = restoring(site, &[mapped, arguments, &wal].concat(), &fine);
        assert_refused(&output, &["may not write"]);
        assert!(!fine.exists());
    }
    // A user without a name is said as sudo reads it.
    let mut restore = walfs(world, &User::caller());
    restore.args(["restore", "--no-archiving", "--no-sync", "--owner", "54321"]);
    restore.args(["--archive", &site.place.archive()]).args(mapped);
    let data = world.path().join("numbered");
    let output = restore.arg("LATEST").arg(&data).output().expect("run walfs");
    assert!(said(&output).contains("sudo -u '#54321' "), "{}", said(&output));
    let owners = seen(&data)
        .into_keys()
        .map(|path| fs::symlink_metadata(path).expect("it").uid());
    assert!(owners.into_iter().all(|uid| uid == 54321));
    let taken = mapped[1].split_once('=').expect("two paths").1;
    fs::remove_dir_all(taken).expect("remove the tablespace");
}
