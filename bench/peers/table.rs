//! The one table, in Markdown: for each place the time as a multiple of walfs's and in seconds, then what it took of the
//! machine.

use std::fmt::Write;

use crate::PLACES;
use crate::contender::{Row, Section};
use crate::results::{Results, Summary};
use crate::scene::site::Place;

/// Head, table, and what the rows are.
pub fn render(results: &Results) -> String {
    let about = &results.about;
    let mut text = format!("\n{}; {}\n{}\n", about.date, about.machine, about.sizes);
    for line in &about.versions {
        writeln!(text, "- {line}").expect("a string takes everything");
    }
    for program in &about.not_installed {
        writeln!(text, "- not installed: {program}").expect("a string takes everything");
    }
    text.push_str(&head());
    for section in Section::ALL {
        for row in results.rows(section) {
            text.push_str(&line(results, section, row));
        }
    }
    text.push('\n');
    for row in used(results) {
        writeln!(text, "- {}: {}", row.name, row.settings).expect("a string takes everything");
    }
    for failed in &results.failed {
        writeln!(
            text,
            "- FAILED: {}, {}: {}",
            failed.tool, failed.place, failed.error
        )
        .expect("a string takes everything");
    }
    text
}

fn head() -> String {
    let places: Vec<String> = PLACES.map(|place| format!("{}: × (s)", place.name())).to_vec();
    let columns = format!(
        "| what | tool | {} | client CPU s | daemon CPU s | stored MiB | peak MiB |",
        places.join(" | ")
    );
    let rule = "|---".repeat(PLACES.len() + 6);
    format!("\n{columns}\n{rule}|\n")
}

/// CPU, memory and stored bytes are of the nearest S3, or of the directory.
fn line(results: &Results, section: Section, row: &Row) -> String {
    let cell = |place: Place| {
        let summary = results.summary(section, row.name, place)?;
        let ratio = results
            .ratio(section, row.name, place)
            .map_or("–".into(), |ratio| format!("{ratio:.2}"));
        Some(format!("{ratio} ({})", seconds(summary.wall)))
    };
    let cells: Vec<String> = PLACES.map(|place| cell(place).unwrap_or_default()).to_vec();
    let near = [PLACES[1], PLACES[0], PLACES[2]];
    let used = near
        .iter()
        .find_map(|place| results.summary(section, row.name, *place));
    let rest = used.map_or_else(String::new, |summary| machine(section, summary));
    format!(
        "| {} | {} | {} | {rest} |\n",
        section.title(),
        bold(row.name),
        cells.join(" | ")
    )
}

fn machine(section: Section, summary: &Summary) -> String {
    let stores = matches!(section, Section::Push | Section::Backlog | Section::Backup);
    let stored = if stores {
        format!("{:.1}", summary.stored)
    } else {
        String::new()
    };
    let daemon = if summary.daemon > 0.0 {
        seconds(summary.daemon)
    } else {
        String::new()
    };
    let peak = if summary.peak > 0.0 {
        format!("{:.0}", summary.peak)
    } else {
        String::new()
    };
    format!("{} | {daemon} | {stored} | {peak}", seconds(summary.client))
}

/// Three figures that mean something.
fn seconds(time: f64) -> String {
    if time < 1.0 {
        format!("{time:.3}")
    } else {
        format!("{time:.1}")
    }
}

fn bold(name: &str) -> String {
    if name.starts_with("walfs") {
        format!("**{name}**")
    } else {
        name.into()
    }
}

/// Rows that have figures somewhere.
fn used(results: &Results) -> Vec<&'static Row> {
    let mut rows: Vec<&Row> = Vec::new();
    for row in Section::ALL.into_iter().flat_map(|section| results.rows(section)) {
        if !rows.iter().any(|known| known.name == row.name) {
            rows.push(row);
        }
    }
    rows
}
