//! One suite, every store: what `src/store.rs` promises of a backend, asked from outside.
//!
//! A maker opens an empty store with a name of its own; each case of [`suite`] gets a fresh one. What a server is
//! known not to keep (conditions, on Garage) is asked of [`probe`] and then expected, not skipped.

mod faults;
mod wire;

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use walfs::store::{
    ByteRange, Conditions, Error, ErrorKind, Key, Location, Options, Patience, PutMode, Store, leave, open,
    probe,
};

/// Every case is a request or a few: if they take longer, the store is not there.
fn soon() -> Patience {
    Patience::for_at_most(Duration::from_secs(30))
}

fn key(text: &str) -> Key {
    Key::new(text)
}

/// Bytes that do not repeat soon, so that a wrong offset shows.
fn content(length: usize) -> Bytes {
    (0..length)
        .map(|index| (index * 7 + index / 251 + index / 65536) as u8)
        .collect()
}

fn kind<T>(outcome: Result<T, Error>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind)
}

async fn put(store: &Store, name: &str, body: impl Into<Bytes>) -> Result<(), Error> {
    store
        .put(&key(name), body.into(), PutMode::IfAbsent, soon())
        .await
}

async fn bytes_of(store: &Store, name: &str) -> Result<Bytes, Error> {
    store
        .get(&key(name), ByteRange::AtMost(u64::MAX), soon())
        .await
        .map(|fetched| fetched.bytes)
}

async fn names(store: &Store, prefix: &str, after: Option<&str>, limit: usize) -> (Vec<String>, bool) {
    let page = store.list(prefix, after, limit, soon()).await.unwrap();
    (
        page.entries.iter().map(|(key, _)| key.to_string()).collect(),
        page.more,
    )
}

async fn put_in_parts(store: &Store, name: &str, parts: &[Bytes], mode: PutMode) -> Result<(), Error> {
    let parts: Vec<std::io::Result<Bytes>> = parts.iter().cloned().map(Ok).collect();
    store
        .put_large(&key(name), stream::iter(parts), mode, soon())
        .await
}

/// Every promise, one after the other, each in an archive of its own.
async fn suite<M, F>(make: M)
where
    M: Fn(&'static str) -> F,
    F: Future<Output = Store>,
{
    what_was_put_is_there(&make("whole").await).await;
    absence_is_told(&make("absent").await).await;
    ranges(&make("ranges").await).await;
    listing(&make("listing").await).await;
    deletion(&make("deletion").await).await;
    overwriting(&make("overwrite").await).await;
    a_put_waits_for_leave(&make("leave").await).await;
    what_is_refused_is_not_stored(&make("refused").await).await;
    parts_become_one_object(&make("parts").await).await;
    a_failed_upload_leaves_nothing(&make("broken").await).await;
    let conditions = probe(&make("probe").await, soon()).await.unwrap();
    the_probe_leaves_nothing(&make("probe").await).await;
    only_if_absent(&make("condition").await, conditions).await;
    one_of_many_writers_wins(&make("race").await, conditions).await;
}

async fn what_was_put_is_there(store: &Store) {
    for length in [0, 1, 4096, 1_000_000] {
        let name = format!("wal/{length}");
        put(store, &name, content(length)).await.unwrap();
        let fetched = store
            .get(&key(&name), ByteRange::AtMost(u64::MAX), soon())
            .await
            .unwrap();
        assert_eq!(fetched.bytes, content(length));
        assert_eq!(fetched.meta.stored_bytes, length as u64);
        let meta = store.head(&key(&name), soon()).await.unwrap();
        assert_eq!(meta.stored_bytes, length as u64);
        let page = store.list(&name, None, 1, soon()).await.unwrap();
        assert_eq!(page.entries[0].1.stored_bytes, length as u64);
    }
}

async fn absence_is_told(store: &Store) {
    put(store, "wal/ab", "x").await.unwrap();
    for absent in ["wal/a", "wal/abc", "wal", "other/ab"] {
        assert_eq!(
            kind(store.head(&key(absent), soon()).await),
            Some(ErrorKind::NotFound),
            "{absent}"
        );
        assert_eq!(
            kind(bytes_of(store, absent).await),
            Some(ErrorKind::NotFound),
            "{absent}"
        );
        let part = store.get(&key(absent), ByteRange::Last(5), soon()).await;
        assert_eq!(kind(part), Some(ErrorKind::NotFound), "{absent}");
    }
}

async fn ranges(store: &Store) {
    let whole = content(100_000);
    put(store, "a", whole.clone()).await.unwrap();
    let get = async |range| store.get(&key("a"), range, soon()).await;
    for (start, end) in [(0, 1), (0, 100_000), (17, 70_000), (99_999, 100_000), (5, 5)] {
        let fetched = get(ByteRange::Span(start..end)).await.unwrap();
        assert_eq!(fetched.bytes, whole[start as usize..end as usize]);
        assert_eq!(fetched.meta.stored_bytes, 100_000);
    }
    for (last, length) in [
        (0, 0),
        (1, 1),
        (99_999, 99_999),
        (100_000, 100_000),
        (100_001, 100_000),
        (1 << 40, 100_000),
    ] {
        let fetched = get(ByteRange::Last(last)).await.unwrap();
        assert_eq!(fetched.bytes, whole[100_000 - length..], "last {last}");
        assert_eq!(fetched.meta.stored_bytes, 100_000);
    }
    for outside in [100_000..100_001, 99_999..100_001] {
        assert_eq!(
            kind(get(ByteRange::Span(outside)).await),
            Some(ErrorKind::Damaged)
        );
    }
    put(store, "empty", "").await.unwrap();
    let fetched = store
        .get(&key("empty"), ByteRange::Last(10), soon())
        .await
        .unwrap();
    assert_eq!((fetched.bytes.len(), fetched.meta.stored_bytes), (0, 0));
}

async fn listing(store: &Store) {
    assert_eq!(names(store, "", None, 10).await, (vec![], false));
    // In byte order '-' and '.' come before '/', and '0' after it.
    let all = ["a-b", "a.b", "a/b", "a/c/d", "a/c/e", "a/c0", "a0", "b/1"];
    for name in all.iter().rev() {
        put(store, name, "x").await.unwrap();
    }
    assert_eq!(
        names(store, "", None, 1000).await,
        (all.map(str::to_owned).to_vec(), false)
    );
    assert_eq!(names(store, "a/", None, 1000).await.0, all[2..6]);
    assert_eq!(names(store, "a/c", None, 1000).await.0, all[3..6]);
    assert_eq!(names(store, "a/c/", Some("a/c/d"), 1000).await.0, ["a/c/e"]);
    assert_eq!(
        names(store, "a", Some("a/bbb"), 2).await,
        (vec!["a/c/d".into(), "a/c/e".into()], true)
    );
    assert_eq!(names(store, "zz", None, 10).await, (vec![], false));
    assert_eq!(names(store, "a/", Some("b"), 10).await, (vec![], false));
    let mut seen = Vec::new();
    loop {
        let (page, more) = names(store, "", seen.last().map(String::as_str), 3).await;
        seen.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(seen, all);
}

async fn deletion(store: &Store) {
    for name in ["d/1", "d/2", "d/3"] {
        put(store, name, "x").await.unwrap();
    }
    store
        .delete(&[key("d/1"), key("d/absent"), key("d/3")], soon())
        .await
        .unwrap();
    assert_eq!(names(store, "d/", None, 10).await.0, ["d/2"]);
    store.delete(&[], soon()).await.unwrap();
    let many: Vec<Key> = (0..1001).map(|number| key(&format!("d/{number:04}"))).collect();
    let before = store.counts().deletes;
    store.delete(&many, soon()).await.unwrap();
    assert_eq!(store.counts().deletes - before, 2);
}

async fn overwriting(store: &Store) {
    for body in ["first", "second and longer", "3"] {
        store
            .put(&key("status"), body.into(), PutMode::Overwrite, soon())
            .await
            .unwrap();
        assert_eq!(bytes_of(store, "status").await.unwrap(), body);
    }
}

/// Polls a put for as long as a request of another connection takes: what could be there would be.
async fn is_absent_meanwhile(store: &Store, name: &str, put: impl Future<Output = Result<(), Error>>) {
    tokio::select! {
        outcome = put => panic!("{name}: {outcome:?} without leave"),
        found = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            bytes_of(store, name).await
        } => assert_eq!(kind(found), Some(ErrorKind::NotFound), "{name}"),
    }
}

async fn a_put_waits_for_leave(store: &Store) {
    for length in [0, 1, 1_000_000] {
        let name = format!("wal/{length}");
        let (grant, leave) = leave();
        let key = key(&name);
        let put = store.put_with_leave(&key, content(length), PutMode::IfAbsent, leave, soon());
        let mut put = std::pin::pin!(put);
        is_absent_meanwhile(store, &name, &mut put).await;
        grant.give();
        put.await.unwrap();
        assert_eq!(bytes_of(store, &name).await.unwrap(), content(length));
    }
}

/// Refused in words, or by nobody waiting any more. The name stays free.
async fn what_is_refused_is_not_stored(store: &Store) {
    for (length, drops_the_put) in [(0, false), (1_000_000, false), (1_000_000, true)] {
        let name = format!("wal/{length}-{drops_the_put}");
        let (grant, leave) = leave();
        let key = key(&name);
        let mut put = Box::pin(store.put_with_leave(&key, content(length), PutMode::IfAbsent, leave, soon()));
        is_absent_meanwhile(store, &name, &mut put).await;
        if drops_the_put {
            drop(put);
            drop(grant);
        } else {
            drop(grant);
            assert_eq!(kind(put.await), Some(ErrorKind::Permanent));
        }
        assert_eq!(kind(bytes_of(store, &name).await), Some(ErrorKind::NotFound));
        self::put(store, &name, "somebody else's").await.unwrap();
        assert_eq!(bytes_of(store, &name).await.unwrap(), "somebody else's");
    }
}

async fn parts_become_one_object(store: &Store) {
    let whole = content((11 << 20) + 17);
    let parts: Vec<Bytes> = whole.chunks(5 << 20).map(Bytes::copy_from_slice).collect();
    let before = store.counts();
    put_in_parts(store, "large", &parts, PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!(store.counts().parts - before.parts, 3);
    assert_eq!(bytes_of(store, "large").await.unwrap(), whole);
    let across = store
        .get(
            &key("large"),
            ByteRange::Span((5 << 20) - 9..(5 << 20) + 9),
            soon(),
        )
        .await
        .unwrap();
    assert_eq!(across.bytes, whole[(5 << 20) - 9..(5 << 20) + 9]);
    put_in_parts(store, "small", &[Bytes::from_static(b"x")], PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!(bytes_of(store, "small").await.unwrap(), "x");
    put_in_parts(store, "none", &[], PutMode::Overwrite)
        .await
        .unwrap();
    assert_eq!(bytes_of(store, "none").await.unwrap(), "");
    assert_eq!(names(store, "", None, 10).await.0, ["large", "none", "small"]);
}

async fn a_failed_upload_leaves_nothing(store: &Store) {
    let parts = [Ok(content(5 << 20)), Err(std::io::Error::other("the disk died"))];
    let error = store
        .put_large(&key("x"), stream::iter(parts), PutMode::IfAbsent, soon())
        .await
        .unwrap_err();
    assert!(error.message.contains("the disk died"), "{error}");
    let unequal = [content(5 << 20), content(6 << 20), content(1)];
    assert_eq!(
        kind(put_in_parts(store, "x", &unequal, PutMode::IfAbsent).await),
        Some(ErrorKind::Permanent)
    );
    assert_eq!(names(store, "", None, 10).await, (vec![], false));
    assert_eq!(
        kind(store.head(&key("x"), soon()).await),
        Some(ErrorKind::NotFound)
    );
}

async fn the_probe_leaves_nothing(store: &Store) {
    assert_eq!(names(store, "", None, 10).await, (vec![], false));
}

async fn only_if_absent(store: &Store, conditions: Conditions) {
    put(store, "wal/1", "first").await.unwrap();
    let again = put(store, "wal/1", "second").await;
    assert_eq!(kind(again), conditions.put.then_some(ErrorKind::AlreadyExists));
    put(store, "wal/2", "first").await.unwrap();
    let again = put_in_parts(
        store,
        "wal/2",
        &[Bytes::from_static(b"second")],
        PutMode::IfAbsent,
    )
    .await;
    assert_eq!(
        kind(again),
        conditions.complete.then_some(ErrorKind::AlreadyExists)
    );
    for (name, kept) in [("wal/1", conditions.put), ("wal/2", conditions.complete)] {
        assert_eq!(
            bytes_of(store, name).await.unwrap(),
            if kept { "first" } else { "second" }
        );
    }
}

async fn one_of_many_writers_wins(store: &Store, conditions: Conditions) {
    for round in 0..10 {
        let name = format!("race/{round}");
        let writers = (0..32).map(|writer| put(store, &name, format!("writer {writer}")));
        let outcomes = futures::future::join_all(writers).await;
        let winners: Vec<usize> = (0..32).filter(|writer| outcomes[*writer].is_ok()).collect();
        let refused = outcomes.iter().flat_map(|outcome| outcome.as_ref().err());
        assert!(
            refused
                .into_iter()
                .all(|error| error.kind == ErrorKind::AlreadyExists)
        );
        let stored = bytes_of(store, &name).await.unwrap();
        assert!(winners.iter().any(|winner| stored == format!("writer {winner}")));
        assert_eq!(winners.len(), if conditions.put { 1 } else { 32 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    suite(async |name| {
        let place = Location::Dir(scratch.path().join(name));
        open(&place, &Options::default()).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_keeps_the_contract() {
    let bucket = faults::Bucket::start();
    suite(async |name| bucket.open(name).await).await;
    assert_eq!(bucket.server.uploads_in_progress(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_that_ignores_conditions_keeps_the_rest() {
    let bucket = faults::Bucket::start();
    bucket.server.ignore_conditions(true);
    suite(async |name| bucket.open(name).await).await;
}

/// A real S3 server, which ignores conditions.
#[tokio::test(flavor = "multi_thread")]
async fn garage_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let garage = crate::common::garage::Garage::start(&dir.path().join("garage"), false);
    let env: std::collections::HashMap<_, _> = garage.env().into_iter().collect();
    let keys = dir.path().join("keys");
    let (id, secret) = (&env["AWS_ACCESS_KEY_ID"], &env["AWS_SECRET_ACCESS_KEY"]);
    let text = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    std::fs::write(&keys, text).unwrap();
    let options = Options {
        endpoint: Some(garage.endpoint()),
        region: env.get("AWS_REGION").cloned(),
        credentials_file: Some(keys),
        ..Options::default()
    };
    suite(async |name| {
        let place = Location::parse(&format!("s3://{}/{name}", garage.bucket())).unwrap();
        open(&place, &options).await.unwrap()
    })
    .await;
}
