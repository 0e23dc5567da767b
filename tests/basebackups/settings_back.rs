//! Settings outside of the data directory: kept with a backup, and put back where nothing else is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::world::World;

/// The files below a directory, and what is in them; of a link where it leads.
fn all_of(directory: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("its kind"));
        let mode = entry.metadata().expect("look at it").permissions().mode() & 0o777;
        let content = match kind {
            kind if kind.is_dir() => {
                found.extend(all_of(&path));
                continue;
            }
            kind if kind.is_symlink() => fs::read_link(&path).expect("read it").display().to_string(),
            _ => fs::read_to_string(&path).expect("read it"),
        };
        found.insert(path, (mode, content));
    }
    found
}

#[test]
fn b10_settings_that_the_server_does_not_read_are_kept_and_put_back_beside_what_is_there() {
    let world = World::new("settingsback");
    let site = Site::local(&world);
    let conf = world.owned_dir("conf");
    world.owned_dir("conf/sub");
    let file = |name: &str, content: &str, mode| {
        let file = world.owned_file(name, content.as_bytes());
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set its mode");
    };
    file("conf/a.conf", "a", 0o640);
    file("conf/b.conf", "b", 0o600);
    file("conf/sub/c.conf", "c", 0o644);
    file("key", "a secret of somebody", 0o600);
    symlink("../key", conf.join("key")).expect("make a link");
    symlink("a.conf", conf.join("alias.conf")).expect("make a link");
    let conf = conf.to_str().expect("a path of text");
    let taken = site.try_backup("monday", &["--settings-dir", conf]);
    assert!(taken.status.success(), "{}", said(&taken));
    assert!(
        said(&taken).contains("conf/key is not in the backup"),
        "{}",
        said(&taken)
    );

    let restore = |data: &str, to: &Path, more: &[&str]| -> Output {
        let output = site
            .walfs("restore")
            .arg(format!("--settings-mapping={conf}={}", to.display()))
            .args(more)
            .args(["--no-archiving", "monday"])
            .arg(world.path().join(data))
            .output()
            .expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        output
    };
    world.owned_dir("back");
    let to = world.path().join("back/conf");
    let shown = restore("back/data", &to, &["--dry-run"]);
    for name in ["a.conf", "b.conf", "alias.conf", "sub/c.conf"] {
        let line = format!("would be put back: {}", to.join(name).display());
        assert!(said(&shown).contains(&line), "{}", said(&shown));
    }
    assert!(!to.exists());

    // Where nothing is.
    let done = restore("back/data", &to, &[]);
    assert!(!said(&done).contains("left as it is"), "{}", said(&done));
    let expected = [
        ("a.conf", 0o640, "a"),
        ("alias.conf", 0o640, "a"),
        ("b.conf", 0o600, "b"),
        ("sub/c.conf", 0o644, "c"),
    ];
    let expected = expected.map(|(name, mode, content)| (to.join(name), (mode, content.to_owned())));
    assert_eq!(all_of(&to), BTreeMap::from(expected));

    // Where they are already, nothing is said; what differs is named and left, and so is what a link would lead to.
    let again = restore("back/data2", &to, &[]);
    assert!(!said(&again).contains("put back"), "{}", said(&again));
    let there = world.owned_dir("there");
    let elsewhere = world.owned_dir("elsewhere");
    file("there/a.conf", "mine", 0o600);
    symlink("/nowhere", there.join("b.conf")).expect("make a link");
    symlink(&elsewhere, there.join("sub")).expect("make a link");
    User::postgres().own(&there);
    let before = all_of(&there);
    let beside = restore("back/data3", &there, &[]);
    for name in ["a.conf", "b.conf", "sub/c.conf"] {
        let line = format!("{} is left as it is", there.join(name).display());
        assert!(said(&beside).contains(&line), "{}", said(&beside));
    }
    let mut after = all_of(&there);
    assert!(after.remove(&there.join("alias.conf")).is_some());
    assert_eq!(after, before);
    assert!(all_of(&elsewhere).is_empty());
    // The data directory has them all the same.
    let kept = world
        .path()
        .join("back/data3/walfs.settings")
        .join(conf.trim_start_matches('/'));
    assert_eq!(fs::read(kept.join("a.conf")).expect("it is there"), b"a");
}
