//! `walfs init`: from nothing to a configuration that was tried.
//!
//! Root writes the configuration and makes the directories; what is tried is tried by a process of its own, as the user that
//! walfs will run as, with the very file that will be used.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::connect::{ConnectArgs, HelpArgs};
use super::options::StoreArgs;
use super::out::report;
use super::settings::Settings;
use super::{EXIT_USAGE, complain};
use crate::linux::kernel::{Owner, User, lookup_user};
use crate::schedule::Schedule;

mod draft;
mod places;
mod questions;
mod trial;

pub use trial::TrialArgs;
pub(super) use trial::run as run_trial;

use draft::Draft;

/// Exit code: all is written, and somebody should look at something.
const EXIT_LOOK: u8 = 3;

/// Set up: ask what is needed, try it, write a configuration, say what is next
///
/// Asks for what the command line does not say: the archive, an S3 server that is not AWS, how many days back recovery shall reach,
/// and whether PostgreSQL shall archive now. Then the store is tried (write, read, delete, its clock), an archive is made if
/// there is none, and the server is asked whether all is as it has to be. Only then /etc/walfs/main.toml is written, or what
/// --config names. A configuration that is there already is tried, and stays as it is.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_long_help = "\
Examples:
  sudo walfs init
  sudo walfs init --archive s3://bucket/prefix --keep-days 30 --apply
  walfs --config ./test.toml init --archive /srv/archive --no-mount

Exit codes: 0 all is well, 1 it failed, and nothing was written but what is named, 2 wrong usage, 3 it is written, and somebody \
should look at what is named."
)]
pub struct InitArgs {
    #[command(flatten)]
    help: HelpArgs,
    /// s3://bucket/prefix, file:///directory or a path
    #[arg(long, value_name = "ARCHIVE", env = "WALFS_ARCHIVE", hide_env_values = true)]
    archive: Option<String>,
    /// Where it shall be mounted [default: /mnt/walfs]
    #[arg(long, value_name = "DIR", env = "WALFS_MOUNTPOINT", hide_env_values = true)]
    mountpoint: Option<PathBuf>,
    /// Archive without a mount, by `walfs wal-push`
    #[arg(long, conflicts_with = "mountpoint")]
    no_mount: bool,
    /// As whom walfs shall run: the user of the server [default: postgres for root, else you]
    #[arg(long, value_name = "USER", env = "WALFS_USER", hide_env_values = true)]
    user: Option<String>,
    /// To any moment of how many days recovery shall lead: what `walfs prune` keeps [default: 30]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    keep_days: Option<u32>,
    /// When backups shall be due
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "0 3 * * *",
        env = "WALFS_SCHEDULE_BACKUP",
        hide_env_values = true
    )]
    schedule_backup: Schedule,
    /// Let the server archive into it, by ALTER SYSTEM: archive_mode, archive_command, archive_timeout
    #[arg(long)]
    apply: bool,
    /// With --apply: also if the server archives elsewhere until now
    #[arg(long, requires = "apply")]
    replace: bool,
    /// Only show what would be written and set; an archive that is not there is not made
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Runs `walfs init`.
pub(super) fn run(arguments: &InitArgs, settings: &Settings, config: Option<&OsString>) -> ExitCode {
    match set_up(arguments, settings, config) {
        Ok(code) => ExitCode::from(code),
        Err(Failed::Usage(error)) => {
            complain(&error);
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failed::Deed(error)) => {
            complain(&error);
            ExitCode::FAILURE
        }
        Err(Failed::Told) => ExitCode::FAILURE,
    }
}

/// Why it is not set up.
#[derive(Debug)]
enum Failed {
    /// Something is not said, or wrongly.
    Usage(String),
    /// Something could not be done.
    Deed(String),
    /// A trial, which has said so.
    Told,
}

fn set_up(arguments: &InitArgs, settings: &Settings, config: Option<&OsString>) -> Result<u8, Failed> {
    let place = Settings::place(config.map(OsString::as_os_str));
    let is_there = settings.file.is_some();
    if !is_there && place.symlink_metadata().is_ok() {
        return Err(Failed::Usage(format!(
            "{} is there already, and --archive names an archive.\n\
             HINT: `walfs init` alone goes by the file; `walfs --config OTHER init` writes another one.",
            place.display()
        )));
    }
    let asked = io::stdin().is_terminal() && io::stdout().is_terminal();
    let draft = Draft::new(arguments, asked && !is_there, is_there)?;
    let apply = arguments.apply || asked && !arguments.dry_run && questions::apply()?;
    let call = Call {
        draft: &draft,
        place: &place,
        arguments,
        apply,
    };
    if is_there {
        report(&format_args!(
            "{} is there already, and stays as it is",
            place.display()
        ));
        return call.end(&place, call.trial().store_and_server(&place)?);
    }
    if arguments.dry_run {
        report(&format_args!(
            "{} would be:\n\n{}",
            place.display(),
            draft.content()
        ));
        let written = draft.write_aside(&std::env::temp_dir())?;
        return call.end(written.path(), call.trial().store_and_server(written.path())?);
    }
    places::make(&draft)?;
    let written = draft.write_aside(directory_of(&place))?;
    let look = call.trial().store_and_server(written.path())?;
    let kept = written.persist_noclobber(&place);
    kept.map_err(|error| Failed::Deed(format!("cannot write {}: {}", place.display(), error.error)))?;
    report(&format_args!("{} is written", place.display()));
    call.end(&place, look)
}

/// What is set up, where, and how.
struct Call<'a> {
    draft: &'a Draft,
    place: &'a Path,
    arguments: &'a InitArgs,
    apply: bool,
}

impl Call<'_> {
    fn trial(&self) -> trial::Trial<'_> {
        trial::Trial {
            draft: self.draft,
            dry_run: self.arguments.dry_run,
        }
    }

    /// The server's settings, and what is next. `config`: the file that has been tried.
    fn end(&self, config: &Path, look: bool) -> Result<u8, Failed> {
        let command = self.draft.archive_command(self.place);
        let look = match self.apply {
            true => self.trial().apply(config, command, self.arguments.replace)? || look,
            false => look,
        };
        if !self.arguments.dry_run {
            report(&self.draft.next(self.place, self.apply));
        }
        Ok(if look { EXIT_LOOK } else { 0 })
    }
}

fn directory_of(place: &Path) -> &Path {
    match place.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The user that walfs shall run as; `None`: this one.
fn user(named: Option<&str>) -> Result<Option<User>, Failed> {
    let us = Owner::of_this_process().uid;
    let found = |name: &str| lookup_user(name).map_err(|error| Failed::Usage(error.to_string()));
    match (named, us) {
        (named, 0) => found(named.unwrap_or("postgres")).map(Some),
        (None, _) => Ok(None),
        (Some(name), us) if found(name)?.owner.uid == us => Ok(None),
        (Some(name), _) => Err(Failed::Usage(format!(
            "only root can set up what user {name} shall run.\nHINT: sudo walfs init"
        ))),
    }
}
