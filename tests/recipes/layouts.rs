//! The recipes for Debian's layout and for Patroni, by the real `pg_createcluster`, `pg_ctlcluster` and `patroni`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::page::Recipe;
use super::{second, site_of};
use crate::common::postgres::Postgres;
use crate::common::user::{User, said};
use crate::common::version::of_the_system;
use crate::common::wait;
use crate::common::world::World;

/// What the tools of postgresql-common write, where this cannot be told otherwise.
struct SystemLog(PathBuf);

impl Drop for SystemLog {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().expect("run a program");
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

#[test]
fn b10_a_server_in_debians_layout_comes_back_with_its_settings() {
    let world = World::new("debian");
    let version = of_the_system();
    let server = second(&world, "pg", &version);
    let sockets = world.path().join("pg");
    let root = world.owned_dir("etc");
    // A name that no cluster of this machine has: its log is where those of the machine are.
    let name = world
        .path()
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .replace(['.', '_'], "-");
    let major = version.major.to_string();
    let _log = SystemLog(format!("/var/log/postgresql/postgresql-{major}-{name}.log").into());
    let conf = root.join(&major).join(&name);
    let mut create = User::postgres().command("pg_createcluster");
    create
        .env("PG_CLUSTER_CONF_ROOT", &root)
        .args(["--start-conf", "manual", "-p", "5432", "-d"])
        .arg(server.data())
        .arg("-s")
        .arg(&sockets)
        .arg("-l")
        .arg(world.path().join("pg/server.log"))
        .args([&major, &name])
        .args(["--", "-A", "trust", "--no-sync"]);
    succeeds(&mut create);

    let mut recipe = Recipe::of("Debian's layout", &world, &version);
    recipe
        .set("PGHOST", &sockets.display().to_string())
        .set("PG_CLUSTER_CONF_ROOT", &root.display().to_string())
        .place("s3://bucket/prefix", world.archive().display())
        .place("/var/lib/postgresql/15/main", server.data().display())
        .place("/etc/postgresql/15/main", conf.display())
        .place("15 main", format!("{major} {name}"));
    let archive = world.archive().display().to_string();
    let settings = format!(
        "listen_addresses = ''\nfsync = off\nwork_mem = '5MB'\ndynamic_shared_memory_type = mmap\narchive_mode = on\n\
         archive_command = 'walfs wal-push --create --archive {archive} \"%p\"'\n"
    );
    world.owned_file(
        &format!("etc/{major}/{name}/conf.d/ours.conf"),
        settings.as_bytes(),
    );
    // The servers of postgresql-common begin with the environment in this file.
    let path = recipe.variable("PATH");
    world.owned_file(
        &format!("etc/{major}/{name}/environment"),
        format!("PATH = '{path}'\n").as_bytes(),
    );
    let start = format!("pg_ctlcluster {major} {name} start");
    recipe.run_line(&start);
    wait::until("the server to answer", || server.psql("SELECT 1").ok());
    recipe.run_line(&format!(
        "walfs backup --create --fast --archive {archive} --full first"
    ));
    recipe.run(0);
    server.query("CREATE TABLE t AS SELECT 1 AS id");
    server.archive_all();

    // The machine is lost, with what was in its /run.
    server.destroy();
    fs::remove_dir_all(&sockets).expect("lose the sockets");
    fs::remove_dir_all(&root).expect("lose the settings");
    let root = world.owned_dir("etc");
    world.owned_dir(&format!("etc/{major}"));
    assert!(root.exists() && !conf.exists());
    let server = second(&world, "pg", &version);
    recipe.run(1);
    assert_eq!(recipe.len(), 2);
    wait::until("the server to answer", || server.psql("SELECT 1").ok());
    assert_eq!(server.query("TABLE t"), "1");
    assert_eq!(server.query("SHOW work_mem"), "5MB");
    assert_eq!(
        server.query("SHOW config_file"),
        conf.join("postgresql.conf").display().to_string()
    );
    for kept in ["start.conf", "environment", "pg_hba.conf", "conf.d/ours.conf"] {
        assert!(conf.join(kept).exists(), "{kept}");
    }
    // It has taken over.
    wait::until("it to be open", || {
        (server.query("SELECT pg_is_in_recovery()") == "f").then_some(())
    });
    assert!(server.archive_all().starts_with("00000002"));
}

/// A Patroni, until it is dropped.
struct Patroni {
    process: Child,
    log: PathBuf,
}

impl Patroni {
    #[track_caller]
    fn start(world: &World, name: &str, path: &str, settings: &str) -> Patroni {
        let file = world.owned_file(&format!("{name}.yml"), settings.as_bytes());
        let log = world.path().join(format!("patroni-{name}.log"));
        let output = File::create(&log).expect("make a log");
        let mut patroni = User::postgres().command("patroni");
        patroni
            .arg(file)
            .env("PATH", path)
            .stdout(output.try_clone().expect("share the log"))
            .stderr(output);
        let process = patroni
            .spawn()
            .expect("run patroni\nHINT: .ci/needs test brings what the tests need");
        Patroni { process, log }
    }

    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let found = wait::within(wait::LONG, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let ended = self.process.try_wait().expect("wait for patroni").is_some();
            (ended || log.contains(text)).then(|| log.contains(text))
        });
        assert_eq!(found, Some(true), "no {text:?}\n{}", wait::tail(&self.log, 60));
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|port| port.local_addr().expect("its address").port())
}

/// What a Patroni needs beside the recipe's lines: its store, its addresses, its users.
struct Member<'a> {
    name: &'a str,
    raft: String,
    server: u16,
    rest: u16,
}

impl Member<'_> {
    fn settings(&self, world: &World, lines: &str, bin: &Path) -> String {
        let Member {
            name,
            raft,
            server,
            rest,
        } = self;
        let (sockets, dir) = (world.path().join("pg"), world.path().display());
        let own = format!(
            "postgresql:\n  data_dir: {dir}/{name}/data\n  bin_dir: {bin}\n  listen: 127.0.0.1:{server}\n  \
             connect_address: 127.0.0.1:{server}\n  pgpass: {dir}/{name}/pgpass\n  authentication:\n    \
             superuser: {{username: postgres}}\n    replication: {{username: replicator}}\n  \
             parameters: {{unix_socket_directories: {sockets}, fsync: 'off'}}\n  pg_hba:\n  - local all all trust\n  \
             - host all all 127.0.0.1/32 trust\n  - host replication all 127.0.0.1/32 trust\n",
            bin = bin.display(),
            sockets = sockets.display(),
        );
        let lines = lines
            .replace(
                "  dcs:\n",
                "  dcs:\n    loop_wait: 1\n    ttl: 20\n    retry_timeout: 3\n",
            )
            .replace("\npostgresql:\n", &format!("\n{own}"));
        format!(
            "scope: main\nname: {name}\nraft: {raft}\nrestapi: {{listen: '127.0.0.1:{rest}', \
             connect_address: '127.0.0.1:{rest}'}}\n{lines}"
        )
    }
}

#[test]
fn b6_patroni_begins_a_cluster_and_its_replica_from_the_archive() {
    let world = World::new("patroni");
    let version = of_the_system();
    let site = site_of(&world, &version);
    site.server
        .query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id");
    site.backup("monday");
    site.server.query("INSERT INTO t VALUES (0)");
    site.server.archive_all();
    let super::Site { server, .. } = site;
    server.destroy();

    let servers: [Postgres; 2] = ["a", "b"].map(|name| second(&world, name, &version));
    let [raft, rest_a, rest_b, port_a, port_b] = free_ports();
    let members = [
        Member {
            name: "a",
            raft: format!(
                "{{data_dir: {}, self_addr: '127.0.0.1:{raft}'}}",
                world.owned_dir("raft").display()
            ),
            server: port_a,
            rest: rest_a,
        },
        Member {
            name: "b",
            raft: format!(
                "{{data_dir: {}, partner_addrs: ['127.0.0.1:{raft}']}}",
                world.owned_dir("raft-b").display()
            ),
            server: port_b,
            rest: rest_b,
        },
    ];
    let mut running = Vec::new();
    for (member, server) in members.iter().zip(&servers) {
        let mut recipe = Recipe::of("Patroni", &world, &version);
        recipe
            .place("s3://bucket/prefix", world.archive().display())
            .place("/var/lib/postgresql/15/main", server.data().display());
        assert_eq!(recipe.len(), 1);
        let settings = member.settings(&world, &recipe.text(0, "yaml"), &version.bin);
        let mut patroni = Patroni::start(&world, member.name, &recipe.variable("PATH"), &settings);
        match running.is_empty() {
            true => patroni.wait_for("initialized a new cluster"),
            false => patroni.wait_for("replica has been created using walfs"),
        }
        running.push(patroni);
    }
    let ask = |member: usize, sql: &str| {
        let mut psql = servers[member].program("psql");
        psql.env("PGHOST", "127.0.0.1")
            .env("PGPORT", members[member].server.to_string());
        let output = psql.args(["-XAtqc", sql]).output().expect("run psql");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    assert_eq!(ask(0, "SELECT count(*), min(id) FROM t"), "1001|0");
    ask(0, "INSERT INTO t VALUES (2000)");
    wait::until("the replica to have it", || {
        (ask(1, "SELECT max(id), pg_is_in_recovery() FROM t") == "2000|t").then_some(())
    });
    // The new leader archives, on a timeline of its own.
    let last = ask(0, "SELECT pg_walfile_name(pg_switch_wal())");
    assert!(last.starts_with("00000002"), "{last}");
    wait::until("the new timeline to be archived", || {
        world
            .archive()
            .join(format!("wal/{last}.lz4"))
            .exists()
            .then_some(())
    });
}
