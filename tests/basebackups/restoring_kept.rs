//! `walfs restore --delta` over WAL that only the old directory has, of which something is missing, behind a link, or under
//! another name (promise S7): a server replays no more than what follows without a gap, and removes the rest.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::incremental::PAGE;
use crate::common::basebackup::Site;
use crate::common::postgres::Postgres;
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::version::newest;
use crate::common::wait;
use crate::common::world::World;

/// A server that was killed with four segments that no archive has: each has a row of its own, from 2 on.
struct Killed<'a> {
    site: Site<'a>,
    segments: Vec<String>,
}

/// A server with a backup, whose archiver fails since then.
fn unarchived(world: &World) -> Site<'_> {
    let site = Site::local(world);
    site.server.query("CREATE TABLE t (id int)");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (1)");
    site.server.archive_all();
    site.server.archive_with("/bin/false");
    site.server.reload();
    site
}

fn current(server: &Postgres) -> String {
    server.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
}

impl Killed<'_> {
    fn new(world: &World) -> Killed<'_> {
        let mut site = unarchived(world);
        site.server.query("CREATE TABLE filler (id int)");
        let mut segments = Vec::new();
        for id in 2..=5 {
            // Of many pages.
            site.server
                .query("INSERT INTO filler SELECT generate_series(1, 2000)");
            site.server.query(&format!("INSERT INTO t VALUES ({id})"));
            segments.push(current(&site.server));
            if id < 5 {
                site.server.query("SELECT pg_switch_wal()");
            }
        }
        site.server.kill9();
        Killed { site, segments }
    }

    /// With segments that are full, the last two but for that.
    fn full(world: &World) -> Killed<'_> {
        let mut site = unarchived(world);
        site.server.query("INSERT INTO t VALUES (2)");
        let first = current(&site.server);
        site.server
            .query("INSERT INTO t SELECT generate_series(3, 60000)");
        site.server.query("SELECT pg_switch_wal()");
        site.server.query("INSERT INTO t VALUES (60001)");
        let last = current(&site.server);
        site.server.kill9();
        let number = |name: &str| u64::from_str_radix(&name[8..], 16).expect("hexadecimal");
        let segments = (number(&first)..=number(&last)).map(|number| format!("{}{number:016X}", &first[..8]));
        let segments: Vec<String> = segments.collect();
        assert!(segments.len() >= 5, "{segments:?}");
        Killed { site, segments }
    }

    /// A copy in which a page of a segment is empty.
    fn holed(&self, name: &str, number: usize, page: usize) -> PathBuf {
        self.without(name, number, page * PAGE..(page + 1) * PAGE)
    }

    /// A copy in which some bytes of a segment are empty.
    fn without(&self, name: &str, number: usize, lost: Range<usize>) -> PathBuf {
        self.changed(name, |data| {
            let path = self.wal(data, number);
            let mut bytes = fs::read(&path).expect("read a segment");
            assert_ne!(bytes[lost.start..][..8], [0; 8], "it is not that full");
            bytes[lost].fill(0);
            fs::write(path, bytes).expect("write a segment");
        })
    }

    /// A copy of its directory, changed.
    fn changed(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let dir = self.site.world.owned_dir(name);
        let data = dir.join("data");
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[self.site.server.data(), &data]);
        assert!(copied.status.success(), "{}", said(&copied));
        change(&data);
        let owned = User::caller().shell(
            "chown -Rh --reference=\"$1\" \"$2\"",
            &[self.site.server.data(), &dir],
        );
        assert!(owned.status.success(), "{}", said(&owned));
        data
    }

    fn delta(&self, data: &Path, arguments: &[&str]) -> Output {
        let mut restore = self.site.walfs("restore");
        restore
            .args(["--no-archiving", "--no-sync", "--delta"])
            .args(arguments);
        restore.arg("monday").arg(data).output().expect("run walfs")
    }

    /// Nothing is touched, and the error has these words.
    #[track_caller]
    fn is_refused(&self, data: &Path, arguments: &[&str], words: &[&str]) {
        let names = |data: &Path| {
            let listed = User::caller().shell("find \"$1\" | sort", &[data]);
            String::from_utf8_lossy(&listed.stdout).into_owned()
        };
        let before = names(data);
        let output = self.delta(data, arguments);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains("HINT: "), "{message}");
        for word in words {
            assert!(message.contains(word), "{arguments:?}: {word}: {message}");
        }
        assert_eq!(names(data), before, "{arguments:?}");
    }

    fn wal(&self, data: &Path, number: usize) -> PathBuf {
        data.join("pg_wal").join(&self.segments[number])
    }

    fn mark(&self, data: &Path, number: usize) -> PathBuf {
        data.join(format!("pg_wal/archive_status/{}.ready", self.segments[number]))
    }
}

/// Kept WAL that recovery does not come to is not kept: the segment before it is nowhere, or where no server looks.
#[test]
fn s7_wal_is_kept_only_if_recovery_comes_there() {
    let world = World::new("kept-hole");
    let killed = Killed::new(&world);
    let missing = &killed.segments[1];
    let gone = killed.changed("gone", |data| {
        fs::remove_file(killed.wal(data, 1)).expect("lose a segment");
        fs::remove_file(killed.mark(data, 1)).expect("lose its mark");
    });
    killed.is_refused(
        &gone,
        &["--keep-wal"],
        &[missing, &killed.segments[2], "--set-aside-wal"],
    );
    killed.is_refused(&gone, &["--keep-wal", "--dry-run"], &[missing]);
    killed.is_refused(&gone, &["--keep-wal", "--up-to-gap"], &[missing]);
    for place in ["saved", "pg_wal/saved"] {
        let put = killed.changed(&place.replace('/', "-"), |data| {
            fs::create_dir(data.join(place)).expect("make a directory");
            fs::rename(killed.wal(data, 1), data.join(place).join(missing)).expect("move a segment");
        });
        killed.is_refused(&put, &["--keep-wal"], &[&format!("{place}/{missing}")]);
    }
    let packed = killed.changed("packed", |data| {
        let packed = User::caller().shell("gzip \"$1\"", &[&killed.wal(data, 1)]);
        assert!(packed.status.success(), "{}", said(&packed));
    });
    killed.is_refused(&packed, &["--keep-wal"], &[&format!("{missing}.gz")]);
    // Half of it, as a full disk leaves it.
    let short = killed.changed("short", |data| {
        let whole = fs::read(killed.wal(data, 1)).expect("read a segment");
        fs::write(killed.wal(data, 1), &whole[..whole.len() / 2]).expect("cut it");
    });
    killed.is_refused(&short, &["--keep-wal"], &[missing]);
    let whole = killed.changed("whole", |_| {});
    let output = killed.delta(&whole, &["--keep-wal"]);
    assert!(output.status.success(), "{}", said(&output));
    let back = whole.parent().expect("a directory");
    let mut back = Postgres::start_as_it_is(back, newest(), &killed.site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM t"), "5");
}

/// A segment that was moved to another disk, with a link in its place, which the server would have read.
#[test]
fn s7_a_link_in_a_segments_place_is_named() {
    let world = World::new("kept-link");
    let killed = Killed::new(&world);
    let disk = world.owned_dir("disk");
    let linked = killed.changed("linked", |data| {
        let to = disk.join(&killed.segments[1]);
        fs::rename(killed.wal(data, 1), &to).expect("move a segment");
        symlink(&to, killed.wal(data, 1)).expect("link it");
    });
    for arguments in [&[][..], &["--keep-wal"], &["--set-aside-wal"]] {
        killed.is_refused(&linked, arguments, &[&killed.segments[1], "link", "mv -T"]);
    }
    assert!(killed.mark(&linked, 1).exists());
}

/// The only copy of a segment under another name, by its content or by its name; what the archive has goes under any.
#[test]
fn s7_wal_under_another_name_stays() {
    let world = World::new("kept-names");
    let killed = Killed::new(&world);
    let segment = &killed.segments[1];
    let archived = killed.site.place.keys("wal").into_iter().find_map(|key| {
        let name = key.strip_prefix("wal/")?.strip_suffix(".lz4")?.to_owned();
        let there = killed.site.server.data().join("pg_wal").join(&name);
        (name.len() == 24 && there.exists()).then_some(name)
    });
    let archived = archived.expect("the server still has a segment that is archived");
    let stays = [
        format!("pg_wal/{segment}.bak"),
        format!("pg_wal/save_{segment}"),
        format!("pg_wal/{segment}.gz"),
        format!("{segment}.old"),
        "last-wal".to_owned(),
        "saved".to_owned(),
    ];
    let goes = [format!("pg_wal/{archived}.bak"), "some-wal".to_owned()];
    let data = killed.changed("old", |data| {
        let (own, other) = (killed.wal(data, 1), data.join("pg_wal").join(&archived));
        for place in &stays[..5] {
            fs::copy(&own, data.join(place)).expect("copy a segment");
        }
        fs::remove_file(data.join(&stays[2])).expect("pack it");
        let packed = User::caller().shell("gzip -k \"$1\"", &[&own]);
        assert!(packed.status.success(), "{}", said(&packed));
        fs::create_dir(data.join("saved")).expect("make a directory");
        fs::copy(
            &own,
            data.join("saved").join(format!("{}.1", segment.to_lowercase())),
        )
        .expect("copy it");
        for place in &goes {
            fs::copy(&other, data.join(place)).expect("copy a segment");
        }
        fs::remove_file(own).expect("lose it");
        fs::remove_file(killed.mark(data, 1)).expect("lose its mark");
    });
    for arguments in [&["--set-aside-wal", "--dry-run"][..], &["--set-aside-wal"]] {
        let output = killed.delta(&data, arguments);
        let message = said(&output);
        assert!(output.status.success(), "{message}");
        for place in &stays {
            assert!(message.contains(&format!("{place} stays")), "{place}: {message}");
            assert!(data.join(place).exists(), "{place}");
        }
        for place in &goes {
            assert_eq!(
                data.join(place).exists(),
                arguments.len() > 1,
                "{place}: {message}"
            );
        }
    }
}

/// PostgreSQL takes kept WAL for archived once it is replayed, and removes it with its marks: who takes over has archived
/// it before.
#[test]
fn s7_kept_wal_is_archived_by_who_takes_over() {
    let world = World::new("kept-over");
    let killed = Killed::new(&world);
    let archived = || killed.site.place.keys("wal");
    let (before, whole) = (archived(), &killed.segments[..3]);
    let restore = |arguments: &[&str], data: &Path| {
        let mut restore = killed.site.walfs("restore");
        restore.args(["--take-over", "--no-sync", "--delta", "--keep-wal"]);
        restore.args(arguments).arg("monday").arg(data);
        restore.output().expect("run walfs")
    };
    let data = killed.changed("over", |_| {});
    let output = restore(&["--dry-run"], &data);
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("3 of them are whole segments and would be archived"),
        "{message}"
    );
    assert_eq!(archived(), before);
    // That the archive has the next one makes no whole segment of one that is only begun here.
    let behind = &before.iter().rfind(|key| key.len() == "wal/".len() + 24 + 4);
    let begun = u64::from_str_radix(&killed.segments[3][8..], 16).expect("hexadecimal");
    let next = format!("wal/{}{:016X}.lz4", &killed.segments[3][..8], begun + 1);
    let next = world.archive().join(next);
    fs::copy(world.archive().join(behind.expect("a segment")), &next).expect("copy a segment");
    let message = said(&restore(&["--dry-run", "--up-to-gap"], &data));
    assert!(
        message.contains("3 of them are whole segments and would be archived"),
        "{message}"
    );
    fs::remove_file(&next).expect("remove it");
    // Who does not take over hears it.
    let copy = killed.changed("copy", |_| {});
    let message = said(&killed.delta(&copy, &["--keep-wal"]));
    assert!(
        message.contains("does not archive") && message.contains("HINT: "),
        "{message}"
    );
    assert_eq!(archived(), before);
    let output = restore(&[], &data);
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("3 of them are whole segments and were archived"),
        "{message}"
    );
    for segment in whole {
        assert!(
            archived().contains(&format!("wal/{segment}.lz4")),
            "{segment}: {message}"
        );
    }
    let back = data.parent().expect("a directory");
    let mut back = Postgres::start_as_it_is(back, newest(), &killed.site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    back.query("INSERT INTO t VALUES (6)");
    back.archive_all();
    // The machine is lost, too.
    back.kill9();
    let verify = killed.site.walfs("wal-verify").output().expect("run walfs");
    assert!(verify.status.success(), "{}", said(&verify));
    let again = world.owned_dir("again");
    let mut restore = killed.site.walfs("restore");
    restore
        .args(["--take-over", "--no-sync", "LATEST"])
        .arg(again.join("data"));
    let output = restore.output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    let mut again = Postgres::start_as_it_is(&again, newest(), &killed.site.place.env());
    assert_eq!(
        again.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        again.log()
    );
    assert_eq!(again.query("SELECT count(*) FROM t"), "6");
}

/// The archive does not take it: nothing is touched, and the file is named.
#[test]
fn s7_kept_wal_that_cannot_be_archived_refuses_the_restore() {
    let world = World::new("kept-refused");
    let killed = Killed::new(&world);
    let short = killed.changed("short", |data| {
        // Of another cluster.
        let mut whole = fs::read(killed.wal(data, 1)).expect("read a segment");
        whole[24] ^= 1;
        fs::write(killed.wal(data, 1), whole).expect("change it");
    });
    let mut restore = killed.site.walfs("restore");
    restore.args(["--take-over", "--no-sync", "--delta", "--keep-wal", "monday"]);
    let output = restore.arg(&short).output().expect("run walfs");
    let message = said(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in [&killed.segments[1], "HINT: ", "wal-push"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(short.join("global/pg_control").exists() && killed.mark(&short, 1).exists());
}

/// A page in the midst of a segment is empty: what the server replays ends there. It is neither taken for whole nor archived,
/// with a mark or without one, whether the segment is full or was switched.
#[test]
fn s7_kept_wal_with_an_empty_page_is_not_passed_on() {
    let world = World::new("kept-page");
    is_not_passed_on(&Killed::new(&world));
    let world = World::new("kept-full-page");
    is_not_passed_on(&Killed::full(&world));
}

#[track_caller]
fn is_not_passed_on(killed: &Killed<'_>) {
    let before = killed.site.place.keys("wal");
    let empty = |data: &Path| {
        let path = killed.wal(data, 1);
        let mut segment = fs::read(&path).expect("read a segment");
        assert!(segment[5 * PAGE..6 * PAGE].iter().any(|byte| *byte != 0));
        segment[4 * PAGE..5 * PAGE].fill(0);
        fs::write(&path, segment).expect("empty a page");
    };
    let take_over = |data: &Path| {
        let mut restore = killed.site.walfs("restore");
        restore.args(["--take-over", "--no-sync", "--delta", "--keep-wal", "monday"]);
        restore.arg(data).output().expect("run walfs")
    };
    // Later WAL behind it: recovery does not come there.
    let midst = killed.changed("midst", empty);
    killed.is_refused(
        &midst,
        &["--keep-wal"],
        &[&killed.segments[1], &killed.segments[2]],
    );
    assert_eq!(take_over(&midst).status.code(), Some(1));
    assert_eq!(killed.site.place.keys("wal"), before);
    for (name, has_mark) in [("marked", true), ("unmarked", false)] {
        let last = killed.changed(name, |data| {
            empty(data);
            for number in 2..killed.segments.len() {
                fs::remove_file(killed.wal(data, number)).expect("lose a segment");
                let _ = fs::remove_file(killed.mark(data, number));
            }
            if !has_mark {
                fs::remove_file(killed.mark(data, 1)).expect("lose its mark");
            }
        });
        let output = take_over(&last);
        let key = |number: usize| format!("wal/{}.lz4", killed.segments[number]);
        let archived = killed.site.place.keys("wal");
        assert!(output.status.success(), "{name}: {}", said(&output));
        assert!(archived.contains(&key(0)), "{name}: {}", said(&output));
        assert!(!archived.contains(&key(1)), "{name}: {}", said(&output));
        assert!(killed.wal(&last, 1).exists(), "{name}");
    }
}

/// A full segment with an empty page inside is not whole, whatever lies on its last page: recovery ends there.
#[test]
fn s7_kept_wal_with_an_empty_page_is_not_whole() {
    let world = World::new("kept-empty");
    let killed = Killed::full(&world);
    let archived = killed.site.place.keys("wal");
    // A page; the first one; half a page, whose header is right.
    for lost in [20 * PAGE..21 * PAGE, 0..PAGE, 20 * PAGE + 4096..21 * PAGE] {
        let data = killed.without(&format!("holed-{}", lost.start), 1, lost);
        let words: [&str; 3] = [&killed.segments[1], &killed.segments[2], "--set-aside-wal"];
        killed.is_refused(&data, &["--keep-wal"], &words);
        // Nobody is told to archive it.
        let message = said(&killed.delta(&data, &[]));
        let push = |number: usize| message.contains(&format!("/{}'\n", killed.segments[number]));
        assert!(push(0) && !push(1) && push(2), "{message}");
        let mut restore = killed.site.walfs("restore");
        restore.args(["--take-over", "--no-sync", "--delta", "--keep-wal", "monday"]);
        let output = restore.arg(&data).output().expect("run walfs");
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("cannot stay"), "{message}");
    }
    assert_eq!(killed.site.place.keys("wal"), archived);
    let whole = killed.changed("whole", |_| {});
    let output = killed.delta(&whole, &["--keep-wal"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!said(&output).contains("recovery ends in"), "{}", said(&output));
    let back = whole.parent().expect("a directory");
    let mut back = Postgres::start_as_it_is(back, newest(), &killed.site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM t"), "60001");
}

/// With nothing behind it such a segment stays, as after a power loss, and is told of; it is not archived as if it were whole,
/// nor is one that is only begun, whatever mark it has.
#[test]
fn s7_the_last_kept_segment_is_archived_only_if_it_is_whole() {
    let world = World::new("kept-last");
    let killed = Killed::full(&world);
    let archived = killed.site.place.keys("wal");
    let take_over = |data: &Path| {
        let mut restore = killed.site.walfs("restore");
        restore.args([
            "--take-over",
            "--no-sync",
            "--delta",
            "--keep-wal",
            "--dry-run",
            "monday",
        ]);
        let output = restore.arg(data).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let last = killed.segments.len() - 1;
    let holed = killed.holed("holed", 1, 20);
    for number in 2..=last {
        fs::remove_file(killed.wal(&holed, number)).expect("remove a segment");
        let _ = fs::remove_file(killed.mark(&holed, number));
    }
    let message = take_over(&holed);
    assert!(
        message.contains("1 of them are whole segments") && message.contains("recovery ends in"),
        "{message}"
    );
    let marked = killed.changed("marked", |data| {
        fs::write(killed.mark(data, last), "").expect("leave a mark");
    });
    let message = take_over(&marked);
    assert!(
        message.contains(&format!("{last} of them are whole segments")),
        "{message}"
    );
    assert_eq!(killed.site.place.keys("wal"), archived);
    // Nor by the server: the mark goes, and what it marks stays.
    let mut restore = killed.site.walfs("restore");
    restore.args(["--take-over", "--no-sync", "--delta", "--keep-wal", "monday"]);
    let output = restore.arg(&marked).output().expect("run walfs");
    assert!(output.status.success(), "{}", said(&output));
    assert!(killed.wal(&marked, last).exists() && !killed.mark(&marked, last).exists());
    let back = marked.parent().expect("a directory");
    let mut back = Postgres::start_as_it_is(back, newest(), &killed.site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    back.archive_all();
    let begun = format!("wal/{}", killed.segments[last]);
    let keys = killed.site.place.keys("wal");
    assert!(!keys.contains(&format!("{begun}.lz4")), "{keys:?}");
    assert!(keys.contains(&format!("{begun}.partial.lz4")), "{keys:?}");
}
