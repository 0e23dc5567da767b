//! Commands of the operator around each job: before it, behind it, when it has failed.

use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::child::ends_with_us;
use crate::archive::turns::Job;

/// How long one may take. Then it is killed: a job does not wait for it for ever.
const PATIENCE: Duration = Duration::from_secs(600);

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
pub(super) async fn run(script: &str, facts: &Facts<'_>) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).kill_on_drop(true);
    command
        .env("WALFS_JOB", facts.job.name())
        .env("WALFS_DUE", facts.due.to_string())
        .env("WALFS_TRY", facts.tried.to_string())
        .env("WALFS_RESULT", facts.result)
        .env("WALFS_ERROR", facts.error.unwrap_or_default());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    ends_with_us(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot start it: {error}"))?;
    let text = serde_json::to_vec(facts).expect("plain data becomes JSON");
    let mut input = child.stdin.take().expect("it is piped");
    let told = tokio::spawn(async move {
        // Who does not read it, does not want to know.
        let _ = input.write_all(&text).await;
    });
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    told.abort();
    match ended {
        Err(_) => Err(format!("it has not ended within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {}", output.status, words.trim()))
        }
    }
}
