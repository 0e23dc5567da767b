//! The floor of a local disk: `cp`, to a directory that nobody compresses or checks.

use std::path::{Path, PathBuf};

use crate::WalGround;
use crate::common::user::User;
use crate::contender::{Failure, WalTool};
use crate::measure::meter;
use crate::scene::site::owned;

/// A directory of segments.
#[derive(Debug)]
pub struct Local {
    archive: PathBuf,
}

impl Local {
    /// Nothing to set up but the directory.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        Ok(Box::new(Local {
            archive: owned(ground.site, "archive"),
        }))
    }
}

impl WalTool for Local {
    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        cp(wal, &self.archive)
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        cp(&self.archive.join(name), to)
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        refused(cp(&self.archive.join(name), to))
    }
}

/// `cp`, as the archiver runs it.
pub fn cp(from: &Path, to: &Path) -> Result<(), Failure> {
    meter::succeed(User::postgres().command("cp").arg(from).arg(to))
}

/// What a plain tool says of a file that is not there.
pub fn refused(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Ok(()) => Err("a file that is not there was fetched".into()),
        Err(_) => Ok(()),
    }
}
