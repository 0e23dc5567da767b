//! `walfs wal-find`: the last recoverable moment, and where in the archived WAL a time, a restore point, a transaction or a
//! relation is.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::options::{ArchiveArgs, open};
use super::out::Out;
use super::wal::{Failure, block_on};
use super::{complain, moment, progress};
use crate::assemble::Stay;
use crate::job::progress::Phase;
use crate::job::wal_find::{Findings, RelationFile, Searched, TouchedIn, TransactionEnd, line};
use crate::pg::record::RelationFork;
use crate::pg::{Lsn, SegmentName, Timeline};

/// Tell up to where the archive can recover, or find a moment in its WAL
///
/// Without a question: the last recoverable moment, which is the newest commit of the newest timeline before anything is missing
/// behind the newest backup.
///
/// Each archived segment has an index of what its WAL says; of one without, archived by an earlier walfs, the WAL itself is
/// fetched and read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs wal-find --archive s3://bucket/prefix
  walfs wal-find --archive /srv/archive --time '2026-11-21 14:00:00+01'
  walfs wal-find --archive /srv/archive --restore-point before_upgrade
  walfs wal-find --archive /srv/archive --restore-point --json | jq -r .name
  walfs wal-find --archive /srv/archive --relation 16384/24601

--relation takes the numbers of pg_relation_filepath(): base/DB/FILE is DB/FILE, global/FILE is 0/FILE, and a tablespace's \
oid may be in front. Blocks of a segment that touches many are told in groups, of which one at least was touched.

Exit codes: 0 it was found, 1 it was not, or it failed, 2 wrong usage.")]
pub struct FindArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// The last commit at this time or before, and the first after it, at which recovery to that time stops
    #[arg(long, value_name = "TIME", group = "question", value_parser = moment::parse)]
    time: Option<Timestamp>,
    /// Restore points of this name, or all
    #[arg(long, value_name = "NAME", group = "question", num_args = 0..=1)]
    restore_point: Option<Option<String>>,
    /// Where this transaction ended
    #[arg(long, value_name = "XID", group = "question")]
    xid: Option<u64>,
    /// The segments that touch a relation's file
    #[arg(long, value_name = "[SPC/]DB/FILE", group = "question", value_parser = relation)]
    relation: Option<RelationFile>,
    /// Search the line of history that leads to this timeline [default: the newest that has WAL]
    #[arg(long, value_name = "TIMELINE")]
    timeline: Option<u32>,
    /// Print JSON: one object, or of what may be several one object a line
    #[arg(long)]
    json: bool,
}

fn relation(text: &str) -> Result<RelationFile, String> {
    let numbers: Result<Vec<u32>, _> = text.split('/').map(str::parse).collect();
    let file = |tablespace, database, relation| RelationFile {
        tablespace,
        database,
        relation,
    };
    match numbers.as_deref() {
        Ok([database, relation]) => Ok(file(None, *database, *relation)),
        Ok([tablespace, database, relation]) => Ok(file(Some(*tablespace), *database, *relation)),
        _ => Err(format!(
            "{text:?} is no relation's file: expected DB/FILE or SPC/DB/FILE, numbers"
        )),
    }
}

/// The end of a transaction, or a restore point.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xid: Option<u32>,
    time: Timestamp,
    lsn: String,
    segment: String,
    timeline: u32,
    /// Nothing recovers past this missing segment, which lies before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_hole: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownEnd {
    timeline: u32,
    last_commit: Option<Shown>,
    wal_ends_at: Option<String>,
    last_segment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hole: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownAround {
    before: Option<Shown>,
    after: Option<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<Shown>,
}

#[derive(Debug, Serialize)]
struct ShownFork {
    tablespace: u32,
    database: u32,
    file: u32,
    fork: &'static str,
    blocks: Vec<(u32, u32)>,
}

#[derive(Debug, Serialize)]
struct ShownSegment {
    segment: String,
    timeline: u32,
    all_known: bool,
    forks: Vec<ShownFork>,
}

/// Runs `walfs wal-find`.
pub fn find(arguments: &FindArgs) -> ExitCode {
    match block_on(find_in(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            complain(&"nothing of that is in the WAL of this line of history");
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// False: it is not there.
async fn find_in(arguments: &FindArgs) -> Result<bool, Failure> {
    let config = arguments.archive.config()?;
    let archive = Arc::new(open(&config, Stay::Short, config.deadline).await?);
    let timeline = arguments.timeline.map(Timeline);
    let searched = line(&archive, timeline, config.person_patience()).await?;
    if !searched.others.is_empty() && timeline.is_none() {
        let others: Vec<String> = searched.others.iter().map(ToString::to_string).collect();
        complain(&format_args!(
            "timeline {} is searched; {} has WAL as well that this line of history does not lead through\n\
             HINT: --timeline searches another",
            searched.timeline,
            others.join(", ")
        ));
    }
    if let Some(damaged) = &searched.damaged {
        complain(&format_args!(
            "warning: {damaged}\n\
             It is the history of timeline {0} or of a later one, which every server that recovers along timeline {0} asks for: \
             as long as the object is there, none does, and a later timeline may be the one that is meant\n\
             HINT: bring it back from a copy of the store; or remove it there, and archive the file anew: `walfs wal-push`",
            searched.timeline
        ));
    }
    if let Some(hole) = searched.hole {
        let (what, hint) = match searched.broken {
            None => (
                format!("{hole} is missing"),
                "`walfs wal-verify` lists all that is missing; look for it in pg_wal of the servers and of their standbys",
            ),
            Some(fault) => (fault.of(hole), "bring that object back from a copy of the store"),
        };
        complain(&format_args!(
            "warning: {what}, and there is WAL behind it: no backup of {} recovers past it\n\
             HINT: {hint}, or take a new backup",
            archive.place()
        ));
    }
    let progress = progress::on_terminal();
    progress.phase(Phase::Searching(searched.line.segments()));
    let mut out = Out::new();
    let found = answer(arguments, &searched, &mut out).await;
    drop(progress);
    let found = found?;
    out.end()?;
    Ok(found)
}

async fn answer(arguments: &FindArgs, searched: &Searched, out: &mut Out) -> Result<bool, Failure> {
    let json = arguments.json;
    if let Some(time) = arguments.time {
        let findings = searched.around(time).await?;
        tell_unknown(&findings);
        let around = findings.found;
        let shown = ShownAround {
            before: around.before.map(|end| shown_end(searched, end)),
            after: around.after.map(|end| shown_end(searched, end)),
            missed: around
                .missed
                .map(|(segment, commit)| shown(searched, segment, commit.at, commit.time)),
        };
        let is_found = shown.before.is_some() || shown.after.is_some();
        match json {
            true => writeln!(out, "{}", serde_json::to_string(&shown)?)?,
            false => {
                print(out, "at it or before:", shown.before.as_ref())?;
                print(out, "after it:", shown.after.as_ref())?;
                if shown.missed.is_some() {
                    let title = "behind that, and not reached by recovery to that time (a clock was ahead, or has gone back):";
                    print(out, title, shown.missed.as_ref())?;
                }
            }
        }
        return Ok(is_found);
    }
    if let Some(name) = &arguments.restore_point {
        let findings = searched.restore_points(name.as_deref()).await?;
        tell_unknown(&findings);
        for (segment, point) in &findings.found {
            let shown = Shown {
                name: Some(point.name.clone()),
                kind: None,
                xid: None,
                ..shown(searched, *segment, point.moment.at, point.moment.time)
            };
            print_one(out, &shown, json)?;
        }
        return Ok(!findings.found.is_empty());
    }
    if let Some(xid) = arguments.xid {
        let findings = searched.xid(xid as u32).await?;
        tell_unknown(&findings);
        for end in &findings.found {
            print_one(out, &shown_end(searched, *end), json)?;
        }
        return Ok(!findings.found.is_empty());
    }
    if let Some(file) = arguments.relation {
        let mut written = Ok(());
        let show = |touched: TouchedIn| {
            let line = segment_line(&touched, json).map_err(Failure::from);
            let told = line.and_then(|line| Ok(writeln!(out, "{line}")?));
            if told.is_err() {
                written = told;
            }
        };
        let findings = searched.relation(file, show).await?;
        written?;
        tell_unknown(&findings);
        return Ok(findings.found > 0);
    }
    let end = searched.end().await?;
    let commit = end
        .commit
        .map(|(segment, commit)| shown(searched, segment, commit.at, commit.time));
    let shown = ShownEnd {
        timeline: searched.timeline.0,
        last_commit: commit,
        wal_ends_at: end.end.map(|end| end.to_string()),
        last_segment: end.last.map(|last| last.to_string()),
        hole: searched.hole.map(|hole| hole.to_string()),
    };
    match json {
        true => writeln!(out, "{}", serde_json::to_string(&shown)?)?,
        false => {
            print(out, "last recoverable moment:", shown.last_commit.as_ref())?;
            let unknown = || "unknown".to_owned();
            writeln!(
                out,
                "the WAL ends at {}, in {}, on timeline {}",
                shown.wal_ends_at.unwrap_or_else(unknown),
                shown.last_segment.unwrap_or_else(unknown),
                shown.timeline
            )?;
        }
    }
    Ok(end.commit.is_some())
}

fn tell_unknown<T>(findings: &Findings<T>) {
    if let Some(first) = findings.unknown.first() {
        complain(&format_args!(
            "warning: not all WAL could be read: {first}{} has no index and is no WAL that this walfs knows, or is damaged, or has a record across its border of which \
             not all is at hand",
            match findings.unknown.len() {
                1 => String::new(),
                more => format!(" and {} more segments", more - 1),
            }
        ));
    }
}

fn shown(searched: &Searched, segment: SegmentName, at: Lsn, time: Timestamp) -> Shown {
    let hole = searched.hole.filter(|_| searched.is_behind_hole(segment));
    Shown {
        name: None,
        kind: Some("commit"),
        xid: None,
        time,
        lsn: at.to_string(),
        segment: segment.to_string(),
        timeline: segment.timeline.0,
        behind_hole: hole.map(|hole| hole.to_string()),
    }
}

fn shown_end(searched: &Searched, end: TransactionEnd) -> Shown {
    Shown {
        kind: Some(if end.ended.committed { "commit" } else { "abort" }),
        xid: end.xid,
        ..shown(searched, end.segment, end.at, end.ended.time)
    }
}

fn print_one(out: &mut Out, shown: &Shown, json: bool) -> Result<(), Failure> {
    match json {
        true => writeln!(out, "{}", serde_json::to_string(shown)?)?,
        false => print(out, "", Some(shown))?,
    }
    Ok(())
}

fn print(out: &mut Out, title: impl Display, shown: Option<&Shown>) -> Result<(), Failure> {
    let title = format!("{title} ");
    let title = title.trim_start();
    let Some(shown) = shown else {
        writeln!(out, "{title}nothing")?;
        return Ok(());
    };
    let name = shown
        .name
        .as_ref()
        .map_or(String::new(), |name| format!("{name} "));
    let kind = match (shown.kind, shown.xid) {
        (Some(kind), Some(xid)) => format!("{kind} of transaction {xid} "),
        (Some(kind), None) => format!("{kind} "),
        _ => String::new(),
    };
    writeln!(
        out,
        "{title}{name}{kind}at {}, {} in {}{}",
        shown.time,
        shown.lsn,
        shown.segment,
        shown.behind_hole.as_ref().map_or("", |_| " (behind the hole)")
    )?;
    Ok(())
}

/// `main`, and what PostgreSQL has behind the `_` in the names of the others.
fn fork_name(fork: u8) -> &'static str {
    ["main", "fsm", "vm", "init"]
        .get(usize::from(fork))
        .copied()
        .unwrap_or("other")
}

fn segment_line(touched: &TouchedIn, json: bool) -> Result<String, serde_json::Error> {
    let shown = ShownSegment {
        segment: touched.segment.to_string(),
        timeline: touched.segment.timeline.0,
        all_known: touched.all,
        forks: touched.forks.iter().map(shown_fork).collect(),
    };
    if json {
        return serde_json::to_string(&shown);
    }
    let mut line = shown.segment;
    for fork in &shown.forks {
        let blocks: u64 = fork
            .blocks
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1)
            .sum();
        line += &format!(" {}:{blocks}", fork.fork);
    }
    if !touched.all {
        line += " (not all blocks are known)";
    }
    Ok(line)
}

fn shown_fork((fork, blocks): &(RelationFork, Vec<(u32, u32)>)) -> ShownFork {
    ShownFork {
        tablespace: fork.tablespace,
        database: fork.database,
        file: fork.relation,
        fork: fork_name(fork.fork),
        blocks: blocks.clone(),
    }
}
