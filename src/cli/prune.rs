//! `walfs prune`: removes backups that nobody wants any more, and the WAL that only they needed.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::prune::WalSpan;
use crate::archive::tree::ended::KnownFrom;
use crate::archive::tree::{TreeKind, TreeName};
use crate::assemble::Stay;
use crate::config::duration;
use crate::job::prune::{MOST_TIME, Plan, Planned, Prune, Removed, Rules, Tally};
use crate::printable::printable;

use super::complain;
use super::options::{ArchiveArgs, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on, exit_code};

/// The longest grace.
const MOST_GRACE: Duration = Duration::from_secs(6 * 3600);

/// Remove backups that are not wanted any more, and the WAL that only they need
///
/// A backup stays if one of the rules wants it. The newest complete one always stays, and so does the newest from which the
/// end of each branch can be reached that was not given up; what is pinned (`walfs backup-pin`); and what backups point to
/// that stay, or that are being made. WAL stays from the oldest backup on, and with --pitr-days from where the last days
/// begin; of older backups what makes them consistent. Histories of timelines stay. Versions of files and dumps are judged name by
/// name, by the same rules: the newest one of each always stays.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs prune --archive s3://bucket/prefix --keep-last 7 --dry-run
  walfs prune --archive s3://bucket/prefix --keep-days 30
  walfs prune --archive s3://bucket/prefix --keep-last 3 --keep-weekly 4 --keep-monthly 12 --pitr-days 14

The first keeps seven backups; the second what recovery to any moment of the last 30 days takes; the third three, the newest \
of each of four weeks and twelve months, and recovery to any moment of the last 14 days.

Days, weeks (ISO 8601), months and years are those of UTC. Several hosts may prune, and take backups meanwhile: what is to \
go is announced, waits for --grace, and is looked at again. A prune that was killed is finished by the next one.

Exit codes: 0 done, or nothing was to be done; 1 it failed, and the next one goes on; 2 wrong usage.")]
pub struct PruneArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Keep WAL between backups only for recovery to any moment of the last N days [default: from the oldest backup on]
    #[arg(long, value_name = "N", env = "WALFS_PRUNE_PITR_DAYS", hide_env_values = true)]
    pitr_days: Option<u32>,
    /// Show what would go, what would stay and why, and remove nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// How long what is to go is still there after that was announced, for those who are reading it
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, env = "WALFS_PRUNE_GRACE", hide_env_values = true)]
    grace: Duration,
    /// Print one JSON object: backups, wal, removed
    #[arg(long)]
    json: bool,
}

/// The rules.
#[derive(Debug, Default, Args)]
#[group(required = true, multiple = true)]
pub struct RuleArgs {
    /// Keep the newest N complete backups
    #[arg(long, value_name = "N", env = "WALFS_PRUNE_KEEP_LAST", hide_env_values = true)]
    keep_last: Option<u32>,
    /// Keep what recovery to any moment of the last N days takes
    #[arg(long, value_name = "N", env = "WALFS_PRUNE_KEEP_DAYS", hide_env_values = true)]
    keep_days: Option<u32>,
    /// Keep the newest backup of each of the last N days that have one
    #[arg(
        long,
        value_name = "N",
        env = "WALFS_PRUNE_KEEP_DAILY",
        hide_env_values = true
    )]
    keep_daily: Option<u32>,
    /// Keep the newest backup of each of the last N weeks that have one
    #[arg(
        long,
        value_name = "N",
        env = "WALFS_PRUNE_KEEP_WEEKLY",
        hide_env_values = true
    )]
    keep_weekly: Option<u32>,
    /// Keep the newest backup of each of the last N months that have one
    #[arg(
        long,
        value_name = "N",
        env = "WALFS_PRUNE_KEEP_MONTHLY",
        hide_env_values = true
    )]
    keep_monthly: Option<u32>,
    /// Keep the newest backup of each of the last N years that have one
    #[arg(
        long,
        value_name = "N",
        env = "WALFS_PRUNE_KEEP_YEARLY",
        hide_env_values = true
    )]
    keep_yearly: Option<u32>,
    /// Keep this backup, and all that are newer
    #[arg(long, value_name = "NAME")]
    keep_from: Option<TreeName>,
}

impl RuleArgs {
    fn rules(&self, pitr_days: Option<u32>) -> Rules {
        Rules {
            last: self.keep_last,
            days: self.keep_days,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            from: self.keep_from.clone(),
            pitr_days,
        }
    }
}

/// Runs `walfs prune`.
pub fn run(arguments: &PruneArgs) -> ExitCode {
    exit_code(block_on(prune(arguments)))
}

/// Prune, in the words of WAL-E and wal-g
///
/// Without --confirm nothing is removed: it is shown. WAL stays from the oldest backup on that stays.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs delete --archive s3://bucket/prefix retain 5
  walfs delete --archive s3://bucket/prefix retain FULL 5 --confirm
  walfs delete --archive s3://bucket/prefix before monday --confirm

Every backup of walfs counts as a full one. `walfs prune` knows more rules.")]
pub struct DeleteArgs {
    /// `retain [FULL|FIND_FULL] N`, or `before [FIND_FULL] NAME`
    #[arg(value_name = "WORDS", num_args = 2..=3, required = true)]
    words: Vec<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Prune, in the words of pgGlaskugel
///
/// Without --confirm nothing is removed: it is shown. WAL stays from the oldest backup on that stays.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Keep the newest N complete backups
    #[arg(long, value_name = "N")]
    retain: u32,
    #[command(flatten)]
    common: CommonArgs,
}

/// What both take.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Remove it
    #[arg(long)]
    confirm: bool,
    /// How long what is to go is still there after that was announced
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    grace: Duration,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Print one JSON object: backups, wal, removed
    #[arg(long)]
    json: bool,
}

impl CommonArgs {
    fn prune(self, rules: RuleArgs) -> PruneArgs {
        PruneArgs {
            archive: self.archive,
            rules,
            pitr_days: None,
            dry_run: !self.confirm,
            grace: self.grace,
            json: self.json,
        }
    }
}

/// Runs `walfs delete`.
pub fn delete(arguments: DeleteArgs) -> ExitCode {
    let words: Vec<&str> = arguments.words.iter().map(String::as_str).collect();
    let keep_last = |count: &str| {
        let keep_last = Some(count.parse().ok()?);
        Some(RuleArgs {
            keep_last,
            ..RuleArgs::default()
        })
    };
    let keep_from = |name: &str| {
        let keep_from = Some(name.parse().ok()?);
        Some(RuleArgs {
            keep_from,
            ..RuleArgs::default()
        })
    };
    let rules = match words[..] {
        ["retain", count] | ["retain", "FULL" | "FIND_FULL", count] => keep_last(count),
        ["before", name] | ["before", "FIND_FULL", name] => keep_from(name),
        _ => None,
    };
    let Some(rules) = rules else {
        complain(&format_args!(
            "{:?} is neither `retain N` nor `before NAME`.\nHINT: `walfs delete --help` has examples.",
            arguments.words.join(" ")
        ));
        return ExitCode::from(2);
    };
    run(&arguments.common.prune(rules))
}

/// Runs `walfs cleanup`.
pub fn cleanup(arguments: CleanupArgs) -> ExitCode {
    let rules = RuleArgs {
        keep_last: Some(arguments.retain),
        ..RuleArgs::default()
    };
    run(&arguments.common.prune(rules))
}

async fn prune(arguments: &PruneArgs) -> Result<(), Failure> {
    let rules = arguments.rules.rules(arguments.pitr_days);
    if arguments.grace > MOST_GRACE {
        return Err(format!(
            "a grace of more than {} hours is refused, because a prune ends by itself after {}.\n\
             HINT: leave --grace out, which is a minute.",
            MOST_GRACE.as_secs() / 3600,
            MOST_TIME.as_secs() / 3600
        )
        .into());
    }
    let config = arguments.archive.config()?;
    let archive = Arc::new(open(&config, Stay::Long, config.deadline).await?);
    let shown = progress::on_terminal();
    let prune = Prune {
        archive: &archive,
        rules: &rules,
        grace: arguments.grace,
        progress: &shown,
        deadline: config.deadline,
    };
    let (plan, removed) = match arguments.dry_run {
        true => prune.plan().await?,
        false => prune.run().await?,
    };
    drop(shown);
    let mut out = Out::new();
    if arguments.json {
        let told = Told::new(&plan, removed, arguments.dry_run);
        writeln!(out, "{}", serde_json::to_string(&told)?)?;
    } else {
        print(&mut out, &plan, removed, arguments.dry_run)?;
    }
    Ok(out.end()?)
}

fn print(out: &mut impl Write, plan: &Plan, removed: Removed, dry_run: bool) -> Result<(), Failure> {
    let names = plan
        .backups
        .iter()
        .map(|planned| planned.name().as_str().chars().count());
    let width = names.max().unwrap_or(0).max("BACKUP".len());
    writeln!(
        out,
        "{:<width$}  {:<20}  {:>10}  FATE",
        "BACKUP", "ENDED", "STORED"
    )?;
    for planned in &plan.backups {
        let summary = planned.summary();
        let (name, ended) = (planned.name(), summary.backup.ended.to_string());
        let stored = BinaryBytes(summary.stored_bytes).to_string();
        let fate = match (planned.goes(), dry_run) {
            (true, true) => "would go".to_owned(),
            (true, false) => "removed".to_owned(),
            (false, _) => format!("stays: {}", why(planned)),
        };
        writeln!(out, "{name:<width$}  {ended:<20}  {stored:>10}  {fate}")?;
    }
    if let Some(name) = &plan.held_by {
        writeln!(
            out,
            "no WAL goes: backup {name} is being made, or has lost its summary (`walfs backup-list`), and what it needs is not \
             known"
        )?;
    }
    for timeline in &plan.without_backup {
        writeln!(
            out,
            "the WAL of timeline {timeline} stays, for a server may archive there: no complete backup reaches it"
        )?;
    }
    for WalSpan { first, last } in plan.wal_spans() {
        writeln!(out, "WAL that is not needed: {first} to {last}")?;
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    let tally = |Tally { objects, bytes }| format!("{objects} objects, {}", BinaryBytes(bytes));
    writeln!(
        out,
        "{verb} of backups {}; of WAL {}",
        tally(removed.trees),
        tally(removed.wal)
    )?;
    if removed.locked.tally.objects > 0 {
        let kept = tally(removed.locked.tally);
        let until = removed
            .locked
            .until
            .map_or("somebody takes the legal hold away".to_owned(), |until| {
                format!("{until:.0}")
            });
        writeln!(
            out,
            "the store has locked {kept}, until {until}: a prune after that removes them"
        )?;
    }
    Ok(())
}

fn why(planned: &Planned) -> String {
    let reasons: Vec<String> = planned.why.iter().map(ToString::to_string).collect();
    printable(&reasons.join("; ")).into_owned()
}

/// What `--json` tells.
#[derive(Debug, Serialize)]
struct Told {
    dry_run: bool,
    backups: Vec<ToldBackup>,
    wal: Vec<WalSpan>,
    timelines_without_backup: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_held_by: Option<String>,
    removed: ToldRemoved,
}

#[derive(Debug, Serialize)]
struct ToldBackup {
    content: TreeKind,
    name: String,
    ended: String,
    ended_known_from: KnownFrom,
    stored_bytes: u64,
    goes: bool,
    why: Vec<String>,
}

/// With --dry-run what would be.
#[derive(Debug, Serialize)]
struct ToldRemoved {
    backup_objects: u64,
    backup_bytes: u64,
    wal_objects: u64,
    wal_bytes: u64,
    /// Which nothing needs, and which stay.
    locked_objects: u64,
    locked_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked_until: Option<String>,
}

impl Told {
    fn new(plan: &Plan, removed: Removed, dry_run: bool) -> Self {
        let backups = plan.backups.iter().map(|planned| ToldBackup {
            content: planned.summary().content,
            name: planned.name().to_string(),
            ended: planned.summary().backup.ended.at.to_string(),
            ended_known_from: planned.summary().backup.ended.known_from,
            stored_bytes: planned.summary().stored_bytes,
            goes: planned.goes(),
            why: planned.why.iter().map(ToString::to_string).collect(),
        });
        Self {
            dry_run,
            backups: backups.collect(),
            wal: plan.wal_spans(),
            timelines_without_backup: plan.without_backup.iter().map(|timeline| timeline.0).collect(),
            wal_held_by: plan.held_by.as_ref().map(ToString::to_string),
            removed: ToldRemoved {
                backup_objects: removed.trees.objects,
                backup_bytes: removed.trees.bytes,
                wal_objects: removed.wal.objects,
                wal_bytes: removed.wal.bytes,
                locked_objects: removed.locked.tally.objects,
                locked_bytes: removed.locked.tally.bytes,
                locked_until: removed.locked.until.map(|until| until.to_string()),
            },
        }
    }
}
