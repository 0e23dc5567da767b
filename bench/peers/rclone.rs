//! rclone, which copies a file and ends when it is stored. Not its mount: that says "done" before it has stored anything.

use std::path::Path;
use std::process::Command;

use crate::WalGround;
use crate::common::user::User;
use crate::contender::{Failure, WalTool};
use crate::measure::meter;

/// What stands for the command line: everything else is in the environment.
#[derive(Debug)]
pub struct Rclone {
    environment: Vec<(&'static str, String)>,
    remote: String,
}

impl Rclone {
    /// A remote of this name in the environment; there is no file of settings.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        let s3 = ground.site.s3.as_ref().expect("rclone is for S3");
        let mut environment = s3.environment();
        environment.extend([
            ("RCLONE_CONFIG", "/dev/null".into()),
            ("RCLONE_CONFIG_STORE_TYPE", "s3".into()),
            ("RCLONE_CONFIG_STORE_PROVIDER", "Other".into()),
            ("RCLONE_CONFIG_STORE_ENV_AUTH", "true".into()),
            ("RCLONE_CONFIG_STORE_ENDPOINT", s3.endpoint()),
            ("RCLONE_CONFIG_STORE_REGION", s3.region().into()),
            ("RCLONE_CONFIG_STORE_FORCE_PATH_STYLE", "true".into()),
        ]);
        let remote = format!("store:{}", s3.bucket());
        Ok(Box::new(Rclone { environment, remote }))
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), Failure> {
        meter::succeed(self.command().args(["copyto", from, to]))
    }

    fn command(&self) -> Command {
        let mut command = User::postgres().command("rclone");
        command.args(["--s3-no-check-bucket", "--retries", "1"]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.remote)
    }
}

impl WalTool for Rclone {
    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        let name = wal.file_name().expect("a segment has a name").to_string_lossy();
        self.copy(&wal.display().to_string(), &self.path(&name))
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        self.copy(&self.path(name), &to.display().to_string())
    }

    /// It takes the name for that of an empty directory, and ends with 0.
    fn fetch_missing(&mut self, _name: &str, _to: &Path) -> Result<(), Failure> {
        Err("rclone does not say that a file is missing".into())
    }
}
