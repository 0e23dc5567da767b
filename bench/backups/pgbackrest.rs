//! pgBackRest beside walfs: a stanza of its own, in a directory or behind TLS in the same Garage. pgBackRest speaks to
//! S3 by https only, Garage by http only, so socat stands between them; its CPU counts among the helpers.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::garage::Garage;
use crate::common::postgres::Postgres;
use crate::common::user::{User, said};
use crate::common::wait;
use crate::common::world::World;

/// Settings of both: LZ4 as walfs has it, all cores, an immediate checkpoint, nothing outside the benchmark's directory.
const GLOBAL: &str =
    "compress-type=lz4\ncompress-level=1\nstart-fast=y\nrepo1-retention-full=99\nlog-level-file=off\n";

/// One repository with its stanza.
#[derive(Debug)]
pub struct Stanza {
    config: PathBuf,
}

impl Stanza {
    /// A repository in a directory.
    pub fn in_directory(world: &World, server: &Postgres, repository: &Path) -> Stanza {
        Stanza::create(
            world,
            server,
            "disk",
            &format!("repo1-path={}\n", repository.display()),
        )
    }

    /// A repository in Garage, reached through `tls`.
    pub fn in_garage(world: &World, server: &Postgres, garage: &Garage, tls: &Tls, path: &str) -> Stanza {
        let secret = |wanted: &str| {
            garage
                .env()
                .into_iter()
                .find(|(name, _)| name == wanted)
                .expect("a key")
                .1
        };
        let repository = format!(
            "repo1-type=s3\nrepo1-path=/{path}\nrepo1-s3-bucket={}\nrepo1-s3-endpoint=127.0.0.1\nrepo1-storage-port={}\n\
             repo1-s3-region=garage\nrepo1-s3-uri-style=path\nrepo1-storage-verify-tls=n\nrepo1-s3-key={}\nrepo1-s3-key-secret={}\n",
            garage.bucket(),
            tls.port,
            secret("AWS_ACCESS_KEY_ID"),
            secret("AWS_SECRET_ACCESS_KEY")
        );
        Stanza::create(world, server, "s3", &repository)
    }

    fn create(world: &World, server: &Postgres, name: &str, repository: &str) -> Stanza {
        let dir = world.owned_dir("pgbackrest").display().to_string();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (data, sockets) = (
            server.data().display(),
            server.data().with_file_name("").display().to_string(),
        );
        let text = format!(
            "[global]\n{GLOBAL}{repository}process-max={cores}\nlock-path={dir}/lock\nspool-path={dir}/spool\n\
             [bench]\npg1-path={data}\npg1-socket-path={sockets}\npg1-user=postgres\n"
        );
        let config = world.owned_file(&format!("pgbackrest/{name}.conf"), text.as_bytes());
        let stanza = Stanza { config };
        let made = stanza
            .command("stanza-create", &[])
            .output()
            .expect("run pgbackrest");
        assert!(made.status.success(), "pgbackrest stanza-create: {}", said(&made));
        stanza
    }

    /// `pgbackrest VERB` with this repository, as postgres.
    pub fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = User::postgres().command("pgbackrest");
        command
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench");
        command.args(arguments).arg(verb);
        command
    }

    /// For postgresql.conf.
    pub fn archive_command(&self) -> String {
        format!(
            "pgbackrest --config={} --stanza=bench archive-push %p",
            self.config.display()
        )
    }
}

/// socat between https and Garage's http.
#[derive(Debug)]
pub struct Tls {
    port: u16,
    process: Child,
}

impl Tls {
    /// With a certificate of its own, made now.
    pub fn before(world: &World, garage: &Garage) -> Tls {
        let pem = certificate(&world.owned_dir("tls"));
        // Free a moment ago, and nobody else here takes ports.
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = listener.expect("a free port").port();
        let listen = format!(
            "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=0,cert={}",
            pem.display()
        );
        let target = garage.endpoint().replace("http://", "TCP:");
        let mut socat = Command::new("socat");
        // Its usual pieces of 8 KiB would be what is measured.
        socat
            .args(["-b", "262144", &listen, &target])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let process = socat.spawn().expect("run socat\nHINT: .ci/needs bench");
        wait::until("socat to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Tls { port, process }
    }

    /// The process that listens.
    pub fn process(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // Its children end with their connections.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Key and certificate in one file.
fn certificate(dir: &Path) -> PathBuf {
    let (key, certificate, both) = (dir.join("key"), dir.join("certificate"), dir.join("both.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]);
    let made = openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("run openssl");
    assert!(made.status.success(), "openssl req: {}", said(&made));
    let read = |path: &Path| fs::read(path).expect("read what openssl has made");
    fs::write(&both, [read(&key), read(&certificate)].concat()).expect("write the certificate");
    both
}
