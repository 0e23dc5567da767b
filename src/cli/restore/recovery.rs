//! Where a restored server's recovery ends, what it is then, and how it reaches its WAL.

use std::ffi::{OsStr, OsString};
use std::path::{self, PathBuf};

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::Failure;
use crate::cli::connect::has_password;
use crate::cli::moment;
use crate::cli::options::StoreArgs;
use crate::cli::postgres_config::{
    fetch_command, http, restore_command, standby_fetch_command, standby_restore_command, url,
};
use crate::job::restore::{Recovery, Target, TargetAction, TargetTimeline};
use crate::pg::{Lsn, Timeline};

/// Where recovery ends, and what the server is then.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recovery")]
pub(super) struct RecoveryArgs {
    /// Recover up to this time, with its offset or zone: "2026-11-21 14:00:00+01", "2026-11-21 13:00:00 UTC"
    #[arg(long, value_name = "TIME", group = "target", value_parser = moment::parse)]
    target_time: Option<Timestamp>,
    /// Recover up to this position
    #[arg(long, value_name = "LSN", group = "target")]
    target_lsn: Option<Lsn>,
    /// Recover up to a point that pg_create_restore_point has made
    #[arg(long, value_name = "NAME", group = "target")]
    target_name: Option<String>,
    /// Recover up to the end of this transaction
    #[arg(long, value_name = "XID", group = "target")]
    target_xid: Option<u64>,
    /// End as soon as the backup is consistent
    #[arg(long, group = "target")]
    immediate: bool,
    /// End just before the target, not just behind it
    #[arg(long, requires = "target", conflicts_with_all = ["target_name", "immediate"])]
    target_exclusive: bool,
    /// latest, current (that of the backup), or a number
    ///
    /// "latest" is the timeline that goes on. Where several have WAL of their own (a copy was opened and has archived, or the
    /// server went on after a recovery), they are named, and one must be chosen by its number.
    #[arg(long, value_name = "TIMELINE", default_value = "latest", value_parser = timeline)]
    target_timeline: TargetTimeline,
    /// What the server does at the target [default: pause; at the end of the WAL it promotes itself]
    #[arg(long, value_name = "ACTION", requires = "target")]
    target_action: Option<ActionArg>,
    /// Recover up to the first segment that is missing, although there are segments behind it
    #[arg(long)]
    up_to_gap: bool,
    /// Make a standby: standby.signal instead of recovery.signal
    #[arg(long)]
    standby: bool,
    /// The server that the standby follows
    #[arg(long, value_name = "CONNINFO", requires = "standby")]
    primary_conninfo: Option<String>,
    /// It takes the place of the server that was backed up, which is gone: let it archive as that did
    ///
    /// Otherwise archive_mode is off in it: two servers that archive into one archive leave behind what nobody can tell
    /// apart. It can take over later: `ALTER SYSTEM SET archive_mode = 'on'`, and a restart.
    #[arg(long)]
    take_over: bool,
    /// What is done anyway, without --take-over
    #[arg(long, hide = true, conflicts_with = "take_over")]
    no_archiving: bool,
    /// Where the archive will be mounted: restore_command is then a safe cp [default: walfs wal-fetch, without a mount]
    #[arg(long, value_name = "DIR", env = "WALFS_MOUNTPOINT", hide_env_values = true)]
    mountpoint: Option<PathBuf>,
    /// The server reaches the archive by `walfs agent --listen` here: restore_command asks it, by curl or wget
    ///
    /// For a server in a container without walfs and without a mount. A --mountpoint counts for nothing beside it.
    #[arg(long, value_name = "URL", value_parser = url)]
    http: Option<String>,
}

/// See [`TargetAction`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActionArg {
    /// The server can be read; pg_wal_replay_resume() opens it
    Pause,
    /// The server opens
    Promote,
    /// The server stops
    Shutdown,
}

impl RecoveryArgs {
    /// What they say, for a server whose WAL is in this archive.
    ///
    /// # Errors
    /// A password on the command line; a program or a current directory that is gone.
    pub(super) fn recovery(&self, archive: &str, store: &StoreArgs) -> Result<Recovery, Failure> {
        if let Some(conninfo) = &self.primary_conninfo
            && has_password(conninfo)
        {
            return Err(
                "--primary-conninfo has a password, which everybody can read in the list of processes.\n\
                        HINT: leave it away, and put it into the .pgpass of the server's user."
                    .into(),
            );
        }
        Ok(Recovery {
            target: self.target(),
            timeline: self.target_timeline,
            action: self.target_action.map(TargetAction::from),
            inclusive: !self.target_exclusive,
            up_to_gap: self.up_to_gap,
            standby: self.standby,
            primary_conninfo: self.primary_conninfo.clone(),
            takes_over: self.take_over && !self.no_archiving,
            restore_command: self.command(archive, store)?,
        })
    }

    fn target(&self) -> Target {
        let time = self.target_time.map(Target::Time);
        let lsn = self.target_lsn.map(Target::Lsn);
        let name = self.target_name.clone().map(Target::Name);
        let xid = self.target_xid.map(Target::Xid);
        let immediate = self.immediate.then_some(Target::Immediate);
        let target = time.or(lsn).or(name).or(xid).or(immediate);
        target.unwrap_or(Target::Latest)
    }

    /// The `restore_command` for what the server shall be: by HTTP or by the mount if one is named, by this program and these options
    /// otherwise.
    fn command(&self, archive: &str, store: &StoreArgs) -> Result<Vec<u8>, Failure> {
        if let Some(url) = &self.http {
            return Ok(match self.standby {
                true => http::standby_restore_command(url),
                false => http::restore_command(url),
            });
        }
        if let Some(mountpoint) = &self.mountpoint {
            let mountpoint = path::absolute(mountpoint)?;
            return Ok(match self.standby {
                true => standby_restore_command(&mountpoint),
                false => restore_command(&mountpoint),
            });
        }
        let archive = match archive.contains("://") {
            true => OsString::from(archive),
            // The server runs in its data directory.
            false => path::absolute(archive)?.into(),
        };
        let mut words = vec![
            std::env::current_exe()?.into(),
            OsString::from("wal-fetch"),
            "--archive".into(),
            archive,
        ];
        words.extend(store.words()?);
        let words: Vec<&OsStr> = words.iter().map(OsString::as_os_str).collect();
        Ok(match self.standby {
            true => standby_fetch_command(&words),
            false => fetch_command(&words),
        })
    }
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(TargetTimeline::Number(Timeline(number))),
            _ => Err(format!(
                "{text:?} is not latest, current or the number of a timeline"
            )),
        },
    }
}

impl From<ActionArg> for TargetAction {
    fn from(argument: ActionArg) -> Self {
        match argument {
            ActionArg::Pause => Self::Pause,
            ActionArg::Promote => Self::Promote,
            ActionArg::Shutdown => Self::Shutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_are_words_or_numbers() {
        assert_eq!(timeline("3"), Ok(TargetTimeline::Number(Timeline(3))));
        assert!(timeline("0").is_err());
    }
}
