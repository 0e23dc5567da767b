//! What an agent does before the server starts: `--start`, and what belongs to it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{FalseyValueParser, OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::recovery::RecoveryLines;
use crate::agent::{BackupFirst, RestoreFirst};
use crate::cli::postgres_config::url;
use crate::pg::exclude::START_LOCK;

/// What comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Start {
    /// Nothing: archive, and back up by the schedule
    Continuous,
    /// A backup, as soon as the server runs, whatever the schedule says
    BackupFirst,
    /// A restore, where there is no cluster yet; else as continuous
    RestoreFirst,
}

/// How the agent and the server begin.
#[derive(Debug, Args)]
#[command(next_help_heading = "Start")]
pub(super) struct StartArgs {
    /// What is done first
    ///
    /// A container that starts a server may make PGDATA/wale_init_lockfile, and wait until it is gone: the agent removes it
    /// when the server may start.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "continuous",
        env = "WALFS_START",
        hide_env_values = true
    )]
    pub(super) start: Start,
    /// The server's data directory: /wal-push/NAME reads pg_wal in it, restore-first restores it [default: PGDATA]
    #[arg(long, value_name = "DIR", env = "WALFS_PGDATA", hide_env_values = true)]
    pgdata: Option<PathBuf>,
    /// The file that the server's start waits on: it is removed if it is empty [default: PGDATA/wale_init_lockfile]
    #[arg(long, value_name = "FILE", env = "WALFS_START_LOCK", hide_env_values = true)]
    start_lock: Option<PathBuf>,
    /// The address by which the server reaches this agent, for its restore_command [default: that of --listen]
    #[arg(long, value_name = "URL", value_parser = url, env = "WALFS_HTTP_URL", hide_env_values = true)]
    http_url: Option<String>,
    /// restore-first: the backup [default: LATEST]
    #[arg(long, value_name = "NAME", env = "WALFS_RESTORE_NAME", hide_env_values = true)]
    restore_name: Option<String>,
    /// restore-first: where the recovery ends, in lines as of postgresql.conf: "recovery_target_time = '2026-11-21 14:00:00+01'"
    #[arg(
        long,
        value_name = "LINES",
        env = "WALFS_RESTORE_RECOVERY",
        hide_env_values = true
    )]
    restore_recovery: Option<RecoveryLines>,
    /// restore-first: let the server archive, in the place of the one that was backed up, which is gone
    #[arg(long, env = "WALFS_RESTORE_TAKE_OVER", hide_env_values = true, value_parser = FalseyValueParser::new())]
    restore_take_over: bool,
    /// restore-first: put the WAL into this directory, which is empty or made
    #[arg(
        long,
        value_name = "DIR",
        env = "WALFS_RESTORE_WALDIR",
        hide_env_values = true
    )]
    restore_waldir: Option<PathBuf>,
    /// Keep the files in this directory with each backup; restore-first puts them back
    #[arg(long, value_name = "DIR", env = "WALFS_SETTINGS_DIR", hide_env_values = true,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    settings_dir: Option<PathBuf>,
}

impl StartArgs {
    /// What could not be done later is told now.
    pub(super) fn check(&self, has_token: bool, has_schedule: bool) -> Result<(), &'static str> {
        match self.start {
            Start::BackupFirst if !has_schedule => Err(
                "backup-first takes the first backup of a schedule, and there is none. HINT: schedule-backup = \"@daily\"",
            ),
            Start::RestoreFirst if self.pgdata().is_none() => Err(
                "restore-first, and it is not known where to. HINT: pgdata in the configuration, or PGDATA",
            ),
            Start::RestoreFirst if has_token => Err(
                "restore-first writes a restore_command without a token, and this agent wants one. HINT: listen on loopback, in the \
                 same pod or network namespace; or `walfs restore --http`, and add `-H @FILE` to the curl of its restore_command",
            ),
            _ => Ok(()),
        }
    }

    /// The server's data directory, as far as it is known.
    pub(super) fn pgdata(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("PGDATA").map(PathBuf::from);
        let known = self.pgdata.clone().or_else(variable);
        known.filter(|directory| !directory.as_os_str().is_empty())
    }

    /// What the server's start waits on.
    pub(super) fn lock(&self) -> Option<PathBuf> {
        let usual = || self.pgdata().map(|directory| directory.join(START_LOCK));
        self.start_lock.clone().or_else(usual)
    }

    /// The backup that is due when the agent starts.
    pub(super) fn backup(&self) -> Option<BackupFirst> {
        let now = Timestamp::now();
        (self.start == Start::BackupFirst).then(|| BackupFirst {
            due: Timestamp::from_second(now.as_second()).unwrap_or(now),
            pgdata: self.pgdata(),
        })
    }

    /// What is restored. `listening`: the URL of this agent, if it has one.
    ///
    /// # Errors
    /// A name that is no text, or the current directory is gone.
    pub(super) fn restore(&self, listening: Option<String>) -> Result<Option<RestoreFirst>, String> {
        let Some(directory) = self.pgdata().filter(|_| self.start == Start::RestoreFirst) else {
            return Ok(None);
        };
        let directory = absolute(&directory)?;
        let mut arguments: Vec<OsString> = vec!["--json".into()];
        if let Some(url) = self.http_url.clone().or(listening) {
            arguments.push(format!("--http={url}").into());
        }
        if self.restore_take_over {
            arguments.push("--take-over".into());
        }
        let waldir = self.restore_waldir.iter();
        for waldir in waldir.filter(|waldir| !waldir.as_os_str().is_empty()) {
            arguments.extend(["--waldir".into(), waldir.into()]);
        }
        if let Some(settings) = self
            .settings_dir
            .as_deref()
            .filter(|settings| *settings != Path::new(""))
        {
            let settings = absolute(settings)?;
            let name = settings
                .to_str()
                .ok_or_else(|| format!("{settings:?} is no text"))?;
            let name = name.replace('=', "\\=");
            arguments.push(format!("--settings-mapping={name}={name}").into());
        }
        arguments.extend(self.restore_recovery.iter().flat_map(|lines| lines.0.clone()));
        let name = self.restore_name.as_deref().unwrap_or("LATEST");
        arguments.extend(["--".into(), name.into(), directory.clone().into()]);
        Ok(Some(RestoreFirst {
            directory,
            arguments,
            takes_over: self.restore_take_over,
        }))
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}
