//! What `walfs restore` prints at its end: what was done, and what to do next.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use serde::Serialize;

use crate::job::restore::{Options, Report};
use crate::pg::SegmentName;

use super::out::Out;

mod next;

/// Files that are named on a terminal; the others are counted.
const NAMED: usize = 20;

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
    wal_set_aside: Option<SetAside<'a>>,
    wal_kept: &'a [String],
    wal_archived: &'a [String],
    waldir: Option<&'a Path>,
    tablespaces: Vec<Tablespace<'a>>,
    target: String,
    timeline: u32,
    wal_until: String,
    wal_gap: Option<String>,
    settings_set_aside: &'a [String],
    settings_put_back: &'a [PathBuf],
    settings_lacking: &'a [&'static str],
    warnings: &'a [String],
}

#[derive(Debug, Serialize)]
struct SetAside<'a> {
    directory: &'a Path,
    files: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tablespace<'a> {
    oid: u32,
    directory: &'a Path,
}

/// Prints the report; `user` must run the server, if it is another than who restores.
pub(super) fn print(
    report: &Report,
    options: &Options,
    place: &str,
    user: Option<String>,
    json: bool,
) -> io::Result<()> {
    let mut out = Out::new();
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
    say_removed(&mut out, report, options)?;
    say_wal(&mut out, report, options)?;
    for place in &report.tablespaces {
        writeln!(out, "tablespace {}: {}", place.oid, place.directory.display())?;
    }
    let reach = &report.reach;
    writeln!(
        out,
        "target: {}, on timeline {}; the archived WAL is whole up to {} ({})",
        options.recovery.target, reach.timeline, reach.last, reach.end
    )?;
    if let Some(end) = reach.received {
        writeln!(
            out,
            "what was received, or archived as .partial, of the next segment leads up to {end}"
        )?;
    }
    for setting in &report.settings {
        writeln!(out, "set aside: {setting}")?;
    }
    let would = if options.dry_run { "would be " } else { "" };
    for file in &report.put_back {
        writeln!(out, "{would}put back: {}", file.display())?;
    }
    if options.dry_run {
        return Ok(());
    }
    next::print(&mut out, report, options, place, user.as_deref())
}

/// What went, or will: some of it by name, all of it in `--json`.
fn say_removed(out: &mut impl Write, report: &Report, options: &Options) -> io::Result<()> {
    let what = if options.dry_run {
        "would remove"
    } else {
        "removed"
    };
    for path in report.removed.iter().take(NAMED) {
        writeln!(out, "{what} {}", path.display())?;
    }
    match report.removed.len().saturating_sub(NAMED) {
        0 => Ok(()),
        more => writeln!(
            out,
            "{what} {more} more files and directories that are not in it; --json names all"
        ),
    }
}

fn say_wal(out: &mut impl Write, report: &Report, options: &Options) -> io::Result<()> {
    let would = if options.dry_run { "would be " } else { "" };
    if let Some(waldir) = &report.waldir {
        writeln!(out, "pg_wal: a link to {}", waldir.display())?;
    }
    if let Some(aside) = &report.set_aside {
        let (files, to) = (aside.files.len(), aside.directory.display());
        writeln!(
            out,
            "{files} files of WAL that is not in the archive {would}moved to {to}"
        )?;
    }
    if !report.kept_wal.is_empty() {
        let (files, archived) = (report.kept_wal.len(), report.archived_wal.len());
        writeln!(
            out,
            "{files} files of WAL that is not in the archive {would}left in pg_wal"
        )?;
        if archived > 0 {
            let have_been = if options.dry_run { "would be" } else { "were" };
            writeln!(
                out,
                "{archived} of them are whole segments and {have_been} archived first: the server removes them once they are \
                 replayed"
            )?;
        }
    }
    Ok(())
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
        wal_set_aside: report.set_aside.as_ref().map(|aside| SetAside {
            directory: &aside.directory,
            files: aside.files.iter().map(ToString::to_string).collect(),
        }),
        wal_kept: &report.kept_wal,
        wal_archived: &report.archived_wal,
        waldir: report.waldir.as_deref(),
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
        settings_set_aside: &report.settings,
        settings_put_back: &report.put_back,
        settings_lacking: &report.lacking,
        warnings: &report.warnings,
    }
}
