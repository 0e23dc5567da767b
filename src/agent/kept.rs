//! The mount beside the jobs: `walfs mount` as a process, started again when it ends.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::watch;

use super::Options;
use super::child::wait;
use crate::linux::child::ends_with_us;

/// Each second without the mount is one in which archiving fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Keeps the archive mounted until `stop` says so.
pub(super) async fn keep_mounted(
    options: Arc<Options>,
    mountpoint: PathBuf,
    mut stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        // The archive, the mount point and everything else are in the environment.
        let mut command = Command::new(&options.program.path);
        command.arg("mount").stdin(Stdio::null());
        ends_with_us(&mut command);
        let ended = match command.spawn() {
            Ok(mut child) => wait(&mut child, &mut stop).await,
            Err(error) => Err(error),
        };
        if *stop.borrow() {
            return;
        }
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::warn!(
            "the mount on {} has ended ({how}); starting it again",
            mountpoint.display()
        );
        let _ = tokio::time::timeout(PAUSE, stop.wait_for(|stopped| *stopped)).await;
    }
}
