//! The main job, end to end: archive, lose the machine, recover elsewhere; then go on archiving on new timelines, and
//! recover through those.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::common::postgres::installed_versions;

/// Memory that the daemon may use (promise S3).
const MEMORY_MIB: u64 = 256;

/// R1, W1: 50 segments of 16 MiB under load into a local directory, and back to the last committed row.
#[test]
fn r1_a_lost_server_comes_back_from_a_local_directory() {
    let world = World::new("lose-dir");
    let plan = Plan {
        segment_mib: 16,
        ..Plan::default()
    };
    lose_and_recover(&world, &Place::Local, &plan, 50);
}

/// The same on a real S3 server, with more and smaller segments.
#[test]
fn r1_a_lost_server_comes_back_from_garage() {
    let world = World::new("lose-s3");
    let place = Place::garage(&world);
    lose_and_recover(&world, &place, &Plan::default(), 120);
}

/// The same with every older PostgreSQL that is installed; the newest has had its turn above.
#[test]
fn r1_every_older_postgresql_comes_back() {
    let mut older = installed_versions();
    let newest = older.pop().expect("never none");
    if older.is_empty() {
        eprintln!(
            "only PostgreSQL {} is installed: nothing more to try",
            newest.major
        );
    }
    for version in older {
        let world = World::new("lose-old");
        let plan = Plan {
            version,
            ..Plan::default()
        };
        lose_and_recover(&world, &Place::Local, &plan, 30);
    }
}

/// The same with the other codecs.
#[test]
fn r1_a_lost_server_comes_back_from_zstd_and_from_no_compression() {
    for codec in ["zstd", "none"] {
        let world = World::new("lose-codec");
        let plan = Plan {
            mount: vec!["--compression", codec],
            ..Plan::default()
        };
        lose_and_recover(&world, &Place::Local, &plan, 25);
    }
}

/// R5: "Without walfs, and without encryption, `aws s3 cp … - | lz4 -d` gives back a segment", from an S3 server.
#[test]
fn r5_stock_lz4_gives_back_what_s3_holds() {
    let world = World::new("lose-lz4");
    let server = S3Server::start();
    let place = Place::S3(server);
    let site = Site::new(&world, &place, &Plan::default());
    fill(&site.server, 10);
    site.server.archive_all();
    let Place::S3(server) = &place else { unreachable!() };
    let names = names_in(&site.kept);
    for name in &names {
        let object = server
            .object(&format!("pg/main/wal/{name}.lz4"))
            .expect("the acknowledged object is there");
        let path = world.owned_file("object", &object);
        assert_unpacked("lz4", &path, &site.kept.join(name));
    }
    assert!(names.len() > 10, "only {} files", names.len());
}

/// Archives at least so many segments under load with a file copy in between, then loses and recovers three times:
/// to the end, to a point inside a segment of the new timeline, and to the end of the timeline that began there.
#[track_caller]
fn lose_and_recover(world: &World, place: &Place, plan: &Plan, many: u64) {
    let site = Site::new(world, place, plan);
    let copy = world.path().join("copy");
    let load = load(&site.server);
    fill(&site.server, many / 2);
    site.server.copy_data_dir(&copy);
    fill(&site.server, many - many / 2);
    end_load(load);
    let first = Committed::note(&site.server, "1-before");
    site.server.archive_all();
    assert_done_is_archived(&site);
    let peak_mib = site.mount.peak_memory_mib();
    assert!(peak_mib < MEMORY_MIB, "the daemon took {peak_mib} MiB");
    let kept = site.lose();
    let archived = segments(names_in(&kept)).len() as u64;
    assert!(archived >= many, "{archived} segments");

    // Another machine: a fresh mount of the same prefix.
    let mount = place.mount_at(world, "mnt2", &plan.mount);
    assert!(assert_all_kept(&mount, &kept) as u64 >= many);
    if let Place::Local = place {
        assert_stock_tools_unpack(&world.archive(), &kept);
    }
    let (middle, second) = {
        let server = recover(world, &mount, &kept, plan, "second", &[]);
        assert_eq!(Committed::found(&server), first);
        fill(&server, 2);
        let middle = Committed::note(&server, "2-middle");
        server.query("SELECT pg_create_restore_point('middle')");
        fill(&server, 1);
        let second = Committed::note(&server, "3-after");
        server.archive_all();
        server.destroy();
        (middle, second)
    };
    assert_ne!(middle, second);

    // A target inside a segment: timeline 3 begins as a copy of the first pages of timeline 2's segment.
    let third = {
        let target = [
            ("recovery_target_name", "middle"),
            ("recovery_target_action", "promote"),
        ];
        let server = recover(world, &mount, &kept, plan, "third", &target);
        assert_eq!(Committed::found(&server), middle);
        fill(&server, 2);
        let third = Committed::note(&server, "4-third");
        server.archive_all();
        server.destroy();
        third
    };
    let last = recover(world, &mount, &kept, plan, "fourth", &[]);
    assert_eq!(Committed::found(&last), third);
    assert_eq!(last.query("SELECT timeline_id FROM pg_control_checkpoint()"), "4");
    assert_begins_with_older_pages(&mount, &kept);
    assert_all_kept(&mount, &kept);
    let peak_mib = mount.peak_memory_mib();
    assert!(peak_mib < MEMORY_MIB, "the daemon took {peak_mib} MiB");
}

/// Recovers the copy by the printed command, archiving from the promotion on.
#[track_caller]
fn recover(
    world: &World,
    mount: &Mount,
    kept: &Path,
    plan: &Plan,
    name: &str,
    target: &[(&str, &str)],
) -> Postgres {
    let dir = world.path().join(name);
    copy_again(&world.path().join("copy"), &dir);
    let restore = printed_restore_command(world, mount.path());
    let archive = keeping(mount, kept);
    let mut settings = vec![
        ("restore_command", restore.as_str()),
        ("archive_mode", "on"),
        ("archive_command", archive.as_str()),
        ("recovery_target_timeline", "latest"),
    ];
    settings.extend(target);
    let mut server = Postgres::recovering(&dir, plan.version.clone(), &settings);
    server.start_recovery();
    recovered(&mut server);
    server
}

/// W1: every segment that PostgreSQL marks as done has been kept, and is the one in pg_wal.
#[track_caller]
fn assert_done_is_archived(site: &Site) {
    let done = segments(site.server.done_segments());
    assert!(!done.is_empty());
    for name in done {
        let archived = site.mount.read(&name).expect("a segment that is done");
        let original = fs::read(site.server.data().join("pg_wal").join(&name));
        // A checkpoint may recycle it meanwhile.
        if let Ok(original) = original {
            let recycled = || !site.server.done_segments().contains(&name);
            assert!(archived == original || recycled(), "{name} differs");
        }
    }
}

/// R5: every file that was acknowledged is given back by the stock tool of its extension.
#[track_caller]
fn assert_stock_tools_unpack(archive: &Path, kept: &Path) {
    for name in names_in(kept) {
        let lz4 = archive.join(format!("wal/{name}.lz4"));
        let zst = archive.join(format!("wal/{name}.zst"));
        match lz4.exists() {
            true => assert_unpacked("lz4", &lz4, &kept.join(name)),
            false => assert_unpacked("zstd", &zst, &kept.join(name)),
        }
    }
}

#[track_caller]
fn assert_unpacked(tool: &str, object: &Path, original: &Path) {
    let output = Command::new("sh")
        .args(["-c", r#""$1" -qdc "$2" | cmp - "$3""#, "sh", tool])
        .args([object, original])
        .output()
        .expect("run sh");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{tool} -dc {}: {}",
        object.display(),
        said(&output)
    );
}

/// The first segment of timeline 3 states timeline 2 on its first page (`xlp_tli`, at byte 4).
#[track_caller]
fn assert_begins_with_older_pages(mount: &Mount, kept: &Path) {
    let names = segments(names_in(kept));
    let first = names
        .iter()
        .find(|name| name.starts_with("00000003"))
        .expect("a segment of timeline 3");
    let content = mount.read(first).expect("read the segment");
    assert_eq!(content[4..8], 2_u32.to_le_bytes(), "{first}");
    assert!(mount.list().contains(&"00000003.history".to_owned()));
}
