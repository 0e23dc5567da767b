//! `walfs check`: does WAL get into the archive, now?

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::assemble::Stay;
use crate::config::duration;
use crate::job::check::{Checked, check};
use crate::store::Patience;

use super::connect::{ConnectArgs, HelpArgs};
use super::options::{ArchiveArgs, open};
use super::out::report;
use super::wal::{Failure, block_on, exit_code};

/// Check that WAL is archived: end a segment on the server, and wait for it in the archive
///
/// Needs a role that may call pg_switch_wal(). `walfs status` tells the rest, without a server.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_long_help = "\
Examples:
  sudo -u postgres walfs check --archive s3://bucket/prefix
  walfs check --archive s3://bucket/prefix -h db.example.org -U monitor --timeout 5m

Exit codes: 0 the segment is archived, 1 it is not, or it failed, 2 wrong usage."
)]
pub struct CheckArgs {
    #[command(flatten)]
    help: HelpArgs,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// How long to wait for the segment
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, env = "WALFS_CHECK_TIMEOUT", hide_env_values = true)]
    timeout: Duration,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs `walfs check`.
pub fn run(arguments: &CheckArgs) -> ExitCode {
    exit_code(block_on(wait(arguments)))
}

async fn wait(arguments: &CheckArgs) -> Result<(), Failure> {
    let config = arguments.archive.config()?;
    let server = arguments.connect.resolve()?;
    let archive = open(&config, Stay::Long, config.deadline).await?;
    let patience = || Patience::for_at_most(config.deadline);
    let Checked { segment, seconds } = check(&archive, &server, arguments.timeout, patience).await?;
    report(&format_args!("{segment} was archived within {seconds:.1} s"));
    Ok(())
}
