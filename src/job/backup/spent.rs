//! What taking a backup took: bytes, requests, and for what the threads that pack have waited.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

/// For what the threads that pack have waited, all together.
#[derive(Debug, Default)]
pub(in crate::job) struct Spent {
    /// All their time, in nanoseconds as all here.
    all: AtomicU64,
    disk: AtomicU64,
    /// Of `disk`: for the rate limit.
    pub(super) rate: Clock,
    store: AtomicU64,
}

/// A sum of times.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn add(&self, time: Duration) {
        add(&self.0, time);
    }
}

fn add(sum: &AtomicU64, time: Duration) {
    sum.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
}

fn timed<T>(sum: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    add(sum, began.elapsed());
    done
}

impl Spent {
    /// All that a thread does.
    pub(super) fn all<T>(&self, work: impl FnOnce() -> T) -> T {
        timed(&self.all, work)
    }

    /// A wait for bytes of the data directory.
    pub(super) fn on_disk<T>(&self, wait: impl FnOnce() -> T) -> T {
        timed(&self.disk, wait)
    }

    /// A wait for the store, or for memory, which the store gives back.
    pub(super) fn on_store<T>(&self, wait: impl FnOnce() -> T) -> T {
        timed(&self.store, wait)
    }

    /// As parts of the time that copying took, `last` of which was for the last parts to be stored.
    pub(super) fn held_up(&self, copied: Duration, last: Duration) -> Waits {
        let seconds = |sum: &AtomicU64| sum.load(Relaxed) as f64 / 1e9;
        let all = seconds(&self.all).max(f64::MIN_POSITIVE);
        let share = |waited: f64| copied.as_secs_f64() * (waited / all).min(1.0);
        let (disk, store) = (seconds(&self.disk), seconds(&self.store));
        let rate = seconds(&self.rate.0).min(disk);
        Waits {
            store_seconds: share(store) + last.as_secs_f64(),
            disk_seconds: share(disk - rate),
            rate_limit_seconds: share(rate),
            cpu_seconds: share((all - disk - store).max(0.0)),
        }
    }
}

/// For what copying has waited, in seconds of its time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Waits {
    /// For the store.
    pub store_seconds: f64,
    /// For the data directory.
    pub disk_seconds: f64,
    /// For the rate limit.
    pub rate_limit_seconds: f64,
    /// For nothing: it has compared, packed and hashed.
    pub cpu_seconds: f64,
}

impl Waits {
    /// What most of the time went to, for people.
    pub fn most(&self) -> &'static str {
        let all = [
            (self.store_seconds, "the store"),
            (self.disk_seconds, "the disk"),
            (self.rate_limit_seconds, "the rate limit"),
            (self.cpu_seconds, "the CPU"),
        ];
        let most = all.into_iter().max_by(|left, right| left.0.total_cmp(&right.0));
        most.map_or("nothing", |(_, most)| most)
    }
}

/// What a backup took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Work {
    /// Bytes of files that were read.
    pub read_bytes: u64,
    /// Of these, bytes that no earlier backup has.
    pub changed_bytes: u64,
    /// Requests to the store.
    pub requests: u64,
    /// From its begin until it was described.
    pub seconds: f64,
    /// For what copying has waited.
    #[serde(flatten)]
    pub waits: Waits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parts_of_the_time_that_copying_took() {
        let spent = Spent::default();
        add(&spent.all, Duration::from_secs(40));
        add(&spent.disk, Duration::from_secs(20));
        spent.rate.add(Duration::from_secs(15));
        add(&spent.store, Duration::from_secs(10));
        let waits = spent.held_up(Duration::from_secs(4), Duration::from_secs(1));
        let expected = Waits {
            store_seconds: 2.0,
            disk_seconds: 0.5,
            rate_limit_seconds: 1.5,
            cpu_seconds: 1.0,
        };
        assert_eq!((waits, waits.most()), (expected, "the store"));
        assert_eq!(
            Spent::default().held_up(Duration::ZERO, Duration::ZERO),
            Waits::default()
        );
    }
}
