//! What was measured, and the tables of its medians.

use std::time::Duration;

use crate::measure;
use crate::measure::meter::Cost;

/// The rows of one table, in the order in which they came first.
#[derive(Debug, Default)]
pub struct Sheet {
    rows: Vec<(String, Vec<Cost>)>,
}

impl Sheet {
    /// One more run of the row with this name.
    pub fn add(&mut self, name: &str, cost: Cost) {
        // Whoever waits for the tables sees that it goes on.
        eprintln!("{name}: {:.1} s", cost.wall.as_secs_f64());
        match self.rows.iter_mut().find(|(known, _)| known == name) {
            Some((_, costs)) => costs.push(cost),
            None => self.rows.push((name.into(), vec![cost])),
        }
    }

    /// Prints backups; the first row is what the others are compared with.
    pub fn print_backups(&self, title: &str) {
        self.print(title, "stored MiB", |costs| {
            rounded(costs.iter().map(|cost| mib(cost.stored_bytes)).collect())
        });
    }

    /// Prints restores.
    pub fn print_restores(&self, title: &str) {
        self.print(title, "first answer s", |costs| {
            format!("{:.1}", median(costs, |cost| cost.until_answer))
        });
    }

    /// `last` makes the column that backups and restores do not share.
    fn print(&self, title: &str, last_column: &str, last: impl Fn(&[Cost]) -> String) {
        let Some((first, costs)) = self.rows.first() else {
            return;
        };
        let (times, reference) = (format!("times {first}"), median(costs, |cost| cost.wall));
        let row = |(name, costs): &(String, Vec<Cost>)| {
            let wall = median(costs, |cost| cost.wall);
            vec![
                name.clone(),
                format!("{wall:.1}"),
                format!("{:.2}", wall / reference),
                format!("{:.1}", median(costs, Cost::tool)),
                format!("{:.1}", median(costs, |cost| cost.server)),
                format!("{:.1}", median(costs, |cost| cost.helpers)),
                last(costs),
                rounded(costs.iter().map(|cost| mib(cost.peak_bytes)).collect()),
            ]
        };
        let rows: Vec<Vec<String>> = self.rows.iter().map(row).collect();
        let cpu = ["CPU s: tool", "server", "helpers"];
        let columns = [&["what", "wall s", &times], &cpu[..], &[last_column, "peak MiB"]].concat();
        measure::print_table(title, &columns, &rows);
    }
}

fn median(costs: &[Cost], part: impl Fn(&Cost) -> Duration) -> f64 {
    measure::median(costs.iter().map(|cost| part(cost).as_secs_f64()).collect())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn rounded(values: Vec<f64>) -> String {
    format!("{:.0}", measure::median(values))
}
