//! What became of versions of files, for people and for programs.

use std::io::{self, Write};

use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::job::files::{Error, LeftOut, Taken};

/// Files that are named when they went on changing.
const NAMED: usize = 10;

/// A version, and what became of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) set: SetName,
    pub(super) taken: Result<Taken, Error>,
}

/// A version, in what `--json` prints.
#[derive(Debug, Serialize)]
struct Told<'a> {
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

/// What `--all --json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    files: Vec<OneOf<'a>>,
    /// Bytes of all of them, as stored.
    stored_bytes: u64,
    /// How many have failed.
    failed: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OneOf<'a> {
    Stored(Told<'a>),
    Failed { name: &'a str, error: String },
}

/// One version as an object; of all directories the list.
pub(super) fn print_json(out: &mut impl Write, outcomes: &[Outcome], is_list: bool) -> io::Result<()> {
    let stored = outcomes.iter().filter_map(|outcome| outcome.taken.as_ref().ok());
    match is_list {
        true => {
            let files = outcomes.iter().map(|outcome| match &outcome.taken {
                Ok(taken) => OneOf::Stored(Told::of(taken)),
                Err(error) => OneOf::Failed {
                    name: outcome.set.as_str(),
                    error: error.to_string(),
                },
            });
            let report = Report {
                files: files.collect(),
                stored_bytes: stored.clone().map(stored_bytes).sum(),
                failed: outcomes.len() - stored.count(),
            };
            serde_json::to_writer_pretty(&mut *out, &report)?;
        }
        false => {
            for taken in stored {
                serde_json::to_writer_pretty(&mut *out, &Told::of(taken))?;
            }
        }
    }
    writeln!(out)
}

impl<'a> Told<'a> {
    fn of(taken: &'a Taken) -> Self {
        Self {
            name: taken.version.set.as_str(),
            version: taken.version.text(),
            unchanged: taken.summary.is_none(),
            base: taken.base.as_ref().map(Version::text),
            read_bytes: taken.read_bytes,
            changed_bytes: taken.changed_bytes,
            stored_bytes: stored_bytes(taken),
            left_out: &taken.left_out,
            unsteady: &taken.unsteady,
            summary: taken.summary.as_ref(),
        }
    }
}

fn stored_bytes(taken: &Taken) -> u64 {
    taken.summary.as_ref().map_or(0, |summary| summary.stored_bytes)
}

/// That files went on changing.
pub(super) fn unsteady(taken: &Taken) -> String {
    format!(
        "version {} of {} is complete, but {} of its files changed each time they were read, and may be of several moments: \
         {}\nHINT: store them while nobody writes to them, or from a snapshot.",
        taken.version.text(),
        taken.version.set,
        taken.unsteady.len(),
        first(&taken.unsteady, taken.unsteady.len() as u64)
    )
}

/// For who has watched.
pub(super) fn words(taken: &Taken) -> Vec<String> {
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
