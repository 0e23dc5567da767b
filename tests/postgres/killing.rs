//! `kill -9` of walfs and of PostgreSQL while segments are being archived.

use std::thread;
use std::time::Duration;

use super::*;

/// S2: "`kill -9` of walfs at any moment [...]: after restart everything acknowledged is there".
#[test]
fn s2_walfs_is_killed_twenty_times_while_postgresql_archives() {
    let world = World::new("kill-walfs");
    let mut site = Site::new(&world, &Place::Local, &Plan::default());
    let copy = world.path().join("copy");
    site.server.copy_data_dir(&copy);
    let load = load(&site.server);
    for round in 0..20 {
        let before = names_in(&site.kept).len();
        // At a random moment of the work, which therefore must go on.
        wait::until("PostgreSQL to archive again", || {
            fill(&site.server, 1);
            (names_in(&site.kept).len() > before).then_some(())
        });
        fill(&site.server, 2);
        thread::sleep(Duration::from_millis(fastrand::u64(0..40)));
        site.mount.kill9();
        site.mount.restart();
        if round % 5 == 4 {
            assert_all_kept(&site.mount, &site.kept);
        }
    }
    end_load(load);
    let expected = Committed::note(&site.server, "killed");
    site.server.archive_all();
    let acknowledged = assert_all_kept(&site.mount, &site.kept);
    let failed = site.server.archiver_stats().failed_count;
    eprintln!("walfs killed 20 times: {acknowledged} files acknowledged, {failed} tries of cp failed");
    site.lose();
    recovers_to(&world, &copy, &expected);
}

/// S2, W4: "the same content again succeeds without an upload (PostgreSQL re-archives after a crash)".
#[test]
fn s2_postgresql_is_killed_while_it_archives() {
    let world = World::new("kill-pg");
    let mut site = Site::new(&world, &Place::Local, &Plan::default());
    let copy = world.path().join("copy");
    site.server.copy_data_dir(&copy);
    for round in 0..6 {
        let load = load(&site.server);
        fill(&site.server, 3);
        thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
        // With the archiver's cp, or leaving it to finish beside the next one.
        if round % 2 == 0 {
            site.server.kill9();
        } else {
            site.server.kill9_postmaster();
            wait::until("the backends to notice", || {
                (backends(site.server.data()) == 0).then_some(())
            });
        }
        end_load(load);
        site.server.start();
    }
    let expected = Committed::note(&site.server, "killed");
    site.server.archive_all();
    assert_all_kept(&site.mount, &site.kept);
    site.lose();
    recovers_to(&world, &copy, &expected);
}

/// W4: archived, and forgotten by PostgreSQL, as a crash between the two does.
#[test]
fn w4_a_segment_that_is_marked_ready_again_is_archived_again() {
    let world = World::new("again");
    let server = S3Server::start();
    let place = Place::S3(server);
    let site = Site::new(&world, &place, &Plan::default());
    let name = site.server.archive_all();
    let Place::S3(server) = &place else { unreachable!() };
    server.clear_requests();
    let marks = site.server.data().join("pg_wal/archive_status");
    fs::rename(
        marks.join(format!("{name}.done")),
        marks.join(format!("{name}.ready")),
    )
    .expect("mark it ready");
    site.server.switch_wal();
    site.server.wait_archived(&name);
    let key = format!("wal/{name}.lz4");
    let uploads = server.count(|request| request.method == "PUT" && request.key.ends_with(&key));
    assert_eq!(uploads, 0, "the same content was uploaded again");
    assert_eq!(site.server.archiver_stats().failed_count, 0);
}

#[track_caller]
fn recovers_to(world: &World, copy: &Path, expected: &Committed) {
    let mount = Place::Local.mount_at(world, "mnt2", &[]);
    let restore = printed_restore_command(world, mount.path());
    let server = Postgres::recover(copy, newest(), &restore);
    assert_eq!(&Committed::found(&server), expected);
}

/// Server processes that still work in a data directory. A `cp` that they started is none.
fn backends(data: &Path) -> usize {
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let is_backend = |process: &fs::DirEntry| {
        let place = process.path();
        fs::read_link(place.join("cwd")).is_ok_and(|cwd| cwd == data)
            && fs::read_to_string(place.join("comm")).is_ok_and(|name| name.trim() == "postgres")
    };
    processes.filter(is_backend).count()
}
