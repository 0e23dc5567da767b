//! Lines that say where a recovery ends, as PostgreSQL writes them: they become the options of `walfs restore`, which looks
//! whether the archive leads there.

use std::ffi::OsString;
use std::str::FromStr;

use crate::cli::moment;
use crate::job::restore::harm_of;
use crate::pg::setting;

/// The settings of a recovery that may be given.
const KNOWN: &str = "recovery_target, recovery_target_time, recovery_target_lsn, recovery_target_name, recovery_target_xid, \
                     recovery_target_inclusive, recovery_target_timeline, recovery_target_action";

/// What was read, as arguments of `walfs restore`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RecoveryLines(pub(super) Vec<OsString>);

impl FromStr for RecoveryLines {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut words, mut targets) = (Vec::new(), 0);
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = setting::sole_assignment(line).ok_or_else(|| {
                format!("{line:?} is no line of settings. HINT: one a line: recovery_target_time = '...'")
            })?;
            let word = word(&name, &value)?;
            targets += usize::from(word.as_ref().is_some_and(|(_, is_target)| *is_target));
            words.extend(word.map(|(word, _)| word.into()));
        }
        match targets {
            0 | 1 => Ok(Self(words)),
            _ => Err("there is more than one target. HINT: a recovery ends at one".into()),
        }
    }
}

/// The option that a setting is, if it says anything, and whether that is a target.
fn word(name: &str, value: &str) -> Result<Option<(String, bool)>, String> {
    let wrong = |expected: &str| format!("{name} = '{value}': expected {expected}");
    let target = |option: &str| Ok(Some((format!("--{option}={value}"), true)));
    match (name, value) {
        (
            "recovery_target"
            | "recovery_target_time"
            | "recovery_target_lsn"
            | "recovery_target_name"
            | "recovery_target_xid",
            "",
        ) => Ok(None),
        ("recovery_target", "immediate") => Ok(Some(("--immediate".into(), true))),
        ("recovery_target", _) => Err(wrong("'immediate'")),
        ("recovery_target_time", _) => {
            moment::parse(value).map_err(|error| format!("{name}: {error}"))?;
            target("target-time")
        }
        ("recovery_target_lsn", _) => target("target-lsn"),
        ("recovery_target_name", _) => target("target-name"),
        ("recovery_target_xid", _) => target("target-xid"),
        ("recovery_target_inclusive", "on" | "true" | "yes" | "1") => Ok(None),
        ("recovery_target_inclusive", "off" | "false" | "no" | "0") => {
            Ok(Some(("--target-exclusive".into(), false)))
        }
        ("recovery_target_inclusive", _) => Err(wrong("'on' or 'off'")),
        ("recovery_target_timeline", _) => Ok(Some((format!("--target-timeline={value}"), false))),
        ("recovery_target_action", "pause" | "promote" | "shutdown") => {
            Ok(Some((format!("--target-action={value}"), false)))
        }
        ("recovery_target_action", _) => Err(wrong("'pause', 'promote' or 'shutdown'")),
        ("restore_command" | "recovery_end_command", _) => {
            Err(format!("{name} is refused: walfs writes it itself"))
        }
        _ => Err(match harm_of(name) {
            Some(harm) => format!("{name} is refused: {harm}"),
            None => format!("{name} says nothing of where a recovery ends. HINT: {KNOWN}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, String> {
        let read: RecoveryLines = text.parse()?;
        let words = read.0.into_iter();
        Ok(words.map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn targets_become_options() {
        let text = "# to here\nRecovery_Target_Time = '2026-11-21 14:00:00+01' # noon\nrecovery_target_inclusive=off\n\n\
                    recovery_target_action 'promote'\nrecovery_target_timeline = latest\nrecovery_target_name = ''";
        let expected = [
            "--target-time=2026-11-21 14:00:00+01",
            "--target-exclusive",
            "--target-action=promote",
            "--target-timeline=latest",
        ];
        assert_eq!(words(text).unwrap(), expected);
        assert_eq!(words("recovery_target = immediate").unwrap(), ["--immediate"]);
        assert_eq!(words(" \n").unwrap(), [""; 0]);
    }

    #[test]
    fn b11_what_harms_is_refused_with_the_reason() {
        for (text, word) in [
            ("archive_cleanup_command = 'rm -rf /'", "it would delete"),
            ("recovery_end_command = 'x'", "recovery_end_command is refused"),
            ("restore_command = 'cp'", "walfs writes it itself"),
            ("recovery_min_apply_delay = 5d", "would wait"),
            ("data_directory = '/x'", "data_directory is refused"),
            ("shared_preload_libraries = 'x'", "says nothing of where"),
            (
                "recovery_target_time = '2026-11-21 14:00:00'",
                "recovery_target_time",
            ),
            (
                "recovery_target_xid = '7' archive_cleanup_command = 'x'",
                "no line",
            ),
            (
                "recovery_target_xid = '7'\nrecovery_target_name = 'x'",
                "more than one",
            ),
            ("recovery_target_xid = '7", "no line"),
            ("; rm", "no line"),
        ] {
            let error = words(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
