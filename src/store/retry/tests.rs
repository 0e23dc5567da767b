//! The policy with a scripted attempt and a pace of milliseconds. Nothing asserts how long anything took.

use std::cell::Cell;
use std::future::pending;

use super::*;

const QUICK: Pace = Pace {
    first_pause: Duration::from_millis(2),
    longest_pause: Duration::from_millis(4),
    shortest_attempt: Duration::from_millis(20),
    endless_attempt: Duration::from_millis(20),
    report_every: Duration::from_millis(1),
};

fn wait(patience: Patience) -> Wait<'static> {
    Wait::new("get", "place/x", patience, QUICK)
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "get", "place/x", "the server said no")
}

/// Fails `times` times with `kind`, then succeeds: the outcome, and how many attempts there were.
async fn fail(kind: ErrorKind, times: u32, patience: Patience) -> (Result<u32, Error>, u32) {
    let attempts = Cell::new(0);
    let attempt = || {
        attempts.set(attempts.get() + 1);
        let outcome = if attempts.get() > times {
            Ok(attempts.get())
        } else {
            Err(error(kind))
        };
        async move { outcome }
    };
    (wait(patience).run(0, attempt).await, attempts.get())
}

fn minute() -> Patience {
    Patience::for_at_most(Duration::from_secs(60))
}

#[tokio::test]
async fn what_may_go_away_is_tried_again() {
    assert_eq!(fail(ErrorKind::Transient, 7, minute()).await.0.unwrap(), 8);
    assert_eq!(
        fail(ErrorKind::Transient, 7, Patience::Forever).await.0.unwrap(),
        8
    );
}

#[tokio::test]
async fn an_answer_is_not_asked_for_twice() {
    for kind in [ErrorKind::NotFound, ErrorKind::AlreadyExists] {
        for patience in [minute(), Patience::Forever] {
            let (outcome, attempts) = fail(kind, 9, patience).await;
            assert_eq!((outcome.unwrap_err().kind, attempts), (kind, 1));
        }
    }
}

#[tokio::test]
async fn who_waits_for_ever_also_waits_for_new_credentials_and_a_lost_bucket() {
    for kind in [ErrorKind::Denied, ErrorKind::Full, ErrorKind::Permanent] {
        let (outcome, attempts) = fail(kind, 9, minute()).await;
        assert_eq!((outcome.unwrap_err().kind, attempts), (kind, 1));
        assert_eq!(fail(kind, 3, Patience::Forever).await.0.unwrap(), 4);
    }
}

#[tokio::test]
async fn a_person_waits_for_the_store_and_not_for_permission() {
    for kind in [ErrorKind::Denied, ErrorKind::Full, ErrorKind::Permanent] {
        let (outcome, attempts) = fail(kind, 9, Patience::WhileAway).await;
        assert_eq!((outcome.unwrap_err().kind, attempts), (kind, 1));
    }
    let (outcome, attempts) = fail(ErrorKind::Transient, 7, Patience::WhileAway).await;
    assert_eq!((outcome.is_ok(), attempts), (true, 8));
}

#[tokio::test]
async fn damage_is_believed_the_third_time() {
    assert_eq!(fail(ErrorKind::Damaged, 2, Patience::Forever).await.0.unwrap(), 3);
    let (outcome, attempts) = fail(ErrorKind::Damaged, 9, Patience::Forever).await;
    assert_eq!((outcome.unwrap_err().kind, attempts), (ErrorKind::Damaged, 3));
}

#[tokio::test]
async fn the_last_error_is_told_with_how_long_and_how_often() {
    let (outcome, attempts) = fail(
        ErrorKind::Transient,
        u32::MAX,
        Patience::for_at_most(Duration::from_millis(50)),
    )
    .await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(
        error.message.starts_with("the server said no (gave up after 0."),
        "{error}"
    );
    assert!(
        error.message.ends_with(&format!("and {attempts} attempts)")),
        "{error}"
    );
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_for_another() {
    for patience in [Patience::for_at_most(Duration::from_secs(1)), Patience::Forever] {
        let attempts = Cell::new(0);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            let first = attempts.get() == 1;
            async move { if first { pending().await } else { Ok(()) } }
        };
        wait(patience).run(0, attempt).await.unwrap();
        assert_eq!(attempts.get(), 2);
    }
}

#[tokio::test]
async fn a_deadline_ends_an_attempt_that_hangs() {
    let patience = Patience::for_at_most(Duration::from_millis(30));
    let outcome: Result<(), Error> = wait(patience).run(0, pending).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains("no answer within"), "{error}");
}

#[tokio::test]
async fn nothing_is_begun_when_time_is_over() {
    let patience = Patience::Until(std::time::Instant::now());
    let outcome: Result<(), Error> = wait(patience).run(0, || async { panic!("begun") }).await;
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::Transient);
}

#[test]
fn an_attempt_has_half_of_what_is_left_or_ten_seconds() {
    let allowance = |seconds| {
        let patience = Patience::for_at_most(Duration::from_secs(seconds));
        Wait::new("get", "x", patience, Pace::USUAL)
            .allowance(0)
            .as_secs_f64()
            .round() as u64
    };
    assert_eq!([60, 45, 20, 15, 10, 4].map(allowance), [30, 22, 10, 10, 10, 4]);
}

#[test]
fn without_a_deadline_size_and_time_outs_make_an_attempt_longer() {
    let mut wait = Wait::new("get", "x", Patience::Forever, Pace::USUAL);
    assert_eq!(wait.allowance(16 << 20), Duration::from_secs(36));
    wait.time_outs = 2;
    assert_eq!(wait.allowance(16 << 20), Duration::from_secs(4 * 36));
    wait.time_outs = 1000;
    assert_eq!(wait.allowance(0), Duration::from_secs(32 * 20));
}

#[test]
fn pauses_are_jittered_and_bounded() {
    let mut wait = Wait::new("get", "x", Patience::Forever, Pace::USUAL);
    for (attempts, most) in [(1, 100), (2, 200), (4, 800), (8, 5000), (u32::MAX, 5000)] {
        wait.attempts = attempts;
        let pauses: Vec<u128> = (0..50).map(|_| wait.pause().unwrap().as_millis()).collect();
        assert!(
            pauses.iter().all(|pause| *pause <= most),
            "{attempts}: {pauses:?}"
        );
        assert!(
            pauses.iter().any(|pause| *pause != pauses[0]),
            "{attempts}: {pauses:?}"
        );
    }
}
