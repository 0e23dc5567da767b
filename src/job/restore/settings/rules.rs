//! The settings that can hold up, redirect or harm a restored server, by version of PostgreSQL, and what is done with each
//! (promise B11).
//!
//! | what is done | when the backup sets it |
//! |---|---|
//! | [`Deed::Neutral`] | overridden in `postgresql.auto.conf`, for good: a clone made later has it as well |
//! | [`Deed::NeutralAlone`] | the same, and its lines become comments: one in other letters would count beside it |
//! | [`Deed::NeutralBeside`] | the same, unless the server takes over |
//! | [`Deed::Comment`] | its line becomes a comment: no later file overrides it |
//! | [`Deed::CommentIfAbsent`] | the same, if the file that it names is not on this machine |
//! | [`Deed::SayIfAbsent`] | said, if what it names is not on this machine: the server would not start |
//!
//! What `restore` itself sets is in `settings.rs`: the target, `restore_command`, `archive_mode`, `hot_standby` and, where
//! the server shall be read during recovery, the `max_*` that the WAL asks for; where it is not, `summarize_wal`. `log_directory` and `port` are left alone:
//! two servers that share one say so themselves.

/// One setting.
#[derive(Debug)]
pub(super) struct Rule {
    pub name: &'static str,
    /// The first major version that knows it, and the last.
    versions: (u32, u32),
    pub deed: Deed,
    /// What it would do.
    pub why: &'static str,
}

/// What is done with a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Neutral(&'static str),
    NeutralAlone(&'static str),
    NeutralBeside(&'static str),
    Comment,
    CommentIfAbsent,
    SayIfAbsent,
}

/// The versions of PostgreSQL that are read: 13 to 19.
const EVER: (u32, u32) = (13, u32::MAX);

const fn rule(name: &'static str, versions: (u32, u32), deed: Deed, why: &'static str) -> Rule {
    Rule {
        name,
        versions,
        deed,
        why,
    }
}

const TARGET: &str = "recovery would end there, and every clone's as well";
const STANDBY: &str = "it is for the standby that was backed up";
const TLS: &str = "with ssl = on the server does not start without it";

/// Targets come first: a second one is refused, unless it is taken back before the other is set.
const RULES: [Rule; 24] = [
    rule("recovery_target", EVER, Deed::NeutralAlone(""), TARGET),
    rule("recovery_target_name", EVER, Deed::NeutralAlone(""), TARGET),
    rule("recovery_target_time", EVER, Deed::NeutralAlone(""), TARGET),
    rule("recovery_target_xid", EVER, Deed::NeutralAlone(""), TARGET),
    rule("recovery_target_lsn", EVER, Deed::NeutralAlone(""), TARGET),
    rule(
        "recovery_target_timeline",
        EVER,
        Deed::Neutral("latest"),
        "recovery would follow it",
    ),
    rule("recovery_target_action", EVER, Deed::Neutral("pause"), TARGET),
    rule("recovery_target_inclusive", EVER, Deed::Neutral("on"), TARGET),
    rule(
        "recovery_min_apply_delay",
        EVER,
        Deed::Neutral("0"),
        "recovery would wait so long before each commit",
    ),
    rule(
        "promote_trigger_file",
        (13, 15),
        Deed::Neutral(""),
        "where that file exists, recovery ends at once",
    ),
    rule(
        "archive_cleanup_command",
        EVER,
        Deed::Neutral(""),
        "it would delete what others still need",
    ),
    rule("recovery_end_command", EVER, Deed::Neutral(""), STANDBY),
    rule("primary_slot_name", EVER, Deed::Neutral(""), STANDBY),
    rule(
        "sync_replication_slots",
        (17, u32::MAX),
        Deed::Neutral("off"),
        STANDBY,
    ),
    rule(
        "synchronous_standby_names",
        EVER,
        Deed::Neutral(""),
        "every commit would wait for a standby",
    ),
    rule(
        "stats_temp_directory",
        (13, 14),
        Deed::NeutralBeside("pg_stat_tmp"),
        "two servers would write there",
    ),
    rule(
        "data_directory",
        EVER,
        Deed::Comment,
        "the server would run on that directory, not on this one",
    ),
    rule(
        "external_pid_file",
        EVER,
        Deed::Comment,
        "it would replace the original server's",
    ),
    rule(
        "hba_file",
        EVER,
        Deed::CommentIfAbsent,
        "the server does not start without it",
    ),
    rule(
        "ident_file",
        EVER,
        Deed::CommentIfAbsent,
        "the server looks for it in vain",
    ),
    rule("ssl_cert_file", EVER, Deed::SayIfAbsent, TLS),
    rule("ssl_key_file", EVER, Deed::SayIfAbsent, TLS),
    rule("ssl_ca_file", EVER, Deed::SayIfAbsent, TLS),
    rule(
        "unix_socket_directories",
        EVER,
        Deed::SayIfAbsent,
        "the server does not start without it",
    ),
];

/// Those that this major version knows; of a version that is not known, those that all know.
pub(super) fn of(major: Option<u32>) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| match major {
        Some(major) => (rule.versions.0..=rule.versions.1).contains(&major),
        None => rule.versions == EVER,
    })
}

/// What this setting would do to a restored server, if it harms one; `name` in small letters.
pub fn harm_of(name: &str) -> Option<&'static str> {
    let rule = RULES.iter().find(|rule| rule.name == name);
    rule.map(|rule| rule.why)
}

impl Deed {
    /// The value that overrides, if one does.
    pub(super) fn neutral(self, takes_over: bool) -> Option<&'static str> {
        match self {
            Self::Neutral(value) | Self::NeutralAlone(value) => Some(value),
            Self::NeutralBeside(value) if !takes_over => Some(value),
            _ => None,
        }
    }
}

/// Do two values mean the same to the server?
pub(super) fn is_same(value: &str, neutral: &str) -> bool {
    let value = value.trim();
    let is_zero = |text: &str| text.starts_with('0') && !text.contains(|c: char| ('1'..='9').contains(&c));
    let is_off = |text: &str| {
        ["off", "false", "no", "0"]
            .iter()
            .any(|off| text.eq_ignore_ascii_case(off))
    };
    value.eq_ignore_ascii_case(neutral)
        || (is_zero(neutral) && is_zero(value))
        || (is_off(neutral) && is_off(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_hears_only_of_what_it_knows() {
        let knows = |major, name| of(major).any(|rule| rule.name == name);
        assert!(knows(Some(15), "promote_trigger_file") && !knows(Some(16), "promote_trigger_file"));
        assert!(!knows(Some(16), "sync_replication_slots") && knows(Some(19), "sync_replication_slots"));
        assert!(knows(None, "recovery_target") && !knows(None, "stats_temp_directory"));
    }

    #[test]
    fn values_that_change_nothing() {
        assert!(
            is_same("0ms", "0") && is_same("False", "off") && is_same("", "") && is_same("Latest", "latest")
        );
        assert!(!is_same("4h", "0") && !is_same("10", "0") && !is_same("x", ""));
    }
}
