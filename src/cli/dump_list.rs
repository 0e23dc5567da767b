//! `walfs dump-list`: the dumps that an archive has.

use std::process::ExitCode;

use clap::Args;

use crate::archive::tree::TreeKind;

use super::versions::ListingArgs;
use super::wal::{block_on, exit_code};

/// List the dumps that the archive has, the oldest of each name first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs dump-list --archive s3://bucket/prefix
  walfs dump-list --archive s3://bucket/prefix --json app | jq -r .version

STORED is what a dump has stored itself; what it has in common with earlier ones is stored with those.")]
pub struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

/// Runs `walfs dump-list`.
pub fn run(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(arguments.listing.list(TreeKind::Dump)))
}
