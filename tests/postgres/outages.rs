//! R1: recovery cannot end early. The store goes away in the middle of recovery, at its very beginning or at its very
//! last question, in every way a store can; recovery waits, and then ends with the last row. By the printed command,
//! and by plain `cp`, whose every error PostgreSQL takes for the end of the WAL.

use std::thread;
use std::time::Duration;

use super::*;
use crate::common::s3::{Action, Rule};

/// How long the store is away, in seconds.
const SHORT: u64 = 6;

/// As long as the issue asks for.
const LONG: u64 = 60;

/// How the store is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// Connections are refused, open ones reset.
    Stopped,
    /// Takes requests and never answers.
    Blackhole,
    /// Answers this to everything.
    Answers(u16, &'static str),
    /// Resets every connection.
    Resets,
    /// A proxy's 404.
    Html404,
}

/// When it goes away.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Start,
    Middle,
    /// With the question for the segment after the last, whose honest answer is "not there".
    End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Command {
    Plain,
    Printed,
}

struct Outage {
    away: Away,
    moment: Moment,
    command: Command,
    seconds: u64,
}

const OUTAGES: [Outage; 14] = [
    outage(Away::Blackhole, Moment::Middle, Command::Plain, LONG),
    outage(Away::Stopped, Moment::Middle, Command::Plain, SHORT),
    outage(Away::Stopped, Moment::Middle, Command::Printed, SHORT),
    outage(Away::Stopped, Moment::Start, Command::Plain, SHORT),
    outage(Away::Blackhole, Moment::End, Command::Printed, SHORT),
    outage(
        Away::Answers(503, "SlowDown"),
        Moment::Middle,
        Command::Plain,
        SHORT,
    ),
    outage(
        Away::Answers(503, "SlowDown"),
        Moment::Middle,
        Command::Printed,
        SHORT,
    ),
    outage(Away::Answers(503, "SlowDown"), Moment::End, Command::Plain, SHORT),
    outage(Away::Resets, Moment::Middle, Command::Plain, SHORT),
    outage(Away::Resets, Moment::End, Command::Printed, SHORT),
    outage(Away::Html404, Moment::Middle, Command::Plain, SHORT),
    outage(
        Away::Answers(404, "NoSuchBucket"),
        Moment::Middle,
        Command::Plain,
        SHORT,
    ),
    outage(
        Away::Answers(403, "AccessDenied"),
        Moment::Middle,
        Command::Plain,
        SHORT,
    ),
    outage(
        Away::Answers(400, "ExpiredToken"),
        Moment::Start,
        Command::Plain,
        SHORT,
    ),
];

const fn outage(away: Away, moment: Moment, command: Command, seconds: u64) -> Outage {
    Outage {
        away,
        moment,
        command,
        seconds,
    }
}

/// R1: "ENOENT in `wal/` is given only on an authoritative answer of the store; anything else waits and retries, for as
/// long as it takes". All outages at once, each with a store, a mount and a server of its own.
#[test]
fn r1_recovery_waits_for_s3_however_it_is_away() {
    let lost = Lost::from_s3("away-s3", 40);
    thread::scope(|scope| {
        let spawned = OUTAGES
            .iter()
            .map(|outage| scope.spawn(|| lost.recover_through(outage)));
        let outcomes: Vec<_> = spawned
            .collect::<Vec<_>>()
            .into_iter()
            .map(|thread| thread.join().is_ok())
            .collect();
        assert!(outcomes.iter().all(|well| *well), "{outcomes:?}");
    });
}

/// A server that was lost: its archive in S3, a file copy, and what must come back.
pub(super) struct Lost {
    world: World,
    store: S3Server,
    pub(super) committed: Committed,
    /// Archived segments, ascending.
    pub(super) segments: Vec<String>,
}

impl Lost {
    #[track_caller]
    pub(super) fn from_s3(name: &str, many: u64) -> Lost {
        let world = World::new(name);
        let place = Place::S3(S3Server::start());
        let site = Site::new(&world, &place, &Plan::default());
        site.server.copy_data_dir(&world.path().join("copy"));
        fill(&site.server, many);
        let committed = Committed::note(&site.server, "last");
        site.server.archive_all();
        let from = first_segment(&world.path().join("copy"));
        let kept = site.lose();
        let mut segments = segments(names_in(&kept));
        segments.retain(|name| *name >= from);
        let Place::S3(store) = place else { unreachable!() };
        Lost {
            world,
            store,
            committed,
            segments,
        }
    }

    /// A store of its own with the same objects.
    pub(super) fn store(&self) -> S3Server {
        let copy = S3Server::start();
        for key in self.store.keys("") {
            copy.put_object(&key, self.store.object(&key).expect("an object that is listed"));
        }
        copy
    }

    /// The data directory of a server that is to recover, not started.
    pub(super) fn server(&self, world: &World, restore_command: &str) -> Postgres {
        let dir = world.path().join("recovering");
        copy_again(&self.world.path().join("copy"), &dir);
        Postgres::recovering(&dir, newest(), &[("restore_command", restore_command)])
    }

    /// Name of the segment after the last one that is archived.
    pub(super) fn after_last(&self) -> String {
        let last = self.segments.last().expect("segments");
        let number = u64::from_str_radix(&last[8..], 16).expect("hex");
        let per_log = (1_u64 << 32) >> 20;
        let (log, segment) = (number >> 32, number & 0xFFFF_FFFF);
        let next = log * per_log + segment + 1;
        format!("{}{:08X}{:08X}", &last[..8], next / per_log, next % per_log)
    }

    #[track_caller]
    fn recover_through(&self, outage: &Outage) {
        let world = World::new("away");
        let place = Place::S3(self.store());
        let mount = place.options(&world).mount();
        let Place::S3(store) = &place else { unreachable!() };
        let command = match outage.command {
            Command::Plain => mount.restore_command(),
            Command::Printed => printed_restore_command(&world, mount.path()),
        };
        let mut server = self.server(&world, &command);
        let last_question = self.after_last();
        match outage.moment {
            Moment::Start => {
                go_away(store, outage.away);
                server.start_recovery();
            }
            Moment::Middle => {
                // Held with a request under way, until the store is away.
                let middle = &self.segments[self.segments.len() / 2];
                store.add_rule(Rule::new(Action::Hang).key(middle));
                server.start_recovery();
                store.wait_for(1, |request| request.key.contains(middle.as_str()));
                go_away(store, outage.away);
            }
            Moment::End => {
                store.add_rule(Rule::new(Action::Hang).key(&last_question));
                server.start_recovery();
                store.wait_for(1, |request| request.key.contains(&last_question));
                go_away(store, outage.away);
            }
        }
        let during = server.recovery_within(Duration::from_secs(outage.seconds));
        assert_eq!(during, Recovery::Waiting, "{outage:?}: {}", server.log());
        come_back(store);
        assert_eq!(recovered(&mut server), self.committed, "{outage:?}");
    }
}

impl std::fmt::Debug for Outage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outage {
            away,
            moment,
            command,
            seconds,
        } = self;
        write!(out, "{away:?}, {moment:?}, {command:?}, {seconds} s")
    }
}

/// The segment that recovery of a copy reads first: "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)".
pub(super) fn first_segment(copy: &Path) -> String {
    let label = fs::read_to_string(copy.join("data/backup_label")).expect("read backup_label");
    let name = label.split_once("(file ").and_then(|(_, rest)| rest.get(..24));
    name.expect("a segment in backup_label").to_owned()
}

/// Requests that hang are reset by it.
fn go_away(store: &S3Server, away: Away) {
    let rule = match away {
        Away::Stopped => {
            store.stop();
            store.clear_rules();
            return;
        }
        Away::Blackhole => return store.blackhole(true),
        Away::Answers(status, code) => Action::error(status, code),
        Away::Resets => Action::Reset,
        Away::Html404 => Action::html_404(),
    };
    // Not after the other rules end: in between, the store would answer.
    store.blackhole(true);
    store.clear_rules();
    store.add_rule(Rule::new(rule));
    store.blackhole(false);
}

fn come_back(store: &S3Server) {
    store.clear_rules();
    store.blackhole(false);
    store.resume();
}
