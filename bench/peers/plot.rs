//! The drawing: for each section a bar for each tool and distance, as long as its multiple of walfs's time. Plain SVG
//! without fonts or scripts; its colours follow the reader's light or dark page.

use std::fmt::Write;

use crate::contender::{Row, Section};
use crate::results::Results;
use crate::scene::site::Place;

/// Pixels.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 220.0;
const RIGHT: f64 = 130.0;
const BAR: f64 = 9.0;
const ROW: f64 = 26.0;
const TITLE: f64 = 30.0;

/// The two distances that are drawn.
const NEAR: Place = Place::S3 { round_trip_ms: 0 };
const FAR: Place = Place::S3 { round_trip_ms: 30 };

const STYLE: &str = "
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .section { font-weight: 600 }
  .small { font-size: 10px; fill: #59636e }
  .near { fill: #8c959f } .far { fill: #c4cad1 }
  .walfs.near { fill: #1a7f5a } .walfs.far { fill: #6cc3a2 }
  .one { stroke: #59636e; stroke-dasharray: 2 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 }
    .near { fill: #7d8590 } .far { fill: #484f58 }
    .walfs.near { fill: #3fb488 } .walfs.far { fill: #23654d }
    .one { stroke: #9198a1 }
  }
";

/// Everything of the S3 columns of the table.
pub fn draw(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 62.0;
    for section in Section::ALL {
        let rows: Vec<&Row> = results
            .rows(section)
            .into_iter()
            .filter(|row| ratios(results, section, row).next().is_some())
            .collect();
        if !rows.is_empty() {
            y = draw_section(&mut body, y, results, section, &rows);
        }
    }
    let height = y + 26.0;
    let about = &results.about;
    let head = text(
        16.0,
        26.0,
        "title",
        "walfs beside other tools, S3: time, as a multiple of walfs's",
    ) + &text(
        16.0,
        44.0,
        "small",
        "less is better; upper bar: no added latency, lower bar: 30 ms of round trip; seconds behind the bar",
    );
    let foot = text(
        16.0,
        y + 10.0,
        "small",
        &format!("{} · {}", about.date, about.machine),
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>walfs beside other tools</title>\n<style>{STYLE}</style>\n{head}{body}{foot}</svg>\n"
    )
}

/// One group of bars on a scale of its own; returns where the next one begins.
fn draw_section(body: &mut String, top: f64, results: &Results, section: Section, rows: &[&Row]) -> f64 {
    let longest = rows
        .iter()
        .flat_map(|row| ratios(results, section, row))
        .fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    body.push_str(&text(16.0, top + 16.0, "section", section.title()));
    let mut y = top + TITLE;
    for row in rows {
        body.push_str(&text(28.0, y + 13.0, "", row.name));
        for (place, class, below) in [(NEAR, "near", 0.0), (FAR, "far", BAR + 1.0)] {
            if let Some(bar) = bar(results, section, row, place) {
                draw_bar(body, row, class, y + below, scale, &bar);
            }
        }
        y += ROW;
    }
    let one = LEFT + scale;
    writeln!(
        body,
        "<line class=\"one\" x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
        top + TITLE - 4.0,
        y - 4.0
    )
    .expect("a string takes everything");
    y
}

/// Its multiple and its seconds.
struct Bar {
    ratio: f64,
    wall: f64,
}

fn bar(results: &Results, section: Section, row: &Row, place: Place) -> Option<Bar> {
    let wall = results.summary(section, row.name, place)?.wall;
    let ratio = results.ratio(section, row.name, place)?;
    Some(Bar { ratio, wall })
}

fn ratios(results: &Results, section: Section, row: &Row) -> impl Iterator<Item = f64> {
    [NEAR, FAR]
        .into_iter()
        .filter_map(move |place| results.ratio(section, row.name, place))
        .collect::<Vec<_>>()
        .into_iter()
}

fn draw_bar(body: &mut String, row: &Row, class: &str, y: f64, scale: f64, bar: &Bar) {
    let own = if row.name.starts_with("walfs") {
        "walfs "
    } else {
        ""
    };
    let width = bar.ratio * scale;
    writeln!(body, "<rect class=\"{own}{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"1.5\"/>")
        .expect("a string takes everything");
    let label = format!("× {:.2} · {} s", bar.ratio, figures(bar.wall));
    body.push_str(&text(LEFT + width + 6.0, y + 8.5, "small", &label));
}

fn figures(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{seconds:.3}")
    } else {
        format!("{seconds:.1}")
    }
}

fn text(x: f64, y: f64, class: &str, words: &str) -> String {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{words}</text>\n")
}
