use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use bytes::Bytes;
use serde_json::Value;

use super::showing::Place;
use crate::common::agent::Agent;
use crate::common::authority::Authority;
use crate::common::postgres::{Options, Postgres, installed_versions, newest};
use crate::common::scripted::files;
use crate::common::user::{User, is_root};
use crate::common::wait;
use crate::common::walfs::{self, Mount, walfs};
use crate::recipes::Recipe;

/// One of several servers, which somebody else takes backups of by its network address.
struct Remote {
    name: &'static str,
    address: String,
    server: Postgres,
}

impl Remote {
    /// Reached by TLS only, by whoever trusts the authority.
    fn start(place: &Place, authority: &Authority, name: &'static str, options: &Options) -> Remote {
        let mut server = Postgres::init(&place.world.path().join(format!("pg-{name}")), options);
        let address = format!(
            "127.{}.{}.{}",
            fastrand::u8(1..),
            fastrand::u8(..),
            fastrand::u8(2..250)
        );
        authority.sign_for(&address, server.data());
        server.configure(&[
            ("listen_addresses", &address),
            ("ssl", "on"),
            ("wal_level", "replica"),
            ("max_wal_senders", "4"),
            ("max_replication_slots", "4"),
        ]);
        let access = "local all all trust\nhostssl replication backup 127.0.0.0/8 trust\n";
        fs::write(server.data().join("pg_hba.conf"), access).expect("write pg_hba.conf");
        server.start();
        server.query("CREATE ROLE backup LOGIN REPLICATION");
        server.query("CREATE TABLE kept (line text)");
        server.query(&format!("INSERT INTO kept VALUES ('first of {name}')"));
        Remote {
            name,
            address,
            server,
        }
    }

    /// The recipe, with this server in it; its first block is where the central host finds it.
    fn recipe<'a>(&self, place: &'a Place, mount: &Mount, authority: &Authority) -> Recipe<'a> {
        let mut recipe = Recipe::of("A central host for many servers", &place.world, &newest());
        recipe
            .place("shop.example.org", &self.address)
            .place("shop", self.name)
            .place("/mnt/fleet", mount.path().display())
            .place("/etc/ssl/fleet-ca.crt", authority.certificate().display())
            .place("s3://bucket/fleet", place.path().display())
            .place("/var/lib/postgresql/15/main", self.server.data().display());
        let service = place.world.owned_file(
            &format!("service-{}", self.name),
            recipe.text(0, "ini").as_bytes(),
        );
        recipe.set("PGSERVICEFILE", &service.display().to_string());
        // Where no certificate of a client is.
        let home = place.world.path().join(format!("home-{}", self.name));
        if !home.exists() {
            User::postgres().make_dir(&home);
        }
        recipe.set("HOME", &home.display().to_string());
        recipe
    }

    /// Takes in its WAL, as the recipe's service does.
    fn receive(&self, recipe: &Recipe, mount: &Mount) -> Child {
        let unit = recipe.text(2, "ini");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
        let line = line
            .expect("the service starts something")
            .replace("%i", self.name);
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let log = fs::File::create(wal_log(mount, self.name)).expect("make a log");
        let mut streaming = User::postgres().command(newest().program(program));
        streaming
            .args(words)
            .env("PGSERVICEFILE", recipe.variable("PGSERVICEFILE"))
            .env("HOME", recipe.variable("HOME"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        streaming.spawn().expect("run pg_receivewal")
    }
}

fn wal_log(mount: &Mount, name: &str) -> PathBuf {
    mount.path().with_file_name(format!("receive-{name}.log"))
}

/// A server whose agent takes its backups; WAL goes by a command, or through a mount that the agent keeps.
struct WithAgent {
    server: Postgres,
    agent: Agent,
}

impl WithAgent {
    fn start(place: &Place, name: &str, options: &Options, mounts: bool) -> WithAgent {
        let archive = place.path().join(name);
        let mut server = Postgres::init(&place.world.path().join(format!("pg-{name}")), options);
        let mountpoint = place.world.path().join("own");
        let archive_command = match mounts {
            true => format!("cp \"%p\" {}/wal/\"%f\"", mountpoint.display()),
            false => format!(
                "{} wal-push --create --archive {} \"%p\"",
                place.world.public_program(Path::new(walfs::BINARY)).display(),
                archive.display()
            ),
        };
        server.configure(&[("archive_mode", "on"), ("archive_command", &archive_command)]);
        server.start();
        // Who mounts is root, where there is one.
        let user = if mounts { User::caller() } else { User::postgres() };
        let mut command = walfs(&place.world, &user);
        command
            .args(["agent", "--create", "--schedule-backup", "1h", "--archive"])
            .arg(&archive);
        command
            .env("PGHOST", server.data().parent().expect("a directory"))
            .env("PGUSER", "postgres");
        if mounts {
            fs::create_dir(&mountpoint).expect("make a mount point");
            // As `walfs init` makes it: what root stores there belongs to its owner.
            place.world.owned_dir(&format!("fleet/{name}"));
            command.arg("--mountpoint").arg(&mountpoint);
            if is_root() {
                command.env("WALFS_USER", &User::postgres().name);
            }
        }
        let agent = Agent::start(
            &mut command,
            &place.world.path().join(format!("agent-{name}.log")),
        );
        WithAgent { server, agent }
    }
}

/// What the archives hold, but for those of this name, for what is still being received, and for signs of life.
fn held(place: &Place, but: &str) -> BTreeMap<String, Bytes> {
    let all = files(&place.path()).into_iter();
    all.filter(|(name, _)| {
        !name.starts_with(but) && !name.contains("/receiving/") && !name.contains("/schedule/")
    })
    .collect()
}

/// Issue 17: five clusters, of which a central host takes the backups and the WAL of three over TLS, while the other
/// two have agents. One is lost, and comes back from the central host; nobody else notices.
#[test]
fn o4_a_central_host_brings_back_a_lost_server_and_the_others_are_not_touched() {
    let place = Place::new("central");
    let authority = Authority::new(&place.world);
    let mount = place.mount(&["--writable"]);
    let older = installed_versions()
        .into_iter()
        .find(|version| version.major == 14);
    let older = older.map_or_else(Options::default, Options::of);
    let small = || Options {
        segment_mib: 1,
        ..Options::default()
    };
    let mut remote = vec![
        Remote::start(&place, &authority, "shop", &small()),
        Remote::start(&place, &authority, "books", &small()),
        Remote::start(
            &place,
            &authority,
            "older",
            &Options {
                segment_mib: 1,
                ..older
            },
        ),
    ];
    let mut receivers = Vec::new();
    for remote in &remote {
        let recipe = remote.recipe(&place, &mount, &authority);
        recipe.run(1);
        receivers.push(remote.receive(&recipe, &mount));
        let connected =
            "SELECT count(*) > 0 FROM pg_replication_slots WHERE active AND restart_lsn IS NOT NULL";
        wait::until("pg_receivewal to stream", || {
            (remote.server.query(connected) == "t").then_some(())
        });
        recipe.run(3);
    }
    let mut agents = vec![
        WithAgent::start(&place, "command", &small(), false),
        WithAgent::start(&place, "mount", &small(), true),
    ];

    // The last commit of the server that will be lost is in no full segment.
    let lost = remote.remove(0);
    lost.server.query("INSERT INTO kept VALUES ('last')");
    let flushed = "SELECT bool_or(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
    wait::until("pg_receivewal to have the last commit", || {
        (lost.server.query(flushed) == "t").then_some(())
    });
    let mut told = Vec::new();
    let all = wait::within(wait::LONG, || {
        told = status(&place);
        told.iter().all(|brief| brief["backup"].is_string()).then_some(())
    });
    let logs = || ["shop", "books", "older"].map(|name| wait::tail(&wal_log(&mount, name), 5));
    assert!(all.is_some() && told.len() == 5, "{told:?}\n{:?}", logs());

    let before = held(&place, "shop/");
    let recipe = lost.recipe(&place, &mount, &authority);
    let Remote { server, .. } = lost;
    let (data, version) = (server.data().to_owned(), server.version.clone());
    let directory = data.parent().expect("it is in a directory").to_owned();
    server.destroy();
    assert!(!data.exists(), "the server is not lost");
    recipe.run(4);
    let mut back = Postgres::in_dir(&directory, version);
    back.start();
    wait::until("the recovery to end", || {
        (back.query("SELECT pg_is_in_recovery()") == "f").then_some(())
    });
    assert_eq!(
        back.query("SELECT string_agg(line, ', ') FROM kept"),
        "first of shop, last"
    );

    let after = held(&place, "shop/");
    for (name, bytes) in &before {
        assert!(after.get(name) == Some(bytes), "{name} has changed");
    }
    for remote in &remote {
        let line = format!("SELECT line = 'first of {}' FROM kept", remote.name);
        assert_eq!(remote.server.query(&line), "t");
    }
    for own in agents.drain(..) {
        own.server.query("SELECT 1");
        own.agent.stop();
    }
    for mut receiver in receivers {
        receiver.kill().expect("end pg_receivewal");
        receiver.wait().expect("wait for pg_receivewal");
    }
}

fn status(place: &Place) -> Vec<Value> {
    let mut status = walfs(&place.world, &User::postgres());
    status
        .args(["status", "--all", "--json", "--archive"])
        .arg(place.path());
    let told = status.output().expect("run walfs status");
    let text = String::from_utf8(told.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}
