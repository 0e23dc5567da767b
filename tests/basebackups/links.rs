//! What a server needs and what is not in its data directory: behind links, and settings elsewhere (promise B10).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::basebackup::Site;
use crate::common::postgres::{Postgres, StopMode};
use crate::common::recovery::Recovery;
use crate::common::user::{User, said};
use crate::common::version::newest;
use crate::common::wait;
use crate::common::world::World;

/// Moves something to the other disk, and puts a link in its place.
fn move_away(data: &Path, path: &str, disk: &Path) {
    let target = disk.join(path.replace('/', "-"));
    fs::rename(data.join(path), &target).expect("move it");
    symlink(&target, data.join(path)).expect("put a link in its place");
}

/// A server of which a database, a relation, the transactions' states and the settings are elsewhere; and with links to
/// what it does not need.
struct Scattered {
    database: String,
    relation: String,
}

impl Scattered {
    fn new(site: &mut Site<'_>, disk: &Path) -> Self {
        let world = site.world;
        let settings = world.owned_dir("etc");
        site.server.query("CREATE DATABASE moved");
        site.server
            .query("CREATE TABLE alone AS SELECT generate_series(1, 1000) AS id");
        let oid = site
            .server
            .query("SELECT oid FROM pg_database WHERE datname = 'moved'");
        let scattered = Self {
            database: format!("base/{oid}"),
            relation: site.server.query("SELECT pg_relation_filepath('alone')"),
        };
        let mut psql = site.server.program("psql");
        let made = psql.args([
            "-d",
            "moved",
            "-c",
            "CREATE TABLE there AS SELECT generate_series(1, 500) AS id",
        ]);
        assert!(made.status().expect("run psql").success());
        site.server.stop(StopMode::Fast);
        let data = site.server.data();
        for path in [
            &*scattered.database,
            &*scattered.relation,
            "pg_xact",
            "global/pg_control",
            "postgresql.conf",
        ] {
            move_away(data, path, disk);
        }
        fs::rename(data.join("pg_hba.conf"), settings.join("pg_hba.conf")).expect("move pg_hba.conf");
        world.owned_file("etc/more.conf", b"work_mem = '5MB'\n");
        let (hba, more) = (settings.join("pg_hba.conf"), settings.join("more.conf"));
        let lines = format!("hba_file = '{}'\ninclude '{}'\n", hba.display(), more.display());
        let conf = fs::read_to_string(data.join("postgresql.conf")).expect("read it") + &lines;
        fs::write(data.join("postgresql.conf"), conf).expect("write it");
        for (link, target) in [("log", "logs"), ("extra", "dumps")] {
            symlink(world.owned_dir(target), data.join(link)).expect("make a link");
        }
        symlink(disk.join("nothing"), data.join("dangling")).expect("make a link");
        let fifo = User::postgres().shell("mkfifo \"$1\"", &[&data.join("fifo")]);
        assert!(fifo.status.success(), "{}", said(&fifo));
        site.server.start();
        scattered
    }
}

/// B10: "Data behind links in the data directory, settings outside it: brought along, or the backup is not complete and
/// says which."
#[test]
fn b10_what_the_server_needs_is_in_the_backup_wherever_it_lies() {
    let world = World::new("links");
    let disk = world.owned_dir("disk");
    let mut site = Site::local(&world);
    let scattered = Scattered::new(&mut site, &disk);
    let output = site.try_backup("monday", &[]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    let taken: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let links = taken["backup"]["links"].as_array().expect("a list");
    let fate = |path: &str| {
        links
            .iter()
            .find(|link| link["path"] == path)
            .map(|link| link["followed"] == true)
    };
    for path in [
        &*scattered.database,
        &*scattered.relation,
        "pg_xact",
        "global/pg_control",
        "postgresql.conf",
    ] {
        assert_eq!(fate(path), Some(true), "{path}: {links:?}");
        assert!(!text.contains(&format!("{path} is left out")), "{text}");
    }
    assert_eq!(
        (fate("extra"), fate("dangling"), fate("log")),
        (Some(false), Some(false), None)
    );
    assert!(
        text.contains("extra is left out") && text.contains("fifo is left out"),
        "{text}"
    );
    let outside = taken["backup"]["outside"].as_array().expect("a list");
    let stored = |setting: &str| {
        outside
            .iter()
            .find(|file| file["setting"] == setting)
            .map(|file| file["stored"].clone())
    };
    let place = format!("walfs.settings{}/etc/pg_hba.conf", world.path().display());
    assert_eq!(stored("hba_file"), Some(place.clone().into()), "{outside:?}");
    assert!(
        stored("include")
            .is_some_and(|stored| stored.as_str().is_some_and(|it| it.ends_with("etc/more.conf")))
    );
    let shown = site
        .walfs("backup-show")
        .arg("monday")
        .output()
        .expect("run walfs");
    assert!(
        said(&shown).contains(&scattered.database) && said(&shown).contains(&place),
        "{}",
        said(&shown)
    );

    let dir = world.owned_dir("back");
    let restored = site
        .walfs("restore")
        .args(["--no-archiving", "monday"])
        .arg(dir.join("data"))
        .output()
        .expect("run walfs");
    assert!(restored.status.success(), "{}", said(&restored));
    for path in [
        &*scattered.database,
        &*scattered.relation,
        "pg_xact",
        "postgresql.conf",
    ] {
        assert!(
            !fs::symlink_metadata(dir.join("data").join(path))
                .expect("it is there")
                .is_symlink()
        );
    }
    let hba = fs::read(dir.join("data").join(&place)).expect("its settings");
    assert_eq!(
        hba,
        fs::read(world.path().join("etc/pg_hba.conf")).expect("the server's")
    );
    let mut back = Postgres::start_as_it_is(&dir, newest(), &site.place.env());
    assert_eq!(
        back.recovery_within(wait::LONG),
        Recovery::Promoted,
        "{}",
        back.log()
    );
    assert_eq!(back.query("SELECT count(*) FROM alone"), "1000");
    let mut psql = back.program("psql");
    let there = psql
        .args(["-XAtd", "moved", "-c", "SELECT count(*) FROM there"])
        .output();
    assert_eq!(there.expect("run psql").stdout, b"500\n");

    // What a link leads to and is not there is not left out in silence.
    let moved = disk.join(scattered.database.replace('/', "-"));
    fs::rename(&moved, disk.join("away")).expect("lose a database");
    let output = site.try_backup("without", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let text = said(&output);
    assert!(
        text.contains(&scattered.database) && text.contains("link to what cannot be read"),
        "{text}"
    );
    assert!(site.list().iter().all(|listed| listed["name"] != "without"));
    fs::rename(disk.join("away"), &moved).expect("bring it back");
}
