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

/// Bars of more than this are cut off, so that the others can be compared.
const LONGEST: f64 = 8.0;

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
        let rows = results.rows(section).into_iter();
        let rows: Vec<_> = rows.map(|row| (row, bars(results, section, row))).collect();
        let rows: Vec<_> = rows.into_iter().filter(|(_, bars)| !bars.is_empty()).collect();
        if !rows.is_empty() {
            body.push_str(&text(16.0, y + 16.0, "section", section.title()));
            y = draw_rows(&mut body, y + TITLE, &rows);
        }
    }
    let height = y + 26.0;
    let about = &results.about;
    let explained = "less is better; upper bar: no added latency, lower bar: 30 ms of round trip; seconds behind the bar; \
                     ▸ longer than drawn";
    let head = text(
        16.0,
        26.0,
        "title",
        "walfs beside other tools, S3: time, as a multiple of walfs's",
    ) + &text(16.0, 44.0, "small", explained);
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

/// One distance of a row.
struct Bar {
    class: &'static str,
    /// Pixels beneath the top of the row.
    below: f64,
    ratio: f64,
    wall: f64,
}

fn bars(results: &Results, section: Section, row: &Row) -> Vec<Bar> {
    let bar = |(place, class, below)| {
        let wall = results.summary(section, row.name, place)?.wall;
        let ratio = results.ratio(section, row.name, place)?;
        Some(Bar {
            class,
            below,
            ratio,
            wall,
        })
    };
    let distances = [(NEAR, "near", 0.0), (FAR, "far", BAR + 1.0)];
    distances.into_iter().filter_map(bar).collect()
}

/// One group of bars on a scale of its own; returns where the next one begins.
fn draw_rows(body: &mut String, top: f64, rows: &[(&Row, Vec<Bar>)]) -> f64 {
    let ratios = rows.iter().flat_map(|(_, bars)| bars).map(|bar| bar.ratio);
    let scale = (WIDTH - LEFT - RIGHT) / ratios.fold(1.0, f64::max).min(LONGEST);
    let bottom = top + ROW * rows.len() as f64;
    body.push_str(&line(LEFT + scale, top - 4.0, bottom - 4.0));
    for (number, (row, bars)) in rows.iter().enumerate() {
        let y = top + ROW * number as f64;
        body.push_str(&text(28.0, y + 13.0, "", row.name));
        for bar in bars {
            draw_bar(body, row, y + bar.below, scale, bar);
        }
    }
    bottom
}

fn draw_bar(body: &mut String, row: &Row, y: f64, scale: f64, bar: &Bar) {
    let own = if row.name.starts_with("walfs") {
        "walfs "
    } else {
        ""
    };
    let (class, width) = (bar.class, bar.ratio.min(LONGEST) * scale);
    writeln!(
        body,
        "<rect class=\"{own}{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"1.5\"/>"
    )
    .expect("a string takes everything");
    let cut = if bar.ratio > LONGEST { "▸ " } else { "" };
    let label = format!("{cut}× {:.2} · {} s", bar.ratio, figures(bar.wall));
    body.push_str(&text(LEFT + width + 6.0, y + 8.5, "small", &label));
}

/// Where walfs's own bars end.
fn line(x: f64, top: f64, bottom: f64) -> String {
    format!("<line class=\"one\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\n")
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
