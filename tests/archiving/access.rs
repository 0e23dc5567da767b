//! Who gets in, and what nobody gets to see.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::rig::{Rig, s3_options};
use crate::common::s3::{Action, Operation, Rule, S3Server};
use crate::common::user::{User, said};
use crate::common::walfs::Options;
use crate::common::world::World;

/// S5: "Only the mounting user gets in unless told otherwise"; not even root.
#[test]
fn s5_nobody_else_gets_in() {
    let rig = Rig::local();
    let source = rig.segment(1, 1);
    rig.archive(&source);
    let denied = fs::read_dir(rig.mount.path()).expect_err("root got in");
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    let nobody = User::named("nobody");
    for line in [
        r#"ls "$1""#,
        r#"cat "$1/wal/000000010000000000000001""#,
        r#"echo x > "$1/wal/x""#,
    ] {
        let output = nobody.shell(line, &[rig.mount.path()]);
        assert!(
            said(&output).contains("Permission denied"),
            "{line}: {}",
            said(&output)
        );
    }
}

/// S5: "modes are 0700/0600" or stricter, also when others are let in.
#[test]
fn s5_modes_are_the_users_own() {
    let world = World::new("modes");
    let mount = Options::local(&world).args(&["--allow-other"]).mount();
    let rig = Rig {
        mount,
        place: super::rig::Place::Local,
        world,
    };
    rig.archive(&rig.segment(1, 1));
    let script = r#"find "$1" -perm /077 -o ! -user "$2""#;
    for tree in [rig.mount.path(), &rig.world.archive()] {
        let output = rig.user().shell(script, &[tree, Path::new(&rig.user().name)]);
        assert_eq!(output.stdout, b"", "{}: {}", tree.display(), said(&output));
        assert!(output.status.success(), "{}", said(&output));
    }
    let object = rig.world.archive().join("wal/000000010000000000000001.lz4");
    let mode = fs::metadata(&object)
        .expect("look at the object")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // As far as modes allow: somebody else may look at the mount point now, and at nothing inside.
    let output = User::named("nobody").shell(r#"ls "$1/wal""#, &[rig.mount.path()]);
    assert!(said(&output).contains("Permission denied"), "{}", said(&output));
}

/// S5: what is archived is no less a secret than the keys: at the most talkative level it reaches no log, neither on its
/// way in nor on its way out.
#[test]
fn s5_content_reaches_no_log() {
    let world = World::new("content");
    let (mount, server) = s3_traced(&world);
    let rig = Rig {
        mount,
        place: super::rig::Place::S3(server),
        world,
    };
    let mut source = rig.segment(1, 1);
    // Once in each frame, so that no codec makes less of it.
    let secret = b"the patient is called Xaver Unwahrscheinlich";
    for frame in source.content.chunks_mut(256 << 10) {
        frame[10_000..10_000 + secret.len()].copy_from_slice(secret);
    }
    fs::write(&source.path, &source.content).expect("write a segment");
    rig.archive(&source);
    assert!(rig.mount.read(&source.name).as_ref() == Ok(&source.content));
    let log = rig.mount.log();
    assert!(log.len() > 1000, "not the talkative log that was asked for");
    assert!(!log.contains("Xaver Unwahrscheinlich"), "content is in the log");
}

/// A mount that logs all it can.
fn s3_traced(world: &World) -> (crate::common::walfs::Mount, S3Server) {
    let server = S3Server::start();
    let mount = s3_options(world, &server)
        .args(&["--deadline", "1s"])
        .env("WALFS_LOG", "trace")
        .mount();
    (mount, server)
}

/// S5: secrets come "never from a visible command line, and reach no log". At the most talkative level, with errors.
#[test]
fn s5_secrets_are_seen_nowhere() {
    let world = World::new("secrets");
    let (mount, server) = s3_traced(&world);
    let rig = Rig {
        mount,
        place: super::rig::Place::S3(server),
        world,
    };
    rig.archive(&rig.segment(1, 1));
    rig.server()
        .add_rule(Rule::new(Action::error(403, "InvalidAccessKeyId")).operation(Operation::Put));
    rig.refuse(&rig.segment(2, 2));
    let secret = rig.server().secret_key();
    let process = Path::new("/proc").join(rig.mount.process().to_string());
    let command_line = fs::read(process.join("cmdline")).expect("read its command line");
    assert!(!String::from_utf8_lossy(&command_line).contains(secret));
    let log = rig.mount.log();
    assert!(log.len() > 1000, "not the talkative log that was asked for");
    assert!(!log.contains(secret), "the secret is in the log");
    assert!(!rig.mount.status().to_string().contains(secret));
    for key in rig.server().keys("") {
        let object = rig.server().object(&key).expect("it is listed");
        assert!(!String::from_utf8_lossy(&object).contains(secret), "{key}");
    }
}
