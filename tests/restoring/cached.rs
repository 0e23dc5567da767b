//! A cache directory that others write into as well: what is theirs stays (promise S7), and what has taken the place of a
//! cached object is not believed (promises S3 and S8).

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{MEMORY_MIB, MIB, made, put};
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::wal::segment_name;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// What no object is, and no memory holds.
const ENORMOUS_BYTES: u64 = 6 << 30;

/// What is done to a cached object.
type Hurt<'a> = (&'a str, &'a dyn Fn(&Path));

/// A mount with a small cache directory.
fn mount(world: &World, cache: &Path) -> Mount {
    let cache = cache.to_str().expect("UTF-8");
    Options::local(world)
        .args(&["--cache-dir", cache, "--cache-size", "6MiB"])
        .mount()
}

fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache).expect("list the cache");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("one").path()).collect();
    files.sort();
    files
}

/// Reads the segment in a new mount, within a minute.
#[track_caller]
fn assert_read(mount: &Mount, name: &str, what: &str) {
    let mut cat = mount.user().command("timeout");
    cat.args(["-s", "KILL", "60", "cat"]).arg(mount.wal().join(name));
    let output = cat.output().expect("run cat");
    assert!(output.status.success(), "{what}: {}", said(&output));
    assert!(output.stdout == made(name), "{what}: wrong bytes");
}

#[test]
fn s7_a_cache_directory_keeps_what_is_not_the_caches_own() {
    let world = World::new("cache-own");
    let cache = world.owned_dir("cache");
    let names: Vec<String> = (1..=4).map(|number| segment_name(1, number, MIB)).collect();
    let before = Mount::local(&world);
    names
        .iter()
        .for_each(|name| put(&world, &before, name, &made(name)));
    drop(before);
    let hash = "0123456789abcdef".repeat(4);
    let theirs = [
        "important.sql",
        &hash,
        &format!("{hash}.cache"),
        "walfs-cache-notes",
        ".tmpa1B2c3",
    ];
    for name in theirs {
        let file = File::create(cache.join(name)).expect("make a file");
        file.set_len(4 << 20).expect("make it large");
        User::postgres().own(&cache.join(name));
    }
    User::postgres().make_dir(&cache.join("folder"));
    let mount = mount(&world, &cache);
    for name in &names {
        assert_read(&mount, name, name);
    }
    let cached = wait::within(wait::LONG, || {
        (files(&cache).len() >= theirs.len() + 1 + names.len()).then_some(())
    });
    for name in theirs {
        let left = fs::metadata(cache.join(name)).map(|left| left.len()).ok();
        assert_eq!(left, Some(4 << 20), "{name}: {:?}", files(&cache));
    }
    assert!(cache.join("folder").is_dir());
    assert!(
        cached.is_some(),
        "they took the cache's room: {:?}",
        files(&cache)
    );
}

#[test]
fn s3_what_lies_in_the_place_of_a_cached_object_is_not_believed() {
    let world = World::new("cache-odd");
    let cache = world.owned_dir("cache");
    let (name, next) = (segment_name(1, 1, MIB), segment_name(1, 2, MIB));
    let before = mount(&world, &cache);
    put(&world, &before, &name, &made(&name));
    assert_read(&before, &name, "first");
    drop(before);
    let all = wait::within(wait::LONG, || {
        Some(files(&cache)).filter(|files| !files.is_empty())
    });
    let all = all.expect("a cached object");
    assert_eq!(all.len(), 1, "{all:?}");
    let entry = &all[0];
    let good = fs::read(entry).expect("read the cache");
    let outside = world.owned_file("outside", &good);
    let enormous = |path: &Path| {
        let file = File::options().write(true).open(path).expect("open the entry");
        file.set_len(ENORMOUS_BYTES).expect("grow it");
    };
    let fifo = |path: &Path| {
        fs::remove_file(path).expect("remove the entry");
        let made = Command::new("mkfifo").arg(path).status().expect("run mkfifo");
        assert!(made.success());
        User::postgres().own(path);
    };
    let link = |path: &Path| {
        fs::remove_file(path).expect("remove the entry");
        symlink(&outside, path).expect("make a link");
    };
    let folder = |path: &Path| {
        fs::remove_file(path).expect("remove the entry");
        User::postgres().make_dir(path);
    };
    let odd: [Hurt<'_>; 4] = [
        ("enormous", &enormous),
        ("a FIFO", &fifo),
        ("a link", &link),
        ("a directory", &folder),
    ];
    for (what, hurt) in odd {
        if !entry.is_file() || entry.is_symlink() {
            panic!("{what}: the entry was not mended: {:?}", files(&cache));
        }
        hurt(entry);
        let mut mount = mount(&world, &cache);
        assert_read(&mount, &name, what);
        let peak_mib = mount.peak_memory_mib();
        assert!(peak_mib < MEMORY_MIB, "{what}: the daemon took {peak_mib} MiB");
        // It serves on, and has mended what it can: nobody waits for that, but an orderly end does.
        put(&world, &mount, &next, &made(&next));
        assert_eq!(fs::read(&outside).expect("read it"), good, "{what}");
        if what != "a directory" {
            let mended = wait::within(wait::LONG, || {
                let found = fs::symlink_metadata(entry).ok()?;
                (found.is_file() && found.len() == good.len() as u64).then_some(())
            });
            assert!(mended.is_some(), "{what}: {:?}", files(&cache));
        }
        mount.terminate();
    }
}
