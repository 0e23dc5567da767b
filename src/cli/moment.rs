//! A moment as people write it: with an offset, as PostgreSQL prints it, or with the name of a zone, as its log and
//! `pg_waldump` do.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};

/// Reads a moment.
///
/// # Errors
/// Why the text is none.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    text.parse().or_else(|_| in_zone(text, &TimeZone::system()))
}

/// `here`: the zone whose abbreviations are meant if nothing else has them.
fn in_zone(text: &str, here: &TimeZone) -> Result<Timestamp, String> {
    let wrong = || {
        format!(
            "{text:?} is no time with an offset or a zone, like \"2026-11-21 14:00:00+01\" or \"2026-11-21 14:00:00 \
             Europe/Berlin\""
        )
    };
    let (moment, zone) = text.rsplit_once(' ').ok_or_else(wrong)?;
    let moment: DateTime = moment.trim().parse().map_err(|_| wrong())?;
    let known = TimeZone::get(zone).ok();
    // "CET" is a zone of that name, and what another zone calls its winter.
    let is_short = zone.bytes().all(|byte| byte.is_ascii_uppercase());
    let found = [known.as_ref(), is_short.then_some(here)]
        .into_iter()
        .flatten()
        .find_map(|known| {
            let mut moments = moments(known, moment);
            moments.retain(|at| !is_short || known.to_offset_info(*at).abbreviation() == zone);
            (!moments.is_empty()).then_some(moments)
        });
    match found.as_deref() {
        Some([at]) => Ok(*at),
        Some(_) => Err(format!(
            "{text:?} was twice, when the clocks were set back: write it with its offset, like \"+01\""
        )),
        None => Err(format!(
            "{text:?} is no moment in a zone that this machine knows: write it with its offset, like \"+01\""
        )),
    }
}

/// The moments at which clocks in the zone show this: none if they were set forward over it, two if back.
fn moments(zone: &TimeZone, shown: DateTime) -> Vec<Timestamp> {
    let offsets = match zone.to_ambiguous_timestamp(shown).offset() {
        AmbiguousOffset::Unambiguous { offset } => vec![offset],
        AmbiguousOffset::Fold { before, after } => vec![before, after],
        AmbiguousOffset::Gap { .. } => vec![],
    };
    let at = offsets.into_iter().map(|offset| offset.to_timestamp(shown));
    at.filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_postgresql_and_its_tools_write_them() {
        let expected: Timestamp = "2026-11-21T13:00:00Z".parse().unwrap();
        for text in [
            "2026-11-21 14:00:00+01",
            "2026-11-21T13:00:00Z",
            " 2026-11-21 13:00:00.000+00",
            "2026-11-21 13:00:00 UTC",
            "2026-11-21 13:00:00.000000 GMT",
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in [
            "2026-11-21 14:00:00",
            "2026-11-21 14:00:00 Nowhere/Else",
            "now",
            "",
        ] {
            assert!(parse(text).unwrap_err().contains("offset"), "{text}");
        }
    }

    #[test]
    fn zones_are_those_of_this_machine() {
        let Ok(berlin) = TimeZone::get("Europe/Berlin") else {
            return; // A machine without the files of zones.
        };
        let at = |text: &str| in_zone(text, &berlin).map(|at| at.to_string());
        assert_eq!(
            at("2026-07-21 14:00:00 Europe/Berlin").as_deref(),
            Ok("2026-07-21T12:00:00Z")
        );
        assert_eq!(
            at("2026-07-21 14:00:00 CEST").as_deref(),
            Ok("2026-07-21T12:00:00Z")
        );
        assert!(at("2026-07-21 14:00:00 CET").is_err(), "it is summer");
        assert!(
            at("2026-10-25 02:30:00 Europe/Berlin")
                .unwrap_err()
                .contains("twice")
        );
        assert_eq!(
            at("2026-10-25 02:30:00 CEST").as_deref(),
            Ok("2026-10-25T00:30:00Z")
        );
        assert!(at("2026-03-29 02:30:00 Europe/Berlin").is_err(), "it was never");
    }
}
