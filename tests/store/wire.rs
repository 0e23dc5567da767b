//! What goes over the wire: the lines of a request on which durability hangs, read from the socket itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use walfs::store::Options;

use super::*;

const EMPTY_LISTING: &str = "<ListBucketResult><Name>b</Name><Prefix/><KeyCount>0</KeyCount><MaxKeys>1</MaxKeys>\
                             <IsTruncated>false</IsTruncated></ListBucketResult>";

const STORED: &str = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";

type Request = (String, Vec<u8>);

/// Reads one request; its head in lower case, and its body. `None`: the connection is closed. Tells when all of the body
/// but its last byte is there.
fn receive(stream: &mut BufReader<TcpStream>, nearly_whole: &dyn Fn()) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).ok().filter(|&bytes| bytes > 0)?;
    }
    let head = head.to_ascii_lowercase();
    let mut body = vec![0; header(&head, "content-length").map_or(0, |length| length.parse().unwrap())];
    if let Some((last, first)) = body.split_last_mut() {
        stream.read_exact(first).ok()?;
        nearly_whole();
        stream.read_exact(std::slice::from_mut(last)).ok()?;
    }
    Some((head, body))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A server that lets the store be opened, on as many connections as it likes, and gives each put the same answer.
/// What these have sent comes out of the channel.
fn server(
    answer: &'static str,
    nearly_whole: impl Fn() + Send + Sync + 'static,
) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, puts) = channel();
    let nearly_whole = Arc::new(nearly_whole);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (BufReader::new(stream.unwrap()), sender.clone());
            let nearly_whole = Arc::clone(&nearly_whole);
            std::thread::spawn(move || {
                let length = EMPTY_LISTING.len();
                let listing = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{EMPTY_LISTING}");
                while let Some(request) = receive(&mut stream, &*nearly_whole) {
                    let is_put = request.0.starts_with("put");
                    // Before the answer: whoever has that finds the request. Nobody listens when the test is over.
                    let _ = is_put.then(|| sender.send(request));
                    let answer = if is_put { answer } else { &listing };
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (endpoint, puts)
}

async fn open_at(endpoint: String, scratch: &tempfile::TempDir) -> Store {
    let keys = scratch.path().join("credentials");
    std::fs::write(
        &keys,
        "[default]\naws_access_key_id = id\naws_secret_access_key = hush\n",
    )
    .unwrap();
    let region = Some("here".to_owned());
    let options = Options {
        endpoint: Some(endpoint),
        region,
        credentials_file: Some(keys),
        ..Options::default()
    };
    open(&Location::parse("s3://b/p").unwrap(), &options)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_sends_checksum_algorithm_and_condition() {
    let scratch = tempfile::tempdir().unwrap();
    let (endpoint, puts) = server(STORED, || {});
    let store = open_at(endpoint, &scratch).await;
    put(&store, "wal/x", "123456789").await.unwrap();
    let (head, body) = puts.try_recv().unwrap();
    assert_eq!(body, b"123456789");
    assert!(head.starts_with("put /b/p/wal/x"), "{head}");
    assert_eq!(header(&head, "x-amz-checksum-crc32c"), Some("4wasgw=="), "{head}");
    assert_eq!(
        header(&head, "x-amz-sdk-checksum-algorithm"),
        Some("crc32c"),
        "{head}"
    );
    assert_eq!(header(&head, "if-none-match"), Some("*"), "{head}");
    assert!(
        !head.contains("aws-chunked") && !head.contains("streaming-") && !head.contains("hush"),
        "{head}"
    );
}

/// Signed and with its checksum as every other put; all but one byte of it is at the server before leave is given.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_waits_for_leave_is_on_its_way() {
    let scratch = tempfile::tempdir().unwrap();
    let (grant, leave) = leave();
    let grant = Mutex::new(Some(grant));
    let (endpoint, puts) = server(STORED, move || {
        if let Some(grant) = grant.lock().unwrap().take() {
            grant.give();
        }
    });
    let store = open_at(endpoint, &scratch).await;
    let (key, body) = (key("wal/x"), content(3_000_000));
    let put = store.put_with_leave(&key, body.clone(), PutMode::IfAbsent, leave, soon());
    put.await.unwrap();
    let (head, received) = puts.try_recv().unwrap();
    assert_eq!(received, body);
    assert_eq!(header(&head, "content-length"), Some("3000000"), "{head}");
    assert!(header(&head, "x-amz-checksum-crc32c").is_some(), "{head}");
    assert!(
        header(&head, "x-amz-content-sha256").is_some_and(|hash| hash.len() == 64),
        "{head}"
    );
    assert!(
        !head.contains("chunked") && !head.contains("streaming-"),
        "{head}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_that_comes_back_is_compared() {
    let scratch = tempfile::tempdir().unwrap();
    let answer =
        "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nx-amz-checksum-crc32c: AAAAAA==\r\nContent-Length: 0\r\n\r\n";
    let (endpoint, puts) = server(answer, || {});
    let store = open_at(endpoint, &scratch).await;
    assert_eq!(
        kind(put(&store, "x", "123456789").await),
        Some(ErrorKind::Damaged)
    );
    assert_eq!(puts.try_iter().count(), 3, "attempts");
}
