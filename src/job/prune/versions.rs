//! Which versions of files, and which dumps, stay. Those of one name are a row of their own, which the rules judge as they judge
//! backups on one line of history: the newest whole one always stays, and the one that was the newest when the last so many
//! days began.

use jiff::Timestamp;

use super::plan::{Planned, locked_until};
use super::rules::{Judged, Reason, Rules, ended_at_latest, keep};
use crate::job::look::Known;
use crate::pg::{Lsn, Timeline};

/// The line that all versions of a name are on.
const LINE: Timeline = Timeline(1);

/// What becomes of versions, which are in the order of their names.
pub(super) fn plan(versions: Vec<Known>, rules: &Rules, now: Timestamp) -> Vec<Planned> {
    let mut rows: Vec<Vec<Known>> = Vec::new();
    for known in versions {
        match rows.last_mut() {
            Some(row) if row[0].row() == known.row() => row.push(known),
            _ => rows.push(vec![known]),
        }
    }
    rows.into_iter()
        .flat_map(|row| plan_row(row, rules, now))
        .collect()
}

fn plan_row(row: Vec<Known>, rules: &Rules, now: Timestamp) -> Vec<Planned> {
    let judged: Vec<Judged> = row.iter().map(|known| judged(known, now)).collect();
    // That names a backup.
    let rules = Rules {
        from: None,
        ..rules.clone()
    };
    let why = match rules.keeps_any() {
        true => keep(&judged, &rules, now),
        false => judged.iter().map(|_| vec![Reason::NoRule]).collect(),
    };
    let ended = ended_at_latest(&judged, now);
    let planned = row.into_iter().zip(why).zip(ended);
    planned
        .map(|((known, why), ended)| Planned { known, why, ended })
        .collect()
}

fn judged(known: &Known, now: Timestamp) -> Judged {
    Judged {
        name: known.name.clone(),
        ended: known.summary.backup.ended.at,
        is_exact: known.summary.is_end_known(),
        stored: known.summary.finished,
        is_whole: known.lacks.is_none(),
        found_damaged: known.found_damaged,
        has_bad_pages: false,
        start: Lsn(0),
        combined_with: None,
        reaches: vec![LINE],
        pinned: known.pinned.clone(),
        locked: known.locked.and_then(|locked| locked_until(locked, now)),
        base_of: known.base_of.clone(),
        may_be_base_of: vec![],
    }
}
