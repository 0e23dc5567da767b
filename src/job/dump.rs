//! Takes a dump of a database, or of what a cluster has beside its databases, as a version (promise A5): what the newest version of
//! the same name has is not stored again, wherever in the dump it lies.
//!
//! 1. The version is begun ([`version`]), and the chunks of the newest one are listed ([`ChunkIndex`]).
//! 2. `pg_dump` or `pg_dumpall` runs as a child. What it writes is cut where its content says so, and packed on its way
//!    (`pack`): it is never in a file.
//! 3. The child's exit code decides. If all is well, the version is committed; or nothing is kept, if it is the same as the newest
//!    one (`identity`).

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::BufReader;
use tokio::process::{Child, Command};

use crate::archive::Archive;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{Attributes, Content, Entry, TreeKind};
use crate::linux::child::{end, ends_with_us, last_words};
use crate::linux::kernel::Owner;
use crate::read::base::chunks::ChunkIndex;
use crate::server::Connection;

use super::progress::{Phase, Progress};
use super::version::{self, Draft, Terms, Told, owned, patience};

mod error;
pub(super) mod identity;
pub mod name;
pub(super) mod pack;
pub mod program;
pub mod restore;

pub use error::Error;

use identity::Identity;
use pack::{Dumped, Stream};
use program::Program;

/// How long the program may take to end when the dump is given up: it tells the server to stop what it was asked.
const ENDING: Duration = Duration::from_secs(5);

/// Mode of a dump and of the directory that it is in: it has all that its owner may read.
pub(super) const MODE: u32 = 0o600;
pub(super) const DIRECTORY_MODE: u32 = 0o700;

/// What is dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A database, by its name.
    Database(OsString),
    /// Roles, tablespaces and what else is not in a database.
    Globals,
}

impl What {
    /// The program that dumps it.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Database(_) => "pg_dump",
            Self::Globals => "pg_dumpall",
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        match self {
            Self::Database(name) => name.to_string_lossy().into_owned(),
            Self::Globals => name::GLOBALS.to_owned(),
        }
    }

    /// Name of the one file in a version of `set`.
    fn file(&self, set: &SetName) -> String {
        match self {
            Self::Database(_) => format!("{set}.dump"),
            Self::Globals => format!("{set}.sql"),
        }
    }
}

/// A dump to be taken.
#[derive(Debug, Clone)]
pub struct Dump {
    /// Of what.
    pub what: What,
    /// The name that it has versions of.
    pub set: SetName,
    /// What dumps it.
    pub program: Program,
    /// How that connects.
    pub connection: Connection,
    /// How it is stored.
    pub terms: Terms,
}

/// What came of it.
#[derive(Debug)]
pub struct Taken {
    /// The version that has the dump: a new one, or the one since which nothing has changed.
    pub version: Version,
    /// The earlier one that it was compared with.
    pub base: Option<Version>,
    /// Of a new one what there is to know of it; `None`: nothing has changed.
    pub summary: Option<Summary>,
    /// Bytes of the dump.
    pub read_bytes: u64,
    /// Of these, bytes that the version before does not have.
    pub changed_bytes: u64,
}

/// Takes a dump, unless `interrupted` ends first with the name of a signal.
///
/// # Errors
/// Any [`Error`]; nothing of the version is kept then.
pub async fn take(
    archive: &Arc<Archive>,
    dump: &Dump,
    progress: Arc<dyn Progress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Taken, Error> {
    let mut interrupted = pin!(interrupted);
    let stopped = |signal| Error::from(version::Error::Interrupted(signal));
    let mut draft = tokio::select! {
        draft = Draft::next(archive, TreeKind::Dump, &dump.set) => draft?,
        signal = &mut interrupted => return Err(stopped(signal)),
    };
    let mut child = None;
    let dumped = tokio::select! {
        dumped = dump.pack(archive, (&mut draft, &mut child), progress) => dumped,
        signal = &mut interrupted => Err(stopped(signal)),
    };
    let dumped = match dumped {
        Ok(dumped) => dumped,
        Err(error) => {
            if let Some(mut child) = child {
                let _ = end(&mut child, ENDING).await;
            }
            draft.clean_up().await;
            return Err(error);
        }
    };
    let compared = draft.base_version();
    let collected = std::mem::take(&mut draft.uploads.collected);
    let mut taken = Taken {
        version: draft.version.clone(),
        base: compared.clone().filter(|_| !draft.is_whole_due),
        summary: None,
        read_bytes: dumped.bytes,
        changed_bytes: collected.changed_bytes,
    };
    if let Some(same) = compared.filter(|_| dumped.is_same) {
        taken.base = Some(same.clone());
        taken.version = same;
        draft.clean_up().await;
        return Ok(taken);
    }
    let made = collected.into_tree(
        draft.id.clone(),
        [root(owned(
            attributes(DIRECTORY_MODE, Timestamp::now()),
            dump.terms.owner,
        ))],
    );
    let (tree, _) = made.map_err(version::Error::from)?;
    let told = Told {
        label: dump.what.text(),
        is_plain: false,
        dump_hash: Some(dumped.hash),
        plain_file: false,
    };
    taken.summary = Some(draft.commit((Arc::new(tree), told), interrupted).await?);
    Ok(taken)
}

impl Dump {
    /// Begins the version, and packs all that the program writes. It has ended well then, and the last parts are on their way.
    async fn pack(
        &self,
        archive: &Arc<Archive>,
        (draft, running): (&mut Draft<'_>, &mut Option<Child>),
        progress: Arc<dyn Progress>,
    ) -> Result<Dumped, Error> {
        draft.begin(&self.terms, self.terms.full).await?;
        let path = self.what.file(&self.set).into_bytes();
        let index = match &draft.base {
            Some(base) if !draft.is_whole_due => ChunkIndex::of(base.clone(), &path, patience).await?,
            _ => None,
        };
        progress.phase(Phase::Dumping(self.set.as_str()));
        let (child, output) = self.start()?;
        let child = running.insert(child);
        let words = child.stderr.take().expect("it is piped");
        let words = tokio::spawn(last_words(self.what.program(), BufReader::new(words)));
        let stream = Stream {
            path,
            attributes: owned(attributes(MODE, Timestamp::now()), self.terms.owner),
            memory: archive.memory().packing.clone(),
            part_bytes: pack::DUMP_PART_BYTES,
            index,
            identity: Identity::of_dump(),
            base_hash: draft.newest_hash(false),
            progress,
        };
        let dumped = pack::store(archive, draft, stream, output).await?;
        let status = child.wait().await.map_err(|source| self.cannot_run(source))?;
        let words = words.await.unwrap_or_default();
        if !status.success() {
            return Err(Error::Failed {
                program: self.program.clone(),
                status,
                words,
            });
        }
        Ok(dumped.ok_or(super::backup::Error::Stopped)?)
    }

    /// Starts the program.
    fn start(&self) -> Result<(Child, File), Error> {
        let mut command = Command::new(&self.program.path);
        command.args(self.arguments());
        if let Some(password) = &self.connection.password {
            command.env("PGPASSWORD", password);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        ends_with_us(&mut command);
        let mut child = command.spawn().map_err(|source| self.cannot_run(source))?;
        let output = child.stdout.take().expect("it is piped");
        let output = output.into_owned_fd().map_err(|source| self.cannot_run(source))?;
        Ok((child, output.into()))
    }

    /// Without compression of its own, in which nothing would be found again; and it never asks for a password.
    fn arguments(&self) -> Vec<OsString> {
        let own: &[&str] = match self.what {
            What::Database(_) => &["--format=custom", "--compress=0"],
            What::Globals => &["--globals-only"],
        };
        let mut arguments: Vec<OsString> = own.iter().map(OsString::from).collect();
        arguments.push("--no-password".into());
        let mut connection = OsString::from("--dbname=");
        connection.push(&self.connection.conninfo);
        arguments.push(connection);
        arguments
    }

    fn cannot_run(&self, source: std::io::Error) -> Error {
        Error::Run {
            program: self.program.clone(),
            source,
        }
    }
}

/// It belongs to who takes it.
pub(super) fn attributes(mode: u32, modified: Timestamp) -> Attributes {
    let Owner { uid, gid } = Owner::of_this_process();
    Attributes {
        mode,
        uid,
        gid,
        modified,
    }
}

/// The directory that it is in.
pub(super) fn root(attributes: Attributes) -> Entry {
    Entry {
        path: Path::new("").as_os_str().as_encoded_bytes().into(),
        attributes,
        content: Content::Directory,
    }
}
