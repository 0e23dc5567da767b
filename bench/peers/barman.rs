//! barman-cloud: a Python process for each segment, for a backup, for a restore.

use std::path::Path;
use std::process::Command;

use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::contender::{BaseTool, Failure, WalTool};
use crate::local::refused;
use crate::measure::meter;
use crate::scene::site::Site;
use crate::{BaseGround, WalGround};

/// Where it archives.
#[derive(Debug)]
pub struct Barman {
    environment: Vec<(&'static str, String)>,
    /// What every one of its commands is told.
    store: Vec<String>,
}

/// The name of the server in the archive, and of the only backup.
const SERVER: &str = "bench";

impl Barman {
    /// Nothing to set up.
    pub fn for_wal(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        Ok(Box::new(Barman::new(ground.site)))
    }

    /// The same.
    pub fn for_base(ground: &BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure> {
        Ok(Box::new(Barman::new(ground.site)))
    }

    fn new(site: &Site) -> Barman {
        let s3 = site.s3.as_ref().expect("barman-cloud is for S3");
        let url = format!("s3://{}/barman", s3.bucket());
        let store = [
            "--cloud-provider",
            "aws-s3",
            "--endpoint-url",
            &s3.endpoint(),
            &url,
            SERVER,
        ];
        Barman {
            environment: s3.environment(),
            store: store.map(str::to_owned).to_vec(),
        }
    }

    fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = User::postgres().command(format!("barman-cloud-{verb}"));
        command.args(options).args(&self.store);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// For postgresql.conf: the same with its environment in front.
    fn line(&self, verb: &str, arguments: &str) -> String {
        let variables: Vec<String> = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let (variables, store) = (variables.join(" "), self.store.join(" "));
        format!("{variables} barman-cloud-{verb} {store} {arguments}")
    }
}

impl WalTool for Barman {
    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        meter::succeed(self.command("wal-archive", &[]).arg(wal))
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        meter::succeed(self.command("wal-restore", &[]).arg(name).arg(to))
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        refused(self.fetch(name, to))
    }
}

impl BaseTool for Barman {
    fn archive_command(&self) -> String {
        self.line("wal-archive", "%p")
    }

    fn backup(&self, server: &Postgres) -> Command {
        let sockets = server.data().with_file_name("").display().to_string();
        let jobs = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .to_string();
        let options = [
            "--immediate-checkpoint",
            "-n",
            SERVER,
            "-h",
            &sockets,
            "-U",
            "postgres",
            "-J",
            &jobs,
        ];
        self.command("backup", &options)
    }

    fn restore(&self, data: &Path) -> Command {
        let mut command = self.command("restore", &[]);
        command.arg(SERVER).arg(data);
        command
    }

    fn restore_command(&self) -> String {
        self.line("wal-restore", "%f %p")
    }
}
