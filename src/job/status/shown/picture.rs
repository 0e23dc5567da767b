//! The WAL and the backups of an archive as a time line: a row for each timeline, a column for as many segments.

use std::fmt::Write as _;

use crate::job::status::{Status, TimelineStatus};

/// Columns of a row.
const COLUMNS: u64 = 64;

/// Timelines that are drawn; of more the newest.
const MOST_ROWS: usize = 24;

/// From which number to which, and how many segments in a column.
struct Scale {
    first: u64,
    last: u64,
}

impl Scale {
    fn of(rows: &[&TimelineStatus]) -> Option<Self> {
        let spans = || {
            rows.iter()
                .flat_map(|own| own.archived.iter().chain(&own.holes).chain(&own.pruned))
        };
        Some(Self {
            first: spans().map(|span| span.0).min()?,
            last: spans().map(|span| span.1).max()?,
        })
    }

    fn segments(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The column of a segment.
    fn column(&self, number: u64) -> u64 {
        let at = u128::from(number.clamp(self.first, self.last) - self.first);
        (at * u128::from(self.columns()) / u128::from(self.segments())) as u64
    }

    /// No more than there are segments.
    fn columns(&self) -> u64 {
        COLUMNS.min(self.segments())
    }
}

fn rows(status: &Status) -> Vec<&TimelineStatus> {
    let from = status.timelines.len().saturating_sub(MOST_ROWS);
    status.timelines[from..].iter().collect()
}

/// In characters.
pub(super) fn text(status: &Status) -> String {
    let rows = rows(status);
    let Some(scale) = Scale::of(&rows) else {
        return String::new();
    };
    let mut text = String::new();
    for own in rows {
        let mut row = vec![' '; scale.columns() as usize];
        let mut draw = |spans: &[(u64, u64)], mark: char| {
            for (first, last) in spans {
                let columns = scale.column(*first)..=scale.column(*last);
                columns.for_each(|column| row[column as usize] = mark);
            }
        };
        draw(&own.pruned, '.');
        draw(&own.archived, '=');
        // One that is missing is seen, however many lie beside it.
        draw(&own.holes, 'x');
        let backups = status
            .backups
            .iter()
            .filter(|backup| backup.timeline == Some(own.timeline));
        for backup in backups {
            if let Some((_, stop)) = backup.segments {
                let mark = if backup.lacks.is_none() { 'B' } else { 'b' };
                let cell = &mut row[scale.column(stop) as usize];
                if *cell != 'x' && *cell != 'B' {
                    *cell = mark;
                }
            }
        }
        let row: String = row.into_iter().collect();
        let left = own
            .left
            .map_or(String::new(), |(parent, _)| format!(" left {parent}"));
        let broken = own.broken.as_ref().map_or("", |_| " cannot be followed");
        writeln!(text, "timeline {:<4} |{row}|{left}{broken}", own.timeline)
            .expect("a string takes everything");
    }
    text
}

/// Pixels.
const WIDTH: f64 = 900.0;
const ROW: f64 = 34.0;
const MARGIN: f64 = 110.0;

/// As a picture.
pub(super) fn svg(status: &Status) -> String {
    let rows = rows(status);
    let height = ROW * rows.len().max(1) as f64 + 60.0;
    let total = WIDTH + MARGIN + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{total}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"18\">{}, {:.0}</text>\n",
        escaped(&status.archive),
        status.at
    );
    let Some(scale) = Scale::of(&rows) else {
        svg.push_str("<text x=\"10\" y=\"44\">no WAL yet</text>\n</svg>\n");
        return svg;
    };
    let x = |number: u64| MARGIN + WIDTH * (number - scale.first) as f64 / scale.segments() as f64;
    for (at, own) in rows.iter().enumerate() {
        let y = 36.0 + ROW * at as f64;
        let mut draw = |spans: &[(u64, u64)], colour: &str| {
            for (first, last) in spans {
                let (from, to) = (x(*first), x(last.saturating_add(1).min(scale.last + 1)));
                // What is missing is seen, however small.
                let width = (to - from).max(2.0);
                writeln!(
                    svg,
                    "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"10\" fill=\"{colour}\"/>"
                )
                .expect("a string takes everything");
            }
        };
        draw(&own.pruned, "#dddddd");
        draw(&own.archived, "#4a7ebb");
        draw(&own.holes, "#cc3322");
        let (label, middle) = (own.timeline, y + 5.0);
        writeln!(
            svg,
            "<text x=\"10\" y=\"{:.1}\">timeline {label}</text>",
            y + 10.0
        )
        .expect("a string takes everything");
        let backups = status
            .backups
            .iter()
            .filter(|backup| backup.timeline == Some(own.timeline));
        for backup in backups {
            let Some((_, stop)) = backup
                .segments
                .filter(|(_, stop)| (scale.first..=scale.last).contains(stop))
            else {
                continue;
            };
            let colour = if backup.lacks.is_none() {
                "#227733"
            } else {
                "#cc3322"
            };
            let title = format!("{}, ended {:.0}", backup.name, backup.ended);
            writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{middle:.1}\" r=\"5\" fill=\"{colour}\"><title>{}</title></circle>",
                x(stop),
                escaped(&title)
            )
            .expect("a string takes everything");
        }
    }
    let legend = "blue: archived; green: complete backup; red: missing, or cannot be restored; grey: pruned";
    writeln!(
        svg,
        "<text x=\"10\" y=\"{:.1}\" fill=\"#666666\">{legend}</text>\n</svg>",
        height - 10.0
    )
    .expect("a string takes everything");
    svg
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
