//! The command line: the only place that prints (`out`, `log`), reads walfs's environment and decides exit codes.
//!
//! Exit codes: 0 done, 1 it failed, 2 wrong usage; `backup` has more. `wal-fetch` is a `restore_command`, and PostgreSQL takes any code
//! from 1 to 125 for "the archive ends here": it exits 1 only when the store has said that the file does not exist,
//! nor anything later of its timeline, and [`FETCH_FAILED`] for everything else, wrong usage included.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use log::start as start_log;
use out::complain;

use crate::pg::WalName;

pub mod agent;
pub mod backup;
pub mod backup_discard;
pub mod backup_finish;
pub mod backup_list;
pub mod backup_pin;
pub mod check;
pub mod completions;
pub mod config;
pub mod connect;
pub mod copy;
pub mod dump;
pub mod dump_list;
pub mod dump_restore;
pub mod files;
pub mod files_list;
pub mod files_restore;
pub mod init;
mod interrupts;
mod log;
pub mod man;
mod moment;
pub mod mount;
pub mod mount_helper;
mod mounted;
pub mod options;
mod out;
pub mod postgres_config;
mod progress;
pub mod prune;
pub mod restore;
mod restored;
mod settings;
pub mod status;
mod storing;
pub mod sync;
mod terms;
pub mod verify;
mod versions;
pub mod wal;
pub mod wal_find;
pub mod wal_verify;

/// Exit code of wrong usage.
const EXIT_USAGE: u8 = 2;

/// Exit code of a `wal-fetch` that proves nothing: PostgreSQL stops the recovery, and it can be started again.
pub const FETCH_FAILED: u8 = 255;

/// A PostgreSQL archive is a directory: mount it, archive with `cp`, restore with `cp`.
#[derive(Debug, Parser)]
#[command(name = "walfs", version, max_term_width = 100, after_help = SEE_ALSO, after_long_help = MANUAL)]
struct Cli {
    /// Settings: /etc/walfs/NAME.toml, or a file [default: main, if no archive is named]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "WALFS_CONFIG",
        hide_env_values = true
    )]
    config: Option<OsString>,
    /// How much is logged: error, warn, info or debug [default: mount: info; others: warn]
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        env = "WALFS_LOG",
        hide_env_values = true
    )]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const SEE_ALSO: &str = "`walfs COMMAND --help` has examples, defaults and files; `walfs --help` exit codes and \
environment.";

const MANUAL: &str = "\
Examples:
  sudo walfs init
  walfs mount --daemon --user postgres s3://bucket/prefix /mnt/walfs
  walfs postgres-config --mountpoint /mnt/walfs
  walfs backup --archive s3://bucket/prefix
  walfs status --archive s3://bucket/prefix
  walfs backup-list --archive s3://bucket/prefix
  walfs prune --archive s3://bucket/prefix --keep-last 7 --dry-run
  walfs wal-list --archive s3://bucket/prefix
  walfs wal-find --archive s3://bucket/prefix
  walfs umount /mnt/walfs

Exit codes:
  0    done
  1    it failed; for wal-fetch: the archive ends before this file; for wal-verify: something is missing;
       for verify: something is damaged or missing
  2    wrong usage (not of wal-fetch)
  3    backup: the backup is complete, and data pages in it are damaged; files: the version is complete, and files changed
       while they were read; status: somebody should look at something
  130  backup, files, dump: ended by Ctrl-C (143: by SIGTERM); nothing of it is kept
  255  wal-fetch failed in any other way: PostgreSQL stops recovery instead of ending it early

Environment:
  WALFS_...   sets the option that shows it as [env: WALFS_...], unless that is given; so does a configuration file
              (walfs config --help)
  AWS_...     access keys, profile, region and endpoint, as for the tools of AWS

Access keys come from a --credentials-file or from where the tools of AWS find them: environment, ~/.aws, web \
identity, container or instance. Never from the command line, and they are not logged.";

#[derive(Debug, Subcommand)]
enum Command {
    #[command(alias = "setup")]
    Init(init::InitArgs),
    Mount(mount::MountArgs),
    #[command(visible_alias = "unmount")]
    Umount(mount::UmountArgs),
    #[command(alias = "archive")]
    WalPush(wal::PushArgs),
    #[command(alias = "fetch")]
    WalFetch(wal::FetchArgs),
    #[command(visible_alias = "wal-show", alias = "lswal")]
    WalList(wal::ListArgs),
    WalFind(wal_find::FindArgs),
    WalVerify(wal_verify::VerifyArgs),
    Verify(verify::VerifyArgs),
    Copy(copy::CopyArgs),
    #[command(visible_alias = "backup-push", alias = "basebackup")]
    Backup(backup::BackupArgs),
    #[command(alias = "ls")]
    BackupList(backup_list::ListArgs),
    BackupShow(backup_list::ShowArgs),
    BackupFinish(backup_finish::FinishArgs),
    BackupDiscard(backup_discard::DiscardArgs),
    BackupPin(backup_pin::PinArgs),
    BackupUnpin(backup_pin::UnpinArgs),
    Files(files::FilesArgs),
    FilesList(files_list::ListArgs),
    FilesRestore(files_restore::RestoreArgs),
    Dump(dump::DumpArgs),
    DumpList(dump_list::ListArgs),
    DumpRestore(dump_restore::RestoreArgs),
    #[command(alias = "sync-state")]
    Sync(sync::SyncArgs),
    Status(status::StatusArgs),
    Check(check::CheckArgs),
    Prune(prune::PruneArgs),
    Delete(prune::DeleteArgs),
    Cleanup(prune::CleanupArgs),
    #[command(visible_alias = "backup-fetch")]
    Restore(restore::RestoreArgs),
    Agent(Box<agent::AgentArgs>),
    PostgresConfig(postgres_config::PostgresConfigArgs),
    Config(config::ConfigArgs),
    Completions(completions::CompletionsArgs),
    #[command(alias = "genman")]
    Man(man::ManArgs),
    /// What `walfs init` runs as the user that walfs will run as
    #[command(hide = true)]
    InitTrial(init::TrialArgs),
    /// What mount(8) calls for a file system of type walfs
    #[command(hide = true, disable_help_flag = true)]
    MountHelper(MountHelperArgs),
}

/// The arguments of mount(8)'s helper contract, which has its own syntax.
#[derive(Debug, clap::Args)]
struct MountHelperArgs {
    #[arg(
        value_name = "SPEC DIR [-sfnv] [-o OPTIONS]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

/// Mounts as mount(8) asks; returns 0 only once the directory is mounted.
fn mount_for_mount8(arguments: Vec<OsString>) -> ExitCode {
    let call = match mount_helper::parse(arguments) {
        Ok(call) => call,
        Err(error) => {
            complain(&error);
            return ExitCode::from(mount_helper::EXIT_USAGE);
        }
    };
    if call.fake {
        return ExitCode::SUCCESS;
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            complain(&error);
            return ExitCode::from(mount_helper::EXIT_SYSTEM);
        }
    };
    let mut mount = std::process::Command::new(program);
    mount
        .args(["mount", "--daemon"])
        .args(&call.arguments)
        .arg("--")
        .arg(&call.archive)
        .arg(&call.mountpoint);
    match mount.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) if status.code() == Some(2) => ExitCode::from(mount_helper::EXIT_USAGE),
        Ok(_) => ExitCode::from(mount_helper::EXIT_MOUNT),
        Err(error) => {
            complain(&error);
            ExitCode::from(mount_helper::EXIT_SYSTEM)
        }
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    outlive_the_terminal();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Options of all commands may stand before it, and what is wrong with them, or with its name, counts as well.
    let is_wal = |word: &OsString| word.to_str().is_some_and(|word| word.parse::<WalName>().is_ok());
    let fetches = arguments
        .iter()
        .any(|word| word == "wal-fetch" || word == "fetch" || is_wal(word));
    let wrong_usage = |code| match code {
        _ if fetches => ExitCode::from(FETCH_FAILED),
        code => ExitCode::from(code),
    };
    let settings = match settings::adopt(&Cli::command(), &arguments) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&error);
            return wrong_usage(EXIT_USAGE);
        }
    };
    let matches = match Cli::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return match error.exit_code() {
                0 => ExitCode::SUCCESS,
                code => wrong_usage(code as u8),
            };
        }
    };
    let cli = Cli::from_arg_matches(&matches).expect("what was matched can be read");
    if let Some(level) = &cli.log {
        log::choose(level);
    }
    match cli.command {
        Command::Init(arguments) => init::run(&arguments, &settings, cli.config.as_ref()),
        Command::InitTrial(arguments) => init::run_trial(&arguments),
        Command::Config(arguments) => config::run(&arguments, &settings),
        Command::Agent(arguments) => {
            settings::hand_on(&Cli::command(), &matches);
            agent::run(&arguments)
        }
        Command::Mount(arguments) => mount::mount(&arguments),
        Command::Umount(arguments) => mount::umount(&arguments),
        Command::WalPush(arguments) => wal::push(&arguments),
        Command::WalFetch(arguments) => wal::fetch(&arguments),
        Command::WalList(arguments) => wal::list(&arguments),
        Command::WalFind(arguments) => wal_find::find(&arguments),
        Command::WalVerify(arguments) => wal_verify::run(&arguments),
        Command::Copy(arguments) => copy::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Backup(arguments) => backup::backup(&arguments),
        Command::BackupList(arguments) => backup_list::list(&arguments),
        Command::BackupShow(arguments) => backup_list::show(&arguments),
        Command::BackupFinish(arguments) => backup_finish::finish(&arguments),
        Command::BackupDiscard(arguments) => backup_discard::run(&arguments),
        Command::BackupPin(arguments) => backup_pin::pin(&arguments),
        Command::BackupUnpin(arguments) => backup_pin::unpin(&arguments),
        Command::Files(arguments) => files::run(&arguments),
        Command::FilesList(arguments) => files_list::run(&arguments),
        Command::FilesRestore(arguments) => files_restore::run(&arguments),
        Command::Dump(arguments) => dump::run(&arguments),
        Command::DumpList(arguments) => dump_list::run(&arguments),
        Command::DumpRestore(arguments) => dump_restore::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Sync(arguments) => sync::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Prune(arguments) => prune::run(&arguments),
        Command::Delete(arguments) => prune::delete(arguments),
        Command::Cleanup(arguments) => prune::cleanup(arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Completions(arguments) => completions::print(&arguments),
        Command::Man(arguments) => man::write(&arguments),
        Command::PostgresConfig(arguments) => postgres_config::print(&arguments),
        Command::MountHelper(arguments) => mount_for_mount8(arguments.arguments),
    }
}

/// A terminal that is closed, or does not want to be written to from the background, ends nothing and stops nothing.
fn outlive_the_terminal() {
    for signal in [libc::SIGHUP, libc::SIGTTOU] {
        // SAFETY: no handler is set, and there are no other threads yet.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
