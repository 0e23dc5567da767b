//! The sections of base backups: in each round every tool backs up the same cluster into an archive of its own, restores
//! it, and a server is started on what came. Each from an empty page cache, if this is root.

use std::path::Path;

use crate::common::postgres::Postgres;
use crate::common::world::World;
use crate::contender::{BaseTool, Failure, Row, Section, Setup};
use crate::measure::files;
use crate::measure::meter::{self, Cost, Others};
use crate::results::Log;
use crate::rows::ROWS;
use crate::scene::cluster::{self, Question};
use crate::scene::site::{Place, Site};
use crate::{PLACES, is_asked_for};

/// What a tool finds when it is set up for base backups.
#[derive(Debug)]
pub struct BaseGround<'a> {
    /// Files and programs of the benchmark.
    pub world: &'a World,
    /// Its archive's place.
    pub site: &'a Site,
    /// What is backed up.
    pub server: &'a Postgres,
}

/// All rounds, in all places.
pub fn run(world: &World, scale: usize, rounds: usize, log: &mut Log) {
    let (server, question) = cluster::large(world, scale);
    for round in 0..rounds {
        for place in PLACES {
            for number in 0..ROWS.len() {
                let row = &ROWS[(round + number) % ROWS.len()];
                if !log.has_failed(row, place) {
                    turn(world, (&server, &question), place, row, log);
                }
            }
        }
    }
    server.destroy();
}

/// One backup and one restore by one tool.
fn turn(
    world: &World,
    (server, question): (&Postgres, &Question),
    place: Place,
    row: &'static Row,
    log: &mut Log,
) {
    let Setup::Base(set_up) = row.tool else { return };
    if !(row.plays_in)(place) || !row.is_installed() || !is_asked_for(row) {
        return;
    }
    let site = Site::new(world, "base", place);
    let tool = set_up(&BaseGround {
        world,
        site: &site,
        server,
    });
    let outcome = tool.and_then(|tool| {
        cluster::archive_by(server, &tool.archive_command());
        let backup = back_up(server, &site, &*tool)?;
        log.measured(Section::Backup, row, place, 1, &backup);
        if !row.sections.contains(&Section::Restore) {
            return Ok(());
        }
        let restored = world.owned_dir("restored");
        let restore = restore(&restored, question, &*tool);
        cluster::remove(&restored);
        cluster::archive_by(server, "/bin/true");
        let restore = restore?;
        log.measured(Section::Restore, row, place, 1, &restore);
        let answer = Cost {
            wall: restore.until_answer,
            ..restore
        };
        log.measured(Section::Answer, row, place, 1, &answer);
        Ok(())
    });
    if let Err(error) = outcome {
        cluster::archive_by(server, "/bin/true");
        log.failed(row, place, &error);
    }
}

fn back_up(server: &Postgres, site: &Site, tool: &dyn BaseTool) -> Result<Cost, Failure> {
    server.query("CHECKPOINT");
    files::empty_page_cache();
    let before = site.stored_bytes();
    let others = Others {
        server: Some(server.process()),
        ..Others::default()
    };
    let (mut cost, outcome) = meter::measure(&others, || meter::succeed(&mut tool.backup(server)));
    cost.stored_bytes = site.stored_bytes().saturating_sub(before);
    outcome.map(|()| cost)
}

fn restore(restored: &Path, question: &Question, tool: &dyn BaseTool) -> Result<Cost, Failure> {
    files::empty_page_cache();
    crate::common::user::User::postgres().make_dir(&restored.join("data"));
    let others = Others::default();
    let (mut cost, outcome) = meter::measure(&others, || {
        meter::succeed(&mut tool.restore(&restored.join("data")))
    });
    outcome?;
    cost.until_answer = cost.wall + cluster::time_to_answer(restored, question, &tool.restore_command());
    Ok(cost)
}
