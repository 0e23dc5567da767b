//! What happened so far: counters and the last error, for `status.json` and the log. A pipe out; nothing comes back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;

/// Counters of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Files archived by an upload.
    pub archived_files: AtomicU64,
    /// Segments uploaded before their copier came; they become archived files when it does.
    pub sent_ahead: AtomicU64,
    /// Files brought again with the content already archived.
    pub repeated_files: AtomicU64,
    /// Files refused or failed.
    pub failed_files: AtomicU64,
    /// Plain bytes handed to readers.
    pub read_bytes: AtomicU64,
    last_archived: Mutex<Option<LastFile>>,
    last_error: Mutex<Option<LastError>>,
}

/// The latest archived file.
#[derive(Debug, Clone, Serialize)]
pub struct LastFile {
    /// When.
    pub time: Timestamp,
    /// Its name.
    pub name: String,
}

/// The latest error.
#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    /// When.
    pub time: Timestamp,
    /// What, as in the log.
    pub message: String,
}

impl Metrics {
    /// Notes an archived file.
    pub fn archived(&self, name: String, uploaded: bool) {
        let counter = if uploaded {
            &self.archived_files
        } else {
            &self.repeated_files
        };
        counter.fetch_add(1, Ordering::Relaxed);
        *self.last_archived.lock().expect("no panic while held") = Some(LastFile {
            time: Timestamp::now(),
            name,
        });
    }

    /// Notes an error.
    pub fn error(&self, message: String) {
        *self.last_error.lock().expect("no panic while held") = Some(LastError {
            time: Timestamp::now(),
            message,
        });
    }

    /// The latest archived file.
    pub fn last_archived(&self) -> Option<LastFile> {
        self.last_archived.lock().expect("no panic while held").clone()
    }

    /// The latest error.
    pub fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().expect("no panic while held").clone()
    }
}
