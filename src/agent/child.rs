//! A job as a process: the command, what it says, how it ended.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::linux::child::{end, ends_with_us, last_words};

/// Bytes of a report that are kept.
const MOST_REPORT_BYTES: u64 = 16 << 20;

/// How long a job may take to end once it is told to; a backup leaves backup mode and deletes what it has stored.
const ENDING: Duration = Duration::from_secs(80);

/// The program that does the jobs: this one.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
}

/// How a job has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; `None` if a signal has ended it.
    pub(crate) code: Option<i32>,
    /// What it printed, as JSON.
    pub(crate) report: Option<Value>,
    /// The last of what it said.
    pub(crate) words: String,
}

impl Program {
    /// Runs a command of it to its end; tells it to end when `stop` says so.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) async fn run(
        &self,
        name: &'static str,
        arguments: &[OsString],
        stop: &mut watch::Receiver<bool>,
    ) -> std::io::Result<Ended> {
        let mut command = Command::new(&self.path);
        // A new archive is made by the agent, if it is told to; not by a job that has the wrong name of one.
        command.arg(name).args(arguments).env_remove("WALFS_CREATE");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        ends_with_us(&mut command);
        let mut child = command.spawn()?;
        let report = child.stdout.take().expect("it is piped");
        let words = child.stderr.take().expect("it is piped");
        let report = tokio::spawn(async move {
            let mut text = Vec::new();
            let mut rest = report.take(MOST_REPORT_BYTES);
            let _ = rest.read_to_end(&mut text).await;
            // What is more must not keep it waiting.
            let _ = tokio::io::copy(rest.get_mut(), &mut tokio::io::sink()).await;
            serde_json::from_slice(&text).ok()
        });
        let words = tokio::spawn(last_words(name, BufReader::new(words)));
        let status = wait(&mut child, stop).await?;
        Ok(Ended {
            code: status.code(),
            report: report.await.ok().flatten(),
            words: words.await.unwrap_or_default(),
        })
    }
}

/// Waits for its end; once `stop` says so, tells it to end, and does not wait for ever.
pub(super) async fn wait(
    child: &mut Child,
    stop: &mut watch::Receiver<bool>,
) -> std::io::Result<std::process::ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        _ = stop.wait_for(|stopped| *stopped) => {}
    }
    end(child, ENDING).await
}
