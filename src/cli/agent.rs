//! `walfs agent`: one process beside a server, that does by a schedule what commands do by hand.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::start::StartArgs;
use super::connect::{ConnectArgs, HelpArgs};
use super::interrupts::Interrupts;
use super::options::{ArchiveArgs, CreateArgs, MemoryArgs, newly_made, open};
use super::{EXIT_USAGE, complain, start_log};
use crate::agent::news::News;
use crate::agent::state::State;
use crate::agent::{Hooks, Options, Program, RestoreFirst, keep_table, keep_written, let_through, work};
use crate::archive::turns::Job;
use crate::assemble::{Stay, http_side, watched};
use crate::config::duration;
use crate::http::{Listen, Listener};
use crate::linux::daemon::{keep_watchdog_fed, notify_ready, notify_stopping};
use crate::memory::give_back_freed;
use crate::schedule::Schedule;

mod recovery;
mod start;
mod watching;

use watching::WatchArgs;

/// Do by a schedule what commands do by hand: back up, dump, store files, prune, verify, copy
///
/// Stays in the foreground, with log lines on standard error. Each job is the command of that name, as a process of its own with
/// the settings of this one: keep-last of `[prune]` is what `walfs prune` keeps. Several hosts may have the same schedule: each due run
/// is done by one of them; files are of each host, and are stored by each. What was missed is done once. With a mount point the archive is mounted, too, and mounted again if
/// that ends. SIGTERM and Ctrl-C end what is running, and then the agent.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_long_help = "\
Examples:
  walfs --config main agent
  walfs agent --archive s3://bucket/prefix --schedule-backup '0 3 * * *' --schedule-verify '@weekly'

A configuration, /etc/walfs/main.toml:
  archive = \"s3://bucket/prefix\"
  metrics-file = \"/var/lib/prometheus/node-exporter/walfs.prom\"

  [schedule]                     # as crontab(5), in the zone of this machine, or every so long
  backup = \"0 3 * * *\"
  full-every = 7
  prune = \"30 4 * * *\"
  verify = \"12h\"

  [prune]
  keep-last = 14

  [hook]                         # for sh -c; WALFS_JOB, WALFS_RESULT, WALFS_ERROR ..., and all as JSON on standard input
  failed = \"mail -s \\\"$WALFS_JOB failed\\\" dba@example.org\"

Beside a container with PostgreSQL, without FUSE, as the sidecar of TimescaleDB; a lost server comes back by itself:
  PGDATA=/var/lib/postgresql/data walfs agent --archive s3://bucket/prefix --listen 127.0.0.1:5000 --start restore-first

The first backup is taken at once. `walfs status` shows what was done, and what is due. A failed job is tried again, after \
--schedule-retry, then 5, 15, 30 and 60 times that, until it is due again.

Exit codes: 0 it was told to end, 1 it failed, 2 wrong usage."
)]
pub struct AgentArgs {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Keep the archive mounted here, as `walfs mount` does; empty: nowhere, whatever a configuration says
    #[arg(long, value_name = "DIR", env = "WALFS_MOUNTPOINT", hide_env_values = true,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    watch: WatchArgs,
    #[command(flatten)]
    schedule: ScheduleArgs,
    #[command(flatten)]
    hooks: HookArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    create: CreateArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    help: HelpArgs,
}

/// What is due when.
#[derive(Debug, Args)]
#[command(next_help_heading = "Schedule")]
struct ScheduleArgs {
    /// When `walfs backup` is due: "0 3 * * *", @daily, 6h
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_BACKUP",
        hide_env_values = true
    )]
    schedule_backup: Option<Schedule>,
    /// When `walfs prune` is due
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_PRUNE",
        hide_env_values = true
    )]
    schedule_prune: Option<Schedule>,
    /// When `walfs verify` is due
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_VERIFY",
        hide_env_values = true
    )]
    schedule_verify: Option<Schedule>,
    /// When `walfs copy` is due, from this archive to that of copy-to
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_COPY",
        hide_env_values = true
    )]
    schedule_copy: Option<Schedule>,
    /// When `walfs dump --all` is due
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_DUMP",
        hide_env_values = true
    )]
    schedule_dump: Option<Schedule>,
    /// When `walfs files --all` is due, on each host that has this schedule
    #[arg(
        long,
        value_name = "WHEN",
        env = "WALFS_SCHEDULE_FILES",
        hide_env_values = true
    )]
    schedule_files: Option<Schedule>,
    /// Every so many backups one stores everything [default: none has to]
    #[arg(long, value_name = "N", env = "WALFS_SCHEDULE_FULL_EVERY", hide_env_values = true,
          value_parser = clap::value_parser!(u32).range(1..))]
    schedule_full_every: Option<u32>,
    /// Begin a job at most so long after it is due, at random [default: at once]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_SCHEDULE_JITTER", hide_env_values = true)]
    schedule_jitter: Option<Duration>,
    /// The first pause before a failed job is tried again
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration, env = "WALFS_SCHEDULE_RETRY",
          hide_env_values = true)]
    schedule_retry: Duration,
    /// After how long without a sign of life of a host another one does its job, 6s at least
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = lease, env = "WALFS_SCHEDULE_LEASE",
          hide_env_values = true)]
    schedule_lease: Duration,
}

/// What answers by HTTP.
#[derive(Debug, Args)]
#[command(next_help_heading = "HTTP")]
struct HttpArgs {
    /// Answer by HTTP here: 127.0.0.1:5000, or /run/walfs/http for this user alone [default: nowhere]
    ///
    /// Anywhere but on loopback or a socket file clients need a token.
    #[arg(long, value_name = "ADDRESS", env = "WALFS_LISTEN", hide_env_values = true)]
    listen: Option<Listen>,
    /// File with what clients have to say: Authorization: Bearer TOKEN
    #[arg(
        long,
        value_name = "FILE",
        env = "WALFS_HTTP_TOKEN_FILE",
        hide_env_values = true
    )]
    http_token_file: Option<PathBuf>,
}

impl HttpArgs {
    fn token(&self) -> Result<Option<String>, String> {
        let Some(file) = &self.http_token_file else {
            return Ok(None);
        };
        let content = std::fs::read_to_string(file);
        let content =
            content.map_err(|error| format!("cannot read the token in {}: {error}", file.display()))?;
        match content.trim() {
            "" => Err(format!("the token in {} is empty", file.display())),
            token => Ok(Some(token.to_owned())),
        }
    }
}

/// Commands around each job.
#[derive(Debug, Args)]
#[command(next_help_heading = "Hooks")]
struct HookArgs {
    /// Shell command before each try; if it fails, that is a failed try
    #[arg(
        long,
        value_name = "COMMAND",
        env = "WALFS_HOOK_BEFORE",
        hide_env_values = true
    )]
    hook_before: Option<String>,
    /// Shell command when a job is done
    #[arg(
        long,
        value_name = "COMMAND",
        env = "WALFS_HOOK_AFTER",
        hide_env_values = true
    )]
    hook_after: Option<String>,
    /// Shell command when a try has failed, or a job has found something that somebody should look at
    #[arg(
        long,
        value_name = "COMMAND",
        env = "WALFS_HOOK_FAILED",
        hide_env_values = true
    )]
    hook_failed: Option<String>,
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    match lease < Duration::from_secs(6) {
        true => Err("at least 6s".into()),
        false => Ok(lease),
    }
}

impl AgentArgs {
    fn pg_wal(&self) -> Option<PathBuf> {
        let of_data = || Some(self.start.pgdata()?.join("pg_wal"));
        self.watch.pg_wal().or_else(of_data)
    }

    fn mountpoint(&self) -> Option<PathBuf> {
        let given = self.mountpoint.clone();
        given.filter(|place| !place.as_os_str().is_empty())
    }

    /// What a job could not do at any time is told now, not at night.
    fn check(&self) -> Result<(), &'static str> {
        let schedule = &self.schedule;
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let keeps = ["LAST", "DAYS", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"];
        let has_rule = keeps
            .iter()
            .any(|rule| is_set(&format!("WALFS_PRUNE_KEEP_{rule}")));
        let listens_openly = self.http.listen.as_ref().is_some_and(|place| !place.is_private());
        if listens_openly && self.http.http_token_file.is_none() {
            return Err(
                "whoever can reach this address could read and write the archive, so clients need a token. HINT: \
                 http-token-file, or listen = \"127.0.0.1:5000\"",
            );
        }
        let has_token = self.http.http_token_file.is_some();
        self.start.check(has_token, schedule.schedule_backup.is_some())?;
        let has_watcher = self.http.listen.is_some() || self.watch.metrics_file.is_some();
        if schedule.schedules().is_empty() && self.mountpoint().is_none() && !has_watcher {
            return Err(
                "there is nothing to do. HINT: schedule-backup = \"0 3 * * *\" in the configuration, or --schedule-backup",
            );
        }
        if schedule.schedule_prune.is_some() && !has_rule {
            return Err(
                "prune is scheduled, and no rule says what to keep. HINT: prune-keep-last = 7, or another rule of \
                 `walfs prune`, in the configuration, or WALFS_PRUNE_KEEP_LAST",
            );
        }
        if schedule.schedule_copy.is_some() && !is_set("WALFS_COPY_TO") {
            return Err(
                "copy is scheduled, and nothing says where to. HINT: copy-to = \"s3://other/prefix\" in the configuration, or \
                 WALFS_COPY_TO",
            );
        }
        if schedule.schedule_files.is_some() && !is_set("WALFS_FILES_DIRECTORIES") {
            return Err(
                "files are scheduled, and nothing says which. HINT: files-directories = \"etc=/etc\" in the configuration, or \
                 WALFS_FILES_DIRECTORIES",
            );
        }
        Ok(())
    }
}

impl ScheduleArgs {
    fn schedules(&self) -> Vec<(Job, Schedule)> {
        let all = [
            (Job::Backup, &self.schedule_backup),
            (Job::Prune, &self.schedule_prune),
            (Job::Verify, &self.schedule_verify),
            (Job::Copy, &self.schedule_copy),
            (Job::Dump, &self.schedule_dump),
            (Job::Files, &self.schedule_files),
        ];
        let set = all
            .into_iter()
            .filter_map(|(job, when)| Some((job, when.clone()?)));
        set.collect()
    }
}

/// Runs `walfs agent`.
pub fn run(arguments: &AgentArgs) -> ExitCode {
    start_log("walfs=info,warn");
    if let Err(error) = arguments.check() {
        complain(&error);
        return ExitCode::from(EXIT_USAGE);
    }
    give_back_freed();
    match super::wal::block_on(serve(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: &AgentArgs) -> Result<(), super::wal::Failure> {
    let mut signals = Interrupts::listen()?;
    let mut config = arguments.archive.config()?;
    config.memory = arguments.memory.shares();
    config.create = arguments.create.create;
    let options = Options {
        program: Program {
            path: std::env::current_exe()?,
        },
        schedules: arguments.schedule.schedules(),
        backup_first: arguments.start.backup(),
        full_every: arguments.schedule.schedule_full_every,
        jitter: arguments.schedule.schedule_jitter.unwrap_or_default(),
        lease: arguments.schedule.schedule_lease,
        retry: arguments.schedule.schedule_retry,
        hooks: Hooks {
            before: arguments.hooks.hook_before.clone(),
            after: arguments.hooks.hook_after.clone(),
            failed: arguments.hooks.hook_failed.clone(),
        },
        mountpoint: arguments.mountpoint(),
    };
    let token = arguments.http.token()?;
    let table = match arguments.watch.metrics_table {
        Some(every) => Some((arguments.connect.resolve()?, every)),
        None => None,
    };
    let listener = match &arguments.http.listen {
        Some(place) => Some(bound(place).await?),
        None => None,
    };
    let archive = tokio::select! {
        opened = open(&config, Stay::Long, config.deadline) => Arc::new(opened?),
        _ = signals.next() => return Ok(()),
    };
    newly_made(&archive).iter().for_each(|word| complain(word));
    tracing::info!("{} is served", archive.place());
    let (stop, stopped) = watch::channel(false);
    let listening = listener.as_ref().and_then(Listener::url);
    if let Some(restore) = arguments.start.restore(listening)?
        && !restored(&restore, &options.program, &mut signals, &stop).await?
    {
        return Ok(());
    }
    let state = Arc::new(State::with(News::new(table.is_some())));
    let pg_wal = arguments.pg_wal();
    let mut beside = JoinSet::new();
    let watched = match listener {
        Some(listener) => {
            tracing::info!("listening on {}", listener.place());
            let side = Arc::new(http_side(
                &config,
                archive.clone(),
                (options.program.clone(), state.clone()),
                (pg_wal, token),
                stopped.clone(),
            ));
            beside.spawn(listener.serve(side.clone(), stopped.clone()));
            side.watched()
        }
        None => watched(&config, &archive, pg_wal, state.clone(), []),
    };
    if let Some(file) = arguments.watch.metrics_file.clone() {
        beside.spawn(keep_written(watched, file, stopped.clone()));
    }
    if let Some(table) = table {
        beside.spawn(keep_table(state.clone(), table, stopped.clone()));
    }
    // The server finds somebody who answers.
    if let Some(lock) = arguments.start.lock() {
        beside.spawn(let_through(lock, stopped.clone()));
    }
    let mut working = tokio::spawn(work(archive, Arc::new(options), state, stopped));
    notify_ready();
    tokio::spawn(keep_watchdog_fed(async || true));
    let signal = tokio::select! {
        signal = signals.first() => signal,
        broken = &mut working => return Ok(broken??),
    };
    notify_stopping();
    tracing::info!("{signal}: ending");
    stop.send_replace(true);
    working.await??;
    while let Some(ended) = beside.join_next().await {
        ended?;
    }
    Ok(())
}

/// Restores before anything else; `false`: a signal has ended it.
async fn restored(
    restore: &RestoreFirst,
    program: &Program,
    signals: &mut Interrupts,
    stop: &watch::Sender<bool>,
) -> Result<bool, String> {
    let mut restoring = pin!(restore.run(program, stop.subscribe()));
    tokio::select! {
        ended = &mut restoring => return ended.map(|()| true),
        _ = signals.next() => {}
    }
    stop.send_replace(true);
    // What it says of its end is that it was told to.
    let _ = restoring.await;
    Ok(false)
}

async fn bound(place: &Listen) -> Result<Listener, String> {
    let bound = Listener::bind(place).await;
    bound.map_err(|error| format!("cannot listen on {place}: {error}"))
}
