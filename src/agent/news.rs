//! What was done and is not in the table of the database yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde_json::Value;

use crate::archive::turns::Job;
use crate::server::Event;

/// Events that are kept until they are written; then the oldest go.
const MOST: usize = 1000;

/// News, if somebody wants any.
#[derive(Debug, Default)]
pub struct News {
    is_wanted: bool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    archived: Option<Archived>,
}

/// WAL files that were archived, together.
#[derive(Debug)]
struct Archived {
    files: u64,
    first: String,
    last: String,
    start: Timestamp,
    finish: Timestamp,
    bytes: u64,
}

impl Archived {
    fn into_event(self) -> Event {
        let subject = match self.files {
            1 => self.last,
            files => format!("{files} files, {} to {}", self.first, self.last),
        };
        Event {
            operation: "wal-push",
            subject,
            start: self.start,
            finish: self.finish,
            bytes: Some(self.bytes),
        }
    }
}

impl News {
    /// None yet. `is_wanted`: somebody will take them.
    pub fn new(is_wanted: bool) -> Self {
        Self {
            is_wanted,
            ..Self::default()
        }
    }

    /// A job was done.
    pub(super) fn done(&self, job: Job, (start, finish): (Timestamp, Timestamp), report: Option<&Value>) {
        if !self.is_wanted {
            return;
        }
        let number = |path: &str| report.and_then(|report| report.pointer(path)?.as_u64());
        let bytes = match job {
            Job::Backup | Job::Dump | Job::Files => number("/stored_bytes"),
            Job::Verify => number("/read/bytes"),
            Job::Copy => number("/copied/bytes"),
            Job::Prune => {
                let wal = number("/removed/wal_bytes");
                number("/removed/backup_bytes").map(|bytes| bytes.saturating_add(wal.unwrap_or(0)))
            }
        };
        let name = report.and_then(|report| report.get("name")?.as_str());
        let mut kept = self.kept();
        if kept.events.len() == MOST {
            kept.events.pop_front();
        }
        kept.events.push_back(Event {
            operation: job.name(),
            subject: name.unwrap_or_default().to_owned(),
            start,
            finish,
            bytes,
        });
    }

    /// A WAL file was archived.
    pub(crate) fn archived(&self, name: String, bytes: u64, start: Timestamp) {
        if !self.is_wanted {
            return;
        }
        let mut kept = self.kept();
        let archived = kept.archived.get_or_insert(Archived {
            files: 0,
            first: name.clone(),
            last: String::new(),
            start,
            finish: start,
            bytes: 0,
        });
        archived.files += 1;
        archived.last = name;
        archived.finish = Timestamp::now();
        archived.bytes = archived.bytes.saturating_add(bytes);
    }

    /// What is to be written now: nothing, if there is no more than one file that was archived. The last batch may have made that one.
    pub(super) fn take(&self) -> Vec<Event> {
        let mut kept = self.kept();
        if kept.events.is_empty() && kept.archived.as_ref().is_none_or(|archived| archived.files < 2) {
            return vec![];
        }
        let archived = kept.archived.take().map(Archived::into_event);
        kept.events.drain(..).chain(archived).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_archived_file_is_no_news_by_itself() {
        let now = Timestamp::now();
        let news = News::new(true);
        news.archived("1".into(), 16, now);
        assert_eq!(news.take(), []);
        news.archived("2".into(), 16, now);
        let taken = news.take();
        assert_eq!(
            (taken.len(), &*taken[0].subject, taken[0].bytes),
            (1, "2 files, 1 to 2", Some(32))
        );
        news.archived("3".into(), 16, now);
        news.done(Job::Verify, (now, now), None);
        let operations: Vec<_> = news.take().iter().map(|event| event.operation).collect();
        assert_eq!(operations, ["verify", "wal-push"]);
        assert_eq!(news.take(), []);
        for _ in 0..=MOST {
            news.done(Job::Verify, (now, now), None);
        }
        assert_eq!(news.take().len(), MOST);
        let unwanted = News::default();
        unwanted.done(Job::Verify, (now, now), None);
        assert_eq!(unwanted.take(), []);
    }
}
