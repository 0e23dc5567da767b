//! What goes over the wire: the lines of a request on which durability hangs, read from the socket itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;

use walfs::store::Options;

use super::*;

const EMPTY_LISTING: &str = "<ListBucketResult><Name>b</Name><Prefix/><KeyCount>0</KeyCount><MaxKeys>1</MaxKeys>\
                             <IsTruncated>false</IsTruncated></ListBucketResult>";

/// Answers one request; its head in lower case, and its body.
fn serve(stream: &mut BufReader<TcpStream>, answer: &str) -> (String, Vec<u8>) {
    serve_telling(stream, answer, || {})
}

/// As [`serve`]; tells when all of the body but its last byte is there.
fn serve_telling(
    stream: &mut BufReader<TcpStream>,
    answer: &str,
    nearly_whole: impl FnOnce(),
) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "closed after {head:?}");
    }
    let head = head.to_ascii_lowercase();
    let mut body = vec![0; header(&head, "content-length").map_or(0, |length| length.parse().unwrap())];
    if let Some((last, first)) = body.split_last_mut() {
        stream.read_exact(first).unwrap();
        nearly_whole();
        stream.read_exact(std::slice::from_mut(last)).unwrap();
    }
    stream.get_mut().write_all(answer.as_bytes()).unwrap();
    (head, body)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A server that lets the store be opened, then gives `times` more requests of the same connection the same answer.
/// Ends with the last of these.
fn server(answer: &'static str, times: usize) -> (String, JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let length = EMPTY_LISTING.len();
        serve(
            &mut stream,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{EMPTY_LISTING}"),
        );
        (0..times).map(|_| serve(&mut stream, answer)).last().unwrap()
    });
    (endpoint, served)
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
    let (endpoint, served) = server("HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n", 1);
    let store = open_at(endpoint, &scratch).await;
    put(&store, "wal/x", "123456789").await.unwrap();
    let (head, body) = served.join().unwrap();
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (grant, leave) = leave();
    let served = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let length = EMPTY_LISTING.len();
        let listing = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{EMPTY_LISTING}");
        serve(&mut stream, &listing);
        let answer = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
        serve_telling(&mut stream, answer, || grant.give())
    });
    let store = open_at(endpoint, &scratch).await;
    let (key, body) = (key("wal/x"), content(3_000_000));
    let put = store.put_with_leave(&key, body.clone(), PutMode::IfAbsent, leave, soon());
    put.await.unwrap();
    let (head, received) = served.join().unwrap();
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
    let (endpoint, served) = server(answer, 3);
    let store = open_at(endpoint, &scratch).await;
    assert_eq!(
        kind(put(&store, "x", "123456789").await),
        Some(ErrorKind::Damaged)
    );
    served.join().unwrap();
}
