//! `walfs restore` of backups that are not what they seem (promise S6, S8, R3): names that walfs writes itself, content that no
//! tablespace has, places in other clusters, files that recovery begins from, numbers that are claims.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::Value;
use walfs::archive::tree::backup::{Backup, Tablespace};
use walfs::archive::tree::summary::Summary;

use super::restoring_safely::{Forge, assert_refused, member, put_link, seen};
use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::world::World;

/// What walfs, or the command that it gives the server, writes for a moment in the data directory is never a backup's.
#[test]
fn s6_names_that_walfs_writes_do_not_come_from_a_backup() {
    let world = World::new("own-names");
    let forge = Forge::new(&world);
    let file = forge.outside.join("precious");
    let own = ["postgresql.auto.conf.walfs", "global/.walfs-pg_control"];
    let forged = forge.changed("own", |copy| {
        for name in own {
            put_link(&copy.join(name), &file);
        }
        fs::create_dir_all(copy.join("more/postgresql.auto.conf.walfs/deeper")).expect("make a directory");
        fs::write(copy.join("more/postgresql.auto.conf.walfs/deeper/file"), "x").expect("write a file");
        fs::write(copy.join("more/zz"), "behind it").expect("write a file");
    });
    forge.pack("own", &forged, forge.described.clone());
    forge.pack_tar("own-tar", |tar| {
        for name in own {
            let to = file.to_str().expect("UTF-8");
            member(tar, tar::EntryType::Symlink, name, to, b"");
        }
    });
    for name in ["own", "own-tar"] {
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore_beside(name, &data, &[]);
        assert!(output.status.success(), "{}", said(&output));
        for own in own {
            assert!(fs::symlink_metadata(data.join(own)).is_err(), "{name}: {own}");
            assert!(said(&output).contains(&format!("warning: {own} of the backup is left out")));
        }
        // Should there be a link all the same, the server does not write through it.
        put_link(&data.join(own[0]), &file);
        let before = seen(&forge.outside);
        end_recovery(&data);
        assert_eq!(seen(&forge.outside), before, "{name}");
        let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("the settings");
        assert!(!settings.contains("restore_command"), "{settings}");
    }
    let data = world.path().join("back-own");
    assert!(!data.join("more/postgresql.auto.conf.walfs").exists());
    // The file behind it is whole, also when it is compared by its hash.
    fs::write(data.join("more/zz"), "changed").expect("change a file");
    let output = forge.restore_beside("own", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(data.join("more/zz")).expect("a file"), b"behind it");
}

/// A program that would run as its owner is none of PostgreSQL's.
#[test]
fn s6_a_backup_brings_no_set_id_bits() {
    let world = World::new("set-id");
    let forge = Forge::new(&world);
    let forged = forge.changed("set-id", |copy| {
        fs::create_dir(copy.join("more")).expect("make a directory");
        fs::write(copy.join("more/program"), "#!/bin/sh").expect("write a file");
        for (name, bits) in [("more", 0o3750), ("more/program", 0o6755)] {
            let path = copy.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).expect("set the mode");
            assert_eq!(mode(&path), bits);
        }
    });
    forge.pack("set-id", &forged, forge.described.clone());
    forge.pack_tar("set-id-tar", |tar| {
        tar.append_path_with_name(forged.join("more"), "more")
            .and_then(|()| tar.append_path_with_name(forged.join("more/program"), "more/program"))
            .expect("append a member");
    });
    for name in ["set-id", "set-id-tar"] {
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore_beside(name, &data, &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(mode(&data.join("more")), 0o750, "{name}");
        assert_eq!(mode(&data.join("more/program")), 0o755, "{name}");
    }
}

fn mode(path: &Path) -> u32 {
    let found = fs::metadata(path).expect("look at it");
    found.permissions().mode() & 0o7777
}

/// The archive says where a tablespace was. Were it to say what is in there as well, it could put any file into any directory
/// that is empty.
#[test]
fn s6_a_tablespace_holds_nothing_but_a_tablespaces_content() {
    let world = World::new("contents");
    let forge = Forge::new(&world);
    let empty = forge.outside.join("empty");
    let backup = Backup {
        tablespaces: vec![Tablespace {
            oid: 16400,
            location: empty.display().to_string(),
        }],
        ..forge.described.clone()
    };
    type Make = fn(&Path);
    let cases: [(&str, Make); 3] = [
        ("authorized_keys", |at| fs::write(at, "x").expect("write a file")),
        ("PG_15_202209061", |at| put_link(at, Path::new("/etc"))),
        ("cron.d", |at| fs::create_dir(at).expect("make a directory")),
    ];
    for (case, (name, make)) in cases.into_iter().enumerate() {
        let backup_name = format!("content-{case}");
        let forged = forge.changed(&backup_name, |copy| {
            fs::create_dir_all(copy.join("pg_tblspc/16400")).expect("make a directory");
            make(&copy.join("pg_tblspc/16400").join(name));
        });
        forge.pack(&backup_name, &forged, backup.clone());
        let data = world.path().join("back");
        let output = forge.restore_beside(&backup_name, &data, &[]);
        assert_refused(&output, &[name, "tablespace"]);
        assert!(!data.exists());
        fs::remove_dir_all(forged).expect("remove the copy");
    }
    forge.pack_tar("content-tar", |tar| {
        member(tar, tar::EntryType::Directory, "pg_tblspc/16400/", "", b"");
        member(tar, tar::EntryType::Regular, "pg_tblspc/16400/cron", "", b"x");
    });
    let output = forge.restore_beside("content-tar", &world.path().join("back-tar"), &[]);
    assert_refused(&output, &["pg_tblspc/16400/cron", "tablespace"]);
}

/// A cluster that is stopped has no process that could be seen.
#[test]
fn s6_nothing_is_restored_into_another_clusters_data_directory() {
    let world = World::new("inside");
    let forge = Forge::new(&world);
    let forged = forge.changed("spaced", |copy| {
        fs::create_dir_all(copy.join("pg_tblspc/16400")).expect("make a directory");
    });
    let location = world.path().join("space").display().to_string();
    let backup = Backup {
        tablespaces: vec![Tablespace { oid: 16400, location }],
        ..forge.described.clone()
    };
    forge.pack("spaced", &forged, backup);
    let other = world.path().join("other");
    let output = forge.restore("monday", &other, &[]);
    assert!(output.status.success(), "{}", said(&output));
    fs::create_dir(other.join("empty")).expect("make a directory");
    let link = world.path().join("link");
    symlink(other.join("base"), &link).expect("make a link");
    let before = seen(&other);
    let data = world.path().join("back");
    let hint = ["lies in", "data directory of another cluster"];
    for within in [other.join("empty"), other.join("base/new"), link.join("new/deep")] {
        let output = forge.restore("monday", &within, &[]);
        assert_refused(&output, &hint);
        let waldir = ["--waldir", within.to_str().expect("UTF-8")];
        assert_refused(&forge.restore("monday", &data, &waldir), &hint);
        let mapping = format!("16400={}", within.display());
        let mapping = ["--tablespace-mapping", &mapping];
        assert_refused(&forge.restore("spaced", &data, &mapping), &hint);
    }
    assert_eq!(seen(&other), before);
    assert!(!data.exists());
    // Its own directory, by another name.
    let alias = world.path().join("alias");
    symlink(world.path(), &alias).expect("make a link");
    let mapping = format!("16400={}", alias.join("back/base/space").display());
    let output = forge.restore("spaced", &data, &["--tablespace-mapping", &mapping]);
    assert_refused(&output, &["leads to where", "back"]);
    assert!(!data.exists());
    // A server that runs is known by its process, and its directory as a whole is its own.
    let within = forge.site.server.data().join("new");
    let output = forge.restore("monday", &within, &[]);
    assert_refused(&output, &hint);
}

/// A `postmaster.pid` that no server wrote: no number in it ends the restore, and no socket holds it up.
#[test]
fn s8_a_pid_file_neither_panics_nor_hangs_a_restore() {
    let world = World::new("pid-file");
    let forge = Forge::new(&world);
    let data = world.path().join("back");
    let output = forge.restore("monday", &data, &[]);
    assert!(output.status.success(), "{}", said(&output));
    fs::write(data.join("postmaster.pid"), "-2147483648\n").expect("write a file");
    let output = forge.restore("monday", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
    // Somebody listens, accepts nothing, and as many wait as may.
    let run = tempfile::tempdir().expect("a short path");
    let listener = UnixListener::bind(run.path().join(".s.PGSQL.5432")).expect("listen");
    // SAFETY: a system call on an open descriptor, without pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let waiting = fill_queue(&run.path().join(".s.PGSQL.5432"));
    let lines = format!("-2147483648\n/data\n1\n5432\n{}\n", run.path().display());
    fs::write(data.join("postmaster.pid"), lines).expect("write a file");
    let output = forge.restore("monday", &data, &["--delta"]);
    assert_refused(&output, &["not known whether", ".s.PGSQL.5432", "pg_ctl stop"]);
    assert!(data.join("global/pg_control").exists());
    drop((listener, waiting));
    let output = forge.restore("monday", &data, &["--delta"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Connects until no more may wait.
fn fill_queue(socket: &Path) -> Vec<UnixStream> {
    let mut waiting = Vec::new();
    loop {
        let (sender, receiver) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        std::thread::spawn(move || sender.send(UnixStream::connect(socket)));
        match receiver.recv_timeout(std::time::Duration::from_secs(1)) {
            Ok(connected) => waiting.push(connected.expect("connect")),
            Err(_) => return waiting,
        }
    }
}

/// A process that has the number by now would keep the restored server from its start.
#[test]
fn b11_what_a_running_server_writes_for_itself_is_left_out() {
    let world = World::new("servers-own");
    let forge = Forge::new(&world);
    let own = ["postmaster.opts", "postmaster.pid"];
    let forged = forge.changed("running", |copy| {
        for name in own {
            fs::write(copy.join(name), "1\n").expect("write a file");
        }
    });
    forge.pack("running", &forged, forge.described.clone());
    forge.pack_tar("running-tar", |tar| {
        for name in own {
            member(tar, tar::EntryType::Regular, name, "", b"1\n");
        }
    });
    for name in ["running", "running-tar"] {
        let data = world.path().join(format!("back-{name}"));
        let output = forge.restore(name, &data, &[]);
        assert!(output.status.success(), "{}", said(&output));
        for own in own {
            assert!(!data.join(own).exists(), "{name}: {own}");
            assert!(said(&output).contains(&format!("warning: {own} of the backup is left out")));
        }
    }
    // Every file that follows in the list of hashes is still compared with its own.
    let data = world.path().join("back-running");
    let output = forge.restore("running", &data, &["--delta", "--dry-run"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |name: &str| report[name].as_u64().expect("a number");
    assert!(number("kept_bytes") * 10 > number("bytes") * 9, "{report}");
}

/// The WAL was looked for by the summary; the server goes by these two files.
#[test]
fn r3_what_recovery_begins_from_is_that_of_the_backup() {
    let world = World::new("beginning");
    let forge = Forge::new(&world);
    let label = fs::read_to_string(forge.good.join("backup_label")).expect("the label");
    let start = forge.described.wal[0].start.to_string();
    let elsewhere = label.replace(&start, "0/100028");
    assert_ne!(label, elsewhere);
    let timeline = label.replace("(file 00000001", "(file 00000002");
    let timeline = timeline.replace("TIMELINE: 1", "TIMELINE: 2");
    assert_ne!(label, timeline);
    // Whose it is differs; its checksum is right again.
    let mut another = fs::read(forge.good.join("global/pg_control")).expect("the control file");
    let sum_at = |at: &usize| another[*at..at + 4] == crc32c::crc32c(&another[..*at]).to_le_bytes();
    let end = (8..another.len() - 4).find(sum_at).expect("its checksum");
    another[0] ^= 1;
    let sum = crc32c::crc32c(&another[..end]);
    another[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    let cases: [(&str, &[u8], &str); 5] = [
        ("backup_label", b"", "not complete"),
        ("backup_label", b"rubbish\n", "not complete"),
        ("backup_label", elsewhere.as_bytes(), "by its summary"),
        ("backup_label", timeline.as_bytes(), "on timeline 2"),
        ("global/pg_control", &another, "by its summary"),
    ];
    for (case, (file, content, reason)) in cases.into_iter().enumerate() {
        let name = format!("begins-{case}");
        let forged = forge.changed(&name, |copy| {
            fs::write(copy.join(file), content).expect("write a file");
        });
        forge.pack(&name, &forged, forge.described.clone());
        let data = world.path().join("back");
        assert_refused(&forge.restore(&name, &data, &[]), &[file, reason]);
        assert!(!data.exists());
        fs::remove_dir_all(forged).expect("remove the copy");
        forge.pack_tar(&format!("{name}-tar"), |tar| {
            member(tar, tar::EntryType::Regular, file, "", content);
        });
        let data = world.path().join(format!("back-{case}"));
        let output = forge.restore(&format!("{name}-tar"), &data, &[]);
        assert_refused(&output, &[file, reason]);
        assert!(!data.join("global/pg_control").exists());
    }
}

/// What is said of a restore is what was restored.
#[test]
fn s8_numbers_of_a_summary_are_claims() {
    let world = World::new("claims");
    let site = Site::local(&world);
    site.backup("monday");
    let restore = |dir: &str| {
        let mut restore = site.walfs("restore");
        let restore = restore.args(["--no-archiving", "--no-sync", "--json", "--dry-run", "monday"]);
        let data = world.owned_dir(dir).join("data");
        let output = restore.arg(data).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report["files"].clone(), report["bytes"].clone())
    };
    let right = restore("back");
    let path = world.archive().join("basebackups/monday.json");
    let mut summary = Summary::parse(&fs::read(&path).expect("the summary")).expect("a summary");
    assert_eq!(right, (summary.files.into(), summary.bytes.into()));
    (summary.files, summary.bytes) = (1 << 50, 1 << 60);
    fs::remove_file(&path).expect("remove the summary");
    fs::write(&path, summary.to_text()).expect("write another");
    User::postgres().own(&path);
    assert_eq!(restore("again"), right);
}

/// What the server does when it has recovered.
fn end_recovery(data: &Path) {
    let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("the settings");
    let mut lines = settings.lines();
    let command = lines.find_map(|line| line.strip_prefix("recovery_end_command = '"));
    let command = command.and_then(|command| command.strip_suffix('\''));
    let command = command.expect("a command").replace("''", "'");
    let mut shell = std::process::Command::new("sh");
    let ended = shell.arg("-c").arg(&command).current_dir(data).output();
    let ended = ended.expect("run sh");
    assert!(ended.status.success(), "{command}: {}", said(&ended));
}
