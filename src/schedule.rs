//! When a scheduled job is due: as crontab(5) writes it, or every so long.

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::config::duration;

/// Fields of a line of crontab(5), without the command.
const CRON_FIELDS: usize = 5;

/// When a job is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As it was written.
    text: String,
    rule: Rule,
    /// The zone that hours and days are of.
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Rule {
    Cron(Box<Cron>),
    /// At the whole multiples of this since 1970 in UTC, so that all hosts agree.
    Every(Duration),
}

impl FromStr for Schedule {
    type Err = String;

    /// `0 3 * * *`, `@daily`, `6h`; in the zone of this machine.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let zone = TimeZone::system();
        let fields = text.split(' ').count();
        let looks_like_cron = text.starts_with('@') || text.contains('*') || fields >= CRON_FIELDS;
        let rule = match duration(&text) {
            Ok(every) => Rule::Every(every),
            Err(_) if !looks_like_cron => {
                return Err(format!(
                    "{text:?} is no schedule like \"0 3 * * *\", @daily or 6h"
                ));
            }
            Err(_) if fields == CRON_FIELDS + 1 => {
                return Err(format!(
                    "{text:?} has six fields, and crontab(5) has five: minute, hour, day, month, weekday. HINT: without the \
                     seconds it is {:?}",
                    text.split_once(' ').map_or("", |(_, rest)| rest)
                ));
            }
            Err(_) => {
                let parser = CronParser::builder()
                    .seconds(Seconds::Disallowed)
                    .year(Year::Disallowed)
                    .build();
                let cron = parser
                    .parse(&text)
                    .map_err(|error| format!("{text:?}: {error}"))?;
                Rule::Cron(Box::new(cron))
            }
        };
        let schedule = Self { text, rule, zone };
        match schedule.next(Timestamp::now()) {
            Some(_) => Ok(schedule),
            None => Err(format!("{:?} never comes", schedule.text)),
        }
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl Schedule {
    /// In another zone than that of this machine.
    #[must_use]
    pub fn in_zone(mut self, zone: TimeZone) -> Self {
        self.zone = zone;
        self
    }

    /// The name of the zone, as far as it has one.
    pub fn zone(&self) -> Option<&str> {
        self.zone.iana_name()
    }

    /// When it is due next after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Cron(cron) => {
                let found = cron.find_next_occurrence(&self.zoned(now), false);
                Some(found.ok()?.timestamp())
            }
            Rule::Every(every) => multiple(now, *every, 1),
        }
    }

    /// When it was due last, at `now` or before.
    pub fn latest(&self, now: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Cron(cron) => {
                let found = cron.find_previous_occurrence(&self.zoned(now), true);
                Some(found.ok()?.timestamp())
            }
            Rule::Every(every) => multiple(now, *every, 0),
        }
    }

    fn zoned(&self, now: Timestamp) -> Zoned {
        // A line of crontab has no parts of seconds: with them, a moment would not be its own minute.
        let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
        second.to_zoned(self.zone.clone())
    }
}

fn multiple(now: Timestamp, every: Duration, ahead: i64) -> Option<Timestamp> {
    let every = i64::try_from(every.as_secs()).ok()?.max(1);
    let count = now.as_second().div_euclid(every).checked_add(ahead)?;
    Timestamp::from_second(count.checked_mul(every)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(text: &str) -> Schedule {
        text.parse::<Schedule>()
            .unwrap()
            .in_zone(TimeZone::get("Europe/Berlin").unwrap())
    }

    #[test]
    fn a_line_of_crontab_is_in_the_zone_of_the_machine() {
        let daily = schedule("0  3 * * *");
        assert_eq!(daily.to_string(), "0 3 * * *");
        let now = at("2026-11-30T12:00:00.5Z");
        assert_eq!(daily.latest(now), Some(at("2026-11-30T02:00:00Z")));
        assert_eq!(daily.next(now), Some(at("2026-12-01T02:00:00Z")));
        // The moment itself has come, and is not the next one.
        let due = at("2026-11-30T02:00:00Z");
        for moment in [due, at("2026-11-30T02:00:00.7Z"), at("2026-11-30T02:00:59Z")] {
            assert_eq!(daily.latest(moment), Some(due), "{moment}");
            assert_eq!(daily.next(moment), Some(at("2026-12-01T02:00:00Z")), "{moment}");
        }
        // The hour that is there twice, and the one that is not there.
        let hourly = schedule("@hourly");
        let mut moment = at("2026-10-24T23:30:00Z");
        for hour in ["00", "01", "02"] {
            moment = hourly.next(moment).unwrap();
            assert_eq!(moment, at(&format!("2026-10-25T{hour}:00:00Z")));
        }
        assert!(schedule("30 2 * * *").next(at("2026-03-28T12:00:00Z")).is_some());
    }

    #[test]
    fn an_interval_is_the_same_on_all_hosts() {
        let six = schedule("6h");
        let now = at("2026-11-30T13:00:01Z");
        assert_eq!(six.latest(now), Some(at("2026-11-30T12:00:00Z")));
        assert_eq!(six.next(now), Some(at("2026-11-30T18:00:00Z")));
        assert_eq!(
            six.latest(at("2026-11-30T12:00:00Z")),
            Some(at("2026-11-30T12:00:00Z"))
        );
        assert_eq!(
            six.next(at("2026-11-30T12:00:00Z")),
            Some(at("2026-11-30T18:00:00Z"))
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_a_reason() {
        for (text, word) in [
            ("", "is no schedule"),
            ("daily", "is no schedule"),
            ("0 0 3 * * *", "is \"0 3 * * *\""),
            ("61 3 * * *", "61"),
            ("0 3 * *", "0 3 * *"),
            ("0 3 31 2 *", "never"),
            ("0s", "is no schedule"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
