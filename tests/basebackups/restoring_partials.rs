//! `walfs restore --delta` over a `.partial`, which PostgreSQL leaves behind when a timeline ends (promise S7): it goes if the
//! archive has its WAL, and only then.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::common::basebackup::Site;
use crate::common::user::{User, said};
use crate::common::world::World;

const PAGE_BYTES: usize = 8192;

/// Half of a segment is WAL; behind that lies what an older one has left.
const WAL_BYTES: usize = 64 * PAGE_BYTES;

/// A data directory with nothing in its `pg_wal` but one file that waits for the archiver.
struct Left<'a> {
    site: &'a Site<'a>,
    name: String,
}

impl Left<'_> {
    #[track_caller]
    fn delta(&self, name: &str, content: &[u8], arguments: &[&str]) -> (PathBuf, Output) {
        let dir = self.site.world.owned_dir(name);
        let data = dir.join("data");
        let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[self.site.server.data(), &data]);
        assert!(copied.status.success(), "{}", said(&copied));
        let wal = data.join("pg_wal");
        for file in fs::read_dir(&wal).expect("list pg_wal") {
            let path = file.expect("a file").path();
            if path.is_file() {
                fs::remove_file(path).expect("remove a file");
            }
        }
        fs::write(wal.join(&self.name), content).expect("write it");
        let mark = format!("archive_status/{}.ready", self.name);
        fs::write(wal.join(mark), "").expect("mark it");
        let owned = User::caller().shell("chown -R --reference=\"$1\" \"$1\"", &[&data]);
        assert!(owned.status.success(), "{}", said(&owned));
        let mut restore = self.site.walfs("restore");
        restore
            .args(["--no-archiving", "--no-sync", "--json", "--delta"])
            .args(arguments);
        let output = restore.arg("LATEST").arg(&data).output().expect("run walfs");
        (wal.join(&self.name), output)
    }

    #[track_caller]
    fn goes(&self, name: &str, content: &[u8]) {
        let (path, output) = self.delta(name, content, &[]);
        assert!(output.status.success(), "{}", said(&output));
        assert!(!path.exists(), "{}", said(&output));
    }

    #[track_caller]
    fn is_refused(&self, name: &str, content: &[u8]) {
        let (path, output) = self.delta(name, content, &[]);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(&self.name) && message.contains("--set-aside-wal"),
            "{message}"
        );
        assert!(fs::read(path).expect("it stays") == content);
    }
}

#[test]
fn s7_a_partial_goes_only_if_the_archive_has_its_wal() {
    let world = World::new("partials");
    let mut site = Site::local(&world);
    site.backup("monday");
    let segment = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 50000) AS id");
    site.server.archive_all();
    let whole = fs::read(site.server.data().join("pg_wal").join(&segment)).expect("read a segment");
    site.server.kill9();
    let left = Left {
        site: &site,
        name: format!("{segment}.partial"),
    };
    // Recycled: pages of an earlier place, which no record leads into.
    let mut beginning = whole.clone();
    for page in beginning[WAL_BYTES..].chunks_mut(PAGE_BYTES) {
        page[8..16].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        page[100..].fill(0x5A);
    }
    // Another server's, and what no longer tells where its WAL ends.
    let mut other = beginning.clone();
    other[20_000] ^= 1;
    let mut longer = whole.clone();
    longer[WAL_BYTES + 20_000] ^= 1;

    left.goes("same", &beginning);
    left.is_refused("other", &other);
    left.is_refused("longer", &longer);
    let (path, output) = left.delta("aside", &other, &["--set-aside-wal"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let aside = report["wal_set_aside"]["directory"].as_str().expect("a path");
    assert!(!path.exists());
    assert!(fs::read(Path::new(aside).join(&left.name)).expect("it is there") == other);

    // Another restore has taken the name for it, in whichever second this one comes.
    let now = jiff::Timestamp::now();
    for second in 0..60 {
        let second = now + jiff::SignedDuration::from_secs(second);
        let taken = second.strftime("again/data.walfs-kept-wal-%Y%m%dT%H%M%SZ");
        world.owned_dir("again");
        world.owned_dir(&taken.to_string());
    }
    let (path, output) = left.delta("again", &other, &["--set-aside-wal"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let aside = report["wal_set_aside"]["directory"].as_str().expect("a path");
    assert!(!path.exists() && aside.ends_with("Z-2"), "{aside}");
    assert!(fs::read(Path::new(aside).join(&left.name)).expect("it is there") == other);

    // Archived as what it is, next to the other server's segment.
    let file = world.owned_file(&left.name, &other);
    let pushed = site.walfs("wal-push").arg(&file).output().expect("run walfs");
    assert!(pushed.status.success(), "{}", said(&pushed));
    left.goes("archived", &other);
    left.goes("whole-is-there", &beginning);
    left.is_refused("neither", &longer);

    // A copy of a stopped server has only begun its last segment, which the server has filled later.
    let begun = Left {
        site: &site,
        name: segment,
    };
    let mut zeros = beginning.clone();
    zeros[WAL_BYTES..].fill(0);
    begun.goes("begun", &zeros);
    begun.goes("begun-recycled", &beginning);
    begun.is_refused("begun-other", &other);
    begun.is_refused("begun-longer", &longer);
    // Its first page is lost, and not what follows.
    for (name, damage) in [("no-first-page", 0), ("another-address", 1)] {
        let mut damaged = longer.clone();
        match damage {
            0 => damaged[..PAGE_BYTES].fill(0),
            _ => damaged[8] ^= 0x40,
        }
        begun.is_refused(name, &damaged);
    }
}

/// WAL that an operator has moved out of the server's way: what the archive does not have stays, wherever below the data
/// directory that is, and is named; a copy of what it has goes.
#[test]
fn s7_wal_that_was_put_elsewhere_goes_only_if_the_archive_has_it() {
    let world = World::new("put-elsewhere");
    let site = Site::local(&world);
    site.backup("monday");
    let data = world.owned_dir("old").join("data");
    let copied = User::caller().shell("cp -a \"$1\" \"$2\"", &[site.server.data(), &data]);
    assert!(copied.status.success(), "{}", said(&copied));
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    let current = site.server.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    let archived = site.place.keys("wal").into_iter().find_map(|key| {
        let name = key.strip_prefix("wal/")?.strip_suffix(".lz4")?.to_owned();
        (name.len() == 24 && site.server.data().join("pg_wal").join(&name).exists()).then_some(name)
    });
    let archived = archived.expect("the server still has a segment that is archived");
    let put = |place: &str, name: &str| {
        let place = data.join(place);
        fs::create_dir_all(&place).expect("make a directory");
        fs::copy(site.server.data().join("pg_wal").join(name), place.join(name)).expect("copy WAL");
        place.join(name)
    };
    let kept = [
        put("pg_wal.old", &current),
        put("pg_wal/old/deeper", &current),
        put("base", &current),
    ];
    let gone = [put("pg_wal.copies", &archived), put("pg_wal/copies", &archived)];
    fs::remove_file(data.join("postmaster.pid")).expect("it is no server's");
    let owned = User::caller().shell("chown -R --reference=\"$1\" \"$1\"", &[&data]);
    assert!(owned.status.success(), "{}", said(&owned));
    let delta = |more: &[&str]| {
        let mut restore = site.walfs("restore");
        restore
            .args(["--no-archiving", "--no-sync", "--delta", "--set-aside-wal"])
            .args(more);
        let output = restore.arg("monday").arg(&data).output().expect("run walfs");
        assert!(output.status.success(), "{}", said(&output));
        for place in [
            "pg_wal.old stays",
            "pg_wal/old stays",
            &format!("base/{current} stays"),
        ] {
            assert!(said(&output).contains(place), "{place}: {}", said(&output));
        }
    };
    delta(&["--dry-run"]);
    assert!(gone.iter().chain(&kept).all(|path| path.exists()));
    delta(&[]);
    assert!(kept.iter().all(|path| path.exists()) && gone.iter().all(|path| !path.exists()));
}
