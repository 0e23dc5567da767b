//! PostgreSQL's own archive module, `basic_archive`, instead of a command (PostgreSQL 15 and later).

use std::fs;

use crate::common::postgres::{Options as ServerOptions, Postgres, StopMode, Version, installed_versions};
use crate::common::wait;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// Servers that have the module.
fn versions() -> Vec<Version> {
    let has_it = |version: &Version| {
        // Debian's layout, and that of a server alone.
        ["../lib/basic_archive.so", "../lib/postgresql/basic_archive.so"]
            .iter()
            .any(|module| version.bin.join(module).exists())
    };
    let all = installed_versions().into_iter();
    all.filter(|version| version.major >= 15 && has_it(version))
        .collect()
}

/// A server that archives by the module into a mount that works ahead of it.
fn server(world: &World, version: Version) -> (Postgres, Mount) {
    let data = world.path().join("pg/data/pg_wal").display().to_string();
    let mount = Options::local(world).args(&["--pg-wal", &data]).mount();
    let options = ServerOptions {
        segment_mib: 1,
        ..ServerOptions::of(version)
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.configure(&[
        ("archive_mode", "on"),
        ("archive_library", "basic_archive"),
        (
            "basic_archive.archive_directory",
            &mount.wal().display().to_string(),
        ),
        ("wal_keep_size", "64MB"),
    ]);
    server.start();
    (server, mount)
}

/// What is in `pg_wal` and marked as archived is in the archive, the same.
#[track_caller]
fn assert_same(server: &Postgres, mount: &Mount) -> Vec<String> {
    let names = server.done_segments();
    for name in &names {
        let own = fs::read(server.data().join("pg_wal").join(name)).expect("read a segment");
        assert!(mount.read(name).as_ref() == Ok(&own), "{name} is another one");
    }
    names
}

/// W6: "through a temporary name and a rename as well". W4: "The same content again succeeds without an upload
/// (PostgreSQL re-archives after a crash)"; the module compares by itself what it finds, and gives up if it differs.
#[test]
fn w6_basic_archive_archives() {
    let versions = versions();
    assert!(
        !versions.is_empty(),
        "no server has basic_archive\nHINT: it is in contrib/"
    );
    for version in versions {
        let (world, major) = (World::new("library"), version.major);
        let (mut server, mount) = server(&world, version);
        // A backlog, which walfs sends ahead: the module must not meet it.
        for _ in 0..6 {
            server.switch_wal();
        }
        server.archive_all();
        let names = assert_same(&server, &mount);
        assert!(names.len() >= 7, "{major}: {names:?}");
        assert_eq!(server.archiver_stats().failed_count, 0, "{major}");
        // Killed before it could note that they are archived.
        server.kill9();
        for name in &names {
            let mark = server.data().join(format!("pg_wal/archive_status/{name}.done"));
            fs::rename(&mark, mark.with_extension("ready")).expect("mark it again");
        }
        server.start();
        wait::until("everything to be archived again", || {
            let ready = server.ready_segments();
            names.iter().all(|name| !ready.contains(name)).then_some(())
        });
        assert_eq!(
            server.archiver_stats().failed_count,
            0,
            "{major}: {}",
            server.log()
        );
        assert_same(&server, &mount);
        assert_eq!(left_behind(&mount), "", "{major}: temporary files are left");
        server.stop(StopMode::Fast);
    }
}

fn left_behind(mount: &Mount) -> String {
    let listed = mount
        .user()
        .shell(r#"ls -A "$1" | grep -v '^[0-9A-F]*$' || true"#, &[&mount.wal()]);
    String::from_utf8_lossy(&listed.stdout).into_owned()
}
