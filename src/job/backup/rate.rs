//! Not more than so many bytes a second from the server's disk, by all threads together.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A bucket that fills at the rate, and holds a tenth of a second.
#[derive(Debug)]
pub(in crate::job) struct Rate {
    bytes_per_second: u64,
    /// When what has been promised so far will have been filled in.
    paid_until: Mutex<Instant>,
}

/// How much may come at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Rate {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// How long to wait before reading so many bytes.
    pub(super) fn wait_for(&self, bytes: u64, now: Instant) -> Duration {
        let mut paid_until = self.paid_until.lock().expect("no panic while held");
        let begin = now
            .checked_sub(BURST)
            .map_or(*paid_until, |earliest| earliest.max(*paid_until));
        *paid_until = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        paid_until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cost_their_time_and_a_pause_saves_a_little() {
        let rate = Rate::new(1000);
        let now = Instant::now() + Duration::from_secs(10);
        assert_eq!(rate.wait_for(1100, now), Duration::from_secs(1));
        assert_eq!(rate.wait_for(500, now), Duration::from_millis(1500));
        let later = now + Duration::from_secs(60);
        assert_eq!(rate.wait_for(50, later), Duration::ZERO);
        assert_eq!(rate.wait_for(1050, later), Duration::from_secs(1));
    }
}
