//! The sections of WAL, in one place: every tool sets up its archive, then all of them take turns.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::user::User;
use crate::common::world::World;
use crate::contender::{Failure, Row, Section, Setup, WalTool};
use crate::measure::host;
use crate::measure::meter::{self, Others};
use crate::results::Log;
use crate::rows::ROWS;
use crate::scene::segments::Source;
use crate::scene::site::{Place, Site};
use crate::{is_asked_for, is_chosen};

/// Names that no archive here has, one for each time that is asked.
const MISSING: [&str; 4] = [
    "0000000100000FFF00000000",
    "0000000100000FFF00000001",
    "0000000100000FFF00000002",
    "0000000100000FFF00000003",
];

/// Memory for each segment: of the file itself, of what is stored, and of the tool.
const SPARE_MIB: usize = 64;

/// What a tool finds when it is set up for WAL.
#[derive(Debug)]
pub struct WalGround<'a> {
    /// Files and programs of the benchmark.
    pub world: &'a World,
    /// Its archive's place.
    pub site: &'a Site,
    /// Passes for the data directory of the server.
    pub data: &'a Path,
}

/// One tool, set up. Ends before the site that it stands on.
struct Player {
    row: &'static Row,
    tool: Box<dyn WalTool>,
    site: Site,
    data: PathBuf,
    /// Cleared when it has failed.
    plays: bool,
}

/// The sections in one place.
pub struct Sections<'a> {
    place: Place,
    source: &'a Source,
    players: Vec<Player>,
    log: &'a mut Log,
}

impl<'a> Sections<'a> {
    /// Sets up every tool that has rows in this place.
    pub fn new(world: &World, source: &'a Source, place: Place, log: &'a mut Log) -> Sections<'a> {
        let mut players = Vec::new();
        for (number, row) in ROWS.iter().enumerate() {
            let Setup::Wal(set_up) = row.tool else { continue };
            if !(row.plays_in)(place) || !row.is_installed() || !is_asked_for(row) {
                continue;
            }
            let name = format!("wal-{number}");
            let site = Site::new(world, &name, place);
            let data = source.data_dir(world, &format!("{name}/data"));
            let ground = WalGround {
                world,
                site: &site,
                data: &data,
            };
            match set_up(&ground) {
                Ok(tool) => players.push(Player {
                    row,
                    tool,
                    site,
                    data,
                    plays: true,
                }),
                Err(error) => log.failed(row, place, &error),
            }
        }
        Sections {
            place,
            source,
            players,
            log,
        }
    }

    /// All of them. What is fetched must have been archived, whether that was asked for or not.
    pub fn run(mut self, rounds: usize, batch: usize) {
        let all = self.source.segments.clone();
        // Makes the archive where the first segment does, and the connection; nobody counts it.
        let (first, all) = all.split_first().expect("one more than is measured");
        self.turns(0, None, |player| player.archive(std::slice::from_ref(first)));
        let (alone, waiting) = all.split_at(rounds * batch);
        for (turn, segment) in alone.iter().enumerate() {
            self.turns(turn, Some(Section::Push), |player| {
                player.archive(std::slice::from_ref(segment))
            });
        }
        for (turn, segments) in waiting.chunks(batch).enumerate() {
            if is_chosen(Section::Backlog) {
                self.turns(turn, Some(Section::Backlog), |player| player.archive(segments));
            }
        }
        for (turn, segments) in alone.chunks(batch).enumerate() {
            if is_chosen(Section::Fetch) {
                self.turns(turn, Some(Section::Fetch), |player| player.fetch(segments));
            }
            if is_chosen(Section::Missing) {
                self.turns(turn, Some(Section::Missing), Player::fetch_missing);
            }
        }
    }

    /// One turn of every tool that takes part (of all, if nobody counts); who is first changes from turn to turn.
    fn turns(
        &mut self,
        turn: usize,
        section: Option<Section>,
        mut work: impl FnMut(&mut Player) -> Measured,
    ) {
        let count = self.players.len();
        for number in 0..count {
            let player = &mut self.players[(turn + number) % count];
            if !player.plays || section.is_some_and(|section| !player.row.sections.contains(&section)) {
                continue;
            }
            let (segments, cost, outcome) = work(player);
            if let Err(error) = outcome {
                player.plays = false;
                self.log.failed(player.row, self.place, &error);
            } else if let Some(section) = section.filter(|section| is_chosen(*section)) {
                self.log
                    .measured(section, player.row, self.place, segments, &cost);
            }
        }
    }
}

/// How many segments, and what came of it.
type Measured = (usize, meter::Cost, Result<(), Failure>);

impl Player {
    /// Brings these, all of which are marked before the first is brought.
    fn archive(&mut self, segments: &[PathBuf]) -> Measured {
        let files: Vec<PathBuf> = segments.iter().map(|segment| self.write(segment)).collect();
        let before = self.site.stored_bytes();
        let others = self.others();
        host::bring(SPARE_MIB * segments.len());
        let (mut cost, outcome) = meter::measure(&others, || {
            files.iter().try_for_each(|file| {
                self.tool.push(file)?;
                // As the archiver does, so that nobody takes it for one that waits.
                fs::remove_file(self.mark(file)).expect("take a mark away");
                Ok(())
            })
        });
        cost.stored_bytes = self.site.stored_bytes().saturating_sub(before);
        for file in files {
            fs::remove_file(file).expect("remove a segment");
        }
        (segments.len(), cost, outcome)
    }

    /// A segment in `pg_wal` that waits to be archived.
    fn write(&self, segment: &Path) -> PathBuf {
        let file = self.data.join("pg_wal").join(name_of(segment));
        fs::hard_link(segment, &file).expect("put a segment into pg_wal");
        fs::write(self.mark(&file), "").expect("mark a segment");
        User::postgres().own(&self.mark(&file));
        file
    }

    fn mark(&self, file: &Path) -> PathBuf {
        self.data
            .join(format!("pg_wal/archive_status/{}.ready", name_of(file)))
    }

    /// Fetches these, and compares them.
    fn fetch(&mut self, segments: &[PathBuf]) -> Measured {
        self.tool.restart();
        let others = self.others();
        let to = |segment: &Path| self.data.join(format!("pg_wal/RECOVERY-{}", name_of(segment)));
        host::bring(SPARE_MIB * segments.len());
        let (cost, outcome) = meter::measure(&others, || {
            segments
                .iter()
                .try_for_each(|segment| self.tool.fetch(name_of(segment), &to(segment)))
        });
        let outcome = outcome.and_then(|()| {
            segments
                .iter()
                .try_for_each(|segment| same(segment, &to(segment)))
        });
        for segment in segments {
            // Not there if the tool has failed.
            let _ = fs::remove_file(to(segment));
        }
        (segments.len(), cost, outcome)
    }

    fn fetch_missing(&mut self) -> Measured {
        let to = self.data.join("pg_wal/RECOVERY-MISSING");
        let others = self.others();
        let (cost, outcome) = meter::measure(&others, || {
            let mut names = MISSING.iter();
            names.try_for_each(|name| self.tool.fetch_missing(name, &to))
        });
        (MISSING.len(), cost, outcome)
    }

    fn others(&self) -> Others {
        Others {
            workers: self.tool.workers(),
            ..Others::default()
        }
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a segment has a name")
}

fn same(one: &Path, other: &Path) -> Result<(), Failure> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    if read(one)? == read(other)? {
        return Ok(());
    }
    Err(format!("{} is not what was archived", other.display()))
}
