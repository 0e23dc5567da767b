//! The S3 server of the tests keeps to S3, seen through the AWS client with retries switched off.
//!
//! Faults are in `s3_server/faults.rs`. What is not asked here, nobody may rely on in a test of walfs.

mod checksums;
mod faults;
mod multipart;

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, Delete, ObjectIdentifier};

use crate::common::s3::{Operation, S3Server};

/// The client of these tests; `patience` bounds each try.
fn client_with(server: &S3Server, secret: &str, patience: Duration) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(patience)
        .build();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .credentials_provider(Credentials::new(server.access_key(), secret, None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts);
    Client::from_conf(config.build())
}

fn client(server: &S3Server) -> Client {
    client_with(server, server.secret_key(), Duration::from_secs(60))
}

fn body(text: &'static str) -> ByteStream {
    ByteStream::from_static(text.as_bytes())
}

/// S3's status and code, if the answer was one of S3's errors.
fn refusal<T: std::fmt::Debug, E: ProvideErrorMetadata>(answer: Result<T, SdkError<E>>) -> (u16, String) {
    match answer {
        Err(SdkError::ServiceError(error)) => (
            error.raw().status().as_u16(),
            error.err().code().unwrap_or_default().to_owned(),
        ),
        Err(other) => panic!("not an answer of the store: {other}"),
        Ok(fine) => panic!("not refused: {fine:?}"),
    }
}

async fn get(server: &S3Server, client: &Client, key: &str, range: &str) -> Vec<u8> {
    let answer = client
        .get_object()
        .bucket(server.bucket())
        .key(key)
        .range(range)
        .send()
        .await;
    answer
        .expect("a readable range")
        .body
        .collect()
        .await
        .expect("the whole range")
        .to_vec()
}

#[tokio::test]
async fn put_then_get_whole_and_in_ranges() {
    let server = S3Server::start();
    let client = client(&server);
    client
        .put_object()
        .bucket(server.bucket())
        .key("wal/a b+%")
        .body(body("0123456789"))
        .send()
        .await
        .expect("put");

    let whole = client
        .get_object()
        .bucket(server.bucket())
        .key("wal/a b+%")
        .checksum_mode(ChecksumMode::Enabled);
    let whole = whole.send().await.expect("get");
    assert!(whole.checksum_crc32().is_some(), "the SDK's own checksum is kept");
    assert_eq!(
        whole.body.collect().await.expect("the whole body").to_vec(),
        b"0123456789"
    );
    assert_eq!(get(&server, &client, "wal/a b+%", "bytes=2-4").await, b"234");
    assert_eq!(get(&server, &client, "wal/a b+%", "bytes=7-").await, b"789");
    assert_eq!(get(&server, &client, "wal/a b+%", "bytes=-3").await, b"789");
    assert_eq!(
        get(&server, &client, "wal/a b+%", "bytes=-999").await,
        b"0123456789"
    );
    let outside = client
        .get_object()
        .bucket(server.bucket())
        .key("wal/a b+%")
        .range("bytes=10-")
        .send()
        .await;
    assert_eq!(refusal(outside), (416, "InvalidRange".to_owned()));

    let head = client
        .head_object()
        .bucket(server.bucket())
        .key("wal/a b+%")
        .send()
        .await
        .expect("head");
    assert_eq!(head.content_length(), Some(10));
    assert_eq!(server.object("wal/a b+%").as_deref(), Some(&b"0123456789"[..]));
}

#[tokio::test]
async fn what_is_absent_is_said_to_be_absent() {
    let server = S3Server::start();
    let client = client(&server);
    let got = client
        .get_object()
        .bucket(server.bucket())
        .key("nothing")
        .send()
        .await;
    assert!(matches!(
        got.unwrap_err().into_service_error(),
        GetObjectError::NoSuchKey(_)
    ));
    let head = client
        .head_object()
        .bucket(server.bucket())
        .key("nothing")
        .send()
        .await;
    assert!(matches!(
        head.unwrap_err().into_service_error(),
        HeadObjectError::NotFound(_)
    ));
    let elsewhere = client
        .get_object()
        .bucket("another-bucket")
        .key("nothing")
        .send()
        .await;
    assert_eq!(refusal(elsewhere), (404, "NoSuchBucket".to_owned()));
}

#[tokio::test]
async fn lists_in_order_by_pages_from_a_key_on() {
    let server = S3Server::start();
    let client = client(&server);
    for key in ["a", "wal/1", "wal/2", "wal/3", "wal/deep/1", "wal/deep/2", "wal0"] {
        server.put_object(key, key);
    }
    let list = || client.list_objects_v2().bucket(server.bucket()).prefix("wal/");
    let keys = |page: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
        page.contents()
            .iter()
            .map(|object| object.key().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let after = list().start_after("wal/15").send().await.expect("list");
    assert_eq!(keys(&after), ["wal/2", "wal/3", "wal/deep/1", "wal/deep/2"]);
    assert_eq!(after.contents()[2].size(), Some(10));

    let first = list().max_keys(3).send().await.expect("first page");
    assert_eq!((keys(&first).len(), first.is_truncated()), (3, Some(true)));
    let token = first.next_continuation_token().expect("a token");
    let second = list()
        .continuation_token(token)
        .send()
        .await
        .expect("second page");
    assert_eq!(
        (keys(&second), second.is_truncated()),
        (vec!["wal/deep/1".into(), "wal/deep/2".into()], Some(false))
    );

    let grouped = list()
        .delimiter("/")
        .start_after("wal/2")
        .send()
        .await
        .expect("grouped");
    let groups: Vec<_> = grouped
        .common_prefixes()
        .iter()
        .filter_map(|group| group.prefix())
        .collect();
    assert_eq!(
        (keys(&grouped), groups),
        (vec!["wal/3".to_owned()], vec!["wal/deep/"])
    );
    assert_eq!(server.keys("wal/deep"), ["wal/deep/1", "wal/deep/2"]);
}

#[tokio::test]
async fn deletes_one_or_many_also_what_is_not_there() {
    let server = S3Server::start();
    let client = client(&server);
    for key in ["a", "b", "c"] {
        server.put_object(key, "x");
    }
    client
        .delete_object()
        .bucket(server.bucket())
        .key("a")
        .send()
        .await
        .expect("delete");
    client
        .delete_object()
        .bucket(server.bucket())
        .key("a")
        .send()
        .await
        .expect("delete again");
    let named = |key: &str| ObjectIdentifier::builder().key(key).build().expect("a key");
    let delete = Delete::builder()
        .objects(named("b"))
        .objects(named("nothing"))
        .build()
        .expect("a list");
    client
        .delete_objects()
        .bucket(server.bucket())
        .delete(delete)
        .send()
        .await
        .expect("delete many");
    assert_eq!(server.keys(""), ["c"]);
}

#[tokio::test]
async fn one_of_sixteen_conditional_puts_wins() {
    let server = S3Server::start();
    let client = client(&server);
    let mut puts = tokio::task::JoinSet::new();
    for writer in 0..16u8 {
        let put = client
            .put_object()
            .bucket(server.bucket())
            .key("wal/raced")
            .if_none_match("*");
        puts.spawn(async move { (writer, put.body(vec![writer; 100_000].into()).send().await) });
    }
    let mut winners = Vec::new();
    for (writer, answer) in puts.join_all().await {
        match answer {
            Ok(_) => winners.push(writer),
            refused => assert_eq!(refusal(refused), (412, "PreconditionFailed".to_owned())),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(server.object("wal/raced"), Some(vec![winners[0]; 100_000]));
}

#[tokio::test]
async fn conditions_can_be_ignored_as_garage_does() {
    let server = S3Server::start();
    let client = client(&server);
    server.put_object("wal/1", "old");
    server.ignore_conditions(true);
    let put = || {
        client
            .put_object()
            .bucket(server.bucket())
            .key("wal/1")
            .if_none_match("*")
            .body(body("new"))
    };
    put().send().await.expect("taken and ignored");
    assert_eq!(server.object("wal/1").as_deref(), Some(&b"new"[..]));
    server.ignore_conditions(false);
    assert_eq!(refusal(put().send().await).0, 412);
    assert_eq!(server.count(|request| request.conditional), 2);
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let server = S3Server::start();
    let client = client_with(&server, "not the secret", Duration::from_secs(60));
    let put = client
        .put_object()
        .bucket(server.bucket())
        .key("a")
        .body(body("x"))
        .send()
        .await;
    assert_eq!(refusal(put), (403, "SignatureDoesNotMatch".to_owned()));
    assert_eq!(server.keys(""), Vec::<String>::new());
}

#[tokio::test]
async fn the_log_tells_what_was_asked() {
    let server = S3Server::start();
    let client = client(&server);
    client
        .put_object()
        .bucket(server.bucket())
        .key("wal/ü")
        .body(body("12345"))
        .send()
        .await
        .expect("put");
    get(&server, &client, "wal/ü", "bytes=0-1").await;
    client
        .list_objects_v2()
        .bucket(server.bucket())
        .prefix("wal/")
        .send()
        .await
        .expect("list");
    client
        .head_bucket()
        .bucket(server.bucket())
        .send()
        .await
        .expect("head of the bucket");
    let log = server.requests();
    let told: Vec<_> = log
        .iter()
        .map(|one| (one.operation, one.key.as_str(), one.status))
        .collect();
    let expected = [
        (Operation::Put, "wal/ü", Some(200)),
        (Operation::Get, "wal/ü", Some(206)),
        (Operation::List, "wal/", Some(200)),
        (Operation::Bucket, "", Some(200)),
    ];
    assert_eq!(told, expected);
    assert_eq!(
        (log[0].method.as_str(), log[1].range.as_deref()),
        ("PUT", Some("bytes=0-1"))
    );
    assert!(log[0].body_bytes >= 5 && log[2].query.contains("list-type=2"));
    server.clear_requests();
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn the_environment_is_all_a_process_needs() {
    let server = S3Server::start();
    let env = server.env();
    let names: Vec<_> = env.iter().map(|(name, _)| *name).collect();
    assert!(names.contains(&"AWS_REGION") && names.contains(&"AWS_SECRET_ACCESS_KEY"));
    assert_eq!(env[0], ("AWS_ENDPOINT_URL", server.endpoint()));
}
