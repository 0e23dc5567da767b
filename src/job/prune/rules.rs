//! Which backups stay, and why: from what is known of them, without a look at the store.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::archive::tree::TreeName;
use crate::pg::{Lsn, Timeline};

mod generations;
mod reason;

use generations::Generations;
pub use reason::Reason;

/// What the operator wants to keep. A backup stays if one of these wants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The newest so many complete backups.
    pub last: Option<u32>,
    /// What recovery to any moment of the last so many days takes.
    pub days: Option<u32>,
    /// The newest of each of the last so many days that have one. Days, weeks, months and years are those of UTC.
    pub daily: Option<u32>,
    /// ... weeks, as ISO 8601 counts them.
    pub weekly: Option<u32>,
    /// ... months.
    pub monthly: Option<u32>,
    /// ... years.
    pub yearly: Option<u32>,
    /// This one and all that are newer.
    pub from: Option<TreeName>,
    /// WAL between backups is kept for recovery to any moment of the last so many days; of older backups only what makes
    /// them consistent. Without it, all WAL from the oldest backup that stays.
    pub pitr_days: Option<u32>,
}

impl Rules {
    /// Does any of them keep backups?
    pub fn keeps_any(&self) -> bool {
        let counts = [
            self.last,
            self.days,
            self.daily,
            self.weekly,
            self.monthly,
            self.yearly,
        ];
        counts.iter().any(Option::is_some) || self.from.is_some()
    }
}

/// A backup that the rules judge.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub name: TreeName,
    pub ended: Timestamp,
    /// Did it end then, and not later?
    pub is_exact: bool,
    pub stored: Timestamp,
    /// Is all of it there, and its WAL?
    pub is_whole: bool,
    /// Has `walfs verify` found that it cannot be restored whole?
    pub found_damaged: bool,
    /// Has it pages that were damaged on the server already?
    pub has_bad_pages: bool,
    pub start: Lsn,
    /// Of an incremental one of PostgreSQL: where that began which it is combined with.
    pub combined_with: Option<Lsn>,
    /// Which of the ends that may still be wanted it reaches.
    pub reaches: Vec<Timeline>,
    pub pinned: Option<String>,
    /// Until when the store keeps it; `Some(None)`: until somebody takes the hold away.
    pub locked: Option<Option<Timestamp>>,
    /// Unfinished ones that point to it.
    pub base_of: Vec<TreeName>,
    /// Unfinished ones that may be incremental ones of it.
    pub may_be_base_of: Vec<TreeName>,
}

impl Judged {
    /// Can it be restored by itself?
    fn is_complete(&self) -> bool {
        self.is_whole && self.combined_with.is_none()
    }
}

/// When each of these backups, oldest first, ended at the latest: no earlier than any before it on its line, whose clock may
/// have been right where its own had gone back. A clock that is ahead even now says nothing of those behind it. Of which only
/// a bound is known, no later than the next one that is known, and without one, than it was stored.
pub(super) fn ended_at_latest(backups: &[Judged], now: Timestamp) -> Vec<Timestamp> {
    let mut by_end: BTreeMap<Timeline, Timestamp> = BTreeMap::new();
    let no_earlier = |backup: &Judged| {
        let before = backup.reaches.iter().filter_map(|end| by_end.get(end));
        let ended = before.copied().fold(backup.ended, Timestamp::max);
        if ended <= now {
            by_end.extend(backup.reaches.iter().map(|end| (*end, ended)));
        }
        ended
    };
    let mut latest: Vec<Timestamp> = backups.iter().map(no_earlier).collect();
    for (at, bound) in backups.iter().enumerate().filter(|(_, backup)| !backup.is_exact) {
        let is_behind = |next: &usize| {
            let next = &backups[*next];
            next.is_exact && next.reaches.iter().any(|end| bound.reaches.contains(end))
        };
        let next = (at + 1..backups.len()).find(is_behind);
        latest[at] = latest[at].max(next.map_or(bound.stored, |next| latest[next]));
    }
    latest
}

/// Why each of these backups, oldest first, stays; none: it goes. What was found damaged may have lost one page of many, so it stays
/// as long as a whole one does; but it takes the place of none: the others are judged without it, too.
pub(super) fn keep(backups: &[Judged], rules: &Rules, now: Timestamp) -> Vec<Vec<Reason>> {
    let mut why = judge(backups, rules, now);
    let sound: Vec<usize> = (0..backups.len())
        .filter(|&at| !backups[at].found_damaged)
        .collect();
    if sound.len() < backups.len() {
        let others: Vec<Judged> = sound.iter().map(|&at| backups[at].clone()).collect();
        for (at, more) in sound.into_iter().zip(judge(&others, rules, now)) {
            let own = &mut why[at];
            let new: Vec<Reason> = more.into_iter().filter(|reason| !own.contains(reason)).collect();
            own.extend(new);
        }
        combined(backups, &mut why);
    }
    why
}

/// Why each of these stays, if each takes the place that it has.
fn judge(backups: &[Judged], rules: &Rules, now: Timestamp) -> Vec<Vec<Reason>> {
    let mut why: Vec<Vec<Reason>> = backups
        .iter()
        .map(|backup| {
            let pinned = backup.pinned.iter().cloned().map(Reason::Pinned);
            let may_be_base_of = backup.may_be_base_of.iter().filter(|_| backup.is_whole).cloned();
            pinned
                .chain(backup.locked.map(Reason::Locked))
                .chain(backup.base_of.iter().cloned().map(Reason::BaseOf))
                .chain(may_be_base_of.map(Reason::MayBeBaseOf))
                .collect()
        })
        .collect();
    let such = |is_such: fn(&Judged) -> bool| -> Vec<usize> {
        (0..backups.len()).filter(|&at| is_such(&backups[at])).collect()
    };
    let complete = such(Judged::is_complete);
    // What is asked for may be an incremental one of PostgreSQL's, too.
    let whole = such(|backup| backup.is_whole);
    let ended = ended_at_latest(backups, now);
    let Some(&newest) = complete.last() else {
        why.iter_mut().for_each(|why| why.push(Reason::NothingComplete));
        return why;
    };
    why[newest].push(Reason::Newest);
    if backups[newest].has_bad_pages
        && let Some(&at) = complete.iter().rfind(|&&at| !backups[at].has_bad_pages)
    {
        why[at].push(Reason::Undamaged);
    }
    let mut asked: Vec<usize> = Vec::new();
    let mut ask = |why: &mut Vec<Vec<Reason>>, at: usize, reason: Reason| {
        why[at].push(reason);
        asked.push(at);
    };
    for (end, at) in newest_by_end(backups, &complete, |_| true) {
        if at != newest {
            why[at].push(Reason::End(end));
        }
    }
    if let Some(count) = rules.last {
        for &at in whole.iter().rev().take(count as usize) {
            ask(&mut why, at, Reason::Last(count));
        }
    }
    if let Some(days) = rules.days {
        let begin = days_before(now, days);
        for &at in whole.iter().filter(|&&at| ended[at] >= begin) {
            let reason = match backups[at].ended {
                ended if ended > now => Reason::Ahead(ended),
                ended if ended < begin => Reason::PerhapsDays(days),
                _ => Reason::Days(days),
            };
            ask(&mut why, at, reason);
        }
    }
    for days in rules.days.into_iter().chain(rules.pitr_days) {
        let begin = days_before(now, days);
        let begins = newest_by_end(backups, &complete, |at| ended[at] <= begin);
        for at in begins.into_values() {
            if !why[at].contains(&Reason::Begins(days)) {
                why[at].push(Reason::Begins(days));
            }
        }
    }
    if let Some(name) = &rules.from
        && let Some(from) = backups.iter().position(|backup| backup.name == *name)
    {
        for &at in whole.iter().filter(|&&at| at >= from) {
            ask(&mut why, at, Reason::From(name.clone()));
        }
    }
    Generations {
        backups,
        ended: &ended,
        now,
    }
    .keep(&whole, rules, &mut why);
    let recent = asked.into_iter().min().unwrap_or(newest);
    for at in recent + 1..backups.len() {
        if !backups[at].is_whole {
            why[at].push(Reason::NotComplete);
        }
    }
    combined(backups, &mut why);
    why
}

/// Of each end the newest complete backup that reaches it, and is early enough; without one the oldest.
fn newest_by_end(
    backups: &[Judged],
    complete: &[usize],
    is_early: impl Fn(usize) -> bool,
) -> BTreeMap<Timeline, usize> {
    let mut found: BTreeMap<Timeline, usize> = BTreeMap::new();
    for &at in complete {
        for end in &backups[at].reaches {
            if is_early(at) || !found.contains_key(end) {
                found.insert(*end, at);
            }
        }
    }
    found
}

pub(super) fn days_before(now: Timestamp, days: u32) -> Timestamp {
    let span = SignedDuration::from_hours(24 * i64::from(days));
    now.checked_sub(span).unwrap_or(Timestamp::MIN)
}

/// What an incremental backup of PostgreSQL is combined with stays as long as it.
fn combined(backups: &[Judged], why: &mut [Vec<Reason>]) {
    let is_base =
        |base: usize, of: usize| base < of && backups[of].combined_with == Some(backups[base].start);
    let pairs: Vec<(usize, usize)> = (0..backups.len())
        .filter(|&of| backups[of].combined_with.is_some())
        .flat_map(|of| {
            (0..of)
                .filter(move |&base| is_base(base, of))
                .map(move |base| (base, of))
        })
        .collect();
    let mut changes = true;
    while changes {
        changes = false;
        for &(base, of) in &pairs {
            if why[base].is_empty() && !why[of].is_empty() {
                why[base].push(Reason::CombinedWith(backups[of].name.clone()));
                changes = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of 2026, counted from its first.
    fn day(number: i64) -> Timestamp {
        "2026-01-01T03:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * number)
    }

    fn on(number: i64) -> Judged {
        Judged {
            name: format!("d{number}").parse().unwrap(),
            ended: day(number),
            is_exact: true,
            stored: day(number),
            is_whole: true,
            found_damaged: false,
            has_bad_pages: false,
            start: Lsn(number as u64 * 1000),
            combined_with: None,
            reaches: vec![Timeline(1)],
            locked: None,
            pinned: None,
            base_of: vec![],
            may_be_base_of: vec![],
        }
    }

    /// The days of those that stay.
    fn stay(backups: &[Judged], rules: &Rules, now: i64) -> Vec<String> {
        let why = keep(backups, rules, day(now));
        let stays = backups.iter().zip(&why).filter(|(_, why)| !why.is_empty());
        stays.map(|(backup, _)| backup.name.to_string()).collect()
    }

    #[test]
    fn what_is_asked_for_stays() {
        let all: Vec<Judged> = (0..10).map(on).collect();
        let rules = Rules::default();
        let last = |count| Rules {
            last: Some(count),
            ..rules.clone()
        };
        assert_eq!(stay(&all, &last(2), 9), ["d8", "d9"]);
        assert_eq!(stay(&all, &last(0), 9), ["d9"]);
        assert_eq!(stay(&all, &last(u32::MAX), 9).len(), 10);
        let days = |count| Rules {
            days: Some(count),
            ..rules.clone()
        };
        // What ended before them is what they begin with.
        assert_eq!(stay(&all, &days(2), 9), ["d7", "d8", "d9"]);
        assert_eq!(stay(&all, &days(2), 30), ["d9"]);
        assert_eq!(stay(&all, &days(u32::MAX), 9).len(), 10);
        let from = Rules {
            from: Some("d6".parse().unwrap()),
            ..rules.clone()
        };
        assert_eq!(stay(&all, &from, 9), ["d6", "d7", "d8", "d9"]);
    }

    #[test]
    fn k3_generations() {
        let all: Vec<Judged> = (0..400).map(on).collect();
        let rules = Rules {
            daily: Some(3),
            weekly: Some(2),
            monthly: Some(3),
            yearly: Some(5),
            ..Rules::default()
        };
        // 2027-02-04 is the last; Sundays end weeks: 2027-01-31.
        let stays = stay(&all, &rules, 399);
        assert_eq!(stays, ["d364", "d395", "d397", "d398", "d399"]);
        assert_eq!(day(364).to_string(), "2026-12-31T03:00:00Z");
        assert_eq!(day(395).to_string(), "2027-01-31T03:00:00Z");
    }

    #[test]
    fn k3_the_last_complete_one_stays() {
        let mut all: Vec<Judged> = (0..4).map(on).collect();
        all[3].is_whole = false;
        let rules = Rules {
            last: Some(1),
            ..Rules::default()
        };
        // What is newer may become complete yet.
        assert_eq!(stay(&all, &rules, 3), ["d2", "d3"]);
        all[1].is_whole = false;
        assert_eq!(stay(&all, &rules, 3), ["d2", "d3"]);
        all.iter_mut().for_each(|backup| backup.is_whole = false);
        assert_eq!(stay(&all, &rules, 3).len(), 4);
        assert_eq!(stay(&[], &rules, 3).len(), 0);
    }

    #[test]
    fn k3_what_was_found_damaged_takes_the_place_of_none() {
        let mut all: Vec<Judged> = (0..6).map(on).collect();
        all[3].found_damaged = true;
        all[4].found_damaged = true;
        let last = |count| Rules {
            last: Some(count),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &last(1), 5), ["d5"]);
        assert_eq!(stay(&all, &last(2), 5), ["d2", "d4", "d5"]);
        assert_eq!(stay(&all, &last(3), 5), ["d1", "d2", "d3", "d4", "d5"]);
        // Nor is it what the days begin with, nor alone the newest of one.
        let days = Rules {
            days: Some(1),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &days, 5), ["d2", "d4", "d5"]);
        let weekly = Rules {
            weekly: Some(2),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &weekly, 5), ["d2", "d3", "d5"]);
    }

    #[test]
    fn k3_damaged_pages_do_not_take_the_place_of_whole_ones() {
        let mut all: Vec<Judged> = (0..5).map(on).collect();
        all[3].has_bad_pages = true;
        all[4].has_bad_pages = true;
        let rules = Rules {
            last: Some(1),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &rules, 4), ["d2", "d4"]);
        all.iter_mut().for_each(|backup| backup.has_bad_pages = true);
        assert_eq!(stay(&all, &rules, 4), ["d4"]);
    }

    #[test]
    fn k3_a_clock_that_had_gone_back_takes_nothing_from_the_window() {
        let mut all: Vec<Judged> = [0, 20, 25, 40].map(on).into();
        let days = Rules {
            days: Some(30),
            ..Rules::default()
        };
        all[2].ended = day(-9000);
        assert_eq!(stay(&all, &days, 40), ["d0", "d20", "d25", "d40"]);
        assert_eq!(stay(&all, &days, 60), ["d25", "d40"]);
        // One that was ahead, and still is, stays; the others are judged by their own.
        all[2].ended = day(9000);
        assert_eq!(stay(&all, &days, 60), ["d20", "d25", "d40"]);
        let pitr = Rules {
            last: Some(1),
            pitr_days: Some(30),
            ..Rules::default()
        };
        all[2].ended = day(-9000);
        assert_eq!(stay(&all, &pitr, 40), ["d0", "d40"]);
    }

    #[test]
    fn k3_a_bound_is_no_end() {
        let mut all: Vec<Judged> = [0, 5, 9].map(on).into();
        all[1].is_exact = false;
        let days = Rules {
            days: Some(10),
            ..Rules::default()
        };
        // It may have ended on any day until the next one, or until it was stored: then the window begins with the first.
        assert_eq!(stay(&all, &days, 16), ["d0", "d5", "d9"]);
        assert_eq!(stay(&all, &days, 20), ["d9"]);
        all[2].stored = day(30);
        all[2].is_exact = false;
        assert_eq!(stay(&all, &days, 39), ["d5", "d9"]);
        assert_eq!(stay(&all, &days, 41), ["d9"]);
        // It takes no day from another one.
        let mut all: Vec<Judged> = (0..6).map(on).collect();
        all[3].is_exact = false;
        all[3].ended = day(1) + SignedDuration::from_hours(1);
        let daily = Rules {
            daily: Some(4),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &daily, 6), ["d1", "d2", "d3", "d4", "d5"]);
    }

    #[test]
    fn k3_a_clock_that_is_ahead_takes_no_day_from_others() {
        let daily = Rules {
            daily: Some(2),
            ..Rules::default()
        };
        let mut all: Vec<Judged> = (0..6).map(on).collect();
        all[0].ended = day(365);
        all[1].ended = day(366);
        assert_eq!(stay(&all, &daily, 6), ["d0", "d1", "d4", "d5"]);
        let why = keep(&all, &daily, day(6));
        assert_eq!(
            why[0][0].to_string(),
            "its clock was ahead: 2027-01-01T03:00:00Z is yet to come"
        );
        // Also when these days have come, for they contradict the others.
        assert_eq!(stay(&all, &daily, 400), ["d0", "d1", "d4", "d5"]);
    }

    #[test]
    fn k3_each_end_keeps_what_reaches_it() {
        let mut all: Vec<Judged> = (0..5).map(on).collect();
        // Two is the last before the cluster was taken back to it; three and four are on a branch that goes on.
        for backup in &mut all[..3] {
            backup.reaches = vec![Timeline(1), Timeline(2)];
        }
        let rules = Rules {
            last: Some(1),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &rules, 4), ["d2", "d4"]);
        let pitr = Rules {
            pitr_days: Some(2),
            ..rules
        };
        assert_eq!(stay(&all, &pitr, 4), ["d2", "d4"]);
        assert_eq!(stay(&all, &pitr, 5), ["d2", "d3", "d4"]);
    }

    #[test]
    fn k3_pins_and_bases_stay() {
        let mut all: Vec<Judged> = (0..8).map(on).collect();
        all[0].pinned = Some("audit".into());
        all[1].base_of = vec!["making".parse().unwrap()];
        // Three, four and five are a chain.
        all[4].combined_with = Some(all[3].start);
        all[5].combined_with = Some(all[4].start);
        let rules = |last| Rules {
            last: Some(last),
            ..Rules::default()
        };
        assert_eq!(stay(&all, &rules(1), 7), ["d0", "d1", "d7"]);
        assert_eq!(stay(&all, &rules(2), 7), ["d0", "d1", "d6", "d7"]);
        assert_eq!(
            stay(&all, &rules(3), 7),
            ["d0", "d1", "d3", "d4", "d5", "d6", "d7"]
        );
        all[5].pinned = Some("the newest of the chain".into());
        assert_eq!(stay(&all, &rules(1), 7), ["d0", "d1", "d3", "d4", "d5", "d7"]);
    }
}
