//! Mounting and unmounting through a real kernel. Needs root, /dev/fuse, the package fuse3 and the user `postgres`;
//! fails without them.
//!
//! What is mounted is the smallest file system there is. It is served by a child, this test binary started again, so
//! that it can be killed without ending the test.

mod serving;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::walfs::Mount;
use crate::common::world::World;
use serving::{PATIENCE, Place, ROOT, Server, hold, options, serve, serve_here};
use walfs::linux::kernel::{
    Device, Error, Holder, MountOptions, ReadAhead, Unmounted, lookup_user, mount, mounts, prepare,
    unmount_path,
};

#[test]
fn mount_serves_and_unmounts() {
    let place = Place::new();
    let mounted = serve_here(&place, "s3://bucket/prefix");
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let entry = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.mountpoint == place.path)
        .unwrap();
    assert_eq!(entry.source, "s3://bucket/prefix");
    assert_eq!(Some(entry.device), mounted.device());
    assert!(entry.options.contains("default_permissions") && !entry.options.contains("allow_other"));
    assert_eq!(
        fs::metadata(&place.path).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    assert_eq!(place.mounted(), [""; 0]);
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::AlreadyGone);
}

#[test]
fn flags_of_the_mount() {
    let place = Place::new();
    let asked = MountOptions {
        allow_other: true,
        read_only: true,
        ..options("x", ROOT)
    };
    let (_fuse, mounted) = mount(&place.path, &asked).unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(place.path.to_str().unwrap()))
        .unwrap();
    for flag in [
        "ro,",
        "nosuid",
        "nodev",
        "noatime",
        "allow_other",
        "default_permissions",
    ] {
        assert!(line.contains(flag), "{flag} in {line}");
    }
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

/// S2: start-up cleans a stale mount by itself. The root directory's attributes are fresh in the kernel's cache for an
/// hour, and the mount belongs to a user whom not even root may speak for: neither may hide that it is dead.
#[test]
fn stale_mount_is_cleaned_at_start() {
    for user in ["root", "postgres"] {
        let place = Place::new();
        let mut server = Server::start(&place, user, false);
        assert_eq!(server.order("stat"), "Ok(true)");
        server.kill();
        assert_eq!(place.mounted(), ["fuse.walfs"], "left behind");
        let prepared = prepare(&place.path, ROOT).unwrap();
        assert_eq!(
            (prepared.cleaned, prepared.mountpoint.as_path()),
            (1, place.path.as_path())
        );
        assert_eq!(place.mounted(), [""; 0]);
        let mounted = serve_here(&place, "again");
        assert!(fs::metadata(&place.path).is_ok());
        assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    }
}

#[test]
fn stale_mount_in_use_is_cleaned_too() {
    let place = Place::new();
    let mut server = Server::start(&place, "root", false);
    let held = hold(&place.path);
    server.kill();
    assert_eq!(prepare(&place.path, ROOT).unwrap().cleaned, 1);
    drop(held);
}

#[test]
fn living_mount_is_not_mounted_over() {
    for user in ["root", "postgres"] {
        let place = Place::new();
        let mut server = Server::start(&place, user, false);
        let error = prepare(&place.path, ROOT).unwrap_err();
        assert!(
            matches!(error, Error::AlreadyMounted { answers: true, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("HINT: walfs umount"), "{error}");
        assert_eq!(server.order("stat"), "Ok(true)");
    }
}

#[test]
fn mount_of_somebody_else_is_left_alone() {
    let place = Place::new();
    place.tmpfs();
    let error = prepare(&place.path, ROOT).unwrap_err();
    assert!(
        matches!(&error, Error::OtherFileSystem { fs_type, .. } if fs_type == "tmpfs"),
        "{error}"
    );
    let error = unmount_path(&place.path, PATIENCE).unwrap_err();
    assert!(matches!(error, Error::OtherFileSystem { .. }), "{error}");
    assert_eq!(place.mounted(), ["tmpfs"]);
}

/// W9: a copy into the bare directory may be the only one there is.
#[test]
fn mount_point_with_content_is_refused() {
    let place = Place::new();
    fs::write(place.path.join("000000010000000000000001"), "").unwrap();
    let error = prepare(&place.path, ROOT).unwrap_err();
    assert!(error.to_string().contains("000000010000000000000001"), "{error}");
}

#[test]
fn bare_directory_that_the_archiver_can_write_is_warned_of() {
    let place = Place::new();
    let postgres = lookup_user("postgres").unwrap().owner;
    assert_eq!(prepare(&place.path, postgres).unwrap().warnings, [""; 0]);
    place.give_to(postgres);
    let warnings = prepare(&place.path, postgres).unwrap().warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("chmod 0555"),
        "{warnings:?}"
    );
}

/// The story: a daemon whose mount was taken away from outside is still ending when its successor has mounted; mount
/// and device numbers are given out again, lowest first, so the successor's are the same.
#[test]
fn successor_keeps_its_mount() {
    let place = Place::new();
    let first = serve_here(&place, "first");
    unmount_path(&place.path, PATIENCE).unwrap();
    let second = serve_here(&place, "second");
    assert_eq!(first.unmount(PATIENCE).unwrap(), Unmounted::AlreadyGone);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    assert_eq!(second.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

#[test]
fn mount_covered_by_another_is_said_so() {
    let place = Place::new();
    let mounted = serve_here(&place, "below");
    place.tmpfs();
    let error = mounted.unmount(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::Covered { .. }), "{error}");
    assert_eq!(place.mounted(), ["fuse.walfs", "tmpfs"]);
}

#[test]
fn busy_mount_names_who_uses_it_and_goes_when_free() {
    let place = Place::new();
    let mounted = serve_here(&place, "x");
    let mut user = Command::new("cat")
        .current_dir(&place.path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let error = mounted.unmount(Duration::ZERO).unwrap_err();
    let Error::Busy { holders, .. } = &error else {
        panic!("{error}")
    };
    let expected = Holder::Process {
        pid: user.id(),
        command: "cat".into(),
        uses: place.path.clone(),
    };
    assert!(holders.contains(&expected), "{error}");
    let error = unmount_path(&place.path, Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("cat["), "{error}");
    assert_eq!(place.mounted(), ["fuse.walfs"], "never lazily");
    // It leaves while we wait.
    drop(user.stdin.take());
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
    user.wait().unwrap();
}

#[test]
fn odd_names_of_mount_point_and_source() {
    for name in [
        "a b",
        "a,b",
        "line\nbreak",
        "tab\there",
        "back\\slash\\040",
        "-o",
        "ümläut",
        "quo'te\"",
    ] {
        let place = Place::named(name);
        let mounted = serve_here(&place, name);
        let entry = mounts()
            .unwrap()
            .into_iter()
            .find(|mount| mount.mountpoint == place.path)
            .unwrap();
        assert_eq!(entry.source, name);
        assert!(!entry.options.contains("allow_other"));
        assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::Done);
        assert_eq!(place.mounted(), [""; 0]);
    }
}

#[test]
fn source_is_no_way_to_options() {
    let place = Place::new();
    let mounted = serve_here(&place, "x,allow_other,suid");
    let entry = mounts()
        .unwrap()
        .into_iter()
        .find(|mount| mount.mountpoint == place.path)
        .unwrap();
    assert_eq!(entry.source, "x,allow_other,suid");
    assert!(!entry.options.contains("allow_other"));
    mounted.unmount(PATIENCE).unwrap();
}

#[test]
fn umount_command_takes_living_and_dead_mounts_and_nothing_else() {
    let place = Place::new();
    assert!(matches!(
        unmount_path(&place.path, PATIENCE),
        Err(Error::NotMounted { .. })
    ));
    assert!(matches!(
        unmount_path(&place.path.join("gone"), PATIENCE),
        Err(Error::NotMounted { .. })
    ));
    let server = Server::start(&place, "postgres", false);
    unmount_path(&place.path, PATIENCE).unwrap();
    assert_eq!(place.mounted(), [""; 0]);
    drop(server);
    let mut server = Server::start(&place, "postgres", false);
    server.kill();
    unmount_path(&place.path, PATIENCE).unwrap();
    assert_eq!(place.mounted(), [""; 0]);
}

/// The way that the manual recommends: root mounts on root's directory, for postgres, and becomes postgres.
#[test]
fn mounted_by_root_and_served_by_postgres() {
    let place = Place::new();
    let mut server = Server::start(&place, "postgres", false);
    assert_eq!(server.order("stat"), "Ok(true)");
    assert!(fs::metadata(&place.path).is_err(), "S5: not even root gets in");
    assert_eq!(server.order("unmount"), "Ok(Done)");
    assert_eq!(place.mounted(), [""; 0]);
}

#[test]
fn mounted_and_unmounted_by_an_unprivileged_user() {
    let postgres = lookup_user("postgres").unwrap().owner;
    for name in ["mnt", "a b,c", "line\nbreak"] {
        let place = Place::named(name);
        place.give_to(postgres);
        let mut server = Server::start(&place, "postgres", true);
        assert_eq!(place.mounted(), ["fuse.walfs"]);
        assert_eq!(server.order("stat"), "Ok(true)");
        assert_eq!(server.order("unmount"), "Ok(Done)");
        assert_eq!(place.mounted(), [""; 0]);
        assert_eq!(server.order("unmount"), "Ok(AlreadyGone)");
    }
}

#[test]
fn unprivileged_user_cleans_a_stale_mount_and_sees_a_busy_one() {
    let place = Place::new();
    place.give_to(lookup_user("postgres").unwrap().owner);
    let mut first = Server::start(&place, "postgres", true);
    first.kill();
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let mut second = Server::start(&place, "postgres", true);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    let held = hold(&place.path);
    let answer = second.order("unmount at once");
    assert!(answer.starts_with("Err(Busy"), "{answer}");
    drop(held);
    assert_eq!(second.order("unmount"), "Ok(Done)");
}

#[test]
fn somebody_elses_device_is_served_and_not_unmounted() {
    let place = Place::new();
    let (fuse, owned) = mount(&place.path, &options("x", ROOT)).unwrap();
    let passed = PathBuf::from(format!("/dev/fd/{}", fuse.as_raw_fd()));
    std::mem::forget(fuse);
    let (fuse, mounted) = mount(&prepare(&passed, ROOT).unwrap().mountpoint, &options("x", ROOT)).unwrap();
    serve(fuse);
    assert!(fs::metadata(&place.path).is_ok());
    assert_eq!(mounted.unmount(PATIENCE).unwrap(), Unmounted::NotOurs);
    assert_eq!(place.mounted(), ["fuse.walfs"]);
    assert_eq!(owned.unmount(PATIENCE).unwrap(), Unmounted::Done);
}

#[test]
fn read_ahead_is_set_for_this_mount() {
    let place = Place::new();
    let mounted = serve_here(&place, "x");
    let device = mounted.device().unwrap();
    assert_eq!(read_ahead_kb(device), "128");
    ReadAhead::of(&mounted).unwrap().raise().unwrap();
    assert_eq!(read_ahead_kb(device), "4096");
    mounted.unmount(PATIENCE).unwrap();
}

/// Also where the daemon runs as somebody who may not.
#[test]
fn read_ahead_is_raised_by_a_mount_that_root_made() {
    let world = World::new("read-ahead");
    let mount = Mount::local(&world);
    let all = mounts().unwrap();
    let ours = all.iter().find(|one| one.mountpoint == mount.path());
    assert_eq!(read_ahead_kb(ours.expect("it is mounted").device), "4096");
}

fn read_ahead_kb(device: Device) -> String {
    let file = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
    fs::read_to_string(file).unwrap().trim().to_owned()
}
