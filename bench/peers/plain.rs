//! The floor of a base backup: PostgreSQL's own tool, to the local disk, and a copy back. All with fsync, as the others.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BaseGround;
use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::contender::{BaseTool, Failure};
use crate::scene::site::owned;

const COPY: &str = r#"cp -a "$1/." "$2" && find "$2" -exec sync {} +"#;

/// A directory for the backup, another for the WAL.
#[derive(Debug)]
pub struct Plain {
    backup: PathBuf,
    wal: PathBuf,
}

impl Plain {
    /// Nothing to set up but two directories.
    pub fn set_up(ground: &BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure> {
        Ok(Box::new(Plain {
            backup: owned(ground.site, "archive").join("backup"),
            wal: owned(ground.site, "wal"),
        }))
    }
}

impl BaseTool for Plain {
    fn archive_command(&self) -> String {
        format!("cp %p {}/%f", self.wal.display())
    }

    fn backup(&self, server: &Postgres) -> Command {
        let mut command = server.program("pg_basebackup");
        command
            .arg("-D")
            .arg(&self.backup)
            .args(["-X", "none", "-c", "fast"]);
        command
    }

    fn restore(&self, data: &Path) -> Command {
        let mut command = User::postgres().command("/bin/sh");
        command.args(["-c", COPY, "sh"]).arg(&self.backup).arg(data);
        command
    }

    fn restore_command(&self) -> String {
        format!("cp {}/%f %p", self.wal.display())
    }
}
