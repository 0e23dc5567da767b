//! `walfs dump`: takes dumps of databases.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgGroup, Args};
use futures::{FutureExt, StreamExt, stream};

use crate::archive::tree::version::SetName;
use crate::job::dump::name::{GLOBALS, of_database};
use crate::job::dump::program::Program;
use crate::job::dump::{Dump, Error, What, take};
use crate::server::Session;

use super::connect::{ConnectArgs, HelpArgs};
use super::interrupts::{self, Interrupts};
use super::out::Out;
use super::storing::{Failure, StoringArgs, before};
use super::terms::TermsArgs;
use super::{complain, progress, wal};

mod told;

use told::{Outcome, print_json, table, words};

/// Take dumps of databases into the archive, each as a new version of its name
///
/// pg_dump runs for each database, pg_dumpall for the globals (roles, tablespaces and what else is in no database). What they
/// write goes straight into the archive, and only what the newest version of the same name does not have is stored, wherever in
/// the dump it lies; if nothing has changed, nothing is. All the same each version is read and restored as a whole. The archive
/// may be one of a server, or one without any WAL. A dump is no base backup: no WAL is replayed on it.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL, disable_help_flag = true)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["databases", "all", "globals"]))]
pub struct DumpArgs {
    /// Names of databases
    #[arg(value_name = "DB", value_parser = OsStringValueParser::new())]
    databases: Vec<OsString>,
    /// Every database that allows connections, and the globals
    #[arg(long, conflicts_with = "databases")]
    all: bool,
    /// What is in no database: roles, tablespaces, privileges on parameters
    #[arg(long)]
    globals: bool,
    /// The name that it has versions of, of one dump [default: the database's; globals]
    ///
    /// What cannot be in such a name is written as = and two digits: the database a/b has the name db=a=2Fb.
    #[arg(long, value_name = "NAME")]
    name: Option<SetName>,
    #[command(flatten)]
    terms: TermsArgs,
    #[command(flatten)]
    storing: StoringArgs,
    /// Dumps that are taken at once
    #[arg(
        short,
        long,
        value_name = "N",
        default_value_t = 1,
        env = "WALFS_DUMP_JOBS",
        hide_env_values = true
    )]
    jobs: usize,
    /// Where pg_dump and pg_dumpall are [default: the search path, /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin]
    ///
    /// Otherwise those of the server's own major version are taken, or else the oldest that are newer.
    #[arg(long, value_name = "DIR", env = "WALFS_BIN_DIR", hide_env_values = true,
          value_parser = OsStringValueParser::new().map(PathBuf::from))]
    bin_dir: Option<PathBuf>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    help: HelpArgs,
}

const MANUAL: &str = "\
Examples:
  walfs dump --archive s3://bucket/prefix --all
  walfs dump --archive s3://bucket/prefix -h /var/run/postgresql -U app app
  pg_restore -l /mnt/walfs/dumps/app/LATEST/app.dump
  walfs dump-restore --archive s3://bucket/prefix app - | pg_restore -d app

pg_dump writes its format custom, without compression: what is compressed differs everywhere if it differs somewhere. walfs \
compresses what it stores. The server is asked for its version, and with --all for its databases, in the database that --dbname \
names. A password comes from PGPASSWORD, PGPASSFILE or ~/.pgpass; pg_dump never asks for one.

With --all a dump that fails does not keep the others; a table at the end says what became of each.

Ctrl-C and SIGTERM end it, and what was stored of dumps that are not complete is deleted. What is left after a kill -9, the \
next run deletes.

Exit codes:
  0    each dump is complete, or nothing has changed since the newest one
  1    one has failed, or all; of these nothing is kept
  2    wrong usage
  130  ended by Ctrl-C, 143 by SIGTERM";

/// Runs `walfs dump`.
pub fn run(arguments: &DumpArgs) -> ExitCode {
    let storing = &arguments.storing;
    storing.run(dump(arguments), |outcomes| report(outcomes, storing))
}

async fn dump(arguments: &DumpArgs) -> Result<Vec<Outcome>, Failure> {
    let mut signals = Interrupts::listen()?;
    let dumps = before(&mut signals, planned(arguments).boxed()).await?;
    let archive = arguments.storing.open(&mut signals).await?;
    let shown = progress::shown(arguments.storing.verbose);
    let stop = signals.first().boxed().shared();
    let taking = dumps.into_iter().enumerate().map(|(number, dump)| {
        let (archive, shown, stop) = (archive.clone(), shown.clone(), stop.clone());
        async move {
            let taken = take(&archive, &dump, shown, stop).await;
            if let Err(error) = &taken {
                complain(&format_args!("cannot dump {}: {error}", dump.what.text()));
            }
            (number, Outcome { dump, taken })
        }
        .boxed()
    });
    let taken = stream::iter(taking).buffer_unordered(arguments.jobs.max(1));
    let mut outcomes: Vec<(usize, Outcome)> = taken.collect().await;
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// What is to be dumped.
async fn planned(arguments: &DumpArgs) -> Result<Vec<Dump>, wal::Failure> {
    let resolved = arguments.connect.resolve()?;
    let session = Session::open(&resolved).await?;
    let mut databases = match arguments.all {
        true => session.databases().await?,
        false => arguments.databases.clone(),
    };
    let major = session.major();
    drop(session);
    let mut seen = std::collections::HashSet::new();
    databases.retain(|name| seen.insert(name.clone()));
    let mut what: Vec<What> = databases.into_iter().map(What::Database).collect();
    if arguments.all || arguments.globals {
        what.push(What::Globals);
    }
    if arguments.name.is_some() && what.len() != 1 {
        return Err(format!("--name is the name of one dump, and there are {}.", what.len()).into());
    }
    let mut dumps = Vec::with_capacity(what.len());
    let mut programs: Vec<(&str, Program)> = Vec::new();
    for what in what {
        let name = what.program();
        let known = programs.iter().find(|(known, _)| *known == name);
        let program = match known {
            Some((_, program)) => program.clone(),
            None => Program::find(name, major, arguments.bin_dir.as_deref())?,
        };
        programs.push((name, program.clone()));
        dumps.push(described(what, program, &resolved, arguments));
    }
    Ok(dumps)
}

fn described(what: What, program: Program, server: &crate::server::Resolved, arguments: &DumpArgs) -> Dump {
    let (own, connection) = match &what {
        What::Database(database) => (of_database(database), server.connection(database)),
        What::Globals => (
            GLOBALS.parse().expect("it is a name"),
            server.connection(server.database().as_ref()),
        ),
    };
    Dump {
        set: arguments.name.clone().unwrap_or(own),
        what,
        program,
        connection,
        terms: arguments.terms.terms(),
    }
}

fn report(outcomes: &[Outcome], storing: &StoringArgs) -> ExitCode {
    if storing.json {
        let mut out = Out::new();
        if let Err(error) = print_json(&mut out, outcomes).and_then(|()| out.end()) {
            complain(&error);
            return ExitCode::FAILURE;
        }
    }
    let failed = outcomes.iter().filter(|outcome| outcome.taken.is_err()).count();
    if storing.is_watched() {
        outcomes.iter().filter_map(words).for_each(|line| complain(&line));
    }
    if failed > 0 && outcomes.len() > 1 {
        let count = outcomes.len();
        complain(&format_args!(
            "{failed} of {count} dumps failed:\n{}",
            table(outcomes)
        ));
    }
    let signal = outcomes.iter().find_map(|outcome| match &outcome.taken {
        Err(Error::Version(error)) => error.signal(),
        _ => None,
    });
    match (signal, failed) {
        (Some(signal), _) => interrupts::exit_code(signal),
        (None, 0) => ExitCode::SUCCESS,
        (None, _) => ExitCode::FAILURE,
    }
}
