//! What became of dumps, for people and for programs.

use std::io::{self, Write};

use indicatif::BinaryBytes;
use serde::Serialize;

use crate::archive::tree::version::Version;
use crate::job::dump::{Dump, Error, Taken, What};
use crate::printable::printable;

/// A dump, and what became of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) dump: Dump,
    pub(super) taken: Result<Taken, Error>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    dumps: Vec<Told<'a>>,
    /// Bytes of all of them, as stored.
    stored_bytes: u64,
    /// How many have failed.
    failed: usize,
}

/// A dump in it.
#[derive(Debug, Default, Serialize)]
struct Told<'a> {
    /// The database; absent of the globals.
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<String>,
    name: &'a str,
    /// The version that has the dump; absent if it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// Is it an earlier one, since which nothing has changed?
    unchanged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    read_bytes: u64,
    changed_bytes: u64,
    /// Bytes of this version alone, as stored.
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(super) fn print_json(out: &mut impl Write, outcomes: &[Outcome]) -> io::Result<()> {
    let dumps: Vec<Told<'_>> = outcomes.iter().map(told).collect();
    let report = Report {
        stored_bytes: dumps.iter().map(|told| told.stored_bytes).sum(),
        failed: dumps.iter().filter(|told| told.error.is_some()).count(),
        dumps,
    };
    serde_json::to_writer_pretty(&mut *out, &report)?;
    writeln!(out)
}

fn told(Outcome { dump, taken }: &Outcome) -> Told<'_> {
    let named = Told {
        database: matches!(dump.what, What::Database(_)).then(|| dump.what.text()),
        name: dump.set.as_str(),
        ..Told::default()
    };
    match taken {
        Ok(taken) => Told {
            version: Some(taken.version.text()),
            unchanged: taken.summary.is_none(),
            base: taken.base.as_ref().map(Version::text),
            read_bytes: taken.read_bytes,
            changed_bytes: taken.changed_bytes,
            stored_bytes: stored_bytes(taken),
            ..named
        },
        Err(error) => Told {
            error: Some(error.to_string()),
            ..named
        },
    }
}

fn stored_bytes(taken: &Taken) -> u64 {
    taken.summary.as_ref().map_or(0, |summary| summary.stored_bytes)
}

/// Of one that has not failed what was done.
pub(super) fn words(Outcome { dump, taken }: &Outcome) -> Option<String> {
    let taken = taken.as_ref().ok()?;
    let (set, version) = (&dump.set, taken.version.text());
    let read = BinaryBytes(taken.read_bytes);
    Some(match &taken.base {
        _ if taken.summary.is_none() => {
            format!("{set} is unchanged since {version}: {read} read, nothing stored")
        }
        base => {
            let unchanged = match base {
                Some(base) => format!(", the rest is unchanged since {}", base.text()),
                None => String::new(),
            };
            let stored = BinaryBytes(stored_bytes(taken));
            format!("version {version} of {set} is complete: {read}, {stored} stored{unchanged}")
        }
    })
}

/// All of them, a line each.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let names = outcomes
        .iter()
        .map(|outcome| outcome.dump.set.as_str().chars().count());
    let width = names.max().unwrap_or(0).max("NAME".len());
    let mut text = format!("{:<width$}  {:>10}  {:>10}  RESULT", "NAME", "SIZE", "STORED");
    for Outcome { dump, taken } in outcomes {
        let (size, stored, result) = match taken {
            Ok(taken) => (
                BinaryBytes(taken.read_bytes).to_string(),
                BinaryBytes(stored_bytes(taken)).to_string(),
                match taken.summary {
                    Some(_) => format!("version {}", taken.version.text()),
                    None => format!("unchanged since {}", taken.version.text()),
                },
            ),
            Err(error) => {
                let words = error.to_string();
                let first = words.lines().next().unwrap_or_default();
                (
                    String::new(),
                    String::new(),
                    format!("failed: {}", printable(first)),
                )
            }
        };
        text.push_str(&format!(
            "\n{:<width$}  {size:>10}  {stored:>10}  {result}",
            dump.set
        ));
    }
    text
}
