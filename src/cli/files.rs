//! `walfs files`: stores a version of a directory with files.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::job::files::{Error, LeftOut, Options, Taken, take};

use super::interrupts::Interrupts;
use super::out::Out;
use super::storing::{Failure, StoringArgs, jobs};
use super::{complain, progress};

/// The version is kept, and files went on changing while they were read.
const EXIT_UNSTEADY: u8 = 3;

/// Files that are named when they went on changing.
const NAMED: usize = 10;

/// Store a directory with files in the archive, as a new version of its name
///
/// Only what has changed since the newest version is stored, found by content; if nothing has changed, nothing is. All the same
/// each version is read and restored as a whole. Owners, modes, times and symbolic links are kept; no link is followed. Not
/// kept are extended attributes and ACLs; each name of a file with several becomes a file of its own; sockets, FIFOs and
/// devices are left out. What is not kept is named. The archive may be one of a server, or one without any WAL.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct FilesArgs {
    /// What it has versions of: a name such as etc
    #[arg(value_name = "NAME")]
    name: SetName,
    /// The directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    storing: StoringArgs,
    /// Enter other file systems that are mounted below the directory
    #[arg(long)]
    cross: bool,
    /// Threads that read and compress [default: the processor's cores, at most 8]
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
}

const MANUAL: &str = "\
Examples:
  sudo walfs files --archive s3://bucket/prefix etc /etc
  walfs files-list --archive s3://bucket/prefix
  sudo walfs files-restore --archive s3://bucket/prefix etc /tmp/etc
  diff -r /mnt/walfs/files/etc/2026-11-29T030000Z /mnt/walfs/files/etc/LATEST

A file that has changed while it was read is read again, up to three times.

Ctrl-C and SIGTERM end it, and what was stored is deleted. What is left after a kill -9, the next run deletes.

Exit codes:
  0    the version is complete, or nothing has changed since the newest one
  1    it failed; nothing is kept
  2    wrong usage
  3    the version is complete, but files went on changing while they were read: they are named
  130  ended by Ctrl-C, 143 by SIGTERM; nothing is kept";

/// Runs `walfs files`.
pub fn run(arguments: &FilesArgs) -> ExitCode {
    let storing = &arguments.storing;
    storing.run(store(arguments), |taken| report(taken, storing))
}

async fn store(arguments: &FilesArgs) -> Result<Taken, Failure> {
    let mut signals = Interrupts::listen()?;
    let archive = arguments.storing.open(&mut signals).await?;
    let options = Options {
        set: arguments.name.clone(),
        directory: arguments.directory.clone(),
        cross: arguments.cross,
        jobs: jobs(arguments.jobs),
    };
    let shown = progress::shown(arguments.storing.verbose);
    let taken = take(&archive, &options, shown, signals.first()).await;
    taken.map_err(|error| {
        let signal = match &error {
            Error::Version(error) => error.signal(),
            _ => None,
        };
        Failure::of(error, signal)
    })
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    name: &'a str,
    /// The version that has the files.
    version: String,
    /// Is it an earlier one, since which nothing has changed?
    unchanged: bool,
    base: Option<String>,
    read_bytes: u64,
    changed_bytes: u64,
    /// Bytes of this version alone, as stored.
    stored_bytes: u64,
    left_out: &'a LeftOut,
    /// Files that went on changing while they were read.
    unsteady: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a Summary>,
}

fn report(taken: &Taken, storing: &StoringArgs) -> ExitCode {
    if storing.json
        && let Err(error) = print_json(taken)
    {
        complain(&error);
        return ExitCode::FAILURE;
    }
    if storing.is_watched() {
        told(taken).iter().for_each(|line| complain(line));
    }
    if taken.unsteady.is_empty() {
        return ExitCode::SUCCESS;
    }
    complain(&format_args!(
        "version {} of {} is complete, but {} of its files changed each time they were read, and may be of several moments: \
         {}\nHINT: store them while nobody writes to them, or from a snapshot.",
        taken.version.text(),
        taken.version.set,
        taken.unsteady.len(),
        first(&taken.unsteady, taken.unsteady.len() as u64)
    ));
    ExitCode::from(EXIT_UNSTEADY)
}

/// For who has watched.
fn told(taken: &Taken) -> Vec<String> {
    let Version { set, .. } = &taken.version;
    let version = taken.version.text();
    let mut lines = vec![match &taken.summary {
        None => format!(
            "{set} is unchanged since {version}: {} read, nothing stored",
            BinaryBytes(taken.read_bytes)
        ),
        Some(summary) => {
            let unchanged = match &taken.base {
                Some(base) => format!(", the rest is unchanged since {}", base.text()),
                None => String::new(),
            };
            format!(
                "version {version} of {set} is complete: {} in {} files, {} stored{unchanged}",
                BinaryBytes(summary.bytes),
                summary.files,
                BinaryBytes(summary.stored_bytes)
            )
        }
    }];
    let left_out = &taken.left_out;
    for (named, what) in [
        (&left_out.special, "left out are sockets, FIFOs and devices"),
        (
            &left_out.file_systems,
            "not entered are other file systems (--cross enters them)",
        ),
        (
            &left_out.attributes,
            "not kept are extended attributes and ACLs of",
        ),
        (
            &left_out.hard_links,
            "files of their own are made of further names of one file",
        ),
    ] {
        if named.count > 0 {
            lines.push(format!("{what}: {}", first(&named.first, named.count)));
        }
    }
    lines
}

fn first(names: &[String], count: u64) -> String {
    let named: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
    match count - named.len() as u64 {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn print_json(taken: &Taken) -> std::io::Result<()> {
    let report = Report {
        name: taken.version.set.as_str(),
        version: taken.version.text(),
        unchanged: taken.summary.is_none(),
        base: taken.base.as_ref().map(Version::text),
        read_bytes: taken.read_bytes,
        changed_bytes: taken.changed_bytes,
        stored_bytes: taken.summary.as_ref().map_or(0, |summary| summary.stored_bytes),
        left_out: &taken.left_out,
        unsteady: &taken.unsteady,
        summary: taken.summary.as_ref(),
    };
    let mut out = Out::new();
    serde_json::to_writer_pretty(&mut out, &report)?;
    writeln!(out)
}
