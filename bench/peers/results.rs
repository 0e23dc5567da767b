//! What was measured, as lines of JSON: written one by one as the measurements are made, read back for table and
//! drawing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::PLACES;
use crate::contender::{Row, Section};
use crate::measure::{self, meter::Cost};
use crate::rows::ROWS;
use crate::scene::cluster;
use crate::scene::site::Place;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    About(About),
    Measured(Measured),
    Failed(Failed),
}

/// The first line: on what, with what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// UTC, RFC 3339.
    pub date: String,
    pub machine: String,
    /// One line of each program that was there.
    pub versions: Vec<String>,
    pub not_installed: Vec<String>,
    /// Settings of the benchmark.
    pub sizes: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub section: String,
    pub tool: String,
    pub place: String,
    /// How many segments the figures are of (1 for a backup); all but the peak are for one of them.
    pub segments: usize,
    pub wall_s: f64,
    pub client_cpu_s: f64,
    pub daemon_cpu_s: f64,
    pub server_cpu_s: f64,
    pub peak_mib: f64,
    pub stored_mib: f64,
}

/// A tool that was left out from here on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    pub tool: String,
    pub place: String,
    pub error: String,
}

impl About {
    /// This machine and what is installed on it.
    pub fn now(rounds: usize, batch: usize, scale: usize) -> About {
        let postgres = cluster::version().bin.join("postgres");
        let mut versions = vec![
            format!("walfs {}", env!("CARGO_PKG_VERSION")),
            measure::first_line(postgres.to_str().expect("UTF-8"), "--version").unwrap_or_default(),
            "Garage 2.5.0, one for each tool, with fsync".into(),
        ];
        let mut not_installed = Vec::new();
        let programs: BTreeSet<_> = ROWS.iter().filter_map(|row| row.program).collect();
        for (program, argument) in programs {
            match measure::first_line(program, argument) {
                Some(version) => versions.push(version),
                None => not_installed.push(program.to_owned()),
            }
        }
        About {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            machine: measure::machine(),
            versions,
            not_installed,
            sizes: format!("{rounds} rounds, {batch} segments of 16 MiB in a batch, pgbench -s {scale}"),
        }
    }
}

impl Row {
    /// Whether its program is there.
    pub fn is_installed(&self) -> bool {
        self.program
            .is_none_or(|(program, argument)| measure::first_line(program, argument).is_some())
    }
}

/// The file while it is written. Whoever waits for the table sees on standard error that it goes on.
#[derive(Debug)]
pub struct Log {
    file: File,
    failed: Vec<(&'static str, Place)>,
}

impl Log {
    /// A new file, in the place of an older one.
    pub fn create(path: &Path) -> Log {
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("make a directory");
        Log {
            file: File::create(path).expect("make the file of results"),
            failed: Vec::new(),
        }
    }

    /// The first line.
    pub fn about(&mut self, about: &About) {
        about
            .not_installed
            .iter()
            .for_each(|program| println!("not installed: {program} (.ci/needs bench)"));
        self.write(&Line::About(about.clone()));
    }

    /// What `segments` segments, or one backup, have cost together.
    pub fn measured(&mut self, section: Section, row: &Row, place: Place, segments: usize, cost: &Cost) {
        let each = |figure: f64| figure / segments as f64;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let measured = Measured {
            section: section.word().into(),
            tool: row.name.into(),
            place: place.name(),
            segments,
            wall_s: each(cost.wall.as_secs_f64()),
            client_cpu_s: each(cost.client.as_secs_f64()),
            daemon_cpu_s: each(cost.daemon.as_secs_f64()),
            server_cpu_s: each(cost.server.as_secs_f64()),
            peak_mib: mib(cost.peak_bytes),
            stored_mib: each(mib(cost.stored_bytes)),
        };
        eprintln!(
            "{}: {}, {}: {:.3} s",
            section.word(),
            measured.tool,
            measured.place,
            measured.wall_s
        );
        self.write(&Line::Measured(measured));
    }

    /// That a tool has failed: it has no more rows in this place.
    pub fn failed(&mut self, row: &'static Row, place: Place, error: &str) {
        println!("{}, {}: left out from here on: {error}", row.name, place.name());
        self.failed.push((row.name, place));
        let (tool, error) = (row.name.into(), error.into());
        self.write(&Line::Failed(Failed {
            tool,
            place: place.name(),
            error,
        }));
    }

    /// Whether it has.
    pub fn has_failed(&self, row: &Row, place: Place) -> bool {
        self.failed.contains(&(row.name, place))
    }

    fn write(&mut self, line: &Line) {
        let text = serde_json::to_string(line).expect("plain data becomes JSON");
        writeln!(self.file, "{text}").expect("write the file of results");
    }
}

/// Medians and means of one row in one section and place.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Median, seconds.
    pub wall: f64,
    /// Means, seconds.
    pub client: f64,
    pub daemon: f64,
    /// The most, MiB.
    pub peak: f64,
    /// Median, MiB.
    pub stored: f64,
}

/// All lines of a file.
#[derive(Debug)]
pub struct Results {
    pub about: About,
    pub failed: Vec<Failed>,
    summaries: BTreeMap<(String, String, String), Summary>,
}

impl Results {
    /// Reads what a [`Log`] has written.
    pub fn read(path: &Path) -> Results {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{}: {error}\nHINT: cargo bench --bench peers", path.display()));
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of results"));
        let (mut about, mut failed) = (About::default(), Vec::new());
        let mut groups: BTreeMap<_, Vec<Measured>> = BTreeMap::new();
        for line in lines {
            match line {
                Line::About(line) => about = line,
                Line::Failed(line) => failed.push(line),
                Line::Measured(line) => {
                    let group = (line.section.clone(), line.tool.clone(), line.place.clone());
                    groups.entry(group).or_default().push(line);
                }
            }
        }
        let summaries = groups
            .into_iter()
            .map(|(group, lines)| (group, Summary::of(&lines)))
            .collect();
        Results {
            about,
            failed,
            summaries,
        }
    }

    /// Of a row; `None` if it has no figures there.
    pub fn summary(&self, section: Section, tool: &str, place: Place) -> Option<&Summary> {
        self.summaries
            .get(&(section.word().into(), tool.into(), place.name()))
    }

    /// How many times as long it took as the first row of the section in the same place.
    pub fn ratio(&self, section: Section, tool: &str, place: Place) -> Option<f64> {
        let own = self.summary(section, tool, place)?;
        let mut rows = ROWS.iter().filter(|row| row.sections.contains(&section));
        let reference = rows.find_map(|row| self.summary(section, row.name, place))?;
        Some(own.wall / reference.wall)
    }

    /// Rows of a section that have figures in some place.
    pub fn rows(&self, section: Section) -> Vec<&'static Row> {
        let measured = |row: &&Row| {
            PLACES
                .iter()
                .any(|place| self.summary(section, row.name, *place).is_some())
        };
        ROWS.iter()
            .filter(|row| row.sections.contains(&section))
            .filter(measured)
            .collect()
    }
}

impl Summary {
    fn of(lines: &[Measured]) -> Summary {
        let all = |figure: fn(&Measured) -> f64| lines.iter().map(figure).collect::<Vec<f64>>();
        let mean = |figures: Vec<f64>| figures.iter().sum::<f64>() / figures.len() as f64;
        Summary {
            wall: measure::median(all(|line| line.wall_s)),
            client: mean(all(|line| line.client_cpu_s)),
            daemon: mean(all(|line| line.daemon_cpu_s)),
            peak: all(|line| line.peak_mib).into_iter().fold(0.0, f64::max),
            stored: measure::median(all(|line| line.stored_mib)),
        }
    }
}
