//! What the commands have in common that store something large: options, signals, how they end.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use crate::archive::Archive;
use crate::assemble::Stay;
use crate::codec::Compression;
use crate::memory::give_back_freed;

use super::interrupts::{self, Interrupts};
use super::options::{ArchiveArgs, CreateArgs, MemoryArgs, newly_made, open};
use super::{complain, start_log};

/// The most threads that are used unless told otherwise.
const USUAL_JOBS: usize = 8;

/// Where to, how, and what is said of it.
#[derive(Debug, Args)]
pub(super) struct StoringArgs {
    #[command(flatten)]
    pub(super) archive: ArchiveArgs,
    /// lz4, lz4:ACCELERATION, zstd, zstd:LEVEL or none [default: lz4 for a new archive, then the archive's own]
    #[arg(long, value_name = "CODEC", env = "WALFS_COMPRESSION", hide_env_values = true)]
    compression: Option<Compression>,
    /// Print what was stored as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Say what is being done, and what was stored, also where standard error is no terminal
    #[arg(short, long)]
    pub(super) verbose: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    create: CreateArgs,
}

/// Why nothing was stored.
pub(super) struct Failure {
    error: Box<dyn std::error::Error + Send + Sync>,
    signal: Option<&'static str>,
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            signal: None,
        }
    }
}

impl Failure {
    /// An error that a signal may be behind.
    pub(super) fn of(
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        signal: Option<&'static str>,
    ) -> Self {
        Self {
            error: error.into(),
            signal,
        }
    }
}

impl StoringArgs {
    /// Runs a command, and tells what came of it.
    pub(super) fn run<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
        report: impl FnOnce(&T) -> ExitCode,
    ) -> ExitCode {
        start_log(match self.verbose {
            true => "walfs=info,error",
            false => "walfs=warn,error",
        });
        give_back_freed();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let outcome = runtime.map_err(Failure::from).and_then(|runtime| {
            let outcome = runtime.block_on(work);
            runtime.shutdown_background();
            outcome
        });
        match outcome {
            Ok(done) => report(&done),
            Err(Failure { error, signal }) => {
                complain(&error);
                signal.map_or(ExitCode::FAILURE, interrupts::exit_code)
            }
        }
    }

    /// Opens the archive, or makes it. Nothing else has been done if a signal comes first.
    pub(super) async fn open(&self, signals: &mut Interrupts) -> Result<Arc<Archive>, Failure> {
        let mut config = self.archive.config()?;
        config.compression = self.compression;
        config.create = self.create.create;
        config.memory = self.memory.shares();
        let archive = before(signals, open(&config, Stay::Short, config.deadline)).await?;
        newly_made(&archive).iter().for_each(|word| complain(word));
        Ok(Arc::new(archive))
    }

    /// Does somebody want to know what was stored?
    pub(super) fn is_watched(&self) -> bool {
        self.verbose || std::io::stderr().is_terminal()
    }
}

/// Does what comes before anything is stored, unless a signal ends it.
pub(super) async fn before<T, E>(
    signals: &mut Interrupts,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure>
where
    Failure: From<E>,
{
    tokio::select! {
        done = work => Ok(done?),
        signal = signals.next() => {
            Err(Failure::of(format!("stopped by {signal}; nothing is stored"), Some(signal)))
        }
    }
}

/// Threads that read and compress.
pub(super) fn jobs(told: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    told.unwrap_or(cores.min(USUAL_JOBS))
}
