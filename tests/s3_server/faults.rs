//! Every fault is what its name says, as a client sees it.
//!
//! Each test first makes a request that succeeds, so that the fault meets a connection that is open already.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::{PutObjectError, PutObjectOutput};

use super::{body, client, client_with, refusal};
use crate::common::s3::{Action, Operation, Rule, S3Server};

type Put = Result<PutObjectOutput, SdkError<PutObjectError>>;

async fn put(server: &S3Server, client: &Client, key: &str) -> Put {
    client
        .put_object()
        .bucket(server.bucket())
        .key(key)
        .body(body("0123456789"))
        .send()
        .await
}

/// A put that goes on by itself. Waiting for it in the log needs a runtime of several threads.
fn spawn_put(server: &S3Server, client: &Client, key: &str) -> tokio::task::JoinHandle<Put> {
    let put = client
        .put_object()
        .bucket(server.bucket())
        .key(key)
        .body(body("0123456789"));
    tokio::spawn(async move { put.send().await })
}

/// A server, a client, and one kept-alive connection between them.
async fn connected() -> (S3Server, Client) {
    let server = S3Server::start();
    let client = client(&server);
    put(&server, &client, "first").await.expect("no fault yet");
    (server, client)
}

fn no_answer(answer: &Put) -> bool {
    matches!(
        answer,
        Err(SdkError::DispatchFailure(_) | SdkError::ResponseError(_))
    )
}

#[tokio::test]
async fn statuses_are_answered_in_place_of_the_store() {
    let (server, client) = connected().await;
    let cases = [
        (Action::slow_down(), 503, "SlowDown"),
        (Action::internal_error(), 500, "InternalError"),
        (Action::expired_token(), 403, "ExpiredToken"),
        (
            Action::error(409, "ConditionalRequestConflict"),
            409,
            "ConditionalRequestConflict",
        ),
    ];
    for (action, status, code) in cases {
        let rule = server.add_rule(Rule::new(action));
        assert_eq!(
            refusal(put(&server, &client, "a").await),
            (status, code.to_owned())
        );
        assert_eq!(server.remove_rule(rule), 1);
    }
    assert_eq!(server.keys(""), ["first"]);
    assert_eq!(server.count(|request| request.status == Some(503)), 1);
    put(&server, &client, "a").await.expect("the faults are over");
}

#[tokio::test]
async fn an_html_404_has_no_code_of_s3() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::html_404()).operation(Operation::Get));
    let got = client
        .get_object()
        .bucket(server.bucket())
        .key("first")
        .send()
        .await;
    let raw = got
        .as_ref()
        .err()
        .and_then(|error| error.raw_response())
        .expect("an answer");
    assert_eq!(
        (raw.status().as_u16(), raw.headers().get("content-type")),
        (404, Some("text/html"))
    );
    assert!(!format!("{got:?}").contains("NoSuchKey"));
}

#[tokio::test]
async fn a_reset_comes_before_the_store_is_asked() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::Reset).times(1));
    assert!(no_answer(&put(&server, &client, "a").await));
    assert_eq!(server.keys(""), ["first"]);
    put(&server, &client, "a").await.expect("only once");
}

#[tokio::test]
async fn a_lost_answer_is_of_something_done() {
    let (server, client) = connected().await;
    let rule = server.add_rule(Rule::new(Action::LoseAnswer).method("PUT").key("wal/"));
    assert!(no_answer(&put(&server, &client, "wal/1").await));
    assert_eq!(server.keys(""), ["first", "wal/1"]);
    assert_eq!(server.requests()[1].status, None);
    assert_eq!(server.hits(rule), 1);
    put(&server, &client, "other")
        .await
        .expect("other keys are spared");
}

#[test]
fn a_reset_is_not_an_orderly_close() {
    let server = S3Server::start();
    let address = server.endpoint().replace("http://", "");
    let end = |action| {
        let rule = server.add_rule(Rule::new(action));
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream
            .write_all(b"GET /walfs-test/a HTTP/1.1\r\nHost: a\r\n\r\n")
            .expect("sent");
        let end = stream.read(&mut [0; 10]).map_err(|error| error.kind());
        server.remove_rule(rule);
        end
    };
    assert_eq!(end(Action::Reset), Err(ErrorKind::ConnectionReset));
    assert_eq!(end(Action::LoseAnswer), Ok(0));
}

#[tokio::test]
async fn a_cut_body_ends_after_the_bytes_asked_for() {
    let (server, client) = connected().await;
    server.put_object("large", vec![7; 3_000_000]);
    for kept in [0, 1, 1_500_000, 2_999_999] {
        let rule = server.add_rule(Rule::new(Action::CutBody(kept)).operation(Operation::Get));
        let get = client.get_object().bucket(server.bucket()).key("large");
        let mut got = get.send().await.expect("the head comes");
        assert_eq!(got.content_length(), Some(3_000_000));
        let mut received = 0;
        let ended = loop {
            match got.body.next().await {
                Some(Ok(piece)) => received += piece.len(),
                end => break end,
            }
        };
        assert!(matches!(ended, Some(Err(_))), "the body must not look whole");
        assert_eq!(received, kept);
        server.remove_rule(rule);
    }
}

#[tokio::test]
async fn a_flipped_body_has_the_right_length_and_one_wrong_bit() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::FlipBody(1)).operation(Operation::Get));
    let got = client
        .get_object()
        .bucket(server.bucket())
        .key("first")
        .range("bytes=4-7")
        .send()
        .await;
    assert_eq!(
        got.expect("a range")
            .body
            .collect()
            .await
            .expect("unnoticed")
            .to_vec(),
        b"4467"
    );
    let whole = client
        .get_object()
        .bucket(server.bucket())
        .key("first")
        .send()
        .await
        .expect("a head");
    whole
        .body
        .collect()
        .await
        .expect_err("noticed by the checksum of the whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_request_is_done_even_if_the_client_has_gone() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::Delay(Duration::from_millis(500))).operation(Operation::Put));
    let late = spawn_put(&server, &client, "late");
    server.wait_for(1, |request| request.key == "late" && request.body_bytes > 0);
    late.abort();
    server.wait_for(1, |request| request.key == "late" && request.status == Some(200));
    assert_eq!(server.keys(""), ["first", "late"]);
}

#[tokio::test]
async fn a_head_without_a_body_can_fail_too() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::slow_down()).operation(Operation::Head).times(1));
    let head = || client.head_object().bucket(server.bucket()).key("first").send();
    assert_eq!(refusal(head().await).0, 503);
    assert_eq!(
        head().await.expect("the connection still works").content_length(),
        Some(10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_request_is_released_with_a_reset_and_never_done() {
    let (server, client) = connected().await;
    let rule = server.add_rule(Rule::new(Action::Hang).key("stuck"));
    let stuck = spawn_put(&server, &client, "stuck");
    server.wait_for(1, |request| request.key == "stuck");
    put(&server, &client, "other")
        .await
        .expect("others are answered meanwhile");
    server.remove_rule(rule);
    assert!(no_answer(&stuck.await.expect("no panic")));
    assert_eq!(server.keys(""), ["first", "other"]);
}

#[tokio::test]
async fn an_error_in_a_200_completes_nothing() {
    let (server, client) = connected().await;
    let begun = client
        .create_multipart_upload()
        .bucket(server.bucket())
        .key("a")
        .send()
        .await
        .expect("begun");
    server.add_rule(Rule::new(Action::ErrorIn200).operation(Operation::CompleteUpload));
    let id = begun.upload_id().expect("an id");
    let done = client
        .complete_multipart_upload()
        .bucket(server.bucket())
        .key("a")
        .upload_id(id)
        .send()
        .await;
    assert_eq!(refusal(done), (200, "InternalError".to_owned()));
    assert_eq!(
        (server.keys(""), server.uploads_in_progress()),
        (vec!["first".to_owned()], vec!["a".to_owned()])
    );
}

#[tokio::test]
async fn a_rule_counts_what_it_spares_and_what_it_hits() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::slow_down()).key("n").nth(2));
    server.add_rule(Rule::new(Action::slow_down()).key("t").after(1).times(1));
    for (key, fine) in [
        ("n", true),
        ("n", false),
        ("n", true),
        ("t", true),
        ("t", false),
        ("t", true),
    ] {
        assert_eq!(put(&server, &client, key).await.is_ok(), fine, "{key}");
    }
    server.clear_rules();
    let mut rounds = Vec::new();
    for _round in 0..2 {
        let rule = server.add_rule(Rule::new(Action::slow_down()).probability(0.5, 42));
        let mut fine = Vec::new();
        for _request in 0..20 {
            fine.push(put(&server, &client, "p").await.is_ok());
        }
        assert_eq!(
            server.remove_rule(rule),
            fine.iter().filter(|fine| !**fine).count() as u64
        );
        rounds.push(fine);
    }
    assert_eq!(rounds[0], rounds[1]);
    assert!(rounds[0].contains(&true) && rounds[0].contains(&false));
}

#[tokio::test]
async fn a_stopped_server_refuses_and_comes_back_with_its_objects() {
    let (server, client) = connected().await;
    let endpoint = server.endpoint();
    let address = endpoint.trim_start_matches("http://").to_owned();
    for _round in 0..3 {
        server.stop();
        assert!(no_answer(&put(&server, &client, "a").await));
        let refused = TcpStream::connect(&address).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        server.resume();
        put(&server, &client, "a").await.expect("back on the same port");
    }
    assert_eq!(
        (server.endpoint(), server.keys("")),
        (endpoint, vec!["a".to_owned(), "first".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_resets_what_is_under_way() {
    let (server, client) = connected().await;
    server.add_rule(Rule::new(Action::Hang).key("stuck"));
    let stuck = spawn_put(&server, &client, "stuck");
    server.wait_for(1, |request| request.key == "stuck");
    server.stop();
    assert!(no_answer(&stuck.await.expect("no panic")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_takes_requests_and_never_answers() {
    let (server, client) = connected().await;
    server.blackhole(true);
    server.clear_rules();
    let lost = spawn_put(&server, &client, "lost");
    server.wait_for(1, |request| request.key == "lost");
    let hurried = client_with(&server, server.secret_key(), Duration::from_millis(100));
    let answer = put(&server, &hurried, "hurried").await;
    assert!(matches!(answer, Err(SdkError::TimeoutError(_))), "{answer:?}");
    assert!(!lost.is_finished());
    server.blackhole(false);
    assert!(no_answer(&lost.await.expect("no panic")));
    put(&server, &client, "b").await.expect("over");
    assert!(server.object("b").is_some() && server.object("lost").is_none());
}
