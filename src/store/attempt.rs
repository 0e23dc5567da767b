//! How long an attempt takes, also one that is given up: what hangs must show.

use std::time::Instant;

use super::counts::Counters;
use super::{Error, ErrorKind, Leave};

/// An attempt that is under way. Dropped, it is over.
#[derive(Debug)]
struct Attempt<'a> {
    counters: &'a Counters,
    operation: &'static str,
    began: Instant,
    has_failed: bool,
}

impl<'a> Attempt<'a> {
    fn begin(counters: &'a Counters, operation: &'static str) -> Self {
        Self {
            counters,
            operation,
            began: Instant::now(),
            has_failed: true,
        }
    }

    fn end(mut self, is_answered: bool) {
        self.has_failed = !is_answered;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let seconds = self.began.elapsed().as_secs_f64();
        self.counters.took(self.operation, seconds, self.has_failed);
    }
}

/// What counts as which operation; `None`: what is no request to an object, or asks nobody most of the time.
fn operation_of(name: &str) -> Option<&'static str> {
    Some(match name {
        "put" | "complete upload" => "put",
        "get" => "get",
        "head" => "head",
        "list" | "list uploads" => "list",
        "delete" => "delete",
        "put part" => "part",
        _ => return None,
    })
}

/// Has the store done what it can do? That there is no such object, or one already, is an answer.
fn is_answered<T>(outcome: &Result<T, Error>) -> bool {
    let is_answer = |error: &Error| matches!(error.kind, ErrorKind::NotFound | ErrorKind::AlreadyExists);
    outcome.as_ref().err().is_none_or(is_answer)
}

/// Times an attempt.
pub(super) async fn timed<T>(
    counters: &Counters,
    name: &str,
    attempt: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(operation) = operation_of(name) else {
        return attempt.await;
    };
    let timing = Attempt::begin(counters, operation);
    let outcome = attempt.await;
    timing.end(is_answered(&outcome));
    outcome
}

/// Times a put from the moment at which it has leave: before that it waits for somebody else than the store. One that does not get
/// it is none.
pub(super) async fn timed_since_leave<T>(
    counters: &Counters,
    put: impl Future<Output = Result<T, Error>>,
    leave: Leave,
) -> Result<T, Error> {
    let mut put = std::pin::pin!(put);
    let is_given = tokio::select! {
        biased;
        outcome = put.as_mut() => return outcome,
        is_given = leave.is_given() => is_given,
    };
    match is_given {
        true => timed(counters, "put", put).await,
        false => put.await,
    }
}
