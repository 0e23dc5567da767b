//! A store that is away, slow, wrong or lying: a clear error or a wait, never a false statement.

use std::path::PathBuf;

use tempfile::TempDir;
use walfs::store::{Location, Options};

use super::*;
use crate::common::s3::{Action, Operation, Rule, S3Server};

/// A server and a store in it. The access key comes from a file, as it may on a real machine.
pub(super) struct Bucket {
    pub(super) server: S3Server,
    scratch: TempDir,
}

impl Bucket {
    pub(super) fn start() -> Self {
        let bucket = Self {
            server: S3Server::start(),
            scratch: tempfile::tempdir().unwrap(),
        };
        bucket.write_key(bucket.server.secret_key());
        bucket
    }

    fn key_file(&self) -> PathBuf {
        self.scratch.path().join("credentials")
    }

    fn write_key(&self, secret: &str) {
        let id = self.server.access_key();
        let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
        std::fs::write(self.key_file(), text).unwrap();
    }

    fn options(&self) -> Options {
        Options {
            endpoint: Some(self.server.endpoint()),
            region: Some("us-east-1".into()),
            credentials_file: Some(self.key_file()),
            open_within: Duration::from_secs(2),
            ..Options::default()
        }
    }

    async fn try_open(&self, prefix: &str) -> Result<Store, Error> {
        let place = format!("s3://{}/{prefix}", self.server.bucket());
        open(&Location::parse(&place).unwrap(), &self.options()).await
    }

    pub(super) async fn open(&self, prefix: &str) -> Store {
        self.try_open(prefix).await.unwrap()
    }

    fn hurt(&self, operation: Operation, action: Action) {
        self.server.add_rule(Rule::new(action).operation(operation));
    }

    fn hurt_once(&self, operation: Operation, action: Action) {
        self.server
            .add_rule(Rule::new(action).operation(operation).times(1));
    }
}

/// Long enough for a few attempts, short enough to wait for.
fn briefly() -> Patience {
    Patience::for_at_most(Duration::from_millis(300))
}

async fn get(store: &Store, name: &str, patience: Patience) -> Result<Bytes, Error> {
    store
        .get(&key(name), ByteRange::AtMost(u64::MAX), patience)
        .await
        .map(|fetched| fetched.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_is_not_s3s_is_no_absence() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "there", "x").await.unwrap();
    let empty = Action::Answer {
        status: 404,
        content_type: "text/plain",
        body: String::new(),
    };
    for answer in [
        Action::html_404(),
        empty,
        Action::error(404, "NotFound"),
        Action::error(404, "NoSuchBucket"),
    ] {
        let lasting = answer == Action::error(404, "NoSuchBucket");
        let (expected, patience) = match lasting {
            true => (ErrorKind::Permanent, soon as fn() -> Patience),
            false => (ErrorKind::Transient, briefly as fn() -> Patience),
        };
        bucket.hurt(Operation::Get, answer.clone());
        for name in ["there", "not-there"] {
            assert_eq!(
                kind(get(&store, name, patience()).await),
                Some(expected),
                "{answer:?}"
            );
            assert_eq!(
                kind(store.head(&key(name), patience()).await),
                Some(expected),
                "{answer:?}"
            );
        }
        bucket.server.clear_rules();
    }
}

/// Absence is as cheap as presence, and as certain as the answer of a GET.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_is_one_request() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "there", "four").await.unwrap();
    put(&store, "empty", "").await.unwrap();
    bucket.server.clear_requests();
    assert_eq!(store.head(&key("there"), soon()).await.unwrap().stored_bytes, 4);
    assert_eq!(bucket.server.requests().len(), 1);
    assert_eq!(
        kind(store.head(&key("absent"), soon()).await),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(bucket.server.requests().len(), 2);
    assert_eq!(store.head(&key("empty"), soon()).await.unwrap().stored_bytes, 0);
    assert_eq!(store.counts().heads, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_away_is_waited_for() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    for action in [
        Action::slow_down(),
        Action::internal_error(),
        Action::Reset,
        Action::html_404(),
    ] {
        bucket.server.add_rule(Rule::new(action.clone()).times(2));
        store
            .put(&key("x"), "body".into(), PutMode::Overwrite, soon())
            .await
            .unwrap();
        bucket.server.add_rule(Rule::new(action).times(2));
        assert_eq!(get(&store, "x", soon()).await.unwrap(), "body");
    }
    assert_eq!((store.counts().puts, store.counts().gets), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_an_error_with_how_long_and_how_often() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", "body").await.unwrap();
    bucket.server.stop();
    let error = get(&store, "x", briefly()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(
        error.message.contains("gave up after") && error.message.contains("attempts"),
        "{error}"
    );
    bucket.server.resume();
    assert_eq!(get(&store, "x", soon()).await.unwrap(), "body");
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_without_end_outlasts_an_outage() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", "body").await.unwrap();
    bucket.hurt(Operation::Get, Action::slow_down());
    let reader = tokio::spawn(async move { get(&store, "x", Patience::Forever).await });
    bucket
        .server
        .wait_for(3, |request| request.operation == Operation::Get);
    bucket.server.clear_rules();
    assert_eq!(reader.await.unwrap().unwrap(), "body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_meets_itself() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    bucket.hurt_once(Operation::Put, Action::LoseAnswer);
    assert_eq!(
        kind(put(&store, "x", "body").await),
        Some(ErrorKind::AlreadyExists)
    );
    assert_eq!(bytes_of(&store, "x").await.unwrap(), "body");
    assert_eq!(store.counts().puts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_whose_answer_was_lost_meets_itself() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    let parts = [Bytes::from_static(b"body")];
    bucket.hurt_once(Operation::CompleteUpload, Action::LoseAnswer);
    let lost = put_in_parts(&store, "x", &parts, PutMode::IfAbsent).await;
    assert_eq!(kind(lost), Some(ErrorKind::AlreadyExists));
    assert_eq!(bytes_of(&store, "x").await.unwrap(), "body");
    bucket.hurt_once(Operation::CompleteUpload, Action::LoseAnswer);
    let lost = put_in_parts(&store, "y", &parts, PutMode::Overwrite).await;
    assert_eq!(kind(lost), Some(ErrorKind::Transient));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_did_not_arrive_is_sent_again() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    let parts = [content(5 << 20), content(5 << 20), content(9)];
    for action in [
        Action::Reset,
        Action::LoseAnswer,
        Action::slow_down(),
        Action::error(400, "BadDigest"),
    ] {
        bucket.hurt_once(Operation::UploadPart, action);
    }
    put_in_parts(&store, "x", &parts, PutMode::IfAbsent)
        .await
        .unwrap();
    assert_eq!(bytes_of(&store, "x").await.unwrap(), parts.concat());
    assert_eq!(store.counts().parts, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_page_in_the_middle_is_not_the_end() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", "1").await.unwrap();
    let body = "<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>true</IsTruncated></ListBucketResult>";
    let answer = Action::Answer {
        status: 200,
        content_type: "application/xml",
        body: body.into(),
    };
    bucket.hurt_once(Operation::List, answer);
    assert_eq!(names(&store, "", None, 10).await, (vec!["x".to_owned()], false));
    assert_eq!(store.counts().lists, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_inside_a_200_is_an_error() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    let parts = [Bytes::from_static(b"body")];
    let before = bucket
        .server
        .add_rule(Rule::new(Action::ErrorIn200).operation(Operation::CompleteUpload));
    let stream = stream::iter(parts.clone().map(Ok));
    let outcome = store
        .put_large(&key("x"), stream, PutMode::IfAbsent, briefly())
        .await;
    assert_eq!(kind(outcome), Some(ErrorKind::Transient));
    assert_eq!(bucket.server.keys("a/"), Vec::<String>::new());
    assert_eq!(bucket.server.uploads_in_progress(), Vec::<String>::new());
    bucket.server.remove_rule(before);
    bucket.hurt_once(Operation::CompleteUpload, Action::ErrorIn200);
    put_in_parts(&store, "x", &parts, PutMode::IfAbsent)
        .await
        .unwrap();
    assert_eq!(bytes_of(&store, "x").await.unwrap(), "body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_200_of_somebody_else_is_no_success() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    let portal = Action::Answer {
        status: 200,
        content_type: "text/html",
        body: "<html>Log in</html>".into(),
    };
    bucket.server.add_rule(Rule::new(portal));
    let put = store
        .put(&key("x"), "body".into(), PutMode::IfAbsent, briefly())
        .await;
    assert_eq!(kind(put), Some(ErrorKind::Transient));
    assert_eq!(
        kind(get(&store, "x", briefly()).await),
        Some(ErrorKind::Transient)
    );
    assert_eq!(
        kind(store.head(&key("x"), briefly()).await),
        Some(ErrorKind::Transient)
    );
    assert_eq!(
        kind(store.list("", None, 10, briefly()).await),
        Some(ErrorKind::Transient)
    );
    let stream = stream::iter([Ok(Bytes::from_static(b"body"))]);
    let large = store
        .put_large(&key("x"), stream, PutMode::IfAbsent, briefly())
        .await;
    assert_eq!(kind(large), Some(ErrorKind::Transient));
    assert_eq!(kind(bucket.try_open("b").await), Some(ErrorKind::Transient));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_cut_or_turned_over_on_the_way_is_fetched_again() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", content(200_000)).await.unwrap();
    for action in [
        Action::CutBody(0),
        Action::CutBody(100_000),
        Action::FlipBody(150_000),
    ] {
        bucket.hurt_once(Operation::Get, action);
        assert_eq!(bytes_of(&store, "x").await.unwrap(), content(200_000));
    }
    bucket.hurt_once(Operation::Get, Action::CutBody(10));
    let part = store
        .get(&key("x"), ByteRange::Span(1000..3000), soon())
        .await
        .unwrap();
    assert_eq!(part.bytes, content(200_000)[1000..3000]);
    assert_eq!(store.counts().gets, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_damaged_in_the_store_is_told_after_a_few_looks() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", content(200_000)).await.unwrap();
    bucket.server.corrupt("a/x", |bytes| bytes[77] ^= 1);
    // Without end of patience: damage is an answer.
    assert_eq!(
        kind(get(&store, "x", Patience::Forever).await),
        Some(ErrorKind::Damaged)
    );
    assert_eq!(store.counts().gets, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_damaged_on_the_way_in_is_sent_again() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    bucket.hurt_once(Operation::Put, Action::error(400, "BadDigest"));
    put(&store, "x", "body").await.unwrap();
    assert_eq!(store.counts().puts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_read_again_once() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    bucket.hurt_once(Operation::Put, Action::expired_token());
    put(&store, "x", "body").await.unwrap();
    bucket.hurt(Operation::Get, Action::error(400, "ExpiredToken"));
    assert_eq!(kind(get(&store, "x", soon()).await), Some(ErrorKind::Denied));
    assert_eq!(kind(store.head(&key("x"), soon()).await), Some(ErrorKind::Denied));
    bucket.server.clear_rules();
    bucket.hurt(Operation::Get, Action::error(403, "AccessDenied"));
    assert_eq!(kind(get(&store, "x", soon()).await), Some(ErrorKind::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_an_expired_key_all_go_on() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    bucket.server.add_rule(
        Rule::new(Action::expired_token())
            .operation(Operation::Put)
            .times(8),
    );
    let names: Vec<String> = (0..8).map(|number| format!("x{number}")).collect();
    let writes = futures::future::join_all(names.iter().map(|name| put(&store, name, "body"))).await;
    // All eight may not be on their way before the first was refused; those that came later were refused for good.
    assert!(writes.iter().any(Result::is_ok));
    assert!(
        writes
            .iter()
            .flat_map(|write| write.as_ref().err())
            .all(|error| error.kind == ErrorKind::Denied)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_file_is_followed() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    // A stand-in for a key that the server no longer takes: this client's next one is wrong, the one after right.
    bucket.write_key("wrong");
    bucket.hurt_once(Operation::Put, Action::expired_token());
    let error = put(&store, "x", "body").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("SignatureDoesNotMatch"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_says_what_is_wrong() {
    let bucket = Bucket::start();
    let other = Location::parse("s3://no-such-bucket/x").unwrap();
    let error = open(&other, &bucket.options()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Permanent);
    assert!(
        error.message.contains("NoSuchBucket") && error.message.contains("HINT"),
        "{error}"
    );
    bucket.write_key("hush-hush");
    let error = bucket.try_open("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.message.contains("HINT") && !error.to_string().contains("hush-hush"),
        "{error}"
    );
    std::fs::remove_file(bucket.key_file()).unwrap();
    let error = bucket.try_open("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(
        error.message.contains(bucket.key_file().to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_in_the_wrong_region_names_the_right_one() {
    let bucket = Bucket::start();
    let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu-south-2</Region></Error>";
    let answer = Action::Answer {
        status: 400,
        content_type: "application/xml",
        body: body.into(),
    };
    bucket.hurt(Operation::List, answer);
    let error = bucket.try_open("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Permanent);
    assert!(
        error.message.contains("HINT: the bucket is in region eu-south-2"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_common_deletion_is_asked_singly() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    put(&store, "x", "1").await.unwrap();
    put(&store, "y", "2").await.unwrap();
    bucket.hurt(Operation::DeleteMany, Action::error(501, "NotImplemented"));
    store
        .delete(&[key("x"), key("y"), key("z")], soon())
        .await
        .unwrap();
    assert_eq!(bucket.server.keys("a/"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_objects_are_passed_over() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    for foreign in ["a b", "a", "a!/x", "ab/x", "a/b//c", "a/ü~", "a/x y", "a/"] {
        bucket.server.put_object(foreign, "x");
    }
    put(&store, "z", "x").await.unwrap();
    assert_eq!(names(&store, "", None, 1).await, (vec!["z".to_owned()], true));
    assert_eq!(names(&store, "", Some("z"), 1).await, (vec![], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_are_taken_and_ignored_are_found_out() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    assert_eq!(
        probe(&store, soon()).await.unwrap(),
        Conditions {
            put: true,
            complete: true
        }
    );
    bucket.server.ignore_conditions(true);
    assert_eq!(
        probe(&store, soon()).await.unwrap(),
        Conditions {
            put: false,
            complete: false
        }
    );
    assert_eq!(bucket.server.keys(""), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_shown_of_a_store_has_its_secret() {
    let bucket = Bucket::start();
    let store = bucket.open("a").await;
    let shown = format!("{store:?} {store:#?} {}", store.place());
    assert!(shown.contains("s3://walfs-test/a") && !shown.contains(bucket.server.secret_key()));
}
