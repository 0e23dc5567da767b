//! How a server in a container begins beside its agent: as TimescaleDB's image and its sidecar agree on it, and by their variables.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use super::{Sidecar, balanced, newest, wait, walfs};
use crate::common::basebackup::Site;
use crate::common::postgres::{Options, Postgres};
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::world::{World, helper};

const LOCK: &str = "wale_init_lockfile";

/// What the container's entrypoint does before it starts the server.
fn lock(data: &Path) -> PathBuf {
    User::postgres().make_dir(data);
    let lock = data.join(LOCK);
    fs::write(&lock, "").expect("make the lock");
    User::postgres().own(&lock);
    lock
}

fn await_start(lock: &Path) {
    wait::until("the lock to be removed", || (!lock.exists()).then_some(()));
}

fn small() -> Options {
    Options {
        segment_mib: 1,
        ..Options::default()
    }
}

/// Every program but curl, as in an image that has only wget.
fn without_curl(world: &World) -> String {
    let bin = world.owned_dir("bin");
    for program in fs::read_dir("/usr/bin").expect("list /usr/bin").flatten() {
        if program.file_name() != "curl" {
            symlink(program.path(), bin.join(program.file_name())).expect("make a link");
        }
    }
    bin.display().to_string()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// The probe of the manifest for Kubernetes, on another port.
fn probe(port: &str) -> bool {
    let manifest = fs::read_to_string(helper("kubernetes/agent.yaml")).expect("read the manifest");
    let (_, below) = manifest.split_once("[bash, -c, '").expect("a probe");
    let (script, _) = below.split_once("']").expect("its end");
    let mut bash = User::postgres().command("bash");
    bash.arg("-c").arg(script.replace("/5000", &format!("/{port}")));
    bash.status().expect("run bash").success()
}

#[test]
fn a3_a_container_lives_dies_and_comes_back_by_the_variables_of_its_sidecar() {
    let world = World::new("life");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a free port").port().to_string();
    let (pg, archive) = (world.path().join("pg"), world.archive());
    let conf = world.owned_dir("conf");
    let extra = world.owned_file("conf/extra.conf", b"work_mem = '5MB'\n");
    fs::set_permissions(&extra, fs::Permissions::from_mode(0o640)).expect("set its mode");
    let mut server = Postgres::init(&pg, &small());
    let data = server.data().to_owned();
    // The words of the original's README.
    server.archive_with(&format!("wget 127.0.0.1:{port}/wal-push/%f -O -"));
    let common = [
        ("WALE_S3_PREFIX", text(&archive)),
        ("WALE_SIDECAR_HOSTNAME", "localhost"),
        ("WALE_LISTEN_PORT", &port),
        ("CRON_TIMING", "0 0 1 1 *"),
        ("PGCONF_BACKUP_DIR", text(&conf)),
        ("PGDATA", text(&data)),
        ("PGHOST", text(&pg)),
        ("PGUSER", "postgres"),
        ("WALFS_BACKUP_FAST", "true"),
        ("WALFS_SCHEDULE_RETRY", "1s"),
    ];
    let begin = |more: &[(&str, &str)]| Sidecar::run(&world, &[&common[..], more].concat(), &[]);

    // The first start: the server is let through, and backed up as soon as it runs.
    let waits = lock(&data);
    let sidecar = begin(&[("START_MODE", "BACKUP_PUSH")]);
    assert_eq!(sidecar.address, format!("127.0.0.1:{port}"));
    assert!(probe(&port), "{}", sidecar.log());
    await_start(&waits);
    server.start();
    wait::until("the first backup", || {
        sidecar.log().contains("backup: done").then_some(())
    });
    let list = sidecar.gets("/backup-list", 200);
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list.len(), 1, "{list:?}");
    server.pgbench_init(1);
    server.pgbench(2, 1).wait().expect("wait for pgbench");
    let before = balanced(&server);
    server.query("SELECT pg_create_restore_point('here')");
    server.query("CREATE TABLE later()");
    server.archive_all();
    sidecar.stop();

    // Everything but the archive is lost.
    server.destroy();
    fs::remove_file(&extra).expect("lose the settings");
    let waits = lock(&data);
    let target = "recovery_target_name = 'here'\nrecovery_target_action = 'promote'";
    let sidecar = begin(&[
        ("START_MODE", "RESTORE"),
        ("WALE_RESTORE_LABEL", "LATEST"),
        ("RECOVERY_ADDITION", target),
        ("WALFS_RESTORE_TAKE_OVER", "true"),
    ]);
    wait::until("the lock to be removed", || {
        let is_there = waits.exists();
        // Not before the restore is complete, of which this file is the last.
        assert!(is_there || data.join("global/pg_control").exists());
        (!is_there).then_some(())
    });
    assert_eq!(fs::read(&extra).expect("put back"), b"work_mem = '5MB'\n");
    let mode = fs::metadata(&extra).expect("look at it").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let environment = [("PATH", without_curl(&world))];
    let mut server = Postgres::start_as_it_is(&pg, newest(), &environment);
    assert_eq!(
        server.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}\n{}",
        server.log(),
        sidecar.log()
    );
    assert_eq!(balanced(&server), before);
    assert_eq!(server.query("SELECT to_regclass('later') IS NULL"), "t");
    // It takes over, and so it archives.
    server.query("CREATE TABLE again()");
    server.archive_all();
    sidecar.stop();

    // Started once more in the same way, there is a cluster.
    let waits = lock_again(&data);
    let sidecar = begin(&[("START_MODE", "RESTORE"), ("RECOVERY_ADDITION", target)]);
    await_start(&waits);
    assert!(sidecar.log().contains("holds a cluster"), "{}", sidecar.log());
    assert_eq!(server.query("SELECT to_regclass('again') IS NULL"), "f");
    sidecar.stop();
}

/// As [`lock`], of a directory that is there.
fn lock_again(data: &Path) -> PathBuf {
    let lock = data.join(LOCK);
    fs::write(&lock, "").expect("make the lock");
    User::postgres().own(&lock);
    lock
}

/// Every file, link and directory below a directory, and what is in it.
fn all_of(directory: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut to_list = vec![directory.to_owned()];
    while let Some(directory) = to_list.pop() {
        for entry in fs::read_dir(&directory).expect("list it").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("its kind"));
            let mut hash = DefaultHasher::new();
            if kind.is_dir() {
                to_list.push(path.clone());
            } else if kind.is_symlink() {
                fs::read_link(&path).expect("read it").hash(&mut hash);
            } else {
                fs::read(&path).expect("read it").hash(&mut hash);
            }
            let metadata = entry.metadata().expect("look at it");
            found.insert(path, (metadata.permissions().mode(), hash.finish()));
        }
    }
    found
}

#[test]
fn s7_restore_first_touches_no_cluster_and_nothing_else_that_is_there() {
    let world = World::new("untouched");
    let data = Postgres::init(&world.path().join("pg"), &small())
        .data()
        .to_owned();
    let before = all_of(&data);
    lock_again(&data);
    let arguments = ["--listen", "127.0.0.1:0", "--start", "restore-first"];
    let settings = [("PGDATA", text(&data))];
    let sidecar = Sidecar::start(&world, &settings, &arguments);
    await_start(&data.join(LOCK));
    assert!(sidecar.log().contains("holds a cluster"), "{}", sidecar.log());
    assert_eq!(all_of(&data), before);
    sidecar.stop();

    let refused = |data: &Path, more: &[(&str, &str)]| -> Output {
        let before = all_of(data);
        let output = walfs(&world, &User::postgres())
            .args(["agent", "--listen", "127.0.0.1:0"])
            .env("WALFS_ARCHIVE", world.archive())
            .env("START_MODE", "RESTORE")
            .env("PGDATA", data)
            .envs(more.iter().copied())
            .output()
            .expect("run walfs");
        assert!(!output.status.success(), "{}", said(&output));
        assert_eq!(all_of(data), before, "{}", said(&output));
        output
    };
    let says = |output: &Output, code: i32, word: &str| {
        assert_eq!(output.status.code(), Some(code), "{}", said(output));
        assert!(said(output).contains(word), "no {word}: {}", said(output));
    };
    // Nothing to restore: the server is not let through to an empty database.
    let empty = world.owned_dir("empty");
    lock(&empty);
    says(&refused(&empty, &[]), 1, "no complete backup");
    // What would change more than where the recovery ends.
    for (lines, word) in [
        ("archive_cleanup_command = 'rm -rf .'", "it would delete"),
        (
            "recovery_end_command = 'rm -rf .'",
            "recovery_end_command is refused",
        ),
        ("restore_command = 'true'", "restore_command is refused"),
        ("data_directory = '/srv/other'", "data_directory is refused"),
        (
            "recovery_target_xid = '7' archive_cleanup_command = 'x'",
            "no line of settings",
        ),
        ("recovery_target_time = 'noon'", "recovery_target_time"),
    ] {
        says(&refused(&empty, &[("RECOVERY_ADDITION", lines)]), 2, word);
    }
    says(&refused(&empty, &[("START_MODE", "SOMETIMES")]), 2, "SOMETIMES");
    // A token that the restored server would not have.
    let token = world.owned_file("token", b"geheim\n");
    let openly = [("WALFS_HTTP_TOKEN_FILE", text(&token))];
    says(&refused(&empty, &openly), 2, "without a token");
}

/// A server that is let through by a restore that goes on would start on half of its data.
#[test]
fn b6_a_restore_leaves_the_lock_alone_also_one_that_goes_on() {
    let world = World::new("locked");
    let site = Site::local(&world);
    // Left there, it is in no backup.
    lock_again(site.server.data());
    site.backup("monday");
    let restore = |data: &Path| {
        let mut restore = site.walfs("restore");
        restore.args(["--no-archiving", "monday"]).arg(data);
        restore.output().expect("run walfs")
    };
    let (free, data) = (world.owned_dir("free"), world.owned_dir("back"));
    let output = restore(&free);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!free.join(LOCK).exists());
    let waits = lock(&data);
    let output = restore(&data);
    assert!(output.status.success() && waits.exists(), "{}", said(&output));
    // As an interruption leaves it.
    let marker = fs::read(world.archive().join("walfs.json")).expect("read the marker");
    let marker: serde_json::Value = serde_json::from_slice(&marker).expect("JSON");
    let mark = serde_json::json!({
        "archive_id": marker["archive_id"],
        "backup": "monday",
        "system_identifier": null,
        "tablespaces": [],
    });
    fs::remove_file(data.join("global/pg_control")).expect("remove the control file");
    world.owned_file("back/walfs-restore.json", mark.to_string().as_bytes());
    world.owned_file("back/stranger", b"");
    let output = restore(&data);
    assert!(output.status.success(), "{}", said(&output));
    assert!(waits.exists() && data.join("global/pg_control").exists());
    assert!(!data.join("stranger").exists());
    // A link of that name is somebody's.
    let linked = world.owned_dir("linked");
    symlink(&waits, linked.join(LOCK)).expect("make a link");
    let output = restore(&linked);
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
    assert_eq!(output.status.code(), Some(1));
    assert!(linked.join(LOCK).is_symlink() && waits.exists());
}

#[test]
fn s6_a_lock_that_is_none_stays() {
    let world = World::new("locks");
    let data = world.owned_dir("data");
    let file = world.owned_file("file", b"");
    let lock = data.join(LOCK);
    symlink(&file, &lock).expect("make a link");
    let settings = [("PGDATA", text(&data))];
    let sidecar = Sidecar::start(&world, &settings, &["--listen", "127.0.0.1:0"]);
    let says = |word: &str| {
        wait::until("a word on it", || sidecar.log().contains(word).then_some(()));
    };
    says("it is no plain file");
    assert!(lock.is_symlink() && file.exists());
    let other = world.owned_file("data/other", b"somebody's");
    fs::rename(&other, &lock).expect("put a file in its place");
    says("something is in it");
    assert_eq!(fs::read(&lock).expect("it is there"), b"somebody's");
    fs::write(&lock, "").expect("empty it");
    await_start(&lock);
    sidecar.stop();
}
