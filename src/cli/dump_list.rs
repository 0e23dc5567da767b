//! `walfs dump-list`: the dumps that an archive has.

use std::process::ExitCode;

use clap::Args;

use crate::archive::tree::TreeKind;
use crate::archive::tree::version::SetName;

use super::files_list::list_kind;
use super::options::StoreArgs;
use super::wal::{Failure, block_on, exit_code};

/// List the dumps that the archive has, the oldest of each name first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs dump-list --archive s3://bucket/prefix
  walfs dump-list --archive s3://bucket/prefix --json app | jq -r .version

STORED is what a dump has stored itself; what it has in common with earlier ones is stored with those.")]
pub struct ListArgs {
    /// Only those of this name
    #[arg(value_name = "NAME")]
    name: Option<SetName>,
    /// s3://bucket/prefix, file:///directory or a path
    #[arg(long, value_name = "ARCHIVE", env = "WALFS_ARCHIVE", hide_env_values = true)]
    archive: String,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs `walfs dump-list`.
pub fn run(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(list(arguments)))
}

async fn list(arguments: &ListArgs) -> Result<(), Failure> {
    let config = arguments.store.config(&arguments.archive)?;
    list_kind(TreeKind::Dump, &config, arguments.name.as_ref(), arguments.json).await
}
