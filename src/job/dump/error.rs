//! What can go wrong with a dump, in words for the one who takes it.

use std::io;
use std::process::ExitStatus;

use super::program::Program;
use crate::archive;
use crate::job::{backup, version};

/// What can go wrong with a dump.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What any version may meet.
    #[error(transparent)]
    Version(#[from] version::Error),
    /// There is no program that can dump that server.
    #[error(
        "the server is PostgreSQL {server_major}, and {name} of version {server_major} or later is not here{}.\n\
         HINT: install the client programs of PostgreSQL {server_major} (Debian: postgresql-client-{server_major}), or name their \
         directory with --bin-dir.",
        others(found)
    )]
    NoProgram {
        /// Which.
        name: &'static str,
        /// The server's version.
        server_major: u32,
        /// Those that are too old.
        found: Vec<Program>,
    },
    /// It cannot be started, or not be waited for.
    #[error("cannot run {}: {source}", program.path.display())]
    Run {
        /// Which.
        program: Program,
        /// Why.
        source: io::Error,
    },
    /// It has not ended well: nothing is kept.
    #[error(
        "{} failed ({status}); nothing of this dump is kept{}",
        program.path.display(),
        said(words)
    )]
    Failed {
        /// Which.
        program: Program,
        /// How it ended.
        status: ExitStatus,
        /// The last of what it said.
        words: String,
    },
}

fn others(found: &[Program]) -> String {
    let found: Vec<String> = found
        .iter()
        .map(|program| format!("{} is {}", program.path.display(), program.major))
        .collect();
    match found.is_empty() {
        true => String::new(),
        false => format!(" ({})", found.join(", ")),
    }
}

fn said(words: &str) -> String {
    match words {
        "" => "; it said nothing".to_owned(),
        words => format!(":\n{words}"),
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        Self::Version(error.into())
    }
}

impl From<backup::Error> for Error {
    fn from(error: backup::Error) -> Self {
        Self::Version(error.into())
    }
}
