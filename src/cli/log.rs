//! The log: every line of `tracing` goes through here to standard error, or to the file that stands there.
//!
//! A log that does not take its lines is no reason to stop, and none to wait: a line that a full disk, a closed terminal
//! or a pipe that nobody reads does not take is dropped, and counted.
//!
//! The file of `--log-file` is opened once the mount has become its user, so that no link in a directory of theirs leads
//! walfs to a file that is not theirs. One that is not there root makes for them before, as in `/var/log`. Lines from before go to whoever starts the daemon, and into the file later.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::beneath::Root;
use crate::linux::kernel::Owner;
use crate::printable::{printable_lines, shortened};

/// Bytes of one line: what a store answered may be longer.
const LINE_BYTES: usize = 16 << 10;

/// Bytes that a pipe which is ready takes without a wait (POSIX's own bound).
const PIPE_BYTES: usize = 4096;

/// How long one line may wait for its reader, in milliseconds, unless the line before has waited in vain.
const PATIENCE_MS: libc::c_int = 100;

/// Bytes kept of lines from before the file is open.
const EARLY_BYTES: usize = 64 << 10;

static LOG: Mutex<Log> = Mutex::new(Log {
    file: LogFile::Undecided(Vec::new()),
    dropped: 0,
});

/// Where the lines go.
#[derive(Debug)]
struct Log {
    file: LogFile,
    /// Lines that nobody has taken since one was written.
    dropped: u64,
}

/// What stands at standard error.
#[derive(Debug)]
enum LogFile {
    /// What the process was started with; and what has been written so far.
    Undecided(Vec<u8>),
    /// What the process was started with, for good.
    None,
    /// To be opened here before the next line.
    Closed(PathBuf),
    /// The file.
    Open(PathBuf),
}

/// Why a log file is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It could not be opened.
    #[error(
        "cannot write the log file {path:?}: {source}. HINT: name a file that the mount's user can write"
    )]
    Open {
        /// The log file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "the log file {path:?} is {found}, which walfs does not write its log to. HINT: name a file, or one that is \
         not there yet"
    )]
    Odd {
        /// The log file.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
}

/// How much is logged, if somebody has said so.
static CHOSEN: OnceLock<String> = OnceLock::new();

/// So much is logged, whatever is usual.
pub(super) fn choose(level: &str) {
    // Chosen once, at the start.
    let _ = CHOSEN.set(level.to_owned());
}

/// Log lines go to standard error; so many as was chosen, or as is `usual`.
///
/// Never more than `debug`: at `trace`, libraries write the content of requests.
pub(super) fn start(usual: &str) {
    let chosen = CHOSEN.get().and_then(|level| EnvFilter::try_new(level).ok());
    let filter = chosen.unwrap_or_else(|| EnvFilter::new(usual));
    // Its own complaint about a log that cannot be written would panic.
    let lines = fmt::layer()
        .with_writer(|| Entry)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    // A second call, by a library user who has a log of its own, changes nothing.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter).with_filter(LevelFilter::DEBUG))
        .try_init();
}

/// Makes the file for the daemon's user, who mostly may not where logs are. What is there stays as it is, and no link is
/// followed. If it cannot be made, the user finds out what to say of it.
pub(super) fn make(file: &Path, owner: Owner) {
    let make = || -> io::Result<()> {
        let file = std::path::absolute(file)?;
        let inside = file.strip_prefix("/").unwrap_or(&file);
        let made = Root::open(Path::new("/"))?.create_new(inside, 0o600)?;
        fchown(&made, Some(owner.uid), Some(owner.gid))
    };
    if let Err(error) = make() {
        tracing::debug!("{}: {error}", file.display());
    }
}

/// From now on the lines go to `file`, or nowhere else than so far. To be called by the daemon's user.
///
/// # Errors
/// The file is none, or may not be written. That its disk is full is no error: it is opened when there is room.
pub(super) fn settle(file: Option<&Path>) -> Result<(), Error> {
    let mut log = log();
    let LogFile::Undecided(early) = std::mem::replace(&mut log.file, LogFile::None) else {
        return Ok(());
    };
    let Some(path) = file else { return Ok(()) };
    log.file = LogFile::Closed(path.to_owned());
    match log.open() {
        Err(Error::Open { source, .. }) if is_full(&source) => return Ok(()),
        Err(error) => {
            // It never was: what is said now still goes to whoever started this.
            log.file = LogFile::None;
            return Err(error);
        }
        Ok(()) => {}
    }
    log.write(&early);
    Ok(())
}

/// Is standard error the log's now, and no longer that of whoever started the daemon?
pub(super) fn has_file() -> bool {
    matches!(log().file, LogFile::Open(_) | LogFile::Closed(_))
}

/// Opens the file again: somebody has renamed it, and wants the next lines in a new one.
pub(super) fn open_again() {
    let mut log = log();
    if let LogFile::Open(path) = &log.file {
        log.file = LogFile::Closed(path.clone());
    }
}

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line; the subscriber writes it at once.
#[derive(Debug)]
struct Entry;

impl Write for Entry {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        log().take(&printed(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn printed(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let short = shortened(text.trim_end(), LINE_BYTES);
    format!("{}\n", printable_lines(&short)).into_bytes()
}

impl Log {
    fn take(&mut self, line: &[u8]) {
        if let LogFile::Undecided(early) = &mut self.file
            && early.len() + line.len() <= EARLY_BYTES
        {
            early.extend(line);
        }
        if self.open().is_err() {
            self.dropped += 1;
        } else if self.dropped == 0 {
            self.write(line);
        } else {
            let word = format!("{} log lines were dropped: nobody took them\n", self.dropped);
            self.write(&[word.as_bytes(), line].concat());
        }
    }

    fn write(&mut self, lines: &[u8]) {
        let patience = if self.dropped > 0 { 0 } else { PATIENCE_MS };
        let written = lines
            .chunks(PIPE_BYTES)
            .all(|bytes| is_ready(patience) && standard_error().write_all(bytes).is_ok());
        self.dropped = if written { 0 } else { self.dropped + 1 };
    }

    /// Puts the file where standard output and standard error are, so that a last word of the runtime gets there too.
    fn open(&mut self) -> Result<(), Error> {
        let LogFile::Closed(path) = &self.file else {
            return Ok(());
        };
        let file = open(path)?;
        for place in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: both are open, and nobody owns the numbers 1 and 2.
            unsafe { libc::dup2(file.as_raw_fd(), place) };
        }
        self.file = LogFile::Open(path.clone());
        Ok(())
    }
}

/// Does standard error take [`PIPE_BYTES`] without a wait? A file always does.
fn is_ready(patience_ms: libc::c_int) -> bool {
    let mut error = libc::pollfd {
        fd: libc::STDERR_FILENO,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one entry, which outlives the call.
    unsafe { libc::poll(&mut error, 1, patience_ms) == 1 }
}

/// A link is not followed: it may be somebody else's, and lead anywhere.
fn open(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let failed = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let odd = |found| Error::Odd {
        path: path.to_owned(),
        found,
    };
    let file = match opened {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(odd("a symbolic link")),
        opened => opened.map_err(failed)?,
    };
    let found = file.metadata().map_err(failed)?;
    match found.file_type() {
        kind if kind.is_char_device() => Ok(file),
        kind if !kind.is_file() => Err(odd("no file")),
        _ if found.nlink() > 1 => Err(odd("a file with several names")),
        _ => Ok(file),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Not the standard library's, whose lock a blocked writer would hold against a panic's message.
fn standard_error() -> ManuallyDrop<File> {
    // SAFETY: the number is used and not closed; the runtime opens it at its start if nobody has.
    ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDERR_FILENO) })
}
