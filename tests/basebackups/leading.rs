//! Where recovery comes through archived WAL and where it does not (promise K6): from one timeline into the next, behind the
//! record of a switch, and up to which position.

use std::fs;

use walfs::codec::unpack_all;

use crate::common::basebackup::Site;
use crate::common::user::said;
use crate::common::wal;
use crate::common::world::World;

const PAGE: usize = 8192;

fn run(site: &Site<'_>, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = site.walfs(command).args(arguments).output().expect("run walfs");
    (output.status.code(), said(&output))
}

fn push(site: &Site<'_>, name: &str, content: &[u8]) {
    let file = site.world.owned_file(name, content);
    let (code, told) = run(site, "wal-push", &[file.to_str().expect("text")]);
    assert_eq!(code, Some(0), "{name}: {told}");
}

/// A record that begins on one timeline ends on the next: each segment by itself is right.
#[test]
fn k6_verify_looks_from_the_first_segment_of_a_timeline_back_into_its_parent() {
    for damage in [false, true] {
        let world = World::new("forked-wal");
        world.owned_dir("cache");
        let site = Site::local(&world);
        site.server.query("CREATE TABLE t (id int)");
        site.backup("monday");
        site.server
            .query("INSERT INTO t SELECT generate_series(1, 60000)");
        let fork = site.server.query("SELECT pg_current_wal_insert_lsn()");
        let last = site.server.query(&format!("SELECT pg_walfile_name('{fork}')"));
        site.server.archive_all();
        let object = |name: &str| world.archive().join(format!("wal/{name}.lz4"));
        let mut content = unpack_all(&fs::read(object(&last)).expect("a segment")).expect("WAL");
        assert_eq!(content[2] & 1, 1, "no record goes on in it");
        // The standby that is promoted has replayed all of it, and begins its own in the same segment.
        for entry in fs::read_dir(world.archive().join("wal")).expect("list").flatten() {
            if entry.file_name().to_string_lossy().as_ref() >= last.as_str() {
                fs::remove_file(entry.path()).expect("remove a segment");
            }
        }
        content[41] ^= u8::from(damage);
        let own = format!("00000002{}", &last[8..]);
        push(&site, "00000002.history", &wal::history(1, &fork));
        push(&site, &own, &content);
        let (code, told) = run(&site, "verify", &[]);
        if !damage {
            assert_eq!(code, Some(0), "{told}");
            continue;
        }
        assert_eq!(code, Some(1), "{told}");
        let named = format!("wal/{own}.lz4");
        assert!(
            told.contains(&named) && told.contains("from the timeline that its own has left"),
            "{told}"
        );
        assert!(
            told.contains("backup monday recovers no further than") && told.contains("on timeline 2"),
            "{told}"
        );
        let dir = world.owned_dir("restored").display().to_string();
        let (code, refused) = run(&site, "restore", &["--dry-run", "LATEST", &dir]);
        assert_eq!(code, Some(1), "{refused}");
    }
}

/// What lies behind the record of a switch nobody reads: no server, no restore, no verify.
#[test]
fn k6_what_lies_behind_a_switch_is_no_finding() {
    let world = World::new("behind-switch");
    world.owned_dir("cache");
    let site = Site::local(&world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1)");
    let segment = site
        .server
        .query("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    site.server.archive_all();
    let object = world.archive().join(format!("wal/{segment}.lz4"));
    let mut content = unpack_all(&fs::read(&object).expect("a segment")).expect("WAL");
    let last_page = content.len() - PAGE;
    assert_eq!(content[last_page..], [0; PAGE], "it is full");
    content[last_page + 3] ^= 1;
    fs::remove_file(object).expect("remove a segment");
    push(&site, &segment, &content);
    let (code, told) = run(&site, "verify", &[]);
    assert_eq!(code, Some(0), "{told}");
    let dir = world.owned_dir("restored").display().to_string();
    let (code, told) = run(&site, "restore", &["--dry-run", "LATEST", &dir]);
    assert_eq!(code, Some(0), "{told}");
}
