//! Going into the background, and telling those who wait there that walfs is ready: the parent of `--daemon`, systemd.
//!
//! `--daemon` does not fork: a fork of a process with threads is a process with locks that nobody will ever open. The
//! parent starts walfs again with the same arguments, in a session of its own, and waits on a pipe until that one says
//! that it is ready, says why it is not, or dies. The child finds the pipe's number in `WALFS_READY_FD`.
//!
//! The child keeps the parent's working directory, so that relative paths still mean the same.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use sd_notify::NotifyState;

const READY_FD: &str = "WALFS_READY_FD";

/// What the child's message begins with if all is well; the rest of the line is for the person who started it. Anything
/// else is the reason why not.
const READY: &str = "ready";

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The child could not be started.
    #[error("cannot start walfs in the background: {source}")]
    Start {
        /// What the system said.
        source: io::Error,
    },
    /// The child said why it cannot serve.
    #[error("{text}")]
    Failed {
        /// The child's own sentence.
        text: String,
        /// What the child ended with, for this process to end with; never 0.
        exit_code: u8,
    },
    /// The child ended without a word.
    #[error(
        "walfs ended in the background before it was ready ({status}). HINT: {}",
        look_where(log)
    )]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// Where it may have said why.
        log: Option<PathBuf>,
        /// For this process to end with: the child's own, or 128 and the number of the signal that ended it.
        exit_code: u8,
    },
}

impl Error {
    /// What this process should end with; never 0.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { exit_code, .. } | Self::Died { exit_code, .. } => *exit_code,
            Self::Start { .. } => 1,
        }
    }
}

fn look_where(log: &Option<PathBuf>) -> String {
    match log {
        Some(path) => format!("its last words are in {path:?}"),
        None => "start it without --daemon, or with a log file, to see why".into(),
    }
}

/// The parent's part: starts this program again with the same arguments, in the background, and waits until it is
/// ready, with a word of it for whoever started it. Its standard error is this process's until it puts `log` there.
///
/// # Errors
/// [`Error::Start`], [`Error::Failed`], [`Error::Died`].
pub fn start(log: Option<&Path>) -> Result<Option<String>, Error> {
    let program = env::current_exe().map_err(|source| Error::Start { source })?;
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1));
    run(command, log)
}

fn run(mut command: Command, log: Option<&Path>) -> Result<Option<String>, Error> {
    let (reader, writer) = io::pipe().map_err(|source| Error::Start { source })?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    in_background(&mut command, &writer);
    let mut child = command.spawn().map_err(|source| Error::Start { source })?;
    // Else the pipe would not end when the child does.
    drop(writer);
    match wait(reader) {
        Ok(text) if text.starts_with(READY) => {
            let word = text[READY.len()..].trim();
            Ok((!word.is_empty()).then(|| word.to_owned()))
        }
        said => {
            let status = child.wait().map_err(|source| Error::Start { source })?;
            Err(judge(&said.unwrap_or_default(), status, log))
        }
    }
}

/// A session of its own, out of reach of the terminal's signals, and the pipe under its number.
fn in_background(command: &mut Command, writer: &PipeWriter) {
    let number = writer.as_raw_fd();
    command.env(READY_FD, number.to_string());
    // SAFETY: between fork and exec only setsid and fcntl are called, which are async-signal-safe; the pipe is open.
    unsafe {
        command.pre_exec(
            move || match libc::setsid() | libc::fcntl(number, libc::F_SETFD, 0) {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            },
        )
    };
}

/// Until the child is ready or has closed its end.
fn wait(reader: PipeReader) -> io::Result<String> {
    let mut reader = BufReader::new(reader);
    let mut text = Vec::new();
    reader.read_until(b'\n', &mut text)?;
    // Not to the end: what the child has started might still hold the pipe.
    if !text.starts_with(READY.as_bytes()) {
        reader.read_to_end(&mut text)?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn judge(said: &str, status: ExitStatus, log: Option<&Path>) -> Error {
    let code = status
        .code()
        .or(status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    let exit_code = u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(1);
    match said.trim() {
        "" => Error::Died {
            status,
            log: log.map(Path::to_owned),
            exit_code,
        },
        text => Error::Failed {
            text: text.to_owned(),
            exit_code,
        },
    }
}

/// The child's end of the pipe to the parent that waits. Dropped without a word, it tells the parent that the child
/// has died.
#[derive(Debug)]
pub struct Ready {
    pipe: PipeWriter,
}

impl Ready {
    /// The pipe, if this process was started by [`start`] in another. To be asked once, before anything is opened.
    pub fn from_env() -> Option<Self> {
        // SAFETY: getsid of oneself cannot fail. A program that walfs starts inherits the variable, but not the pipe,
        // and does not lead a session: it must not take what has the number there.
        let leads_session = unsafe { libc::getsid(0) } == std::process::id().cast_signed();
        let number = env::var(READY_FD).ok()?.parse().ok().filter(|_| leads_session)?;
        adopt(number)
    }

    /// Tells the parent that walfs serves: its command line ends with exit code 0, and says `word`, a line, if there is one.
    ///
    /// A parent that is gone is no error: then nobody waits.
    pub fn ready(self, word: Option<&str>) {
        self.say(&format!("{READY} {}\n", word.unwrap_or_default()));
    }

    /// Tells the parent, which prints it, why walfs cannot serve. The parent then waits for this process to end.
    pub fn failed(self, text: &str) {
        self.say(text);
    }

    fn say(mut self, text: &str) {
        if let Err(error) = self.pipe.write_all(text.as_bytes()) {
            tracing::debug!(%error, "nobody waits for this daemon");
        }
    }
}

fn adopt(number: RawFd) -> Option<Ready> {
    // SAFETY: sets a flag of whatever has this number; an unused number gives EBADF.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return None;
    }
    // SAFETY: it is open, and the variable says that it was opened for us.
    let file = unsafe { File::from_raw_fd(number) };
    if !file.metadata().is_ok_and(|found| found.file_type().is_fifo()) {
        // Somebody else's after all: not ours to close.
        std::mem::forget(file);
        return None;
    }
    Some(Ready {
        pipe: std::os::fd::OwnedFd::from(file).into(),
    })
}

/// Tells systemd (`Type=notify`) that the mount answers. Without systemd: nothing.
pub fn notify_ready() {
    notify(NotifyState::Ready);
}

/// Tells systemd that walfs finishes what is in flight and ends.
pub fn notify_stopping() {
    notify(NotifyState::Stopping);
}

/// Tells systemd for as long as this process `is_well`, if it wants to know.
pub async fn keep_watchdog_fed(mut is_well: impl AsyncFnMut() -> bool) {
    let interval = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
    let Some(interval) = interval else { return };
    // Twice in the time allowed: once would be a race with systemd's own timer.
    let mut tick = tokio::time::interval(interval / 2);
    loop {
        tick.tick().await;
        if is_well().await {
            notify(NotifyState::Watchdog);
        }
    }
}

/// A supervisor that does not listen is no reason to stop serving.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "cannot tell systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a shell where walfs would start itself.
    fn daemon(script: &str, log: Option<&Path>) -> Result<Option<String>, Error> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        run(command, log)
    }

    /// What a child does to say something. By its path: some shells know no descriptor above 9.
    fn says(text: &str) -> String {
        format!("printf '{text}' > /proc/self/fd/$WALFS_READY_FD")
    }

    #[test]
    fn parent_returns_while_the_child_goes_on() {
        let place = tempfile::tempdir().unwrap();
        let (go, done) = (place.path().join("go"), place.path().join("done"));
        assert!(
            Command::new("mkfifo")
                .args([&go, &done])
                .status()
                .unwrap()
                .success()
        );
        let script = format!(
            "{}; cat '{}' > '{}'",
            says("ready\\n"),
            go.display(),
            done.display()
        );
        daemon(&script, None).unwrap();
        // The child still waits for us. Written from a thread, as the child opens both pipes in an order of its own.
        let writer = std::thread::spawn(move || std::fs::write(go, "still here"));
        assert_eq!(std::fs::read_to_string(done).unwrap(), "still here");
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn reason_and_exit_code_are_handed_on() {
        let error = daemon(&format!("{}; exit 7", says("no such bucket")), None).unwrap_err();
        assert_eq!(error.to_string(), "no such bucket");
        assert_eq!(error.exit_code(), 7);
    }

    #[test]
    fn reason_with_exit_code_0_is_still_a_failure() {
        let error = daemon(&says("no such bucket"), None).unwrap_err();
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn silent_death_is_a_failure() {
        let error = daemon("exit 3", None).unwrap_err();
        assert!(matches!(error, Error::Died { exit_code: 3, .. }), "{error}");
        let error = daemon("kill -9 $$", Some(Path::new("/dev/null"))).unwrap_err();
        assert!(matches!(error, Error::Died { exit_code: 137, .. }), "{error}");
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }

    #[test]
    fn child_leads_a_session_and_reads_nothing() {
        let script = format!(
            "read line && exit 8; test $(cut -d' ' -f6 /proc/$$/stat) = $$ && {}",
            says("ready\\n")
        );
        daemon(&script, None).unwrap();
    }

    #[test]
    fn pipe_is_adopted_and_other_files_are_not() {
        let (mut reader, writer) = io::pipe().unwrap();
        let number = writer.as_raw_fd();
        std::mem::forget(writer);
        adopt(number).unwrap().ready(Some("a word"));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ready a word\n");
        let file = File::open("/dev/null").unwrap();
        assert!(adopt(file.as_raw_fd()).is_none());
        assert!(file.metadata().is_ok());
    }

    #[test]
    fn nobody_waits_for_a_process_that_was_not_started_as_a_daemon() {
        assert!(Ready::from_env().is_none());
    }

    /// Not a test but the parent, and then the child, of the next one.
    #[test]
    #[ignore = "the processes that started_again starts"]
    #[allow(clippy::print_stdout, reason = "answers the test")]
    fn background_process() {
        let Ok(end) = env::var("WALFS_TEST_DAEMON") else {
            return;
        };
        match (Ready::from_env(), end.as_str()) {
            (None, _) => match start(None) {
                Ok(_) => println!("daemon: serves"),
                Err(error) => println!("daemon: {} {error}", error.exit_code()),
            },
            (Some(ready), "ready") => ready.ready(None),
            (Some(ready), "failed") => {
                ready.failed("no such bucket");
                std::process::exit(9);
            }
            (Some(_), _) => std::process::exit(5),
        }
    }

    #[test]
    fn started_again() {
        for (end, expected) in [
            ("ready", "daemon: serves\n"),
            ("failed", "daemon: 9 no such bucket\n"),
            (
                "died",
                "daemon: 5 walfs ended in the background before it was ready",
            ),
        ] {
            let mut parent = Command::new(env::current_exe().unwrap());
            parent.args([
                "--exact",
                "linux::daemon::tests::background_process",
                "--ignored",
                "--nocapture",
            ]);
            let output = parent.env("WALFS_TEST_DAEMON", end).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.contains(expected), "{end}: {said}");
        }
    }
}
