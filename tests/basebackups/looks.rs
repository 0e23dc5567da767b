//! What it costs the store that somebody reads `.walfs/` of a mount (promise K7).

use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use crate::common::basebackup::{Place, Site};
use crate::common::s3::{Action, Rule, S3Server};
use crate::common::wait;
use crate::common::walfs::{Mount, Options};
use crate::common::world::World;

/// A mount of an archive with a backup.
#[track_caller]
fn mounted(site: &Site<'_>) -> Mount {
    site.backup("monday");
    let mut options = Options::of(site.world, &site.place.archive()).args(&["--deadline", "60s"]);
    for (name, value) in site.place.env() {
        options = options.env(name, &value);
    }
    options.mount()
}

/// Begins to read the status.
fn reading(mount: &Mount) -> Child {
    let mut cat = mount.user().command("cat");
    cat.arg(mount.path().join(".walfs/status.json"));
    cat.stdout(Stdio::null()).stderr(Stdio::null());
    cat.spawn().expect("run cat")
}

fn succeeds(mut reader: Child) -> bool {
    wait::for_exit("it to be read", &mut reader).success()
}

/// What `.walfs/status.json` costs: a look is kept for a minute at most, however long it took.
#[test]
fn k7_a_look_is_kept_for_a_minute_at_most() {
    let world = World::new("kept-look");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    let mount = mounted(&site);
    // Ten times as long is more than two minutes.
    let slow = server.add_rule(
        Rule::new(Action::Delay(Duration::from_secs(14)))
            .key("basebackups/")
            .times(1),
    );
    assert!(succeeds(reading(&mount)));
    assert_eq!(server.hits(slow), 1);
    let looks = server.add_rule(Rule::new(Action::Delay(Duration::ZERO)).key("basebackups/"));
    assert!(succeeds(reading(&mount)));
    assert_eq!(server.hits(looks), 0, "it looks although the last look is fresh");
    let looked = wait::within(Duration::from_secs(100), || {
        assert!(succeeds(reading(&mount)));
        (server.hits(looks) > 0).then_some(())
    });
    assert!(looked.is_some(), "what it tells is older than a minute");
}

/// With the store away all who wait have the one look's error.
#[test]
fn k7_a_look_that_fails_is_shared() {
    let world = World::new("failed-look");
    let site = Site::new(&world, Place::S3(S3Server::start()));
    let Place::S3(server) = &site.place else {
        unreachable!()
    };
    let mount = mounted(&site);
    let denied = || server.add_rule(Rule::new(Action::error(403, "AccessDenied")));
    let one = denied();
    assert!(!succeeds(reading(&mount)));
    let cost = server.hits(one);
    assert!(cost > 0);
    server.remove_rule(one);

    let held = server.add_rule(Rule::new(Action::Hang));
    let readers: Vec<Child> = (0..12).map(|_| reading(&mount)).collect();
    wait::until("a look", || (server.hits(held) > 0).then_some(()));
    // The others come to wait for it; should one be late, it looks once more.
    thread::sleep(Duration::from_secs(2));
    let all = denied();
    server.remove_rule(held);
    for reader in readers {
        assert!(!succeeds(reader));
    }
    let hits = server.hits(all);
    assert!(hits <= 3 * cost, "{hits} requests of 12 readers, {cost} of one");
}
