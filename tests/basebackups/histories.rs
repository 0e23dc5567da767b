//! A `.history` that is damaged or lost (promises K5, K6, K7): every server asks for it, and a damaged one stops it.

use std::fs;

use crate::common::basebackup::Site;
use crate::common::postgres::Postgres;
use crate::common::recovery::Recovery;
use crate::common::user::said;
use crate::common::version::newest;
use crate::common::wait;
use crate::common::world::World;

const HISTORY: &str = "wal/00000002.history.lz4";

fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.walfs(command).args(arguments).output().expect("run walfs");
    (output.status.code(), said(&output))
}

/// Backup b1 on timeline 1, and b2 on timeline 2, which left it.
fn two_timelines(world: &World) -> Site<'_> {
    let mut site = Site::local(world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("b1");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    site.server.kill9();
    let second = world.owned_dir("second");
    let data = second.join("data").display().to_string();
    let (code, message) = run(&site, "restore", &["--take-over", "--no-sync", "LATEST", &data]);
    assert_eq!(code, Some(0), "{message}");
    let mut server = Postgres::start_as_it_is(&second, newest(), &site.place.env());
    assert_eq!(
        server.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        server.log()
    );
    let mut backup = site.walfs("backup");
    backup.env("PGHOST", &second).args(["--fast", "b2"]);
    let output = backup.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    server.query("INSERT INTO t VALUES (2)");
    server.archive_all();
    server.kill9();
    site
}

#[test]
fn k5_a_damaged_history_is_named_before_a_restore() {
    let world = World::new("bad-history");
    let site = two_timelines(&world);
    let none = world.path().join("pg/none");
    let data = none.display().to_string();
    let path = world.archive().join(HISTORY);
    let mut object = fs::read(&path).expect("read it");
    object[30] ^= 1;
    fs::remove_file(&path).expect("damage it");
    fs::write(&path, object).expect("damage it");
    let read = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&path, read).expect("let it be read");
    for arguments in [
        &["LATEST"][..],
        &["--target-timeline", "2", "LATEST"],
        &["--target-timeline", "current", "b2"],
        &["--immediate", "b2"],
        &["--target-timeline", "1", "b1"],
        &["--standby", "b1"],
    ] {
        let (code, message) = run(&site, "restore", &[arguments, &[&data]].concat());
        assert_eq!(code, Some(1), "{arguments:?}: {message}");
        assert!(
            message.contains(HISTORY) && message.contains("HINT: "),
            "{arguments:?}: {message}"
        );
        assert!(!none.exists(), "{arguments:?}");
    }
    let (code, message) = run(&site, "status", &[]);
    assert_eq!(code, Some(3), "{message}");
    assert!(!message.contains("recover    timeline"), "{message}");
    assert!(
        message.contains("nothing can be recovered along timeline 2 or an older one"),
        "{message}"
    );
    let (_, message) = run(&site, "wal-find", &[]);
    assert!(
        message.contains("warning: ") && message.contains(HISTORY),
        "{message}"
    );
    let (_, message) = run(&site, "verify", &[]);
    assert!(
        message.contains("but those that end on it: b2") && message.contains("no server recovers"),
        "{message}"
    );
    // Without the object a backup of the timeline needs none.
    fs::remove_file(&path).expect("lose it");
    let (code, message) = run(&site, "status", &[]);
    assert_eq!(code, Some(3), "{message}");
    assert!(
        message.contains("recover    timeline 2, from backup b2")
            && message.contains("no backup of another timeline recovers onto timeline 2"),
        "{message}"
    );
    let back = world.owned_dir("back");
    let data = back.join("data").display().to_string();
    let arguments = [
        "--no-archiving",
        "--no-sync",
        "--target-timeline",
        "current",
        "b2",
        &data,
    ];
    let (code, message) = run(&site, "restore", &arguments);
    assert_eq!(code, Some(0), "{message}");
    let mut back = Postgres::start_as_it_is(&back, newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM t"), "2");
}
