//! pgBackRest: a stanza of its own, in a directory or in S3. It speaks to S3 by https only, so TLS stands before Garage,
//! at the far end of the line; the other tools do not pay for TLS.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::postgres::Postgres;
use crate::common::tls::Tls;
use crate::common::user::User;
use crate::common::world::World;
use crate::contender::{BaseTool, Failure, WalTool};
use crate::local::refused;
use crate::measure::line::Line;
use crate::measure::meter;
use crate::scene::site::{S3, Site, owned};
use crate::{BaseGround, WalGround};

/// LZ4 as walfs has it, small files bundled, an immediate checkpoint, nothing outside the site.
const GLOBAL: &str = "compress-type=lz4\ncompress-level=1\nrepo1-bundle=y\nstart-fast=y\nrepo1-retention-full=99\n\
                      log-level-file=off\n";

/// One repository with its stanza. The line ends before the TLS that it leads to.
#[derive(Debug)]
pub struct Stanza {
    config: PathBuf,
    _line: Option<Line>,
    _tls: Option<Tls>,
}

impl Stanza {
    /// A process for each segment.
    pub fn one_by_one(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        Ok(Box::new(Stanza::for_wal(ground, "")?))
    }

    /// It works ahead, in both directions, through a spool directory.
    pub fn asynchronous(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        Ok(Box::new(Stanza::for_wal(ground, "archive-async=y\n")?))
    }

    fn for_wal(ground: &WalGround<'_>, settings: &str) -> Result<Stanza, Failure> {
        let cluster = format!("pg1-path={}\n", ground.data.display());
        let stanza = Stanza::create(ground.world, ground.site, settings, &cluster);
        meter::succeed(&mut stanza.command("stanza-create", &["--no-online"]))?;
        Ok(stanza)
    }

    /// Of a running server.
    pub fn for_base(ground: &BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure> {
        let data = ground.server.data();
        let sockets = data.with_file_name("").display().to_string();
        let cluster = format!(
            "pg1-path={}\npg1-socket-path={sockets}\npg1-user=postgres\n",
            data.display()
        );
        let stanza = Stanza::create(ground.world, ground.site, "", &cluster);
        meter::succeed(&mut stanza.command("stanza-create", &[]))?;
        Ok(Box::new(stanza))
    }

    fn create(world: &World, site: &Site, settings: &str, cluster: &str) -> Stanza {
        let dir = owned(site, "pgbackrest").display().to_string();
        let tls = site
            .s3
            .as_ref()
            .map(|s3| Tls::before(s3.server(), &owned(site, "tls")));
        let line = site
            .s3
            .as_ref()
            .zip(tls.as_ref())
            .and_then(|(s3, tls)| s3.line_to(tls.address()));
        let port = line
            .as_ref()
            .map(Line::address)
            .or(tls.as_ref().map(Tls::address))
            .map(|to| to.port());
        let repository = match (&site.s3, port) {
            (Some(s3), Some(port)) => in_s3(s3, port),
            _ => format!("repo1-path={}\n", owned(site, "archive").display()),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let text = format!(
            "[global]\n{GLOBAL}{settings}{repository}process-max={cores}\nlock-path={dir}/lock\nspool-path={dir}/spool\n\
             [bench]\n{cluster}"
        );
        let name = site
            .dir
            .strip_prefix(world.path())
            .expect("a site is in the world")
            .join("pgbackrest.conf");
        let config = world.owned_file(name.to_str().expect("UTF-8"), text.as_bytes());
        Stanza {
            config,
            _line: line,
            _tls: tls,
        }
    }

    /// `pgbackrest VERB` with this repository, as postgres.
    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = User::postgres().command("pgbackrest");
        command
            .arg(format!("--config={}", self.config.display()))
            .arg("--stanza=bench");
        command.args(arguments).arg(verb);
        command
    }

    fn line(&self, verb: &str, arguments: &str) -> String {
        format!(
            "pgbackrest --config={} --stanza=bench {verb} {arguments}",
            self.config.display()
        )
    }
}

fn in_s3(s3: &S3, port: u16) -> String {
    let (id, secret) = s3.access_key();
    let mut text = "repo1-type=s3\nrepo1-path=/archive\nrepo1-s3-uri-style=path\n".to_owned();
    let lines = [
        ("s3-endpoint", "127.0.0.1"),
        ("storage-port", &port.to_string()),
        ("storage-verify-tls", "n"),
        ("s3-bucket", s3.bucket()),
        ("s3-region", s3.region()),
        ("s3-key", &id),
        ("s3-key-secret", &secret),
    ];
    for (name, value) in lines {
        writeln!(text, "repo1-{name}={value}").expect("a string takes everything");
    }
    text
}

impl WalTool for Stanza {
    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        meter::succeed(self.command("archive-push", &[]).arg(wal))
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        meter::succeed(self.command("archive-get", &[]).arg(name).arg(to))
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        refused(self.fetch(name, to))
    }
}

impl BaseTool for Stanza {
    fn archive_command(&self) -> String {
        self.line("archive-push", "%p")
    }

    fn backup(&self, _server: &Postgres) -> Command {
        self.command("backup", &["--type=full"])
    }

    fn restore(&self, data: &Path) -> Command {
        self.command("restore", &[&format!("--pg1-path={}", data.display())])
    }

    /// Its restore writes a command of its own, which wins.
    fn restore_command(&self) -> String {
        "/bin/false".into()
    }
}
