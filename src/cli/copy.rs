//! `walfs copy`: a second archive elsewhere, and what it lacks.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use indicatif::BinaryBytes;

use crate::assemble::Stay;
use crate::job::copy::{Options, Report, copy};

use super::complain;
use super::options::{CreateArgs, MemoryArgs, PathStyleArg, StoreArgs, newly_made, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on};

/// Copy to a second archive what it lacks
///
/// Compares the names in both, and copies what is missing: WAL in order, then each complete backup, its summary last. Proves
/// each object before it is stored, and never replaces one. Run again, it goes on. Incomplete backups are not copied, and
/// nothing is deleted.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs copy --create /srv/archive s3://bucket/prefix                          # --create: the first time only
  walfs copy s3://bucket/prefix s3://other/prefix --to-region eu-north-1
  walfs copy s3://bucket/prefix /mnt/disk/archive --dry-run --json

An object that both have is taken for the same if it is as long; where lengths do not tell, and with --compare always, its \
hash is compared. If one is another, nothing is copied. `walfs verify` reads the copy back.

Exit codes: 0 the copy has all of it, 1 something could not be copied, or it failed, 2 wrong usage.")]
pub struct CopyArgs {
    /// The original: s3://bucket/prefix, file:///directory or a path
    #[arg(value_name = "FROM", env = "WALFS_ARCHIVE", hide_env_values = true)]
    from: String,
    /// The copy, likewise
    #[arg(value_name = "TO", env = "WALFS_COPY_TO", hide_env_values = true)]
    to: String,
    /// Show what would be copied
    #[arg(long)]
    dry_run: bool,
    /// Compare the hashes of all WAL that both have
    #[arg(long)]
    compare: bool,
    /// One JSON object: is_complete, copied, present, backups, failed, left_out
    #[arg(long)]
    json: bool,
    /// Say what was copied also where nobody watches
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    create: CreateArgs,
    #[command(flatten)]
    there: ThereArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// The store of the copy, where it is another than that of the original.
#[derive(Debug, Args)]
struct ThereArgs {
    /// URL of the copy's S3 server [default: that of --endpoint]
    #[arg(
        long,
        value_name = "URL",
        env = "WALFS_COPY_TO_ENDPOINT",
        hide_env_values = true,
        help_heading = "Store"
    )]
    to_endpoint: Option<String>,
    /// Region of the copy's bucket
    #[arg(
        long,
        value_name = "REGION",
        env = "WALFS_COPY_TO_REGION",
        hide_env_values = true,
        help_heading = "Store"
    )]
    to_region: Option<String>,
    /// How the copy's buckets are addressed
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_COPY_TO_PATH_STYLE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    to_path_style: Option<PathStyleArg>,
    /// Profile with the copy's keys
    #[arg(
        long,
        value_name = "NAME",
        env = "WALFS_COPY_TO_PROFILE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    to_profile: Option<String>,
    /// File with the copy's keys
    #[arg(
        long,
        value_name = "FILE",
        env = "WALFS_COPY_TO_CREDENTIALS_FILE",
        hide_env_values = true,
        help_heading = "Store"
    )]
    to_credentials_file: Option<PathBuf>,
}

impl ThereArgs {
    /// The options of the original, and these in their place.
    fn over(&self, store: &StoreArgs) -> StoreArgs {
        let mut there = store.clone();
        there.endpoint = self.to_endpoint.clone().or(there.endpoint);
        there.region = self.to_region.clone().or(there.region);
        there.path_style = self.to_path_style.unwrap_or(there.path_style);
        // Keys of one file or profile only: the other would win over what was said.
        if self.to_profile.is_some() || self.to_credentials_file.is_some() {
            there.profile.clone_from(&self.to_profile);
            there.credentials_file.clone_from(&self.to_credentials_file);
        }
        there
    }
}

/// Runs `walfs copy`.
pub fn run(arguments: &CopyArgs) -> ExitCode {
    match block_on(bring(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// True: the copy has all of it.
async fn bring(arguments: &CopyArgs) -> Result<bool, Failure> {
    let mut here = arguments.store.config(&arguments.from)?;
    let mut there = arguments.there.over(&arguments.store).config(&arguments.to)?;
    if here.location == there.location && here.endpoint == there.endpoint {
        return Err(format!(
            "{} is to be copied to itself.\nHINT: name two places.",
            arguments.from
        )
        .into());
    }
    here.memory = arguments.memory.shares();
    there.memory = here.memory.clone();
    let from = Arc::new(open(&here, Stay::Long, here.deadline).await?);
    // A copy is the same archive: with `cp -a` it would be so, too.
    there.identity = Some(from.marker().identity.clone());
    there.compression = Some(from.compression());
    there.create = arguments.create.create && !arguments.dry_run;
    let to = Arc::new(open(&there, Stay::Long, there.deadline).await?);
    if let Some(made) = newly_made(&to) {
        complain(&made);
    }
    let options = Options {
        dry_run: arguments.dry_run,
        compare: arguments.compare,
    };
    let shown = progress::shown(arguments.verbose);
    let report = copy(&from, &to, options, &shown, here.deadline).await;
    drop(shown);
    let report = report?;
    let mut out = Out::new();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else if arguments.verbose || arguments.dry_run || std::io::stdout().is_terminal() {
        print(&mut out, &report, arguments.dry_run)?;
    }
    out.end()?;
    for (what, why) in &report.failed {
        complain(&format_args!("{what} is not copied: {why}"));
    }
    if !report.is_complete {
        complain(&format_args!(
            "{}: not all of {} is there.\nHINT: `walfs verify --archive {}` names all that is damaged, and what it costs; \
             what could be copied was, and the next run goes on",
            to.place(),
            from.place(),
            arguments.from
        ));
    }
    Ok(report.is_complete)
}

fn print(out: &mut impl Write, report: &Report, dry_run: bool) -> Result<(), Failure> {
    let (copied, present) = (report.copied, report.present);
    let done = if dry_run { "would be copied" } else { "are copied" };
    writeln!(
        out,
        "{} objects, {}, {done}; {} were there",
        copied.objects,
        BinaryBytes(copied.bytes),
        present.objects
    )?;
    for (names, what) in [
        (&report.backups, done),
        (&report.left_out, "are left out: they are not complete"),
    ] {
        if !names.is_empty() {
            writeln!(out, "backups {} {what}", names.join(", "))?;
        }
    }
    Ok(())
}
