//! Patience: attempts of one request, repeated with jitter inside one total deadline.
//!
//! Only what may go away by itself is repeated: `Transient`, and `Damaged` a few times (a bad cable differs from a bad
//! object). Who waits for ever waits for an answer about the object, and for nothing less. Every attempt is bounded too, so that a connection into a black hole is given up for a new one while there
//! is time left. What an abandoned attempt did is unknown: it may have written.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{Error, ErrorKind, Patience};

/// Every length of time of the policy, together so that tests can shrink them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Upper bound of the first pause; doubles with every failure. Below this much time left nothing new is begun.
    pub(super) first_pause: Duration,
    /// Upper bound of every pause.
    pub(super) longest_pause: Duration,
    /// An attempt gets half of the time left, but this if there is as much.
    pub(super) shortest_attempt: Duration,
    /// What an attempt gets where nothing limits the whole, beside a second for every MiB.
    pub(super) endless_attempt: Duration,
    /// How often a wait without end is reported.
    pub(super) report_every: Duration,
}

impl Pace {
    /// As in production.
    pub(super) const USUAL: Self = Self {
        first_pause: Duration::from_millis(100),
        longest_pause: Duration::from_secs(5),
        shortest_attempt: Duration::from_secs(10),
        endless_attempt: Duration::from_secs(20),
        report_every: Duration::from_secs(10),
    };
}

/// How many attempts bytes that do not fit their checksum get, before they are believed to be stored so.
const DAMAGED_ATTEMPTS: u32 = 3;

/// One request and its attempts so far.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    operation: &'static str,
    target: &'a str,
    deadline: Option<Instant>,
    /// Is a refusal waited on too?
    outlasts_refusals: bool,
    pace: Pace,
    began: Instant,
    attempts: u32,
    time_outs: u32,
    reported: Option<Instant>,
}

impl<'a> Wait<'a> {
    pub(super) fn new(operation: &'static str, target: &'a str, patience: Patience, pace: Pace) -> Self {
        let deadline = match patience {
            Patience::Until(instant) => Some(Instant::from_std(instant)),
            Patience::Forever | Patience::WhileAway => None,
        };
        let began = Instant::now();
        Self {
            operation,
            target,
            deadline,
            outlasts_refusals: matches!(patience, Patience::Forever),
            pace,
            began,
            attempts: 0,
            time_outs: 0,
            reported: None,
        }
    }

    pub(super) async fn run<T, F>(mut self, bytes: u64, mut attempt: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if self.left() == Some(Duration::ZERO) {
            return Err(self.error("its time was over before it began"));
        }
        loop {
            let allowance = self.allowance(bytes);
            self.attempts += 1;
            let error = match timeout(allowance, attempt()).await {
                Ok(Ok(value)) => return Ok(self.answered(value)),
                Ok(Err(error)) if !self.is_worth_repeating(&error) => return Err(self.answered(error)),
                Ok(Err(error)) => error,
                Err(_) => self.timed_out(allowance),
            };
            self.report(&error);
            match self.pause() {
                Some(pause) => sleep(pause).await,
                None => return Err(self.given_up(error)),
            }
        }
    }

    fn left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// How long the next attempt may take. Without a deadline it grows with every time-out: a slow line must arrive
    /// some day.
    fn allowance(&self, bytes: u64) -> Duration {
        match self.left() {
            Some(left) => left.min((left / 2).max(self.pace.shortest_attempt)),
            None => {
                (self.pace.endless_attempt + Duration::from_secs(bytes >> 20)) * (1 << self.time_outs.min(5))
            }
        }
    }

    fn is_worth_repeating(&self, error: &Error) -> bool {
        match error.kind {
            ErrorKind::NotFound | ErrorKind::AlreadyExists => false,
            ErrorKind::Transient => true,
            ErrorKind::Damaged => self.attempts < DAMAGED_ATTEMPTS,
            // Somebody can mend a lapsed key or a lost bucket; who waits for ever waits for that too, because any
            // error would be taken for the end of the WAL (promise R1). A person can mend it and start again.
            ErrorKind::Denied | ErrorKind::ReadOnly | ErrorKind::Full | ErrorKind::Permanent => {
                self.outlasts_refusals
            }
        }
    }

    /// Full jitter, so that many clients that failed together do not come back together. `None`: no time is left.
    fn pause(&self) -> Option<Duration> {
        let doubled = self
            .pace
            .first_pause
            .saturating_mul(1 << (self.attempts - 1).min(16));
        let pause = doubled.min(self.pace.longest_pause).mul_f64(fastrand::f64());
        match self.left() {
            Some(left) if left < self.pace.first_pause => None,
            Some(left) => Some(pause.min(left / 2)),
            None => Some(pause),
        }
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Transient, self.operation, self.target, message)
    }

    fn timed_out(&mut self, allowance: Duration) -> Error {
        self.time_outs += 1;
        self.error(format!("no answer within {:.1} s", allowance.as_secs_f64()))
    }

    fn given_up(&self, mut error: Error) -> Error {
        let seconds = self.began.elapsed().as_secs_f64();
        let _ = write!(
            error.message,
            " (gave up after {seconds:.1} s and {} attempts)",
            self.attempts
        );
        error
    }

    /// Says once, then at most every ten seconds, what is being waited for. A wait with a deadline is short and ends
    /// in an error that says as much.
    fn report(&mut self, error: &Error) {
        if self.deadline.is_some() {
            tracing::debug!(attempt = self.attempts, "{error}");
            return;
        }
        let due = self
            .reported
            .is_none_or(|last| last.elapsed() >= self.pace.report_every);
        if due {
            let seconds = self.began.elapsed().as_secs();
            tracing::warn!(
                attempts = self.attempts,
                waiting_seconds = seconds,
                "waiting for the store: {error}"
            );
            self.reported = Some(Instant::now());
        }
    }

    fn answered<T>(&self, answer: T) -> T {
        if self.reported.is_some() {
            tracing::info!(
                "the store answers again after {} s: {}",
                self.began.elapsed().as_secs(),
                self.target
            );
        }
        answer
    }
}

#[cfg(test)]
mod tests;
