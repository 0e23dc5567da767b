//! What happened so far: the counters of all rooms in one list, and the last error, for `mount.json`, for metrics and the
//! log. A pipe out; nothing comes back.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::Archive;
use crate::read::Reader;
use crate::staging::Staging;
use crate::store::Counts;

pub mod exposition;
pub mod file;
pub mod process;

use exposition::Exposition;

/// Something that counts, for who watches.
pub trait Counted: Debug + Send + Sync {
    /// Adds its metrics.
    fn expose(&self, metrics: &mut Exposition);
}

/// What is counted where no room does it itself.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Files archived by an upload.
    pub archived_files: AtomicU64,
    /// Plain bytes of these.
    pub archived_bytes: AtomicU64,
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
    forks: Mutex<Vec<ForkFound>>,
}

/// The counters of all rooms at one moment, by the names that `mount.json` gives them. Each is right by itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Counters {
    archived_files: u64,
    archived_bytes: u64,
    sent_ahead: u64,
    repeated_files: u64,
    failed_files: u64,
    read_bytes: u64,
    /// Verified content in memory, and how often it was there when it was asked for, or was not.
    cached_bytes: u64,
    cache_hits: u64,
    cache_misses: u64,
    /// Stored bytes held of what was fetched ahead.
    ahead_bytes: u64,
    /// Segments that were fetched ahead, and those of them that were there when they were asked for.
    prefetched_segments: u64,
    prefetch_hits: u64,
    /// The total, and what is held of its shares.
    memory_bytes: u64,
    memory_uploads_bytes: u64,
    memory_frames_bytes: u64,
    memory_stored_bytes: u64,
    /// What is being written and did not fit.
    spilled_bytes: u64,
    store_requests: Counts,
}

impl Counters {
    /// The same as metrics, but for the store's, which counts by itself.
    pub fn expose(&self, metrics: &mut Exposition) {
        let counters = [
            (
                "archived_files",
                "Files archived by an upload",
                self.archived_files,
            ),
            (
                "archived_bytes",
                "Bytes of these, before they were compressed",
                self.archived_bytes,
            ),
            (
                "repeated_files",
                "Files brought again with the content already archived",
                self.repeated_files,
            ),
            (
                "failed_files",
                "Files that were brought and refused, or failed",
                self.failed_files,
            ),
            (
                "sent_ahead_segments",
                "Segments uploaded before their copier came",
                self.sent_ahead,
            ),
            ("read_bytes", "Bytes handed to readers, plain", self.read_bytes),
            (
                "prefetched_segments",
                "Segments fetched before a reader came",
                self.prefetched_segments,
            ),
            (
                "prefetch_hits",
                "Of these, how many were there when a reader came",
                self.prefetch_hits,
            ),
            (
                "cache_hits",
                "Pieces that were in memory when they were asked for",
                self.cache_hits,
            ),
            ("cache_misses", "Pieces that were not", self.cache_misses),
        ];
        for (name, help, value) in counters {
            metrics.counter(name, help, value);
        }
        let held = [
            ("uploads", self.memory_uploads_bytes),
            ("frames", self.memory_frames_bytes),
            ("stored", self.memory_stored_bytes),
            ("ahead", self.ahead_bytes),
            ("cache", self.cached_bytes),
        ];
        metrics.gauges(
            ("memory_bytes", "share"),
            "Memory that is held of each share",
            held.map(|(share, bytes)| (share.to_owned(), bytes)),
        );
        metrics.gauge("memory_limit_bytes", "What all shares have", self.memory_bytes);
        metrics.gauge(
            "spilled_bytes",
            "What is being written and is in temporary files",
            self.spilled_bytes,
        );
    }
}

/// The rooms of a process that archives and reads.
#[derive(Debug)]
pub struct Rooms {
    /// What is counted beside them.
    pub metrics: Arc<Metrics>,
    /// The archive.
    pub archive: Arc<Archive>,
    /// What reads it.
    pub reader: Arc<Reader>,
    /// Where what is archived is made.
    pub staging: Staging,
}

impl Counted for Rooms {
    fn expose(&self, metrics: &mut Exposition) {
        let counters = self
            .metrics
            .of_all_rooms(&self.archive, &self.reader, &self.staging);
        counters.expose(metrics);
    }
}

/// Timelines that both go on from one place, as far as this process has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForkFound {
    /// The older one.
    pub parent_timeline: u32,
    /// The one that left it.
    pub child_timeline: u32,
    /// Where.
    pub left_at: String,
    /// An archived segment of the older one that lies behind that.
    pub parent_goes_on_with: String,
}

/// More forks than this are not kept.
const FORKS: usize = 64;

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
    /// These counters and those of the rooms themselves.
    pub fn of_all_rooms(&self, archive: &Archive, reader: &Reader, staging: &Staging) -> Counters {
        let memory = archive.memory();
        let (cache_hits, cache_misses) = reader.cache().hits_and_misses();
        let (prefetched_segments, prefetch_hits) = reader.fetched_ahead_and_hits();
        Counters {
            archived_files: self.archived_files.load(Ordering::Relaxed),
            archived_bytes: self.archived_bytes.load(Ordering::Relaxed),
            sent_ahead: self.sent_ahead.load(Ordering::Relaxed),
            repeated_files: self.repeated_files.load(Ordering::Relaxed),
            failed_files: self.failed_files.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            cached_bytes: reader.cache().bytes(),
            cache_hits,
            cache_misses,
            ahead_bytes: reader.ahead_bytes(),
            prefetched_segments,
            prefetch_hits,
            memory_bytes: memory.total_bytes,
            memory_uploads_bytes: memory.uploads.held_bytes(),
            memory_frames_bytes: memory.frames.held_bytes() + memory.open_frames.held_bytes(),
            memory_stored_bytes: memory.stored.held_bytes(),
            spilled_bytes: staging.spilled_bytes(),
            store_requests: archive.store().counts(),
        }
    }

    /// Notes a file that was brought and is archived, of so many plain bytes; `uploaded`: it was not before.
    pub fn archived(&self, name: String, bytes: u64, uploaded: bool) {
        if uploaded {
            self.archived_files.fetch_add(1, Ordering::Relaxed);
            self.archived_bytes.fetch_add(bytes, Ordering::Relaxed);
        } else {
            self.repeated_files.fetch_add(1, Ordering::Relaxed);
        }
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

    /// Notes a fork; true if it was not known.
    pub fn fork(&self, found: ForkFound) -> bool {
        let mut forks = self.forks.lock().expect("no panic while held");
        let same = |known: &ForkFound| {
            (known.parent_timeline, known.child_timeline) == (found.parent_timeline, found.child_timeline)
        };
        let is_new = !forks.iter().any(same);
        if is_new && forks.len() < FORKS {
            forks.push(found);
        }
        is_new
    }

    /// The forks that were seen.
    pub fn forks(&self) -> Vec<ForkFound> {
        self.forks.lock().expect("no panic while held").clone()
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
