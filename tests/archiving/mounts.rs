//! No bare directory: where walfs is not mounted, `cp` fails.

use std::fs;
use std::process::Command;

use super::rig::{Rig, cp_to};
use crate::common::user::{User, said};
use crate::common::walfs::Options;
use crate::common::world::{World, detach, mounts_beneath};

/// W9: "walfs refuses to mount over a directory that is not empty".
#[test]
fn w9_a_mount_over_a_directory_with_files_is_refused() {
    let world = World::new("w9");
    let file = world.mountpoint().join("000000010000000000000001");
    fs::write(&file, "somebody's").expect("write a file");
    let output = Options::local(&world).refused();
    let message = said(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("not empty") && message.contains("HINT"),
        "{message}"
    );
    assert_eq!(fs::read(&file).expect("read it"), b"somebody's");
    assert!(mounts_beneath(&world.mountpoint()).is_empty());
}

/// W9: "If walfs is not mounted, `cp` must fail." And S2: "start-up cleans a stale mount by itself".
#[test]
fn w9_cp_fails_without_the_mount_and_over_a_dead_one() {
    let mut rig = Rig::local();
    let source = rig.segment(1, 1);
    rig.mount.terminate();
    let message = rig.refuse(&source);
    assert!(message.contains("No such file or directory"), "{message}");
    assert_eq!(fs::read_dir(rig.world.mountpoint()).expect("list").count(), 0);
    rig.mount.restart();
    rig.archive(&source);
    rig.mount.kill9();
    let other = rig.segment(2, 2);
    let message = rig.refuse(&other);
    assert!(
        message.contains("Transport endpoint is not connected"),
        "{message}"
    );
    rig.mount.restart();
    assert_eq!(mounts_beneath(&rig.world.mountpoint()).len(), 1);
    rig.assert_archived(&source);
    rig.assert_absent(&other.name);
    rig.archive(&other);
}

/// S2: "start-up cleans a stale mount by itself, and only its own."
#[test]
fn w9_the_mount_of_somebody_else_is_left_alone() {
    let world = World::new("tmpfs");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(world.mountpoint())
        .status();
    assert!(mount.expect("run mount").success());
    fs::write(world.mountpoint().join("mine"), "kept").expect("write a file");
    let output = Options::local(&world).refused();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(
        fs::read(world.mountpoint().join("mine")).expect("read it"),
        b"kept"
    );
    assert_eq!(mounts_beneath(&world.mountpoint()).len(), 1);
    detach(&world.mountpoint());
}

/// W9: an empty file system of somebody else may not be mounted over, or taken away, either; nor a living walfs.
#[test]
fn w9_a_living_mount_is_not_mounted_over() {
    let rig = Rig::local();
    let output = Options::local(&rig.world).refused();
    assert!(said(&output).contains("HINT"), "{}", said(&output));
    rig.archive(&rig.segment(1, 1));
}

/// W9: walfs "warns when the mount point can be written by the archiving user".
#[test]
fn w9_a_writable_mount_point_is_warned_of() {
    let world = World::new("writable");
    let place = world.owned_dir("writable");
    let mount = Options::local(&world).at(&place).mount();
    mount.wait_for_log("WARN");
    assert!(
        mount.log().contains(&place.display().to_string()),
        "{}",
        mount.log()
    );
    let other = World::new("readonly");
    let quiet = Options::local(&other).mount();
    assert!(!quiet.log().contains("WARN"), "{}", quiet.log());
}

/// W9: `wal/` "exists only inside the mount", and `cp` of two users' worlds never meet.
#[test]
fn w9_two_mounts_of_two_archives_stay_apart() {
    let (one, two) = (Rig::local(), Rig::local());
    let source = one.segment(1, 1);
    let output = cp_to(&two.mount, &source).output().expect("run cp");
    assert!(output.status.success(), "{}", said(&output));
    two.assert_archived(&source);
    one.assert_absent(&source.name);
    assert_eq!(one.user().uid, User::postgres().uid);
}
