//! Writes news into a table of the database, in batches. Nothing waits for it: what cannot be written is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::state::State;
use crate::server::{self, Event, Noted, Resolved, Session};

/// However often it is wanted: no more than once in this time.
const LEAST: Duration = Duration::from_secs(1);

/// How long a batch may take, connection included.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes so often until `stop` says so.
pub async fn keep_table(
    state: Arc<State>,
    (server, every): (Resolved, Duration),
    mut stop: watch::Receiver<bool>,
) {
    let mut told = None;
    while !*stop.borrow() {
        let _ = tokio::time::timeout(every.max(LEAST), stop.wait_for(|stopped| *stopped)).await;
        let events = state.news.take();
        if events.is_empty() {
            continue;
        }
        let written = tokio::select! {
            written = tokio::time::timeout(PATIENCE, write(&server, &events)) => written,
            _ = stop.wait_for(|stopped| *stopped) => return,
        };
        let wrong = wrong(written);
        // Again and again the same would fill the log.
        if let Some(wrong) = wrong.as_ref().filter(|wrong| told.as_ref() != Some(*wrong)) {
            tracing::warn!("{} rows are not written to walfs.metrics: {wrong}", events.len());
        }
        told = wrong;
    }
}

async fn write(server: &Resolved, events: &[Event]) -> Result<Noted, server::Error> {
    Session::open(server).await?.note(events).await
}

/// Why a batch was not written. On a standby none is to be.
fn wrong(written: Result<Result<Noted, server::Error>, tokio::time::error::Elapsed>) -> Option<String> {
    match written {
        Ok(Ok(Noted::Yes | Noted::Standby)) => None,
        Ok(Ok(Noted::Foreign)) => Some(
            "the schema walfs or the table belongs to another role, or the table is none that walfs has made. HINT: drop it, or \
             connect as its owner"
                .to_owned(),
        ),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("not done within {} s", PATIENCE.as_secs())),
    }
}
