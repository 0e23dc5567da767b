//! What `walfs restore` prints at its end: what was done, and what to do next.

use std::io::{self, Write};
use std::path::Path;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::job::restore::{Options, Report, Target, TargetAction};
use crate::pg::SegmentName;

/// `walfs restore --json`.
#[derive(Debug, Serialize)]
struct Restored<'a> {
    backup: &'a str,
    directory: &'a Path,
    dry_run: bool,
    files: u64,
    bytes: u64,
    kept_bytes: u64,
    fetched_bytes: u64,
    removed: Vec<&'a Path>,
    tablespaces: Vec<Tablespace<'a>>,
    target: String,
    timeline: u32,
    wal_until: String,
    wal_gap: Option<String>,
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct Tablespace<'a> {
    oid: u32,
    directory: &'a Path,
}

/// Prints the report; `user` must run the server, if it is another than who restores.
pub(super) fn print(report: &Report, options: &Options, user: Option<String>, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string(&as_json(report, options))?);
    }
    let done = if options.dry_run {
        "would restore"
    } else {
        "restored"
    };
    let Report { backup, files, .. } = report;
    writeln!(
        out,
        "{done} {backup} to {}: {files} files, {}",
        options.directory.display(),
        bytes(report, options)
    )?;
    for path in report.removed.iter().filter(|_| options.dry_run) {
        writeln!(out, "would remove {}", path.display())?;
    }
    if !options.dry_run && !report.removed.is_empty() {
        writeln!(
            out,
            "removed {} files and directories that are not in it",
            report.removed.len()
        )?;
    }
    for place in &report.tablespaces {
        writeln!(out, "tablespace {}: {}", place.oid, place.directory.display())?;
    }
    let reach = &report.reach;
    writeln!(
        out,
        "target: {}, on timeline {}; the archived WAL is whole up to {} ({})",
        options.recovery.target, reach.timeline, reach.last, reach.end
    )?;
    if options.dry_run {
        return Ok(());
    }
    next(&mut out, report, options, user)
}

fn bytes(report: &Report, options: &Options) -> String {
    let (all, kept) = (HumanBytes(report.bytes), HumanBytes(report.kept_bytes));
    match (options.dry_run, report.kept_bytes > 0) {
        (true, true) => format!("{all}, of which {kept} are there already"),
        (true, false) => format!("{all}"),
        (false, true) => format!(
            "{all}; {kept} were there already, {} fetched",
            HumanBytes(report.fetched_bytes)
        ),
        (false, false) => format!("{all}"),
    }
}

/// The commands that an operator needs now.
fn next(out: &mut impl Write, report: &Report, options: &Options, user: Option<String>) -> io::Result<()> {
    let as_user = user.map_or_else(String::new, |user| format!("sudo -u {user} "));
    let directory = options.directory.to_string_lossy().replace('\'', r"'\''");
    let program = report
        .postgresql_major
        .map(|major| format!("/usr/lib/postgresql/{major}/bin/pg_ctl"))
        .filter(|program| Path::new(program).exists())
        .unwrap_or_else(|| "pg_ctl".into());
    writeln!(out, "\nNext:")?;
    writeln!(
        out,
        "  {as_user}{program} -D '{directory}' -l /tmp/recovery.log start"
    )?;
    writeln!(
        out,
        "  {as_user}psql -c 'SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()'"
    )?;
    let pauses = options.recovery.target.setting().is_some()
        && matches!(options.recovery.action, None | Some(TargetAction::Pause));
    if options.recovery.standby {
        writeln!(out, "It is a standby: `SELECT pg_promote()` opens it.")?;
    } else if pauses {
        writeln!(
            out,
            "It pauses at the target and can be read; `SELECT pg_wal_replay_resume()` opens it."
        )?;
    } else if options.recovery.target == Target::Latest {
        writeln!(out, "At the end of the WAL it opens on a new timeline.")?;
    }
    Ok(())
}

fn as_json<'a>(report: &'a Report, options: &'a Options) -> Restored<'a> {
    let name = |segment: SegmentName| segment.to_string();
    Restored {
        backup: &report.backup,
        directory: &options.directory,
        dry_run: options.dry_run,
        files: report.files,
        bytes: report.bytes,
        kept_bytes: report.kept_bytes,
        fetched_bytes: report.fetched_bytes,
        removed: report.removed.iter().map(|path| path.as_path()).collect(),
        tablespaces: report
            .tablespaces
            .iter()
            .map(|place| Tablespace {
                oid: place.oid,
                directory: &place.directory,
            })
            .collect(),
        target: options.recovery.target.to_string(),
        timeline: report.reach.timeline.0,
        wal_until: name(report.reach.last),
        wal_gap: report.reach.gap.map(name),
        warnings: &report.warnings,
    }
}
