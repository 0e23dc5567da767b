//! Temporary names: under which copy tools bring a file before they rename it to its final name.
//!
//! A closed list. A name outside of it and outside of [`WalName`] is a mistake of the caller, and to take it
//! would be to promise to keep a file that no restore will ever ask for.

use super::WalName;

/// Endings that tools and scripts put on a file that is still on its way.
const ENDINGS: [&str; 6] = [".tmp", ".temp", ".new", ".part", ".part.minio", "~"];

/// Before the final name, in PostgreSQL's own archive module (`basic_archive.c`).
const BASIC_ARCHIVE: &str = "archtemp.";

/// The final name, if `name` is a temporary one for it.
///
/// | name | who writes it |
/// |---|---|
/// | `.FINAL.Ab12Cd` | rsync: six or more letters and digits |
/// | `archtemp.FINAL.PID.MILLISECONDS` | PostgreSQL's `basic_archive` |
/// | `FINAL.part.minio` | MinIO's `mc` |
/// | `FINAL.tmp`, `.temp`, `.new`, `.part`, `FINAL~` | `cp x.tmp && mv`, download tools, editors |
/// | `FINAL.tmp123`, `FINAL.tmp.123`, `FINAL.tmp-a1B2` | scripts that add a process id |
/// | `tmp.FINAL`, and each of the above with a dot in front | scripts |
///
/// `FINAL.partial` is a final name itself, and `FINAL.gz` is another file, not an earlier state of `FINAL`.
pub fn staging_target(name: &str) -> Option<WalName> {
    if let Some(target) = name.strip_prefix("tmp.") {
        return target.parse().ok();
    }
    if let Some(rest) = name.strip_prefix(BASIC_ARCHIVE) {
        return basic_archive_target(rest);
    }
    match name.strip_prefix('.') {
        // `.SEGMENT.partial` would read as rsync's `.SEGMENT.RANDOM`.
        Some(hidden) if hidden.parse::<WalName>().is_ok() => None,
        Some(hidden) => split_target(hidden, |ending| is_temporary(ending) || is_rsync(ending)),
        None => split_target(name, is_temporary),
    }
}

/// `FINAL.PID.MILLISECONDS`
fn basic_archive_target(rest: &str) -> Option<WalName> {
    let mut parts = rest.rsplitn(3, '.');
    let numbers = [parts.next()?, parts.next()?];
    let are_numbers = numbers
        .iter()
        .all(|number| consists_of(number, u8::is_ascii_digit));
    parts.next()?.parse().ok().filter(|_| are_numbers)
}

/// Splits into the longest possible final name and an ending that `accepted` takes: both may contain dots.
fn split_target(text: &str, accepted: impl Fn(&str) -> bool) -> Option<WalName> {
    text.rmatch_indices(['.', '~'])
        .map(|(at, _)| text.split_at(at))
        .find_map(|(target, ending)| target.parse().ok().filter(|_| accepted(ending)))
}

fn is_temporary(ending: &str) -> bool {
    ENDINGS.contains(&ending) || ending.strip_prefix(".tmp").is_some_and(is_distinction)
}

/// What follows `.tmp` so that two copies do not meet: `123`, `.123`, `-a1B2`.
fn is_distinction(text: &str) -> bool {
    match text.strip_prefix('-') {
        Some(random) => consists_of(random, u8::is_ascii_alphanumeric),
        None => consists_of(text.strip_prefix('.').unwrap_or(text), u8::is_ascii_digit),
    }
}

fn is_rsync(ending: &str) -> bool {
    ending
        .strip_prefix('.')
        .is_some_and(|text| text.len() >= 6 && consists_of(text, u8::is_ascii_alphanumeric))
}

fn consists_of(text: &str, allowed: impl Fn(&u8) -> bool) -> bool {
    !text.is_empty() && text.as_bytes().iter().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINALS: [&str; 4] = [
        "000000010000000A000000FE",
        "000000010000000A000000FE.partial",
        "000000010000000A000000FE.00000028.backup",
        "00000002.history",
    ];

    #[test]
    fn temporary_names() {
        for target in FINALS {
            for name in [
                format!(".{target}.Ab12Cd"),
                format!(".{target}.Ab12CdEf"),
                format!("{target}.tmp"),
                format!("{target}.temp"),
                format!("{target}.new"),
                format!("{target}.part"),
                format!("{target}.part.minio"),
                format!("archtemp.{target}.4711.1796000000123"),
                format!("{target}~"),
                format!("{target}.tmp123"),
                format!("{target}.tmp.123"),
                format!("{target}.tmp-a1B2"),
                format!(".{target}.tmp"),
                format!(".{target}.tmp.77"),
                format!("tmp.{target}"),
            ] {
                assert_eq!(staging_target(&name), Some(target.parse().unwrap()), "{name}");
            }
        }
    }

    #[test]
    fn no_temporary_names() {
        for target in FINALS {
            for name in [
                target.to_owned(),
                format!(".{target}"),
                format!("{target}."),
                format!("{target}.gz"),
                format!("{target}.lz4"),
                format!("{target}.old"),
                format!("{target}.Ab12Cd"),
                format!(".{target}.Ab12C"),
                format!(".{target}.Ab12C_"),
                format!(".{target}.gz"),
                format!("{target}.tmp."),
                format!("{target}.tmp-"),
                format!("{target}.tmp.a1"),
                format!("{target}.tmpx"),
                format!("{target}.tmp.tmp"),
                format!("{target}~~"),
                format!("tmp.{target}.tmp"),
                format!("..{target}.tmp"),
                format!("{target}.swp"),
                format!("archtemp.{target}"),
                format!("archtemp.{target}.4711"),
                format!("archtemp.{target}.4711.x"),
                format!("archtemp.{target}.tmp.4711.1"),
                format!(".archtemp.{target}.4711.1796000000123"),
            ] {
                assert_eq!(staging_target(&name), None, "{name}");
            }
        }
        for name in [
            "",
            ".",
            "~",
            "tmp",
            "tmp.",
            ".tmp",
            "backup_label.tmp",
            "x.tmp",
            ".x.Ab12Cd",
            "00000000.history.tmp",
        ] {
            assert_eq!(staging_target(name), None, "{name}");
        }
    }
}
