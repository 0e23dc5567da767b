//! Commands of the operator around each job: before it, behind it, when it has failed.

use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use crate::archive::turns::Job;
use crate::linux::child::{MOST_WORDS_BYTES, cut_front, ends_with_us};

/// How long one may take. Then it is killed: a job does not wait for it for ever.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long one may take to end once it is told to.
const ENDING: Duration = Duration::from_secs(5);

/// How long its last words are waited for, when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The commands, for `sh -c`.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    /// Before each try. If it fails, the job is not done, and that is a failed try.
    pub before: Option<String>,
    /// When a job is done.
    pub after: Option<String>,
    /// When a try has failed, or a job has found something.
    pub failed: Option<String>,
}

/// What a hook is told: as JSON on its standard input, and the plain ones as `WALFS_JOB`, `WALFS_DUE`, `WALFS_TRY`,
/// `WALFS_RESULT`, `WALFS_ERROR` in its environment.
#[derive(Debug, Serialize)]
pub(super) struct Facts<'a> {
    pub(super) job: Job,
    pub(super) due: Timestamp,
    #[serde(rename = "try")]
    pub(super) tried: u32,
    /// `begins`, `done`, `trouble` or `failed`.
    pub(super) result: &'static str,
    pub(super) error: Option<&'a str>,
    pub(super) seconds: f64,
    /// What the command has printed with --json.
    pub(super) report: Option<&'a Value>,
}

/// Runs one of them.
///
/// # Errors
/// A sentence.
pub(super) async fn run(
    script: &str,
    facts: &Facts<'_>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).kill_on_drop(true).process_group(0);
    command
        .env("WALFS_JOB", facts.job.name())
        .env("WALFS_DUE", facts.due.to_string())
        .env("WALFS_TRY", facts.tried.to_string())
        .env("WALFS_RESULT", facts.result)
        .env("WALFS_ERROR", plain(facts.error.unwrap_or_default()));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    ends_with_us(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot start it: {error}"))?;
    let group = child.id().and_then(|number| i32::try_from(number).ok());
    let text = serde_json::to_vec(facts).expect("plain data becomes JSON");
    let mut input = child.stdin.take().expect("it is piped");
    let told = tokio::spawn(async move {
        // Who does not read it, does not want to know.
        let _ = input.write_all(&text).await;
    });
    let words = child.stderr.take().expect("it is piped");
    let (send, words_come) = watch::channel(String::new());
    let listening = tokio::spawn(keep_last_words(BufReader::new(words), send));
    let ended = tokio::select! {
        ended = child.wait() => ended.map_err(|error| error.to_string()),
        () = tokio::time::sleep(PATIENCE) => Err(format!("it has not ended within {} s", PATIENCE.as_secs())),
        () = told_to_end(&mut stop) => Err("the agent is to end".to_owned()),
    };
    if ended.is_err()
        && let Some(group) = group
    {
        // SAFETY: a signal to the group of a child that has not been waited for.
        unsafe { libc::kill(-group, libc::SIGTERM) };
        if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
            // SAFETY: as above.
            unsafe { libc::kill(-group, libc::SIGKILL) };
        }
    }
    // What it has left running may hold its standard error for ever.
    let mut listening = listening;
    let _ = tokio::time::timeout(LAST_WORDS, &mut listening).await;
    listening.abort();
    told.abort();
    let words = words_come.borrow().trim().to_owned();
    match ended? {
        status if status.success() => Ok(()),
        status => Err(format!("{status}: {words}")),
    }
}

/// Keeps the end of what is said.
async fn keep_last_words(mut lines: impl AsyncBufRead + Unpin, kept: watch::Sender<String>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut one = (&mut lines).take(MOST_WORDS_BYTES as u64);
        match one.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => kept.send_modify(|kept| {
                kept.push_str(&String::from_utf8_lossy(&line));
                cut_front(kept, MOST_WORDS_BYTES);
            }),
        }
    }
}

/// As an environment takes it: the end of it, without zeros.
fn plain(text: &str) -> String {
    let mut text = text.replace('\0', " ");
    cut_front(&mut text, MOST_WORDS_BYTES);
    text
}

/// Comes a while after the agent is told to end: a hook that tells of a job may do so.
async fn told_to_end(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stopped| *stopped).await;
    tokio::time::sleep(ENDING).await;
}
