//! `walfs backup-list` and `backup-show`: which backups there are, and what is known of one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use jiff::Timestamp;
use serde::Serialize;

use crate::archive::tree::backup::{Backup, Shape};
use crate::archive::tree::begun::Maker;
use crate::archive::tree::catalogue::{Begun, Unfinished};
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::refused::Refused;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{Tree, TreeKind};
use crate::job::backup::named;
use crate::job::listing::{Listed, State, backup, backups};
use crate::job::pinned::{Pinned, Pins, ids};
use crate::pg::WalName;
use crate::printable::printable;
use crate::store::Patience;

use super::options::ArchiveArgs;
use super::out::Out;
use super::wal::{Failure, block_on, exit_code};

/// List the backups of an archive, from the oldest to the newest, then unfinished ones
///
/// A backup is complete when all of it is stored, and every WAL segment that makes it consistent. Of one that lacks WAL
/// the segments are named.
#[derive(Debug, Args)]
#[command(after_long_help = LIST_MANUAL)]
pub struct ListArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// A JSON array of everything that is known of each
    #[arg(long)]
    json: bool,
}

const LIST_MANUAL: &str = "\
Examples:
  walfs backup-list --archive s3://bucket/prefix
  walfs backup-list --archive /srv/archive --json | jq -r '.[] | select(.state == \"complete\").name'

States:
  complete     it can be restored
  WAL missing  its files are stored; it is complete as soon as the named segments are archived
  incomplete   it is being taken (running), or was (abandoned: its maker is dead, which is known at once on the same
               machine, and elsewhere after 24 hours without a stored byte). What a dead `walfs backup` left is
               removed by the next one; what was brought through a mount stays until `walfs backup-discard NAME`.
               With what is wrong, if it was to be completed in the mount and that was refused
  summary missing
               abandoned, with all that comes before its summary: a complete backup that has lost it, or one that was
               killed just before. It stays until `walfs backup-discard NAME`
  damaged      its summary cannot be read, or something of it is not there any more, or `walfs verify` has found something of it
               damaged. Then LATEST means one that is whole, if there is one, and the next backup stores that part again
With `pinned` and why, if `walfs backup-pin` keeps it from every prune.

Columns: KIND is plain (a data directory), tar (tar files) or incr (pg_basebackup --incremental); when it ENDED, at STOP (>: then or later, the archive does \
not say); the WAL from START to STOP on its timeline (TLI), bytes of files, bytes stored for it, version of PostgreSQL \
(PG), damaged pages (BAD; - if nobody looked). Backups are as old as their STOP, whenever they were stored.";

/// Show what is known of one backup
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  walfs backup-show --archive s3://bucket/prefix LATEST
  walfs backup-show --archive /srv/archive --json monday | jq .backup.tablespaces")]
pub struct ShowArgs {
    /// Its name, or LATEST for the newest complete one
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    archive: ArchiveArgs,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// What `--json` has of a backup; what is not known is left out.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_wal: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maker: Option<ShownMaker<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<usize>,
    /// Why it is pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned_until: Option<Timestamp>,
    #[serde(flatten)]
    summary: Option<&'a Summary>,
}

#[derive(Debug, Serialize)]
struct ShownMaker<'a> {
    state: &'static str,
    host: Option<&'a str>,
    pid: Option<u32>,
    began: Option<Timestamp>,
    last_stored: Option<Timestamp>,
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a Refused>,
}

impl<'a> Shown<'a> {
    fn of(listed: &'a Listed, pinned: Option<&'a Pinned>, parts: Option<usize>) -> Self {
        let mut shown = Self {
            name: listed.name.as_str(),
            state: word(&listed.state),
            missing_wal: Vec::new(),
            damage: None,
            maker: None,
            parts,
            pinned: pinned.map(|pinned| pinned.reason.as_str()),
            pinned_until: pinned.and_then(|pinned| pinned.until),
            summary: listed.summary(),
        };
        match &listed.state {
            State::Complete(_) => {}
            State::WalMissing(_, segments) => {
                let names = segments
                    .iter()
                    .map(|segment| WalName::Segment(*segment).to_string());
                shown.missing_wal = names.collect();
            }
            State::Damaged(_, reason) | State::FoundDamaged(_, reason) => shown.damage = Some(reason),
            State::Unfinished(tree, maker) => {
                let begun = tree.begun.as_ref();
                shown.maker = Some(ShownMaker {
                    state: maker_word(*maker),
                    host: begun.map(|begun| begun.process.host.as_str()),
                    pid: begun.map(|begun| begun.process.pid),
                    began: begun.map(|begun| begun.at),
                    last_stored: Timestamp::try_from(tree.last_stored).ok(),
                    stored_bytes: tree.stored_bytes,
                    refused: tree.refused.as_ref(),
                });
            }
        }
        shown
    }
}

fn word(state: &State) -> &'static str {
    match state {
        State::Complete(_) => "complete",
        State::WalMissing(..) => "WAL missing",
        State::Damaged(..) | State::FoundDamaged(..) => "damaged",
        State::Unfinished(tree, maker) if tree.may_have_lost_its_summary(*maker) => "summary missing",
        State::Unfinished(..) => "incomplete",
    }
}

fn maker_word(maker: Maker) -> &'static str {
    match maker {
        Maker::Running => "running",
        Maker::Elsewhere => "elsewhere",
        Maker::Dead => "abandoned",
    }
}

/// The state with its reasons, for people.
fn state(listed: &Listed) -> String {
    match &listed.state {
        State::Complete(_) => "complete".to_owned(),
        State::WalMissing(_, segments) => format!("WAL missing: {}", named(segments)),
        State::Damaged(_, reason) | State::FoundDamaged(_, reason) => {
            format!("damaged: {}", reason.lines().next().unwrap_or_default())
        }
        State::Unfinished(tree, maker) if tree.may_have_lost_its_summary(*maker) => format!(
            "summary missing: {} is not there, all else may be; bring it back from a copy of the store, or remove the rest \
             by `walfs backup-discard {}`",
            listed.name.summary_key(TreeKind::BaseBackup),
            listed.name
        ),
        State::Unfinished(tree, maker) => {
            let refused = tree
                .refused
                .iter()
                .filter_map(|refused| refused.reason.lines().next());
            let reason: String = refused.map(|reason| format!(": {reason}")).collect();
            format!("incomplete ({}){reason}", who(tree, *maker))
        }
    }
}

fn who(tree: &Unfinished, maker: Maker) -> String {
    let since = tree
        .begun
        .as_ref()
        .map(|begun| format!(", begun {}", when(begun.at)));
    let since = since.unwrap_or_default();
    let who = match (&tree.begun, maker) {
        (Some(Begun { process, .. }), Maker::Running) => {
            format!("running, {} pid {}", process.host, process.pid)
        }
        (Some(Begun { process, .. }), Maker::Elsewhere) => {
            format!("from {}, pid {}", process.host, process.pid)
        }
        (None, Maker::Elsewhere) => "who is at it is not known".to_owned(),
        _ => "abandoned".to_owned(),
    };
    who + &since
}

/// Runs `walfs backup-list`.
pub fn list(arguments: &ListArgs) -> ExitCode {
    exit_code(block_on(async {
        let archive = arguments.archive.opened().await?;
        let patience = Patience::for_at_most(arguments.archive.store.deadline);
        let listed = backups(&archive, patience).await?;
        let (pins, ids) = (
            Pins::read(&archive, Timestamp::now(), patience).await?,
            ids(&listed),
        );
        let pinned: Vec<Option<Pinned>> = listed.iter().map(|listed| pins.of(listed, &ids)).collect();
        let all = listed.iter().zip(pinned.iter().map(Option::as_ref));
        let text = if arguments.json {
            let shown: Vec<Shown<'_>> = all
                .map(|(listed, pinned)| Shown::of(listed, pinned, None))
                .collect();
            serde_json::to_string_pretty(&shown)? + "\n"
        } else {
            table(all)
        };
        write_out(&text)
    }))
}

/// Runs `walfs backup-show`.
pub fn show(arguments: &ShowArgs) -> ExitCode {
    exit_code(block_on(async {
        let archive = arguments.archive.opened().await?;
        let patience = Patience::for_at_most(arguments.archive.store.deadline);
        let Some(listed) = backup(&archive, &arguments.name, patience).await? else {
            return Err(format!(
                "{} has no backup {}.\nHINT: `walfs backup-list --archive {}` shows those that there are.",
                archive.place(),
                arguments.name,
                arguments.archive.place
            )
            .into());
        };
        let pins = Pins::read(&archive, Timestamp::now(), patience).await?;
        let pinned = pins.of(&listed, &BTreeSet::new());
        let tree = match listed.summary() {
            Some(summary) => Some(archive.tree(&listed.name, summary, patience).await?),
            None => None,
        };
        let text = if arguments.json {
            let parts = tree.as_ref().map(|tree| tree.parts.len());
            serde_json::to_string_pretty(&Shown::of(&listed, pinned.as_ref(), parts))? + "\n"
        } else {
            page(
                &listed,
                pinned.as_ref(),
                tree.as_deref(),
                &arguments.archive.place,
            )
        };
        write_out(&text)
    }))
}

fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = Out::new();
    out.write_all(text.as_bytes())?;
    Ok(out.end()?)
}

const HEAD: [&str; 11] = [
    "NAME", "KIND", "ENDED", "START", "STOP", "TLI", "SIZE", "STORED", "PG", "BAD", "STATE",
];

/// Columns as wide as their widest cell; numbers to the right.
fn table<'a>(listed: impl Iterator<Item = (&'a Listed, Option<&'a Pinned>)>) -> String {
    let cells = listed.map(|(listed, pinned)| row(listed, pinned).map(|cell| printable(&cell).into_owned()));
    let rows: Vec<[String; 11]> = std::iter::once(HEAD.map(String::from)).chain(cells).collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                5..=9 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
    }
    text
}

fn row(listed: &Listed, pinned: Option<&Pinned>) -> [String; 11] {
    let mut row = HEAD.map(|_| "-".to_owned());
    row[0] = listed.name.to_string();
    row[10] = state(listed);
    if let Some(pinned) = pinned {
        row[10] += &format!("; pinned{}", why_pinned(pinned));
    }
    if let State::Unfinished(tree, _) = &listed.state {
        row[7] = BinaryBytes(tree.stored_bytes).to_string();
    }
    if let Some(summary) = listed.summary() {
        fill(&mut row, summary);
    }
    row
}

fn fill(row: &mut [String; 11], summary: &Summary) {
    let backup = &summary.backup;
    row[1] = kind(backup).to_owned();
    row[2] = backup.ended.to_string();
    if let Some((_, start)) = backup.start() {
        row[3] = start.to_string();
    }
    if let Some((timeline, stop)) = backup.stop() {
        (row[4], row[5]) = (stop.to_string(), timeline.to_string());
    }
    row[6] = BinaryBytes(summary.bytes).to_string();
    row[7] = BinaryBytes(summary.stored_bytes).to_string();
    if let Some(major) = backup.postgresql_major {
        row[8] = major.to_string();
    }
    if let Some(pages) = &backup.pages {
        row[9] = pages.bad.to_string();
    }
}

/// Until when, and why.
fn why_pinned(pinned: &Pinned) -> String {
    let until = pinned.until.map(|until| format!(" until {}", when(until)));
    format!("{}: {}", until.unwrap_or_default(), pinned.reason)
}

fn kind(backup: &Backup) -> &'static str {
    match backup.shape {
        _ if backup.incremental_from.is_some() => "incr",
        Shape::Plain => "plain",
        Shape::Tar => "tar",
    }
}

/// To the second.
fn when(time: Timestamp) -> String {
    format!("{time:.0}")
}

/// All of one backup, a line each.
fn page(listed: &Listed, pinned: Option<&Pinned>, tree: Option<&Tree>, archive: &str) -> String {
    let mut lines = vec![("backup", listed.name.to_string()), ("state", state(listed))];
    if let Some(pinned) = pinned {
        lines.push((
            "pinned",
            why_pinned(pinned).trim_start_matches([':', ' ']).to_owned(),
        ));
    }
    if let Some(summary) = listed.summary() {
        lines.extend(of_summary(summary));
    }
    if let Some(tree) = tree {
        lines.push(("parts", tree.parts.len().to_string()));
    }
    if let State::Complete(summary) = &listed.state {
        lines.extend(how_to_restore(&listed.name.to_string(), summary, archive));
    }
    let mut text = String::new();
    for (key, value) in lines {
        let value = printable(&value);
        writeln!(text, "{key:<18} {value}").expect("a string takes everything");
    }
    text
}

fn of_summary(summary: &Summary) -> Vec<(&'static str, String)> {
    let backup = &summary.backup;
    let unknown = || "not known".to_owned();
    let mut lines = vec![
        ("kind", kind(backup).to_owned()),
        ("ended", ended(backup.ended)),
        (
            "stored",
            format!("{} to {}", when(summary.began), when(summary.finished)),
        ),
        ("label", backup.label.clone()),
        (
            "taken from",
            if backup.from_standby {
                "a standby"
            } else {
                "a primary"
            }
            .to_owned(),
        ),
        (
            "PostgreSQL",
            backup
                .postgresql_major
                .map_or_else(unknown, |major| major.to_string()),
        ),
        (
            "system identifier",
            backup.system_identifier.map_or_else(unknown, |id| id.to_string()),
        ),
        ("files", summary.files.to_string()),
        ("size", sized(summary.bytes)),
        ("stored size", sized(summary.stored_bytes)),
    ];
    for range in &backup.wal {
        lines.push((
            "WAL",
            format!("timeline {}, {} to {}", range.timeline, range.start, range.end),
        ));
    }
    for tablespace in &backup.tablespaces {
        lines.push((
            "tablespace",
            format!("{} was {}", tablespace.oid, tablespace.location),
        ));
    }
    for link in &backup.links {
        let fate = if link.followed {
            "in the backup"
        } else {
            "left out"
        };
        lines.push(("link", format!("{} to {}: {fate}", link.path, link.target)));
    }
    for file in &backup.outside {
        let place = file.stored.as_deref().unwrap_or("not in the backup");
        lines.push((
            "settings outside",
            format!("{} {}: {place}", file.setting, file.path),
        ));
    }
    match &backup.pages {
        None => lines.push(("data pages", "not looked at".to_owned())),
        Some(pages) => {
            let how = if pages.checksums {
                "verified"
            } else {
                "not verified"
            };
            lines.push((
                "data pages",
                format!("{} right, {} damaged; checksums {how}", pages.verified, pages.bad),
            ));
            for page in &pages.first_bad {
                lines.push((
                    "bad page",
                    format!("block {} of {}: {}", page.block, page.path, page.reason),
                ));
            }
        }
    }
    lines.push(("written by", summary.written_by.clone()));
    lines
}

fn ended(ended: Ended) -> String {
    let from = match ended.known_from {
        KnownFrom::Server => "says the server",
        KnownFrom::Clock => "says the clock of its host",
        KnownFrom::BackupHistory => "says its .backup file",
        KnownFrom::Shutdown => "when its server was shut down",
        KnownFrom::Start | KnownFrom::Files => "or later: neither the server nor a .backup file said when",
    };
    format!("{} ({from})", when(ended.at))
}

fn sized(bytes: u64) -> String {
    format!("{} ({bytes} bytes)", BinaryBytes(bytes))
}

fn how_to_restore(name: &str, summary: &Summary, archive: &str) -> Vec<(&'static str, String)> {
    let mut lines = vec![(
        "restore",
        format!("walfs restore --archive {archive} {name} DIRECTORY"),
    )];
    if summary.plain_tar {
        let parts = format!("trees/{}/*.tar.*", summary.id);
        lines.push((
            "without walfs",
            format!("cat {parts} | lz4 -dc (or zstd -dc) | tar -xpif - -C DIRECTORY"),
        ));
    }
    lines
}
