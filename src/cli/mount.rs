//! `walfs mount` and `walfs umount`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::archive::{Archive, below};
use crate::assemble::{self, Stay};
use crate::config::{Config, PgWal, bytes, duration};
use crate::job::sweep::sweep;
use crate::linux::daemon::{self, Ready};
use crate::linux::kernel;
use crate::linux::process::allow_open_files;
use crate::memory::give_back_freed;
use crate::mount::fs::Fs;
use crate::mount::serve::{self, Request, Signals};
use crate::store::Patience;

use super::options::{CreateArgs, MemoryArgs, StoreArgs, WriteArgs, newly_made, open as open_archive};
use super::{complain, log, start_log};

/// Between our own deadline and one of the kernel's, after which the kernel would end the whole mount.
const MARGIN: Duration = Duration::from_secs(5);

/// Said where the daemon is started.
const NO_LOG: &str =
    "no log is kept\nHINT: --log-file FILE keeps one, in a directory that the mount's user can write";

/// Said where root mounts for nobody.
const ONLY_ROOT: &str = "the mount is root's: nobody else gets in, PostgreSQL neither\n\
                         HINT: --user postgres mounts for that user, and runs as it";

/// Seconds that a panic may take to say why.
const LAST_WORDS_S: libc::c_uint = 5;

/// How long the store may be away before looking for leftovers is given up.
const SWEEPING: Duration = Duration::from_secs(600);

/// Show an archive as a directory
///
/// A new archive is made only with --create. walfs stays in the foreground, with log lines on standard error, unless
/// --daemon is given. SIGTERM (and Ctrl-C) lets files that are being written finish, at most for --deadline, then
/// unmounts; a second one does not wait.
#[derive(Debug, Args)]
#[command(after_long_help = MOUNT_MANUAL)]
pub struct MountArgs {
    /// s3://bucket/prefix, file:///directory or a path; one PostgreSQL cluster each
    #[arg(value_name = "ARCHIVE", env = "WALFS_ARCHIVE", hide_env_values = true)]
    archive: String,
    /// An empty directory, best owned by root with mode 0555, so that nobody writes into it while walfs is not mounted
    ///
    /// Or /dev/fd/N: an open /dev/fuse that somebody else has mounted, and will unmount.
    #[arg(value_name = "MOUNTPOINT", env = "WALFS_MOUNTPOINT", hide_env_values = true)]
    mountpoint: PathBuf,
    /// Return 0 once the mount answers, and go on in the background; if that fails, say why and return 1
    #[arg(long)]
    daemon: bool,
    /// File for the log lines of --daemon [default: none are kept]
    ///
    /// The mount's user opens it, so it must be able to: with mode 0600 if it is not there, at the end if it is. No
    /// symbolic link. After SIGHUP it is opened again, for logrotate(8).
    #[arg(long, value_name = "FILE", env = "WALFS_LOG_FILE", hide_env_values = true)]
    log_file: Option<PathBuf>,
    /// Started as root: mount for this user, and become this user before the archive is opened
    #[arg(long, value_name = "NAME", env = "WALFS_USER", hide_env_values = true)]
    user: Option<String>,
    /// Let other users in as well, as far as modes let them: they are 0700 and 0600
    #[arg(long, env = "WALFS_ALLOW_OTHER", hide_env_values = true, value_parser = FalseyValueParser::new())]
    allow_other: bool,
    /// Show every archive right below ARCHIVE, which is a place of archives: each as a directory, read-only unless --writable is given
    ///
    /// Archives that are made later appear by themselves. What is no archive is not shown. One that cannot be opened says why
    /// in its .walfs/error.txt, and the others are not touched by it.
    #[arg(long, env = "WALFS_ALL", hide_env_values = true, value_parser = FalseyValueParser::new())]
    all: bool,
    /// With --all: let the archives be written to, as in a mount of one
    #[arg(long, env = "WALFS_WRITABLE", hide_env_values = true, value_parser = FalseyValueParser::new(), requires = "all",
          conflicts_with = "read_only")]
    writable: bool,
    /// Refuse every change
    #[arg(long, env = "WALFS_READ_ONLY", hide_env_values = true, value_parser = FalseyValueParser::new())]
    read_only: bool,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    create: CreateArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    write: WriteArgs,
    /// The pg_wal directory of the server that archives here; or auto, or off
    ///
    /// PostgreSQL archives one file at a time. While it waits for one, walfs sends the next ones that it finds there. By
    /// default the directory is the one that the archiving process copies from; give it if that cannot be seen, because
    /// the server has process numbers of its own (a container). walfs must be able to read it. Then the archive command must be
    /// a plain cp, which does not ask first whether the file is there.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "auto",
        env = "WALFS_PG_WAL",
        hide_env_values = true,
        help_heading = "Writing"
    )]
    pg_wal: PgWal,
    /// When a directory that is written in files/ or dumps/ is taken for whole: when nothing was changed in it for so long
    ///
    /// Nor is a file in it open to be written then, and the process that wrote it has not been killed, and has not failed. `sync
    /// DIRECTORY` completes it at once.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, env = "WALFS_QUIET_AFTER",
          hide_env_values = true, help_heading = "Writing")]
    quiet_after: Duration,
    /// Keep fetched objects in this directory too, compressed as they are; it may be lost at any time. What else lies there
    /// is left alone [default: none]
    #[arg(
        long,
        value_name = "DIR",
        env = "WALFS_CACHE_DIR",
        hide_env_values = true,
        help_heading = "Reading"
    )]
    cache_dir: Option<PathBuf>,
    /// Bound of --cache-dir; the least recently used objects go
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes, env = "WALFS_CACHE_SIZE",
          hide_env_values = true, help_heading = "Reading")]
    cache_size: u64,
}

const MOUNT_MANUAL: &str = "\
Examples:
  walfs mount --create /srv/archive /mnt/walfs
  walfs mount --daemon --user postgres --log-file /var/log/postgresql/walfs.log s3://bucket/prefix /mnt/walfs
  walfs mount --endpoint http://127.0.0.1:9000 --credentials-file keys s3://bucket/prefix /mnt/walfs

Files in the mount:
  wal/NAME             what PostgreSQL has archived, under the name it gave
  dumps/, files/       versions: NAME/VERSION/ and NAME/LATEST; or NAME, the newest, and NAME@VERSION. What is written there is the next
  .absent/NAME         exists while the store says that wal/NAME does not
  .walfs/status.txt    what can be restored, and what is wrong, as `walfs status`; status.json, status.svg too
  .walfs/metrics.prom  the same, and counters of this mount, as metrics
  .walfs/mount.json    counters of this mount, last archived file, last error, requests to the store
  .walfs/version       version of the walfs that serves

Sizes are bytes, or have KiB, MiB, GiB or TiB behind them. Times are like 45s, 10m or 1h 30m.
At boot: mount-helpers/README.md (systemd, fstab); of the Debian package in /usr/share/doc/walfs.";

/// Take a mount away
///
/// Waits while it is in use, and then names who uses it. Takes away a mount whose walfs has died, too; nothing but a
/// walfs is unmounted. The walfs that serves it ends by itself.
#[derive(Debug, Args)]
#[command(after_long_help = "Example:\n  walfs umount --wait 1m /mnt/walfs\n\n\
    Exit codes: 0 it is unmounted, 1 it is not, 2 wrong usage.")]
pub struct UmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// How long to wait while it is in use
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    wait: Duration,
}

impl MountArgs {
    /// Who looks at many archives shall not change one by a slip.
    fn is_read_only(&self) -> bool {
        self.read_only || self.all && !self.writable
    }
}

/// Runs `walfs mount`.
pub fn mount(arguments: &MountArgs) -> ExitCode {
    let ready = Ready::from_env();
    if arguments.daemon && ready.is_none() {
        if arguments.log_file.is_none() {
            complain(&NO_LOG);
        }
        return match daemon::start(arguments.log_file.as_deref()) {
            Ok(word) => {
                word.iter().for_each(|word| complain(word));
                ExitCode::SUCCESS
            }
            Err(error) => {
                complain(&error);
                ExitCode::from(error.exit_code())
            }
        };
    }
    start_log("walfs=info,warn");
    end_on_panic();
    give_back_freed();
    allow_open_files();
    match run(arguments, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { error, ready }) => {
            // Whoever started the daemon tells it there.
            if ready.is_none() || log::has_file() {
                complain(&error);
            }
            if let Some(ready) = ready {
                ready.failed(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// A panic ends the process, so that callers get ENOTCONN, never a mount that went away and left a bare directory.
fn end_on_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // SAFETY: asks for a signal that ends the process, for when its last words wait for their reader.
        unsafe { libc::alarm(LAST_WORDS_S) };
        usual(panic);
        std::process::abort();
    }));
}

/// An error on the way up, and the one who waits to hear of it.
struct Failed {
    error: String,
    ready: Option<Ready>,
}

fn run(arguments: &MountArgs, ready: Option<Ready>) -> Result<(), Failed> {
    let begun = config(arguments).and_then(|config| Ok((config, mount_point(arguments)?)));
    let (config, waiting) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(Failed { error, ready }),
    };
    // Privileges have been dropped by now.
    if let Err(error) = settle_log(arguments, ready.is_some()) {
        waiting.abandon();
        let error = error.to_string();
        return Err(Failed { error, ready });
    }
    // Before there are threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            waiting.abandon();
            return Err(Failed {
                error: format!("cannot start threads: {error}"),
                ready,
            });
        }
    };
    let outcome = runtime.block_on(serve(&config, arguments.all, waiting, ready));
    // What still waits for the store must not keep the process: there is nobody left to answer.
    runtime.shutdown_background();
    outcome
}

fn config(arguments: &MountArgs) -> Result<Config, String> {
    let config = arguments.store.config(&arguments.archive);
    let mut config = config.map_err(|error| error.to_string())?;
    arguments.write.add_to(&mut config);
    config.create = arguments.create.create;
    config.deadline = deadline(config.deadline);
    config.memory = arguments.memory.shares();
    let cache_dir = arguments.cache_dir.clone();
    config.disk_cache = cache_dir.map(|directory| (directory, arguments.cache_size));
    config.pg_wal = arguments.pg_wal.clone();
    config.quiet_after = arguments.quiet_after;
    config.read_only = arguments.is_read_only();
    Ok(config)
}

/// Of a daemon that keeps no log, the terminal is none either.
fn settle_log(arguments: &MountArgs, is_daemon: bool) -> Result<(), log::Error> {
    let nowhere = is_daemon.then_some(Path::new("/dev/null"));
    log::settle(arguments.log_file.as_deref().or(nowhere))
}

fn mount_point(arguments: &MountArgs) -> Result<serve::Waiting, String> {
    if arguments.user.is_none() && kernel::Owner::of_this_process().uid == 0 {
        tracing::warn!("{ONLY_ROOT}");
    }
    let user = arguments.user.as_deref().map(kernel::lookup_user).transpose();
    let user = user.map_err(|error| error.to_string())?;
    if let (Some(user), Some(file)) = (&user, &arguments.log_file) {
        log::make(file, user.owner);
    }
    let request = Request {
        mountpoint: arguments.mountpoint.clone(),
        source: arguments.archive.clone(),
        user,
        allow_other: arguments.allow_other,
        read_only: arguments.is_read_only(),
    };
    serve::mount(&request).map_err(|error| error.to_string())
}

async fn serve(
    config: &Config,
    all: bool,
    waiting: serve::Waiting,
    ready: Option<Ready>,
) -> Result<(), Failed> {
    let mut signals = match Signals::new(log::open_again) {
        Ok(signals) => signals,
        Err(error) => {
            waiting.abandon();
            let error = format!("cannot listen for signals: {error}");
            return Err(Failed { error, ready });
        }
    };
    let opened = tokio::select! {
        opened = open_all(config, waiting.mountpoint()), if all => opened,
        opened = open(config, waiting.mountpoint()), if !all => opened,
        name = signals.next() => Err(format!("{name} came before {} was open", config.place)),
    };
    let (fs, word) = match opened {
        Ok((fs, word)) => (Arc::new(fs), word),
        Err(error) => {
            waiting.abandon();
            return Err(Failed { error, ready });
        }
    };
    let mountpoint = waiting.mountpoint().display().to_string();
    let announce = || {
        tracing::info!("{} is mounted on {mountpoint}", config.place);
        if let Some(ready) = ready {
            ready.ready(word.as_deref());
        }
    };
    let outcome = waiting.serve(fs, config.deadline, signals, announce).await;
    outcome.map_err(|error| Failed {
        error: format!("the mount failed: {error}"),
        ready: None,
    })
}

/// The kernel may have a deadline of its own for requests, and ends the mount when it passes: how long one may take.
fn longest_request() -> Option<Duration> {
    let limit = kernel::request_timeout()?;
    Some(limit.saturating_sub(MARGIN).max(Duration::from_secs(1)))
}

fn deadline(wanted: Duration) -> Duration {
    match longest_request() {
        Some(longest) if wanted > longest => {
            tracing::warn!(
                "the kernel breaks off what takes longer (sysctl fs.fuse): the deadline is {} s instead of {} s",
                longest.as_secs(),
                wanted.as_secs()
            );
            longest
        }
        _ => wanted,
    }
}

/// And a word for whoever starts it.
async fn open(config: &Config, mountpoint: &Path) -> Result<(Fs, Option<String>), String> {
    let opened = open_archive(config, Stay::Long, config.deadline).await;
    let archive = Arc::new(opened.map_err(|error| error.to_string())?);
    announce(&archive);
    let word = newly_made(&archive);
    if !config.read_only {
        sweep_in_background(archive.clone());
    }
    let fs = assemble::directory(config, archive, mountpoint.to_owned(), longest_request());
    let fs = fs.map_err(|error| format!("cache directory: {error}"))?;
    Ok((fs, word))
}

/// Of a place of archives none is opened yet.
async fn open_all(config: &Config, mountpoint: &Path) -> Result<(Fs, Option<String>), String> {
    let store = assemble::place(config).await.map_err(|error| error.to_string())?;
    let patience = Patience::for_at_most(config.deadline);
    let is_archive = below::is_archive(&store, patience).await;
    if is_archive.map_err(|error| error.to_string())? {
        return Err(format!(
            "{} is an archive itself, not a place of several\nHINT: leave --all away, or name the place that it lies in",
            config.place
        ));
    }
    let fleet = assemble::fleet(config, store, mountpoint.to_owned(), longest_request());
    Ok((fleet.into(), None))
}

/// Takes away what killed backups have left. Nobody waits for it, and the next start tries again.
fn sweep_in_background(archive: Arc<Archive>) {
    tokio::spawn(async move {
        if let Err(error) = sweep(&archive, Patience::for_at_most(SWEEPING)).await {
            tracing::warn!("what unfinished backups have left could not be looked at: {error}");
        }
    });
}

/// What the operator should know of the archive that is being mounted.
fn announce(archive: &Archive) {
    match archive.known_cluster() {
        Some(cluster) => tracing::info!(
            "{} is the archive of system identifier {}, segments of {}, {}",
            archive.place(),
            cluster.system_id,
            cluster.segment_size,
            archive.compression()
        ),
        None => tracing::info!(
            "{} has no WAL yet; the first segment ties it to its cluster",
            archive.place()
        ),
    }
    if !archive.marker().put_if_absent {
        tracing::warn!(
            "this store ignores conditional writes (If-None-Match): walfs looks before it writes, but two machines \
             that archive different files under one name at the same moment can overwrite each other. \
             HINT: let one machine only archive into {}",
            archive.place()
        );
    }
}

/// Runs `walfs umount`.
pub fn umount(arguments: &UmountArgs) -> ExitCode {
    match kernel::unmount_path(&arguments.mountpoint, arguments.wait) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}
