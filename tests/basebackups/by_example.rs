//! Copied into the mount by hand, as `walfs backup-finish --help` has it; and copies of what walfs does not know.

use std::path::Path;

use crate::common::postgres::{Options as ServerOptions, Postgres, Version, installed_versions, newest};
use crate::common::user::{User, said};
use crate::common::walfs::{BINARY, Mount, walfs};
use crate::common::world::World;

/// Last version whose functions have the old names.
const OLD_NAMES: u32 = 14;

/// What stands in the example before the call for those versions.
const FOR_OLD_NAMES: &str = "-- 13, 14: ";

/// The example is run as it is printed, with the names of the one kind of version and of the other.
#[test]
fn b3_the_example_of_backup_finish_does_with_old_and_new_names() {
    let oldest = installed_versions().remove(0);
    let old = Some(oldest).filter(|version| version.major <= OLD_NAMES);
    for version in old.into_iter().chain([newest()]) {
        finish_by_the_example(version);
    }
}

#[track_caller]
fn finish_by_the_example(version: Version) {
    let world = World::new("example");
    let mount = Mount::local(&world);
    let options = ServerOptions {
        segment_mib: 1,
        ..ServerOptions::of(version)
    };
    let mut server = Postgres::init(&world.path().join("pg"), &options);
    server.archive_with(&mount.archive_command());
    server.start();
    let script = world.owned_file("example.sql", example(&world, &server, &mount).as_bytes());
    let mut psql = server.program("psql");
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&script);
    let output = psql.output().expect("run psql");
    let message = said(&output);
    assert!(
        output.status.success() && message.contains("monday is complete"),
        "{message}\n{}",
        mount.log()
    );
}

/// The lines of the example for this version, with the places of this test.
fn example(world: &World, server: &Postgres, mount: &Mount) -> String {
    let help = walfs(world, &User::postgres())
        .args(["backup-finish", "--help"])
        .output()
        .expect("run walfs");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let (_, after) = help.split_once("user postgres:\n").expect("an example");
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    let of_this_version = |line: &str| match line.split_once(FOR_OLD_NAMES) {
        Some((new, old)) if server.version.major <= OLD_NAMES => {
            let (before, _) = new.split_once("pg_backup").expect("the new name");
            format!("{before}{old};")
        }
        Some((new, _)) => new.to_owned(),
        None => line.trim_start().to_owned(),
    };
    let text = lines.map(of_this_version).collect::<Vec<_>>().join("\n");
    let program = world.public_program(Path::new(BINARY)).display().to_string();
    text.replace(
        "/var/lib/postgresql/15/main",
        &server.data().display().to_string(),
    )
    .replace("/mnt/walfs", &mount.path().display().to_string())
    .replace("! walfs", &format!("! {program}"))
}

/// What every data directory has, with the control file of PostgreSQL 12: one reason, and a hint that leads somewhere.
#[test]
fn a_copy_of_an_older_postgresql_is_refused_as_such() {
    let world = World::new("older");
    let mount = Mount::local(&world);
    let mut control = vec![0_u8; 8192];
    control[8..12].copy_from_slice(&1201_u32.to_le_bytes());
    let control = world.owned_file("control", &control);
    let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                 CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: master\n\
                 START TIME: 2026-11-21 12:45:04 UTC\nLABEL: x\nSTART TIMELINE: 1\n";
    let label = world.owned_file("label", label.as_bytes());
    let directory = mount.path().join("basebackups/twelve");
    let line = r#"mkdir "$1" && cd "$1" && mkdir base global pg_wal pg_xact && echo 12 > PG_VERSION &&
                  echo map > global/pg_filenode.map && cp "$2" global/pg_control && cp "$3" backup_label"#;
    let copied = mount.user().shell(line, &[&directory, &control, &label]);
    assert!(copied.status.success(), "{}", said(&copied));
    let finished = walfs(&world, mount.user())
        .arg("backup-finish")
        .arg(&directory)
        .output()
        .expect("run walfs");
    let message = said(&finished);
    assert_eq!(finished.status.code(), Some(1), "{message}");
    assert!(message.contains("PostgreSQL 12 or before"), "{message}");
    assert_eq!(message.matches("HINT").count(), 1, "{message}");
    assert!(message.contains("pg_upgrade"), "{message}");
}
