//! The file that a container makes in the data directory and waits on: the agent removes it, and the server starts.
//!
//! As TimescaleDB's image and its sidecar agree on it. The image makes it whenever it starts and finds nobody who answers, so it is
//! looked for as long as the agent is there. What is not an empty plain file is not that lock, and stays.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::beneath::{Kind, Root};

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Removes the lock whenever it is there, until `stop` says so.
pub async fn let_through(lock: PathBuf, mut stop: watch::Receiver<bool>) {
    let mut told = String::new();
    while !*stop.borrow() {
        let looked = lock.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&looked)).await;
        match removed.expect("looking does not panic") {
            Ok(true) => tracing::info!("{} is removed: the server may start", lock.display()),
            Ok(false) => told.clear(),
            Err(error) if told == error.to_string() => {}
            Err(error) => {
                told = error.to_string();
                tracing::warn!(
                    "{} is left, and a server that waits for it: {error}",
                    lock.display()
                );
            }
        }
        let _ = tokio::time::timeout(LOOK, stop.wait_for(|stopped| *stopped)).await;
    }
}

/// Removes it; `false`: there is none.
fn remove(lock: &Path) -> io::Result<bool> {
    let (Some(above), Some(name)) = (lock.parent(), lock.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (root, name) = match Root::open(above) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => (opened?, Path::new(name)),
    };
    match root.kind(name)? {
        None => Ok(false),
        Some(Kind::File) if root.metadata(name)?.len() == 0 => root.remove_file(name),
        Some(Kind::File) => Err(io::Error::other("something is in it, and such a lock is empty")),
        Some(_) => Err(io::Error::other("it is no plain file")),
    }
}
