//! What was measured in one place, and the table of it.

use std::time::Duration;

use crate::load::Busy;
use crate::measure::{self, ms};

const COLUMNS: [&str; 8] = [
    "one segment",
    "beside it",
    "how many",
    "median ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "p99, times alone",
];

/// Times of each kind of work, alone and together.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: Vec<Row>,
    /// What ran beside, turn by turn.
    pub busy: Vec<Busy>,
}

#[derive(Debug)]
struct Row {
    what: &'static str,
    alone: Vec<Duration>,
    together: Vec<Duration>,
}

impl Sheet {
    pub fn add(&mut self, what: &'static str, loaded: bool, times: Vec<Duration>) {
        let row = match self.rows.iter().position(|row| row.what == what) {
            Some(known) => &mut self.rows[known],
            None => {
                let (alone, together) = (Vec::new(), Vec::new());
                self.rows.push(Row {
                    what,
                    alone,
                    together,
                });
                self.rows.last_mut().expect("just added")
            }
        };
        if loaded { &mut row.together } else { &mut row.alone }.extend(times);
    }

    pub fn print(self, title: &str) {
        let rows: Vec<Vec<String>> = self
            .rows
            .into_iter()
            .flat_map(|row| {
                let (alone, together) = (sorted(row.alone), sorted(row.together));
                let times = percentile(&together, 99) / percentile(&alone, 99);
                [
                    cells(row.what, "nothing", &alone, String::new()),
                    cells(row.what, "backup, listings", &together, format!("{times:.2}")),
                ]
            })
            .collect();
        measure::print_table(title, &COLUMNS, &rows);
        let (backups, listings) = self.busy.iter().fold((0, 0), |(backups, listings), busy| {
            (backups + busy.backups, listings + busy.listings)
        });
        println!("\n{backups} backups and {listings} listings ran beside.");
    }
}

fn sorted(times: Vec<Duration>) -> Vec<f64> {
    let mut times: Vec<f64> = times.into_iter().map(ms).collect();
    times.sort_by(f64::total_cmp);
    times
}

/// The smallest time that so many of a hundred are not above.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn cells(what: &str, beside: &str, sorted: &[f64], times: String) -> Vec<String> {
    let told = [50, 90, 99, 100].map(|percent| format!("{:.0}", percentile(sorted, percent)));
    let named = [what.to_owned(), beside.to_owned(), sorted.len().to_string()];
    named.into_iter().chain(told).chain([times]).collect()
}
