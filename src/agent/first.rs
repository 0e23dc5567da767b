//! What is done when an agent starts, before its schedule: a backup is restored, or one is taken.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;

use super::child::Program;
use crate::beneath::Root;
use crate::job::restore::{Found, look_at};

/// How long a server may take to start, until a backup of it is tried all the same.
const STARTING: Duration = Duration::from_secs(600);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_secs(1);

/// No `postmaster.pid` is longer, in bytes.
const LONGEST_PID_FILE: u64 = 1 << 16;

/// A backup that is restored where nothing is.
#[derive(Debug)]
pub struct RestoreFirst {
    /// The data directory.
    pub directory: PathBuf,
    /// What `walfs restore` is told.
    pub arguments: Vec<OsString>,
    /// Does the server archive then?
    pub takes_over: bool,
}

impl RestoreFirst {
    /// Restores, unless there is a cluster.
    ///
    /// # Errors
    /// Why nothing, or not all, is restored: what `walfs restore` said. Then no server may start.
    pub async fn run(&self, program: &Program, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let directory = self.directory.display();
        match look_at(&self.directory).map_err(|error| error.to_string())? {
            Found::Cluster => {
                tracing::info!("{directory} holds a cluster: nothing is restored, and it goes on as it is");
                return Ok(());
            }
            // `walfs restore` refuses what it must not write over.
            Found::Free | Found::Others => {}
        }
        tracing::info!("restore: begins, to {directory}");
        let ended = program.run("restore", &self.arguments, &mut stop).await;
        let ended = ended.map_err(|error| format!("cannot start `walfs restore`: {error}"))?;
        match ended.code {
            Some(0) => {
                tell(&ended.report.unwrap_or_default());
                if !self.takes_over {
                    tracing::warn!(
                        "the restored server archives nothing, unless its command line says archive_mode=on: the one that was \
                         backed up may live. HINT: if that is gone, restore-take-over = true before the restore; or, in the \
                         server, ALTER SYSTEM SET archive_mode = 'on', and a restart"
                    );
                }
                Ok(())
            }
            _ => {
                let words = ended.words;
                Err(format!(
                    "{directory} is not restored, and no server is let through. {words}"
                ))
            }
        }
    }
}

/// What was restored, and what became of settings.
fn tell(report: &Value) {
    let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
    tracing::info!(
        "restore: done: {}, for a recovery to {}",
        text("backup"),
        text("target")
    );
    for (name, what) in [
        ("settings_set_aside", "set aside"),
        ("settings_put_back", "put back"),
    ] {
        let told = report[name].as_array().into_iter().flatten();
        told.filter_map(Value::as_str)
            .for_each(|told| tracing::info!("restore: {what}: {told}"));
    }
}

/// A backup that is due when the agent starts, whatever the schedule says.
#[derive(Debug, Clone)]
pub struct BackupFirst {
    /// When it is due, in whole seconds.
    pub due: Timestamp,
    /// The server's data directory, if it is known: there it is seen when the server can be asked.
    pub pgdata: Option<PathBuf>,
}

impl BackupFirst {
    /// Waits until the server has started; not for ever.
    pub(super) async fn server_is_there(&self, stop: &mut watch::Receiver<bool>) {
        let Some(pgdata) = &self.pgdata else { return };
        let looking = async {
            while !is_ready(pgdata) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(STARTING, looking) => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }
}

/// Does a server there say that it takes connections? (`LOCK_FILE_LINE_PM_STATUS` of miscadmin.h, the eighth line.)
fn is_ready(pgdata: &Path) -> bool {
    let read = Root::open(pgdata).and_then(|root| root.read(Path::new("postmaster.pid"), LONGEST_PID_FILE));
    let text = read.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let status = text.lines().nth(7).map(str::trim);
    matches!(status, Some("ready" | "standby"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_starts_is_not_asked_yet() {
        let place = tempfile::tempdir().unwrap();
        let says = |text: &str| {
            std::fs::write(place.path().join("postmaster.pid"), text).unwrap();
            is_ready(place.path())
        };
        assert!(!is_ready(place.path()));
        assert!(says("7\n/d\n1\n5432\n/run\n*\n 1 2\nready   \n"));
        assert!(says("7\n/d\n1\n5432\n\n\n\nstandby \n"));
        assert!(!says("7\n/d\n1\n5432\n/run\n*\n 1 2\nstarting\n"));
        assert!(!says("7\n/d\n") && !says("") && !says("ready\n"));
    }
}
