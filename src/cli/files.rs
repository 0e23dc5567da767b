//! `walfs files`: stores a version of a directory with files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use futures::FutureExt;

use crate::archive::tree::version::SetName;
use crate::job::files::{Error, Options, take};

use super::interrupts::{self, Interrupts};
use super::out::Out;
use super::storing::{Failure, StoringArgs, jobs};
use super::terms::TermsArgs;
use super::{complain, progress};

mod told;

use told::{Outcome, print_json, unsteady, words};

/// The version is kept, and files went on changing while they were read.
const EXIT_UNSTEADY: u8 = 3;

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
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    name: Option<SetName>,
    /// The directory
    #[arg(value_name = "DIR", required_unless_present = "all")]
    directory: Option<PathBuf>,
    /// Every directory of --directories, each under its name
    #[arg(long, requires = "directories")]
    all: bool,
    /// What --all, and so a schedule, stores: etc=/etc,home=/home
    ///
    /// The paths are absolute. A directory with a comma in its path needs a command of its own.
    #[arg(long, value_name = "NAME=DIR,...", value_delimiter = ',', value_parser = pair, env = "WALFS_FILES_DIRECTORIES",
          hide_env_values = true)]
    directories: Vec<(SetName, PathBuf)>,
    #[command(flatten)]
    terms: TermsArgs,
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
  sudo walfs files --archive s3://bucket/prefix --all --directories etc=/etc,home=/home
  diff -r /mnt/walfs/files/etc/2026-11-29T030000Z /mnt/walfs/files/etc/LATEST

With --all a directory that cannot be stored does not keep the others. --directories is a setting, too: directories below [files].

A file that has changed while it was read is read again, up to three times.

Ctrl-C and SIGTERM end it, and what was stored is deleted. What is left after a kill -9, the next run deletes.

Exit codes:
  0    the version is complete, or nothing has changed since the newest one
  1    it failed, or one of all; of these nothing is kept
  2    wrong usage
  3    the version is complete, but files went on changing while they were read: they are named
  130  ended by Ctrl-C, 143 by SIGTERM; nothing is kept";

/// Runs `walfs files`.
pub fn run(arguments: &FilesArgs) -> ExitCode {
    let storing = &arguments.storing;
    storing.run(store(arguments).boxed(), |outcomes| report(outcomes, arguments))
}

/// A name, and the directory that is stored under it.
fn pair(text: &str) -> Result<(SetName, PathBuf), String> {
    let (name, directory) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no NAME=DIR, such as etc=/etc"))?;
    let name = name
        .trim()
        .parse::<SetName>()
        .map_err(|error| error.to_string())?;
    match Path::new(directory).is_absolute() {
        true => Ok((name, directory.into())),
        false => Err(format!("{directory:?} is no absolute path")),
    }
}

async fn store(arguments: &FilesArgs) -> Result<Vec<Outcome>, Failure> {
    let mut signals = Interrupts::listen()?;
    let wanted = match (&arguments.name, &arguments.directory) {
        (Some(name), Some(directory)) => vec![(name.clone(), directory.clone())],
        _ => arguments.directories.clone(),
    };
    let names: BTreeSet<&SetName> = wanted.iter().map(|(name, _)| name).collect();
    if names.len() != wanted.len() {
        return Err("--directories has a name twice.\nHINT: each directory has a name of its own.".into());
    }
    let archive = arguments.storing.open(&mut signals).await?;
    let stop = signals.first().boxed().shared();
    let mut outcomes = Vec::with_capacity(wanted.len());
    for (set, directory) in wanted {
        let options = Options {
            set: set.clone(),
            directory,
            cross: arguments.cross,
            jobs: jobs(arguments.jobs),
            terms: arguments.terms.terms(),
        };
        let shown = progress::shown(arguments.storing.verbose);
        let taken = take(&archive, &options, shown, stop.clone()).await;
        if let Err(error) = &taken {
            complain(&format_args!("cannot store {set}: {error}"));
        }
        outcomes.push(Outcome { set, taken });
    }
    Ok(outcomes)
}

fn report(outcomes: &[Outcome], arguments: &FilesArgs) -> ExitCode {
    if arguments.storing.json {
        let mut out = Out::new();
        if let Err(error) = print_json(&mut out, outcomes, arguments.all).and_then(|()| out.end()) {
            complain(&error);
            return ExitCode::FAILURE;
        }
    }
    let stored = || outcomes.iter().filter_map(|outcome| outcome.taken.as_ref().ok());
    if arguments.storing.is_watched() {
        stored().flat_map(words).for_each(|line| complain(&line));
    }
    let mut unsteady_ones = stored().filter(|taken| !taken.unsteady.is_empty()).peekable();
    let usual = match unsteady_ones.peek() {
        Some(_) => ExitCode::from(EXIT_UNSTEADY),
        None => ExitCode::SUCCESS,
    };
    unsteady_ones.for_each(|taken| complain(&unsteady(taken)));
    let mut failed = outcomes
        .iter()
        .filter_map(|outcome| outcome.taken.as_ref().err())
        .peekable();
    if failed.peek().is_none() {
        return usual;
    }
    let signal = failed.find_map(|error| match error {
        Error::Version(error) => error.signal(),
        _ => None,
    });
    signal.map_or(ExitCode::FAILURE, interrupts::exit_code)
}
