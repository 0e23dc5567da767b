//! `walfs wal-verify`: is the archived WAL unbroken? By names and histories; no segment is read.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::assemble::Stay;
use crate::job::wal_ranges::{Beginning, TimelineRanges, WalRanges, wal_ranges};
use crate::pg::Timeline;
use crate::store::Patience;

use super::complain;
use super::options::{ArchiveArgs, open};
use super::out::Out;
use super::progress;
use super::wal::{Failure, block_on};

/// Find what is missing between the archived WAL files
///
/// Lists each timeline's segments as unbroken ranges, the holes between them, timelines without their history, and segments
/// from before their timeline began. Looks at names and histories; no segment is read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs wal-verify --archive s3://bucket/prefix
  walfs wal-verify --archive /srv/archive --json | jq '.timelines[].holes[]'

Where an archive begins, nothing is missing before; what `walfs prune` has removed is no hole. That a timeline goes on where a later one left it is told, and is no \
error: it is so after each recovery to an earlier point.

Exit codes: 0 nothing is missing, 1 something is, or it failed, 2 wrong usage.")]
pub struct VerifyArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// One JSON object: is_unbroken, segment_bytes, timelines
    #[arg(long)]
    json: bool,
}

/// Runs `walfs wal-verify`.
pub fn run(arguments: &VerifyArgs) -> ExitCode {
    match block_on(verify(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// True: nothing is missing.
async fn verify(arguments: &VerifyArgs) -> Result<bool, Failure> {
    let config = arguments.archive.config()?;
    let archive = open(&config, Stay::Long, config.deadline).await?;
    let shown = progress::on_terminal();
    let patience = || Patience::for_at_most(config.deadline);
    let ranges = wal_ranges(&archive, &shown, patience).await?;
    drop(shown);
    let is_unbroken = !ranges.timelines.iter().any(TimelineRanges::is_broken);
    let mut out = Out::new();
    if arguments.json {
        let told = Told::new(&ranges, is_unbroken);
        writeln!(out, "{}", serde_json::to_string(&told)?)?;
    } else {
        print(&mut out, &ranges)?;
    }
    out.end()?;
    if !is_unbroken {
        complain(&format_args!(
            "{}: something is missing between the archived WAL files. Recovery stops there.\n\
             HINT: look for it in pg_wal of the servers and of their standbys, and archive it; then take a new backup: \
             `walfs backup`",
            archive.place()
        ));
    }
    Ok(is_unbroken)
}

fn print(out: &mut impl Write, ranges: &WalRanges) -> Result<(), Failure> {
    writeln!(out, "{:<24}  {:<24}  {:>10}", "FIRST", "LAST", "SEGMENTS")?;
    for own in &ranges.timelines {
        let timeline = own.timeline;
        let mut lines: Vec<(u64, Range)> = Vec::new();
        let mut add =
            |first, last, kind| lines.push((first, Range::new(ranges, timeline, (first, last), kind)));
        own.runs.iter().for_each(|run| add(run.first, run.last, None));
        own.holes
            .iter()
            .for_each(|(first, last)| add(*first, *last, Some("missing")));
        own.pruned
            .iter()
            .for_each(|(first, last)| add(*first, *last, Some("pruned")));
        lines.sort_by_key(|(first, _)| *first);
        for (_, line) in lines {
            let Range {
                first,
                last,
                segments,
                kind,
            } = line;
            let kind = kind.map_or(String::new(), |kind| format!("  {kind}"));
            writeln!(out, "{first:<24}  {last:<24}  {segments:>10}{kind}")?;
        }
        for remark in remarks(own, ranges) {
            writeln!(out, "timeline {timeline}: {remark}")?;
        }
    }
    Ok(())
}

fn remarks(own: &TimelineRanges, ranges: &WalRanges) -> Vec<String> {
    let file = format!("{:08X}.history", own.timeline.0);
    let mut remarks = Vec::new();
    match &own.beginning {
        Beginning::First => {}
        Beginning::Left(parent, at) => remarks.push(format!("it left timeline {parent} at {at}")),
        Beginning::Lost => remarks.push(format!(
            "{file} is missing, which says where it began: only backups of its own recover along it"
        )),
        Beginning::Wrong(reason) | Beginning::Damaged(reason) => {
            remarks.push(format!("{file} is of no use: {reason}"))
        }
    }
    if let Some(begun) = own.begun.and_then(|begun| ranges.name(own.timeline, begun)) {
        remarks.push(format!(
            "of {begun} only the beginning is there, as .partial or received"
        ));
    }
    remarks.extend(own.wrong.iter().map(|(_, why)| why.clone()));
    if let Some((first, last)) = own.before_beginning {
        let Range { first, last, .. } = Range::new(ranges, own.timeline, (first, last), None);
        remarks.push(format!(
            "{first} to {last} lie before it began, and cannot be: they are another server's"
        ));
    }
    let left = own.left_behind.iter().map(|(child, at, segments)| {
        format!("timeline {child} left it at {at}, and it goes on: {segments} segments lie behind that")
    });
    remarks.extend(left);
    remarks
}

/// Segments that follow each other.
#[derive(Debug, Serialize)]
struct Range {
    first: String,
    last: String,
    segments: u64,
    #[serde(skip)]
    kind: Option<&'static str>,
}

impl Range {
    fn new(
        ranges: &WalRanges,
        timeline: Timeline,
        (first, last): (u64, u64),
        kind: Option<&'static str>,
    ) -> Self {
        let name = |number| {
            ranges
                .name(timeline, number)
                .map_or_else(String::new, |name| name.to_string())
        };
        Self {
            first: name(first),
            last: name(last),
            segments: last - first + 1,
            kind,
        }
    }
}

/// What `--json` tells.
#[derive(Debug, Serialize)]
struct Told {
    is_unbroken: bool,
    segment_bytes: Option<u64>,
    timelines: Vec<ToldTimeline>,
}

#[derive(Debug, Serialize)]
struct ToldTimeline {
    timeline: u32,
    /// `first`, `archived`, `missing` or `damaged`.
    history: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<Left>,
    segments: u64,
    ranges: Vec<Range>,
    holes: Vec<Range>,
    pruned: Vec<Range>,
    /// The last segment of which only the beginning is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<String>,
    /// Segments that are damaged or torn, and why.
    wrong: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before_beginning: Option<Range>,
    left_by: Vec<LeftBy>,
}

/// Which timeline it comes from.
#[derive(Debug, Serialize)]
struct Left {
    timeline: u32,
    lsn: String,
}

/// A timeline that left this one, which goes on.
#[derive(Debug, Serialize)]
struct LeftBy {
    timeline: u32,
    lsn: String,
    segments_behind: u64,
}

impl Told {
    fn new(ranges: &WalRanges, is_unbroken: bool) -> Self {
        let timelines = ranges.timelines.iter().map(|own| {
            let range = |first, last| Range::new(ranges, own.timeline, (first, last), None);
            ToldTimeline {
                timeline: own.timeline.0,
                history: match own.beginning {
                    Beginning::First => "first",
                    Beginning::Left(..) => "archived",
                    Beginning::Lost => "missing",
                    Beginning::Wrong(_) | Beginning::Damaged(_) => "damaged",
                },
                left: match &own.beginning {
                    Beginning::Left(timeline, lsn) => Some(Left {
                        timeline: timeline.0,
                        lsn: lsn.to_string(),
                    }),
                    _ => None,
                },
                segments: own.segments(),
                ranges: own.runs.iter().map(|run| range(run.first, run.last)).collect(),
                holes: own
                    .holes
                    .iter()
                    .map(|(first, last)| range(*first, *last))
                    .collect(),
                pruned: own
                    .pruned
                    .iter()
                    .map(|(first, last)| range(*first, *last))
                    .collect(),
                begun: own
                    .begun
                    .and_then(|begun| ranges.name(own.timeline, begun))
                    .map(|begun| begun.to_string()),
                wrong: own.wrong.iter().map(|(_, why)| why.clone()).collect(),
                before_beginning: own.before_beginning.map(|(first, last)| range(first, last)),
                left_by: own
                    .left_behind
                    .iter()
                    .map(|(timeline, lsn, segments)| LeftBy {
                        timeline: timeline.0,
                        lsn: lsn.to_string(),
                        segments_behind: *segments,
                    })
                    .collect(),
            }
        });
        Self {
            is_unbroken,
            segment_bytes: ranges.segment_size.map(|size| size.bytes()),
            timelines: timelines.collect(),
        }
    }
}
