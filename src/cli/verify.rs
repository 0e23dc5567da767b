//! `walfs verify`: is what was archived still there, and what was stored?

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;

use crate::archive::Archive;
use crate::archive::tree::{LATEST, TreeKind, TreeName};
use crate::assemble::Stay;
use crate::config::{bytes, duration};
use crate::job::verify::{Options, Report, Scope, verify};
use crate::store::Patience;

use super::complain;
use super::options::{ArchiveArgs, MemoryArgs, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on};

/// Read the archive back, and say what every damage costs
///
/// Reads objects back, all of them or those that were not for longest, and compares every hash: WAL, backups, what tells
/// these apart, and data pages by their checksums. Names what is missing, too. Goes on after a finding, and says which backups
/// lose what by it. When each object was read last is kept in the archive, for the next run.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs verify --archive s3://bucket/prefix                                    # everything
  walfs verify --archive s3://bucket/prefix --max-age 30d --budget 10GiB       # each night
  walfs verify --archive /srv/archive LATEST
  walfs verify --archive /srv/archive --json | jq -r '.findings[].object'

An archive has no list of its WAL: that the newest segments are gone, or a .backup file or a .partial, cannot be seen.

Exit codes: 0 nothing is found, 1 something is, or it failed, 2 wrong usage.")]
pub struct VerifyArgs {
    /// Only this backup, what it builds on, and the WAL that makes it consistent; LATEST is the newest complete one
    #[arg(value_name = "NAME", conflicts_with_all = ["wal", "backups"])]
    name: Option<String>,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Only WAL
    #[arg(long, conflicts_with = "backups")]
    wal: bool,
    /// Only backups, without their WAL
    #[arg(long)]
    backups: bool,
    /// Only what was not read back for so long: 30d, 12h
    #[arg(long, value_name = "TIME", value_parser = age, env = "WALFS_VERIFY_MAX_AGE", hide_env_values = true)]
    max_age: Option<Duration>,
    /// Read at most so many stored bytes, and first what was not read back for longest
    #[arg(long, value_name = "SIZE", value_parser = bytes, env = "WALFS_VERIFY_BUDGET", hide_env_values = true)]
    budget: Option<u64>,
    /// As --budget, as a share of what is stored: 5 reads all of it in twenty runs
    #[arg(long, value_name = "PERCENT", value_parser = percent, env = "WALFS_VERIFY_SAMPLE", hide_env_values = true)]
    sample: Option<f64>,
    /// One JSON object: is_sound, read, left, oldest, findings
    #[arg(long)]
    json: bool,
    /// Say what was read also where nobody watches
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    memory: MemoryArgs,
}

fn age(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => Ok(Duration::from_secs(u64::from(days) * 24 * 60 * 60)),
        Some(Err(_)) => Err(format!("{text:?} is no time like 30d or 12h")),
        None => duration(text),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok();
    let share = number
        .filter(|number| (0.0..=100.0).contains(number))
        .map(|number| number / 100.0);
    share.ok_or_else(|| "expected a number from 0 to 100".into())
}

/// Runs `walfs verify`.
pub fn run(arguments: &VerifyArgs) -> ExitCode {
    match block_on(read_back(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// True: nothing is found.
async fn read_back(arguments: &VerifyArgs) -> Result<bool, Failure> {
    let mut config = arguments.archive.config()?;
    config.memory = arguments.memory.shares();
    let archive = Arc::new(open(&config, Stay::Long, config.deadline).await?);
    let options = Options {
        scope: scope(arguments, &archive).await?,
        max_age: arguments.max_age,
        budget: arguments.budget,
        share: arguments.sample,
    };
    let shown = progress::shown(arguments.verbose);
    let report = verify(&archive, &options, &shown, config.deadline).await;
    drop(shown);
    let report = report?;
    let mut out = Out::new();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        print(
            &mut out,
            &report,
            arguments.verbose || std::io::stdout().is_terminal(),
        )?;
    }
    out.end()?;
    if let Some(reason) = &report.not_remembered {
        complain(&format_args!(
            "warning: what was verified is not remembered: {reason}.\nHINT: this needs the right to put objects below \
             verified/"
        ));
    }
    if !report.is_sound {
        let count = report.findings.len() as u64 + report.more_findings;
        complain(&format_args!(
            "{}: {count} {} damaged, missing or not what they should be.\n\
             HINT: bring them back from a copy of the store, or take a new backup: `walfs backup`; until then do not \
             remove backups that are whole",
            archive.place(),
            if count == 1 { "object is" } else { "objects are" }
        ));
    }
    Ok(report.is_sound)
}

async fn scope(arguments: &VerifyArgs, archive: &Archive) -> Result<Scope, Failure> {
    let Some(name) = &arguments.name else {
        return Ok(match (arguments.wal, arguments.backups) {
            (true, _) => Scope::Wal,
            (_, true) => Scope::Backups,
            _ => Scope::All,
        });
    };
    let patience = Patience::for_at_most(arguments.archive.store.deadline);
    let found = if name == LATEST {
        archive.latest(patience).await?.map(|(name, _)| name)
    } else {
        let name: TreeName = name.parse()?;
        let mut found = None;
        for kind in TreeKind::ALL {
            let mut trees = archive.trees(kind, patience).await?.into_iter();
            found = found.or(trees.find_map(|(found, _)| (found == name).then_some(found)));
        }
        found
    };
    found.map(Scope::Backup).ok_or_else(|| {
        format!(
            "{} has no complete backup {name}.\nHINT: `walfs backup-list --archive {}` shows those that there are.",
            archive.place(),
            arguments.archive.place
        )
        .into()
    })
}

fn print(out: &mut impl Write, report: &Report, is_told: bool) -> Result<(), Failure> {
    for finding in &report.findings {
        writeln!(out, "{}: {}", finding.object, finding.reason)?;
        for cost in &finding.costs {
            writeln!(out, "  {cost}")?;
        }
    }
    if report.more_findings > 0 {
        writeln!(out, "... and {} more", report.more_findings)?;
    }
    if is_told {
        report
            .remarks
            .iter()
            .try_for_each(|remark| writeln!(out, "{remark}"))?;
        let (read, left) = (report.read, report.left);
        write!(
            out,
            "{} objects, {}, are verified",
            read.objects,
            BinaryBytes(read.bytes)
        )?;
        if left.objects > 0 {
            write!(
                out,
                "; {} of {} were not due",
                left.objects,
                BinaryBytes(left.bytes)
            )?;
        }
        if report.never.objects > 0 {
            write!(out, ", of which {} never were", report.never.objects)?;
        }
        if let Some(oldest) = report.oldest {
            write!(out, "; the others have been since {oldest:.0}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
