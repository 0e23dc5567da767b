//! The process that tries what was written, as the user that walfs will run as; and its call.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Args;

use super::draft::Draft;
use super::{EXIT_LOOK, Failed};
use crate::archive;
use crate::assemble::{self, Stay};
use crate::cli::complain;
use crate::cli::connect::ConnectArgs;
use crate::cli::options::{ArchiveArgs, open};
use crate::cli::out::report;
use crate::cli::wal::{Failure, block_on};
use crate::job::trial;
use crate::linux::kernel::drop_privileges;
use crate::server::{self, Archiving, Change, Resolved, Session};
use crate::store::{Location, Patience};

/// `archive_timeout` where there is none: how old the newest archived change of an idle server is at most.
const ARCHIVE_TIMEOUT: &str = "60s";

/// How long a server may take to read its settings again.
const RELOADING: Duration = Duration::from_secs(10);

/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is to be tried, and with what.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    pub draft: &'a Draft,
    pub dry_run: bool,
}

impl Trial<'_> {
    /// Tries store and server by this configuration. True: somebody should look at something.
    pub(super) fn store_and_server(&self, config: &Path) -> Result<bool, Failed> {
        self.run(config, &[])
    }

    /// Lets the server archive.
    pub(super) fn apply(&self, config: &Path, command: Vec<u8>, replace: bool) -> Result<bool, Failed> {
        let mut words = vec!["--archive-command".into(), OsString::from_vec(command)];
        if replace {
            words.push("--replace".into());
        }
        self.run(config, &words)
    }

    fn run(&self, config: &Path, words: &[OsString]) -> Result<bool, Failed> {
        let failed = |error: std::io::Error| Failed::Deed(format!("cannot start a trial: {error}"));
        let config = std::path::absolute(config).map_err(failed)?;
        let mut trial = Command::new(std::env::current_exe().map_err(failed)?);
        // What is set by variables is in the file by now, or would win over it.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("WALFS_")) {
                trial.env_remove(name);
            }
        }
        trial.arg("--config").arg(config).arg("init-trial").args(words);
        if self.dry_run {
            trial.arg("--dry-run");
        }
        if let Some(user) = &self.draft.user {
            trial.arg("--become").arg(&user.name);
            trial
                .env("HOME", &user.home)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
        }
        // The user may not enter this one.
        trial.current_dir("/");
        match trial.status().map_err(failed)?.code() {
            Some(0) => Ok(false),
            Some(code) if code == i32::from(EXIT_LOOK) => Ok(true),
            _ => Err(Failed::Told),
        }
    }
}

/// Try a configuration
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct TrialArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Become this user first
    #[arg(long, value_name = "USER")]
    r#become: Option<String>,
    /// Set this, and try nothing
    #[arg(long, value_name = "COMMAND")]
    archive_command: Option<String>,
    /// Also in place of another one
    #[arg(long)]
    replace: bool,
    /// Change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Runs the trial: exit code 0, 1, or [`EXIT_LOOK`].
pub(in crate::cli) fn run(arguments: &TrialArgs) -> ExitCode {
    if let Some(user) = &arguments.r#become
        && let Err(error) = drop_privileges(user)
    {
        complain(&error);
        return ExitCode::FAILURE;
    }
    let outcome = match &arguments.archive_command {
        Some(command) => block_on(apply(arguments, command)),
        None => block_on(attempt(arguments)),
    };
    match outcome {
        Ok(Looks(0)) => ExitCode::SUCCESS,
        Ok(Looks(_)) => ExitCode::from(EXIT_LOOK),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// How many things somebody should look at.
struct Looks(u32);

impl Looks {
    fn at(&mut self, text: &str) {
        self.0 += 1;
        complain(&format_args!("warning: {text}"));
    }
}

async fn attempt(arguments: &TrialArgs) -> Result<Looks, Failure> {
    let mut looks = Looks(0);
    let mut config = arguments.archive.config()?;
    config.create = !arguments.dry_run;
    let server = trial::server(&arguments.connect.resolve()?).await;
    if let (Ok(seen), Location::Dir(directory)) = (&server, &config.location)
        && directory.starts_with(&seen.facts.data_directory)
    {
        return Err(format!(
            "{} is in the data directory of the server, with which it would be lost.\nHINT: a directory elsewhere.",
            directory.display()
        )
        .into());
    }
    match open(&config, Stay::Long, config.deadline).await {
        // It would be made.
        Err(assemble::Error::Archive(archive::Error::NotAnArchive { .. })) if arguments.dry_run => {
            report(&format_args!(
                "archive   none in {} yet: one would be made",
                config.place
            ));
        }
        opened => {
            let archive = opened?;
            let made = if archive.is_new() { "made in" } else { "is in" };
            report(&format_args!("archive   {made} {}", archive.place()));
            let seen = trial::store(&archive, Patience::for_at_most(config.deadline)).await?;
            tell_store(&seen, &mut looks);
            return tell_server(server, Some(&seen), looks);
        }
    }
    tell_server(server, None, looks)
}

fn tell_store(seen: &trial::StoreTrial, looks: &mut Looks) {
    let conditional = match seen.is_conditional {
        true => "conditional writes are kept",
        false => "it ignores conditional writes: let one machine only archive into it",
    };
    report(&format_args!(
        "store     an object was written, read and deleted; {conditional}"
    ));
    if let Some((apart, is_behind)) = seen.apart {
        let (seconds, side) = (apart.as_secs(), if is_behind { "behind" } else { "ahead of" });
        looks.at(&format!(
            "this machine's clock is {seconds} s {side} that of the store. HINT: timedatectl set-ntp true"
        ));
    } else {
        report(&"clock     goes with that of the store");
    }
}

fn tell_server(
    server: Result<trial::ServerTrial, server::Error>,
    store: Option<&trial::StoreTrial>,
    mut looks: Looks,
) -> Result<Looks, Failure> {
    let seen = match server {
        Ok(seen) => seen,
        Err(error) => {
            looks.at(&error.to_string());
            return Ok(looks);
        }
    };
    let (facts, role) = (
        &seen.facts,
        if seen.facts.in_recovery { ", a standby" } else { "" },
    );
    report(&format_args!(
        "server    PostgreSQL {}{role}, in {}",
        facts.major,
        facts.data_directory.display()
    ));
    if let Some(cluster) = store.and_then(|store| store.cluster)
        && cluster != facts.system_id
    {
        return Err(format!(
            "the server is of cluster {}, the archive of cluster {cluster}.\n\
             HINT: each cluster has a prefix of its own: another --archive.",
            facts.system_id
        )
        .into());
    }
    if let Some(reason) = &seen.unreadable {
        looks.at(&format!(
            "backups read the data directory, and this user may not: {reason}. HINT: --user, the one that the server runs as"
        ));
    }
    if !seen.may_back_up {
        looks.at(
            "the role may not take backups. HINT: `walfs backup` names what to grant; or -U, a superuser",
        );
    }
    report(&format_args!(
        "settings  wal_level = {}, archive_mode = {}, archive_timeout = {}s",
        seen.archiving.wal_level, seen.archiving.mode, seen.archiving.timeout_s
    ));
    Ok(looks)
}

async fn apply(arguments: &TrialArgs, command: &str) -> Result<Looks, Failure> {
    let session = Session::open(&arguments.connect.resolve()?).await?;
    let now = session.archiving().await?;
    if let Some(other) = now.other_than(command).filter(|_| !arguments.replace) {
        return Err(format!(
            "the server has a way to archive already: {other}.\n\
             HINT: --replace lets it archive with walfs instead; what archived until now gets no more WAL."
        )
        .into());
    }
    let changes = changes(&now, command);
    if changes.is_empty() {
        report(&"PostgreSQL archives with it already");
        return Ok(Looks(0));
    }
    if let Some(fixed) = changes
        .iter()
        .find(|change| now.fixed.iter().any(|name| name == change.name))
    {
        return Err(format!(
            "the server was started with {} on its command line, which overrules what is set; nothing was changed.\n\
             HINT: take it from there, or set it there to '{}'.",
            fixed.name, fixed.value
        )
        .into());
    }
    for change in &changes {
        if !arguments.dry_run {
            session.set(change).await?;
        }
        report(&format_args!("{};", change.statement()));
    }
    if arguments.dry_run {
        return Ok(Looks(0));
    }
    session.reload().await?;
    drop(session);
    settled(&arguments.connect.resolve()?, &changes).await
}

/// What is missing, in an order of which each step alone does no harm.
fn changes(now: &Archiving, command: &str) -> Vec<Change> {
    let change = |is_needed: bool, name, value: &str| {
        is_needed.then(|| Change {
            name,
            value: value.to_owned(),
        })
    };
    let wanted = [
        change(!now.library.is_empty(), "archive_library", ""),
        change(now.command != command, "archive_command", command),
        change(now.timeout_s == 0, "archive_timeout", ARCHIVE_TIMEOUT),
        // With archive_mode a server of this level does not start.
        change(now.wal_level == "minimal", "wal_level", "replica"),
        change(now.mode == "off", "archive_mode", "on"),
    ];
    wanted.into_iter().flatten().collect()
}

/// Waits until the server goes by it. Names what needs a restart, and what something else overrules.
async fn settled(server: &Resolved, changes: &[Change]) -> Result<Looks, Failure> {
    let mut looks = Looks(0);
    let is_new = |name: &str| changes.iter().any(|change| change.name == name);
    let wanted = changes.iter().find(|change| change.name == "archive_command");
    let began = tokio::time::Instant::now();
    // Only of a new session the settings are sure to be new.
    while let Some(wanted) = wanted {
        let now = Session::open(server).await?.archiving().await?;
        if now.command == wanted.value {
            break;
        }
        if began.elapsed() > RELOADING {
            looks.at(
                "archive_command is set, and not in force: the server's command line, or a file that it did not read, has another one. \
                 HINT: SELECT sourcefile, error FROM pg_file_settings",
            );
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if is_new("archive_mode") || is_new("wal_level") {
        looks.at("PostgreSQL has to be restarted before it archives (archive_mode)");
    }
    Ok(looks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_would_not_start_is_not_made() {
        let now = Archiving {
            wal_level: "minimal".into(),
            mode: "off".into(),
            command: String::new(),
            library: String::new(),
            timeout_s: 0,
            fixed: vec![],
        };
        let names = |now: &Archiving| {
            let changes = changes(now, "cp");
            changes.iter().map(|change| change.name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&now),
            ["archive_command", "archive_timeout", "wal_level", "archive_mode"]
        );
        let well = Archiving {
            wal_level: "logical".into(),
            mode: "always".into(),
            command: "cp".into(),
            library: String::new(),
            timeout_s: 300,
            fixed: vec![],
        };
        assert_eq!(names(&well), [""; 0]);
    }
}
