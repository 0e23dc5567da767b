//! The floor of reading and packing: `tar` on one core, `lz4 -1` on another, to the local disk. Nobody looks at the pages,
//! nothing tells PostgreSQL; only its time is of use.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::BaseGround;
use crate::common::postgres::Postgres;
use crate::common::user::User;
use crate::contender::{BaseTool, Failure};
use crate::scene::site::owned;

const PACK: &str = r#"tar -C "$1" --exclude='./pg_wal/*' --exclude='./postmaster.*' -cf - . | lz4 -q -1 > "$2" && sync "$2""#;

/// The file that it makes.
#[derive(Debug)]
pub struct TarLz4 {
    file: PathBuf,
}

impl TarLz4 {
    /// Nothing to set up but a directory.
    pub fn set_up(ground: &BaseGround<'_>) -> Result<Box<dyn BaseTool>, Failure> {
        Ok(Box::new(TarLz4 {
            file: owned(ground.site, "archive").join("data.tar.lz4"),
        }))
    }
}

impl BaseTool for TarLz4 {
    fn archive_command(&self) -> String {
        "/bin/true".into()
    }

    fn backup(&self, server: &Postgres) -> Command {
        let mut command = User::postgres().command("/bin/sh");
        command
            .args(["-c", PACK, "sh"])
            .arg(server.data())
            .arg(&self.file);
        command
    }

    fn restore(&self, _data: &Path) -> Command {
        unreachable!("it takes part in no section of restores")
    }

    fn restore_command(&self) -> String {
        unreachable!("it takes part in no section of restores")
    }
}
