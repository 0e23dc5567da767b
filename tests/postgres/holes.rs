//! R6: a hole is not the end. By real servers: recovery stops where a segment is missing, before and behind a change of
//! timelines, and goes on when it is filled.

use super::outages::Lost;
use super::proof::assert_fatal;
use super::*;
use crate::common::postgres::StopMode;

/// R6: "recovery stops restartably, and the log names the hole".
#[test]
fn r6_recovery_stops_at_a_hole_and_goes_on_when_it_is_filled() {
    let lost = Lost::from_s3("hole", 20);
    let world = World::new("hole");
    let place = Place::S3(lost.store());
    let mount = place.options(&world).mount();
    let Place::S3(store) = &place else { unreachable!() };
    let command = printed_restore_command(&world, mount.path());
    let middle = lost.segments.len() / 2;
    let key = format!("pg/main/wal/{}.lz4", lost.segments[middle]);
    let object = store.object(&key).expect("the object is there");
    store.remove(&key);
    let mut server = lost.server(&world, &command);
    server.start_recovery();
    assert_fatal(&mut server);
    mount.wait_for_log(&format!("{} is missing", lost.segments[middle]));
    mount.wait_for_log(&lost.segments[middle + 1]);

    store.put_object(&key, object);
    server.restart_recovery();
    assert_eq!(recovered(&mut server), lost.committed);
}

/// R6 with two timelines: the way over the fork is found, and a hole on either side of it stops.
#[test]
fn r6_a_hole_on_either_side_of_a_fork_stops_recovery() {
    let world = World::new("hole-fork");
    let site = Site::new(&world, &Place::Local, &Plan::default());
    let (mut old, mount) = (site.server, site.mount);
    let copy = world.path().join("copy");
    old.copy_data_dir(&copy);
    fill(&old, 6);
    old.query("SELECT pg_create_restore_point('fork')");
    let left_in = old.query("SELECT pg_walfile_name(pg_current_wal_lsn())");
    fill(&old, 3);
    old.archive_all();
    old.stop(StopMode::Fast);

    let restore = printed_restore_command(&world, mount.path());
    let archive = mount.archive_command();
    let dir = |name: &str| {
        let dir = world.path().join(name);
        copy_again(&copy, &dir);
        dir
    };
    let settings = [("restore_command", restore.as_str())];
    let mut new = Postgres::recovering(&dir("new"), old.version.clone(), &settings);
    new.configure(&[
        ("recovery_target_name", "fork"),
        ("recovery_target_action", "promote"),
        ("archive_mode", "on"),
        ("archive_command", archive.as_str()),
    ]);
    new.start_recovery();
    recovered(&mut new);
    fill(&new, 5);
    let committed = Committed::note(&new, "last");
    new.archive_all();
    new.stop(StopMode::Fast);

    let back = |name: &str| Postgres::recovering(&dir(name), old.version.clone(), &settings);
    let mut whole = back("whole");
    whole.start_recovery();
    assert_eq!(recovered(&mut whole), committed);
    whole.destroy();

    let archived = segments(mount.list());
    let on = |timeline: &str| -> Vec<String> {
        let names = archived.iter().filter(|name| name.starts_with(timeline));
        names.cloned().collect()
    };
    let (first, second) = (on("00000001"), on("00000002"));
    let before: Vec<String> = first.iter().filter(|name| **name < left_in).cloned().collect();
    let behind_the_fork = [second[second.len() / 2].clone()];
    // All of timeline 1 from there on: nothing later of it is left, but timeline 2 goes on.
    let last = before.last().expect("segments before the fork");
    let before_the_fork: Vec<String> = first.iter().filter(|name| *name >= last).cloned().collect();
    for (name, holes) in [("behind", &behind_the_fork[..]), ("before", &before_the_fork)] {
        let stored = |name: &String| world.archive().join(format!("wal/{name}.lz4"));
        let aside = |name: &String| world.path().join(name);
        for hole in holes {
            fs::rename(stored(hole), aside(hole)).expect("make a hole");
        }
        // Another one may still have in memory what it has read.
        let mount = Place::Local.mount_at(&world, &format!("mnt-{name}"), &[]);
        let restore = printed_restore_command(&world, mount.path());
        let mut server = back(name);
        server.configure(&[("restore_command", &restore)]);
        server.start_recovery();
        assert_fatal(&mut server);
        mount.wait_for_log(&format!("{} is missing", holes[0]));
        for hole in holes {
            fs::rename(aside(hole), stored(hole)).expect("fill the hole");
        }
        server.restart_recovery();
        assert_eq!(recovered(&mut server), committed);
        server.destroy();
    }
}
