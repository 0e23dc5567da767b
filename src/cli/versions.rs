//! What `walfs dump-list`, `files-list`, `dump-restore` and `files-restore` have in common: the versions of a name.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::Archive;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeKind};
use crate::job::files::{Stored, find, versions};
use crate::printable::printable;
use crate::store::Patience;

use super::options::ArchiveArgs;
use super::out::Out;
use super::wal::Failure;

/// Which version.
#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// NAME for the newest, or NAME/VERSION
    #[arg(value_name = "NAME[/VERSION]")]
    what: String,
    #[command(flatten)]
    archive: ArchiveArgs,
}

impl VersionArgs {
    /// The archive, and the version in it.
    pub(super) async fn find(&self, kind: TreeKind) -> Result<(Arc<Archive>, Version, Summary), Failure> {
        let (name, version) = self.what.split_once('/').unwrap_or((&self.what, LATEST));
        let set: SetName = name.parse()?;
        let archive = Arc::new(self.archive.opened().await?);
        let patience = Patience::for_at_most(self.archive.store.deadline);
        let found = find(&archive, kind, &set, version, patience).await?;
        let (what, list) = match kind {
            TreeKind::Dump => ("dump", "dump-list"),
            _ => ("version of files", "files-list"),
        };
        let (version, summary) = found.ok_or_else(|| {
            format!(
                "{} has no {what} {version} named {set}.\n\
                 HINT: `walfs {list} --archive {}` shows those that there are.",
                archive.place(),
                self.archive.place
            )
        })?;
        Ok((archive, version, summary))
    }
}

/// Which are listed, and how.
#[derive(Debug, Args)]
pub(super) struct ListingArgs {
    /// Only those of this name
    #[arg(value_name = "NAME")]
    name: Option<SetName>,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl ListingArgs {
    /// Lists the versions of a kind.
    pub(super) async fn list(&self, kind: TreeKind) -> Result<(), Failure> {
        let archive = self.archive.opened().await?;
        let patience = Patience::for_at_most(self.archive.store.deadline);
        let stored = versions(&archive, kind, self.name.as_ref(), patience).await?;
        let mut out = Out::new();
        match self.json {
            true => print_json(&mut out, kind, &stored)?,
            false => print(&mut out, kind, &stored)?,
        }
        Ok(out.end()?)
    }
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
