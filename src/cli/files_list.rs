//! `walfs files-list`: the versions of files that an archive has.

use std::process::ExitCode;

use clap::Args;

use crate::archive::tree::TreeKind;

use super::versions::ListingArgs;
use super::wal::{block_on, exit_code};

/// List the versions of files that the archive has, the oldest of each name first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs files-list --archive s3://bucket/prefix
  walfs files-list --archive s3://bucket/prefix --json etc | jq -r .version

STORED is what a version has stored itself; what it has in common with earlier ones is stored with those.")]
pub struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

/// Runs `walfs files-list`.
pub fn run(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(arguments.listing.list(TreeKind::Files)))
}
