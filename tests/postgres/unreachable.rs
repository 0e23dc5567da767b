//! R1 on the stores that people run: a local directory that goes away, and a real S3 server that is killed or stands
//! still, in the middle of recovery.

use std::time::Duration;

use super::outages::first_segment;
use super::*;

/// How long the store is away.
const AWAY: Duration = Duration::from_secs(5);

/// R1: "anything else waits and retries". A disk that is unmounted leaves nothing, or an empty directory in its place.
#[test]
fn r1_recovery_waits_for_a_local_directory() {
    let world = World::new("away-dir");
    let lost = Lost::at(&world, &Place::Local);
    let mount = Place::Local.mount_at(&world, "mnt2", &[]);
    let (archive, aside) = (world.archive(), world.path().join("aside"));
    let printed = printed_restore_command(&world, mount.path());
    for (number, command) in [mount.restore_command(), printed].iter().enumerate() {
        for empty in [false, true] {
            let name = format!("server-{number}-{empty}");
            let away = || {
                fs::rename(&archive, &aside).expect("take the archive away");
                if empty {
                    User::postgres().make_dir(&archive);
                }
            };
            let back = || {
                if empty {
                    fs::remove_dir(&archive).expect("nothing was written into it");
                }
                fs::rename(&aside, &archive).expect("bring the archive back");
            };
            lost.recovers(&world, &name, command, away, back);
        }
    }
}

/// R1 on Garage: connections refused, and connections that nobody answers.
#[test]
fn r1_recovery_waits_for_garage() {
    let world = World::new("away-garage");
    let mut place = Place::garage(&world);
    let lost = Lost::at(&world, &place);
    let mount = place.mount_at(&world, "mnt2", &[]);
    let Place::Garage(garage) = &mut place else {
        unreachable!()
    };
    let printed = printed_restore_command(&world, mount.path());
    let plain = mount.restore_command();
    let garage = std::cell::RefCell::new(garage);
    let (kill, restart) = (|| garage.borrow_mut().kill9(), || garage.borrow_mut().restart());
    lost.recovers(&world, "killed", &plain, kill, restart);
    let (pause, resume) = (|| garage.borrow().pause(), || garage.borrow().resume());
    lost.recovers(&world, "paused", &printed, pause, resume);
}

/// A server that was lost; its archive is where it was.
struct Lost {
    committed: Committed,
    /// The segment in the middle of what recovery reads.
    middle: String,
}

impl Lost {
    #[track_caller]
    fn at(world: &World, place: &Place) -> Lost {
        let site = Site::new(world, place, &Plan::default());
        let copy = world.path().join("copy");
        site.server.copy_data_dir(&copy);
        fill(&site.server, 12);
        let committed = Committed::note(&site.server, "last");
        site.server.archive_all();
        let mut segments = segments(names_in(&site.lose()));
        segments.retain(|name| *name >= first_segment(&copy));
        let middle = segments.swap_remove(segments.len() / 2);
        Lost { committed, middle }
    }

    /// Recovers while the store goes away in the middle. The command is held there until it has gone.
    #[track_caller]
    fn recovers(&self, world: &World, name: &str, command: &str, away: impl Fn(), back: impl Fn()) {
        let dir = world.path().join(name);
        copy_again(&world.path().join("copy"), &dir);
        let signs = world.owned_dir(&format!("{name}-signs"));
        let (here, go) = (signs.join("here"), signs.join("go"));
        let held = format!(
            "if test %f = {} && test ! -e {go}; then touch {here}; while test ! -e {go}; do sleep 0.05; done; fi; {command}",
            self.middle,
            go = go.display(),
            here = here.display(),
        );
        let mut server = Postgres::recovering(&dir, newest(), &[("restore_command", &held)]);
        server.start_recovery();
        wait::until("recovery to come to the middle", || here.exists().then_some(()));
        away();
        fs::write(&go, "").expect("let it go on");
        let during = server.recovery_within(AWAY);
        assert_eq!(during, Recovery::Waiting, "{name}: {}", server.log());
        back();
        assert_eq!(recovered(&mut server), self.committed, "{name}");
        server.destroy();
    }
}
