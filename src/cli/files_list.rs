//! `walfs files-list`: the versions of files that an archive has.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::tree::TreeKind;
use crate::archive::tree::version::SetName;
use crate::assemble::Stay;
use crate::config::Config;
use crate::job::files::{Stored, versions};
use crate::printable::printable;
use crate::store::Patience;

use super::options::{StoreArgs, open};
use super::out::Out;
use super::wal::{Failure, block_on, exit_code};

/// List the versions of files that the archive has, the oldest of each name first
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs files-list --archive s3://bucket/prefix
  walfs files-list --archive s3://bucket/prefix --json etc | jq -r .version

STORED is what a version has stored itself; what it has in common with earlier ones is stored with those.")]
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

/// Runs `walfs files-list`.
pub fn run(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(list(arguments)))
}

async fn list(arguments: &ListArgs) -> Result<(), Failure> {
    let config = arguments.store.config(&arguments.archive)?;
    let name = arguments.name.as_ref();
    list_kind(TreeKind::Files, &config, name, arguments.json).await
}

/// Lists the versions of a kind, or those of one name.
pub(super) async fn list_kind(
    kind: TreeKind,
    config: &Config,
    name: Option<&SetName>,
    json: bool,
) -> Result<(), Failure> {
    let archive = open(config, Stay::Long, config.deadline).await?;
    let patience = Patience::for_at_most(config.deadline);
    let stored = versions(&archive, kind, name, patience).await?;
    let mut out = Out::new();
    match json {
        true => print_json(&mut out, kind, &stored)?,
        false => print(&mut out, kind, &stored)?,
    }
    Ok(out.end()?)
}

fn print(out: &mut impl Write, kind: TreeKind, stored: &[Stored]) -> std::io::Result<()> {
    let of = match kind {
        TreeKind::Dump => "DATABASE",
        _ => "DIRECTORY",
    };
    let names = stored
        .iter()
        .map(|stored| stored.version.set.as_str().chars().count());
    let width = names.max().unwrap_or(0).max("NAME".len());
    writeln!(
        out,
        "{:<width$}  {:<18}  {:>9}  {:>10}  {:>10}  {of}",
        "NAME", "VERSION", "FILES", "SIZE", "STORED"
    )?;
    for Stored { version, summary } in stored {
        let (name, at) = (version.set.as_str(), version.text());
        match summary {
            Ok(summary) => writeln!(
                out,
                "{name:<width$}  {at:<18}  {:>9}  {:>10}  {:>10}  {}",
                summary.files,
                BinaryBytes(summary.bytes).to_string(),
                BinaryBytes(summary.stored_bytes).to_string(),
                printable(&summary.backup.label)
            )?,
            Err(error) => writeln!(out, "{name:<width$}  {at:<18}  {}", printable(&error.to_string()))?,
        }
    }
    Ok(())
}

/// A version, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: &'a str,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a str>,
    /// Of a dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<&'a str>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn print_json(out: &mut impl Write, kind: TreeKind, stored: &[Stored]) -> Result<(), Failure> {
    for Stored { version, summary } in stored {
        let read = summary.as_ref().ok();
        let label = read.map(|summary| summary.backup.label.as_str());
        let listed = Listed {
            name: version.set.as_str(),
            version: version.text(),
            files: read.map(|summary| summary.files),
            bytes: read.map(|summary| summary.bytes),
            stored_bytes: read.map(|summary| summary.stored_bytes),
            directory: label.filter(|_| kind == TreeKind::Files),
            database: label.filter(|_| kind == TreeKind::Dump),
            error: summary.as_ref().err().map(ToString::to_string),
        };
        writeln!(out, "{}", serde_json::to_string(&listed)?)?;
    }
    Ok(())
}
