//! What tells the server to recover: lines in `postgresql.auto.conf`, which is read after every other file, and
//! `recovery.signal` or `standby.signal`. And what of the backup's settings would hold up, redirect or harm it
//! ([`rules`], promise B11).
//!
//! The lines stand between two marks and replace those of an earlier restore, by name as well: `ALTER SYSTEM` drops the
//! marks. Those that are for the recovery vanish with it: `recovery_end_command` takes them out again, so that no clone of
//! the server ends its recovery at an old target, and none reads an archive that it has nothing to do with. Left are
//! `archive_mode = 'off'`, and values that override what other files of the backup say.

use std::path::{Path, PathBuf};

use super::target::{Target, TargetAction, TargetTimeline};
use crate::pg::control::Limits;
use crate::pg::setting::{assignment, name, quoted};

mod files;
mod rules;

pub(super) use files::{AUTO, Files, MAIN, Settings};
pub use rules::harm_of;
use rules::{Deed, Rule, is_same};

/// Where the server writes [`AUTO`] anew, at the end of the recovery.
pub(super) const NEW_AUTO: &str = "postgresql.auto.conf.walfs";

/// Has the server summarize its WAL, for incremental backups.
const SUMMARIZE: &str = "summarize_wal";

/// Begins the lines.
const BEGIN: &str = "# walfs restore: begin";

/// Ends them.
const END: &str = "# walfs restore: end";

/// Begins every comment between.
const COMMENT: &str = "# walfs restore";

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
    /// Does it take the place of the server that was backed up, and archive where that did?
    pub takes_over: bool,
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

    /// Does it pause at its target, open for reading?
    pub fn pauses(&self) -> bool {
        self.target.setting().is_some() && matches!(self.action, None | Some(TargetAction::Pause))
    }

    /// Shall it be read while it recovers?
    pub fn is_read(&self) -> bool {
        self.standby || self.pauses()
    }
}

/// What the restored directory has, and what was decided.
pub(super) struct Given<'a> {
    pub settings: &'a Settings,
    pub recovery: &'a Recovery,
    /// The timeline to follow.
    pub timeline: TargetTimeline,
    pub postgresql_major: Option<u32>,
    /// What the WAL from the backup on asks for at least.
    pub limits: Limits,
    /// Is there such a file on this machine?
    pub is_here: &'a dyn Fn(&Path) -> bool,
}

/// What becomes of the settings.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The content of [`AUTO`].
    pub auto_conf: Vec<u8>,
    /// Files, from the data directory, and the settings in them that become comments.
    pub comments: Vec<(PathBuf, &'static str)>,
    /// What was taken from the server, and why.
    pub set_aside: Vec<String>,
    /// What may keep it from starting, or from what was asked for.
    pub warnings: Vec<String>,
}

/// Decides about every setting. `before` is what the backup has in [`AUTO`].
pub(super) fn plan(before: &[u8], given: &Given<'_>) -> Plan {
    let mut plan = Plan::default();
    let passing = given.passing();
    let mut lasting = Vec::new();
    for rule in rules::of(given.postgresql_major) {
        plan.apply(rule, given, &passing, &mut lasting);
    }
    lasting.extend(plan.archiving(given));
    if let Some(found) = given.settings.effective(SUMMARIZE).filter(|_| given.summarizes()) {
        plan.set_aside.push(format!(
            "{SUMMARIZE} = '{}' of {}: until the recovery has ended, which would wait for summaries that nobody makes \
             before the server can be read",
            found.value,
            found.file.display()
        ));
    }
    let end = end_command(&passing, given);
    plan.auto_conf = kept(before, &passing, given);
    let aside = plan
        .set_aside
        .iter()
        .map(|said| format!("{COMMENT}: {}", said.replace('\n', " ")));
    let lines = |settings: Vec<(&'static str, Vec<u8>)>| {
        settings
            .into_iter()
            .map(|(name, value)| format!("{name} = {}", quoted(&value)))
    };
    let lines = std::iter::once(BEGIN.to_owned())
        .chain(aside)
        .chain(lines(lasting))
        .chain(lines(passing))
        .chain(lines(vec![("recovery_end_command", end)]))
        .chain([END.to_owned()]);
    lines.for_each(|line| plan.auto_conf.extend_from_slice(format!("{line}\n").as_bytes()));
    plan
}

impl Plan {
    fn apply(
        &mut self,
        rule: &'static Rule,
        given: &Given<'_>,
        passing: &[(&'static str, Vec<u8>)],
        lasting: &mut Vec<(&'static str, Vec<u8>)>,
    ) {
        let found = given.settings.effective(rule.name);
        let absent = || found.is_some_and(|found| !given.is_there(&found.value));
        match rule.deed {
            Deed::Neutral(_) | Deed::NeutralAlone(_) | Deed::NeutralBeside(_) => {
                let Some(neutral) = rule.deed.neutral(given.recovery.takes_over) else {
                    return;
                };
                let found = found.filter(|found| !is_same(&found.value, neutral));
                if let Some(found) = found {
                    self.put_aside(rule, &found.value, &found.file);
                }
                if matches!(rule.deed, Deed::NeutralAlone(_)) {
                    let files = given.settings.files_with(rule.name).into_iter();
                    let others = files.filter(|file| *file != Path::new(AUTO));
                    self.comments
                        .extend(others.map(|file| (file.to_owned(), rule.name)));
                }
                let is_ours = passing.iter().any(|(name, _)| *name == rule.name);
                if !is_ours && given.is_elsewhere(rule.name, neutral) {
                    lasting.push((rule.name, neutral.into()));
                }
            }
            Deed::Comment => self.comment(rule, given),
            Deed::CommentIfAbsent if absent() => self.comment(rule, given),
            Deed::SayIfAbsent if absent() && given.is_used(rule.name) => {
                let value = found.map_or("", |found| &found.value);
                self.warnings.push(format!(
                    "{} = '{value}' is not on this machine: {}",
                    rule.name, rule.why
                ));
            }
            Deed::CommentIfAbsent | Deed::SayIfAbsent => {}
        }
    }

    fn comment(&mut self, rule: &'static Rule, given: &Given<'_>) {
        for file in given
            .settings
            .files_with(rule.name)
            .into_iter()
            .filter(|file| *file != Path::new(AUTO))
        {
            let value = given
                .settings
                .effective(rule.name)
                .map_or("", |found| &found.value);
            self.put_aside(rule, value, file);
            self.comments.push((file.to_owned(), rule.name));
        }
    }

    fn put_aside(&mut self, rule: &Rule, value: &str, file: &Path) {
        let Rule { name, why, .. } = rule;
        // What an earlier restore has left is no news.
        if value.contains(COMMENT) {
            return;
        }
        self.set_aside
            .push(format!("{name} = '{value}' of {}: {why}", file.display()));
    }

    /// A copy does not archive where its original does; who takes over does, and hears if that is not so.
    fn archiving(&mut self, given: &Given<'_>) -> Option<(&'static str, Vec<u8>)> {
        if !given.recovery.takes_over {
            return Some(("archive_mode", b"off".to_vec()));
        }
        let elsewhere = given.settings.elsewhere("archive_mode");
        let is_off = elsewhere.is_none_or(|found| is_same(&found.value, "off"));
        let in_auto = given
            .settings
            .effective("archive_mode")
            .is_some_and(|found| !is_same(&found.value, "off"));
        if is_off && !in_auto && given.settings.unseen.is_empty() {
            self.warnings.push(
                "the backup's settings do not turn archive_mode on: the server will archive nothing.\n\
                 HINT: `ALTER SYSTEM SET archive_mode = 'on'`, and start it again"
                    .into(),
            );
        }
        None
    }
}

impl Given<'_> {
    /// The settings of the recovery, which go with it.
    fn passing(&self) -> Vec<(&'static str, Vec<u8>)> {
        let recovery = self.recovery;
        let mut settings = vec![("restore_command", recovery.restore_command.clone())];
        if let Some((name, value)) = recovery.target.setting() {
            let action = recovery.action.unwrap_or(TargetAction::Pause).to_string();
            settings.push((name, value.into()));
            settings.push(("recovery_target_action", action.into()));
        }
        if matches!(recovery.target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
            let inclusive: &[u8] = if recovery.inclusive { b"on" } else { b"off" };
            settings.push(("recovery_target_inclusive", inclusive.to_vec()));
        }
        settings.push(("recovery_target_timeline", self.timeline.to_string().into()));
        if let Some(conninfo) = &recovery.primary_conninfo {
            settings.push(("primary_conninfo", conninfo.as_bytes().to_vec()));
        }
        settings.extend(self.reading());
        if self.summarizes() {
            settings.push((SUMMARIZE, b"off".to_vec()));
        }
        settings
    }

    /// Would the end of the recovery wait for summaries of the WAL, which no process makes before the server can be read?
    /// (`CleanupAfterArchiveRecovery` of xlog.c, from PostgreSQL 17 on.)
    fn summarizes(&self) -> bool {
        let is_known = self.postgresql_major.is_none_or(|major| major >= 17);
        let found = self.settings.effective(SUMMARIZE);
        let may_be_on = found.map_or(
            self.postgresql_major.is_some() && !self.settings.unseen.is_empty(),
            |found| !is_same(&found.value, "off"),
        );
        is_known && may_be_on && !self.recovery.is_read()
    }

    /// A server that nobody can read before it is open asks for no `max_*`, however the WAL's server was set later.
    fn reading(&self) -> Vec<(&'static str, Vec<u8>)> {
        if !self.recovery.is_read() {
            return vec![("hot_standby", b"off".to_vec())];
        }
        let known = |name: &str| self.settings.effective(name).map(|found| found.value.as_str());
        let mut settings = Vec::new();
        if known("hot_standby").map_or(!self.settings.unseen.is_empty(), |value| is_same(value, "off")) {
            settings.push(("hot_standby", b"on".to_vec()));
        }
        let defaults = Limits::DEFAULT;
        for ((name, needed), (_, default)) in self.limits.settings().zip(defaults.settings()) {
            let set = known(name).map_or(Some(default), |value| value.parse().ok());
            if set.is_none_or(|set| set < needed) {
                settings.push((name, needed.to_string().into()));
            }
        }
        settings
    }

    /// May a file that is not written anew set it to something else?
    fn is_elsewhere(&self, name: &str, neutral: &str) -> bool {
        let found = self.settings.elsewhere(name);
        !self.settings.unseen.is_empty() || found.is_some_and(|found| !is_same(&found.value, neutral))
    }

    /// Files of certificates are read only for TLS.
    fn is_used(&self, name: &str) -> bool {
        let tls = self.settings.effective("ssl");
        !name.starts_with("ssl_") || tls.is_some_and(|found| !is_same(&found.value, "off"))
    }

    /// Relative names are in the data directory, and were brought.
    fn is_there(&self, value: &str) -> bool {
        let mut paths = value.split(',').map(|path| Path::new(path.trim()));
        paths.all(|path| !path.is_absolute() || (self.is_here)(path))
    }
}

/// What stays of [`AUTO`]: neither an older restore's lines nor what is decided anew.
fn kept(before: &[u8], passing: &[(&str, Vec<u8>)], given: &Given<'_>) -> Vec<u8> {
    let is_decided = |setting: &str, value: &str| {
        let takes_over = given.recovery.takes_over;
        let of_rule = rules::of(given.postgresql_major)
            .any(|rule| rule.name == setting && rule.deed.neutral(takes_over).is_some());
        // Off is what an earlier restore has left there; on is the operator's.
        let is_archiving = setting == "archive_mode" && (!takes_over || is_same(value, "off"));
        of_rule || is_archiving || passing.iter().any(|(name, _)| *name == setting)
    };
    let mut text = Vec::new();
    let mut ours = false;
    for line in before.split_inclusive(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        match shown.trim_end() {
            BEGIN => ours = true,
            END => ours = false,
            line_text if ours || line_text.starts_with(COMMENT) => {}
            line_text if assignment(line_text).is_some_and(|(name, value)| is_decided(&name, &value)) => {}
            _ => text.extend_from_slice(line),
        }
    }
    if text.last().is_some_and(|byte| *byte != b'\n') {
        text.push(b'\n');
    }
    text
}

/// Takes the settings of the recovery out of [`AUTO`] again, once it has ended, whoever has written that file anew since.
/// What another file sets as well is made neutral instead. The server runs it in its data directory. Whatever has the name
/// [`NEW_AUTO`] goes first, and the shell makes the file anew or not at all: no link is written through (promise S6).
fn end_command(passing: &[(&'static str, Vec<u8>)], given: &Given<'_>) -> Vec<u8> {
    let neutral = |name: &str| {
        if name == SUMMARIZE {
            let own = given.settings.effective(name)?;
            return (own.file == Path::new(AUTO)).then_some("on");
        }
        let rule = rules::of(given.postgresql_major).find(|rule| rule.name == name)?;
        let neutral = rule.deed.neutral(given.recovery.takes_over)?;
        given.is_elsewhere(name, neutral).then_some(neutral)
    };
    let mut gone = vec!["recovery_end_command"];
    let mut script = format!("sed -E -e '/^{COMMENT}/d'");
    for (name, _) in passing {
        match neutral(name) {
            Some(value) => script += &format!(" -e \"s/^{name} *=.*/{name} = '{value}'/\""),
            None => gone.push(name),
        }
    }
    let gone = gone.join("|");
    // What ended with the recovery is read anew; the server makes summaries as soon as it is open.
    let reload = match given.summarizes() {
        true => " && kill -HUP $(head -n 1 postmaster.pid)",
        false => "",
    };
    format!(
        "rm -f {NEW_AUTO} && set -C && {script} -e '/^({gone}) *=/d' {AUTO} > {NEW_AUTO} && \
         {{ sync {NEW_AUTO}; mv {NEW_AUTO} {AUTO}; }}{reload}"
    )
    .into()
}

/// A file in which lines of a setting become comments.
pub(super) fn commented(text: &[u8], setting: &str) -> Vec<u8> {
    let mut after = Vec::with_capacity(text.len() + COMMENT.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if name(&String::from_utf8_lossy(line)).is_some_and(|found| found == setting) {
            after.extend_from_slice(format!("{COMMENT}: ").as_bytes());
        }
        after.extend_from_slice(line);
    }
    after
}

#[cfg(test)]
mod tests;
