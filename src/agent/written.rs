//! The file with metrics, which an agent writes again and again for who reads files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::metrics::file;
use crate::overview::Watched;

/// How often. What reads it does so as often, or less.
const EVERY: Duration = Duration::from_secs(60);

/// Writes it until `stop` says so. It stays then, and grows old.
pub async fn keep_written(watched: Arc<Watched>, path: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut told = None;
    while !*stop.borrow() {
        // With the store away the answer takes its time.
        let text = tokio::select! {
            text = watched.metrics() => text,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || file::write(&to, &text)).await;
        let error = written
            .expect("no panic while it is written")
            .err()
            .map(|error| error.to_string());
        // Again and again the same would fill the log.
        if let Some(error) = error.as_ref().filter(|error| told.as_ref() != Some(*error)) {
            tracing::warn!("the metrics are not written to {}: {error}", path.display());
        }
        told = error;
        let _ = tokio::time::timeout(EVERY, stop.wait_for(|stopped| *stopped)).await;
    }
}
