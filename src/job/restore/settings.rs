//! What tells the server to recover: lines in `postgresql.auto.conf`, which is read after every other file, and
//! `recovery.signal` or `standby.signal`.
//!
//! The lines stand between two marks, and replace those of an earlier restore. Settings of the same purpose that the
//! backup had in this file become comments: PostgreSQL takes no second recovery target.

use super::target::{Target, TargetAction, TargetTimeline};
use crate::pg::setting::{name, quoted};

/// Begins the lines.
const BEGIN: &str = "# walfs restore: begin";

/// Ends them.
const END: &str = "# walfs restore: end";

/// What the restored server shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Where recovery ends.
    pub target: Target,
    /// Which timeline it follows.
    pub timeline: TargetTimeline,
    /// What it does then; `None` is PostgreSQL's own choice: `promote` at the end of the WAL, `pause` elsewhere.
    pub action: Option<TargetAction>,
    /// Is the target itself recovered, too?
    pub inclusive: bool,
    /// May it end where a segment is missing, although there are others behind it?
    pub up_to_gap: bool,
    /// Stay a standby?
    pub standby: bool,
    /// The server that a standby follows.
    pub primary_conninfo: Option<String>,
    /// Shall it archive, as the settings in the backup say?
    pub archiving: bool,
    /// The command that brings WAL, as a shell reads it, with PostgreSQL's placeholders.
    pub restore_command: Vec<u8>,
}

impl Recovery {
    /// The file whose presence begins the recovery.
    pub fn signal_file(&self) -> &'static str {
        if self.standby {
            "standby.signal"
        } else {
            "recovery.signal"
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = vec![line("restore_command", &self.restore_command)];
        if let Some((name, value)) = self.target.setting() {
            let action = self.action.unwrap_or(TargetAction::Pause).to_string();
            lines.push(line(name, value.as_bytes()));
            lines.push(line("recovery_target_action", action.as_bytes()));
        }
        if matches!(self.target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
            let inclusive: &[u8] = if self.inclusive { b"on" } else { b"off" };
            lines.push(line("recovery_target_inclusive", inclusive));
        }
        let timeline = self.timeline.to_string();
        lines.push(line("recovery_target_timeline", timeline.as_bytes()));
        if let Some(conninfo) = &self.primary_conninfo {
            lines.push(line("primary_conninfo", conninfo.as_bytes()));
        }
        if !self.archiving {
            lines.push(line("archive_mode", b"off"));
        }
        lines
    }

    fn replaces(&self, setting: &str) -> bool {
        setting.starts_with("recovery_target")
            || setting == "restore_command"
            || (setting == "primary_conninfo" && self.primary_conninfo.is_some())
            || (setting == "archive_mode" && !self.archiving)
    }
}

/// The content of `postgresql.auto.conf`, from what the backup has there.
pub(super) fn auto_conf(before: &[u8], recovery: &Recovery) -> Vec<u8> {
    let mut text = Vec::new();
    let mut ours = false;
    for line in before.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        match shown.trim_end() {
            BEGIN => ours = true,
            END => ours = false,
            _ if ours => {}
            line_text => {
                if name(line_text).is_some_and(|setting| recovery.replaces(&setting)) {
                    text.extend_from_slice(b"#");
                }
                text.extend_from_slice(line);
            }
        }
    }
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    for line in [vec![BEGIN.to_owned()], recovery.lines(), vec![END.to_owned()]].concat() {
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    text
}

fn line(name: &str, value: &[u8]) -> String {
    format!("{name} = {}", quoted(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(target: Target) -> Recovery {
        Recovery {
            target,
            timeline: TargetTimeline::Latest,
            action: None,
            inclusive: false,
            up_to_gap: false,
            standby: false,
            primary_conninfo: None,
            archiving: true,
            restore_command: b"cp /mnt/it's/%f \"%p\"".to_vec(),
        }
    }

    fn text(before: &str, recovery: &Recovery) -> String {
        String::from_utf8(auto_conf(before.as_bytes(), recovery)).unwrap()
    }

    #[test]
    fn older_settings_of_the_same_purpose_are_replaced() {
        let before = "work_mem = '8MB'\nRecovery_Target_Time = '2020-01-01'\nrestore_command='x'";
        let first = text(before, &recovery(Target::Name("a'b".into())));
        assert_eq!(
            first,
            "work_mem = '8MB'\n#Recovery_Target_Time = '2020-01-01'\n#restore_command='x'\n\
             # walfs restore: begin\nrestore_command = 'cp /mnt/it''s/%f \"%p\"'\n\
             recovery_target_name = 'a''b'\nrecovery_target_action = 'pause'\n\
             recovery_target_timeline = 'latest'\n# walfs restore: end\n"
        );
        let second = text(&first, &recovery(Target::Latest));
        assert_eq!(second.matches("restore: begin").count(), 1);
        assert!(!second.contains("recovery_target_name"), "{second}");
    }

    #[test]
    fn targets_are_spelled_as_postgresql_reads_them() {
        let time = Target::Time("2026-11-21T14:00:00.25+01:00".parse().unwrap());
        let text = text("", &recovery(time));
        assert!(
            text.contains("recovery_target_time = '2026-11-21 13:00:00.250000+00'"),
            "{text}"
        );
        assert!(text.contains("recovery_target_inclusive = 'off'"), "{text}");
    }

    #[test]
    fn a_copy_may_be_kept_from_archiving() {
        let quiet = Recovery {
            archiving: false,
            ..recovery(Target::Latest)
        };
        let text = text("archive_mode = 'on'\n", &quiet);
        assert!(text.starts_with("#archive_mode = 'on'\n") && text.contains("\narchive_mode = 'off'\n"));
    }
}
