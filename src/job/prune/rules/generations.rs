//! The newest of each day, week, month and year, although clocks may have been wrong.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::{Judged, Reason, Rules};
use crate::job::in_order::in_order;
use crate::pg::Timeline;

/// Names the day, week, month or year that a time is in.
type Bucket = fn(&Zoned) -> String;

/// The newest of each of the last days, weeks, months and years.
pub(super) struct Generations<'a> {
    pub backups: &'a [Judged],
    /// At the latest.
    pub ended: &'a [Timestamp],
    pub now: Timestamp,
}

impl Generations<'_> {
    /// Gives each of them, of those that are `whole`, its reason.
    pub(super) fn keep(&self, whole: &[usize], rules: &Rules, why: &mut [Vec<Reason>]) {
        let kinds: [(Option<u32>, Bucket); 4] = [
            (rules.daily, |time| time.strftime("day %Y-%m-%d").to_string()),
            (rules.weekly, |time| {
                let week = time.date().iso_week_date();
                format!("week {}-W{:02}", week.year(), week.week())
            }),
            (rules.monthly, |time| time.strftime("month %Y-%m").to_string()),
            (rules.yearly, |time| time.strftime("year %Y").to_string()),
        ];
        let wanted = kinds
            .into_iter()
            .filter_map(|(count, bucket)| Some((count.filter(|count| *count > 0)?, bucket)));
        let wanted: Vec<(u32, Bucket)> = wanted.collect();
        if wanted.is_empty() {
            return;
        }
        let told = |at: &usize| self.backups[*at].ended;
        // What is yet to come takes no day from those that were.
        let (there, ahead): (Vec<usize>, Vec<usize>) =
            whole.iter().copied().partition(|at| told(at) <= self.now);
        for at in ahead {
            let reason = Reason::Ahead(told(&at));
            if !why[at].contains(&reason) {
                why[at].push(reason);
            }
        }
        let doubtful = self.doubtful(&there);
        let is_sure = |at: &usize| !doubtful.contains(at);
        let latest = |at: &usize| match is_sure(at) {
            true => told(at),
            false => self.ended[*at].min(self.now),
        };
        // Those whose day is not sure take no place from the others, and stay if they have one by either of their times.
        let sure = there.iter().filter(|at| is_sure(at));
        let rows: [Vec<(Timestamp, usize)>; 3] = [
            sure.map(|at| (told(at), *at)).collect(),
            there.iter().map(|at| (told(at), *at)).collect(),
            there.iter().map(|at| (latest(at), *at)).collect(),
        ];
        for mut row in rows {
            row.sort();
            for (count, bucket) in &wanted {
                for (at, bucket) in newest_of_each(&row, *count, *bucket) {
                    let reason = match is_sure(&at) {
                        true => Reason::Of(bucket),
                        false => Reason::PerhapsOf(bucket),
                    };
                    if !why[at].contains(&reason) {
                        why[at].push(reason);
                    }
                }
            }
        }
    }

    /// Of which only a bound is known, or whose clock contradicts most others' of a line.
    fn doubtful(&self, there: &[usize]) -> BTreeSet<usize> {
        let exact = |at: &usize| self.backups[*at].is_exact;
        let ends: BTreeSet<Timeline> = there
            .iter()
            .flat_map(|at| self.backups[*at].reaches.iter().copied())
            .collect();
        let mut doubtful: BTreeSet<usize> = there.iter().copied().filter(|at| !exact(at)).collect();
        for end in ends {
            let on_line = there.iter().copied().filter(exact);
            let on_line: Vec<usize> = on_line
                .filter(|at| self.backups[*at].reaches.contains(&end))
                .collect();
            let ended: Vec<Timestamp> = on_line.iter().map(|at| self.backups[*at].ended).collect();
            let believed = in_order(&ended);
            doubtful.extend(
                (0..on_line.len())
                    .filter(|place| !believed.contains(place))
                    .map(|place| on_line[place]),
            );
        }
        doubtful
    }
}

/// Of backups by time, the newest of each of the last so many buckets that have one.
fn newest_of_each(row: &[(Timestamp, usize)], count: u32, bucket: Bucket) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    for (time, at) in row.iter().rev() {
        let bucket = bucket(&time.to_zoned(TimeZone::UTC));
        if found.last().is_some_and(|(_, last)| *last == bucket) {
            continue;
        }
        if found.len() == count as usize {
            break;
        }
        found.push((*at, bucket));
    }
    found
}
