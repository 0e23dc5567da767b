//! Checksums are verified, kept, and given back.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;

use super::{body, client, refusal};
use crate::common::s3::S3Server;

#[tokio::test]
async fn a_wrong_checksum_is_refused() {
    let server = S3Server::start();
    let client = client(&server);
    let put = || {
        client
            .put_object()
            .bucket(server.bucket())
            .key("a")
            .body(body("right"))
    };
    assert_eq!(
        refusal(put().checksum_crc32("AAAAAA==").send().await).1,
        "BadDigest"
    );
    assert_eq!(
        refusal(put().checksum_crc32_c("AAAAAA==").send().await).1,
        "BadDigest"
    );
    assert_eq!(
        refusal(put().checksum_crc64_nvme("AAAAAAAAAAA=").send().await).1,
        "BadDigest"
    );
    let sha = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    assert_eq!(refusal(put().checksum_sha256(sha).send().await).1, "BadDigest");
    assert_eq!(
        refusal(put().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await).1,
        "BadDigest"
    );
    assert_eq!(server.keys(""), Vec::<String>::new());
}

#[tokio::test]
async fn right_checksums_are_taken_and_given_back() {
    let server = S3Server::start();
    let client = client(&server);
    let check = |algorithm| {
        client
            .put_object()
            .bucket(server.bucket())
            .key("a")
            .checksum_algorithm(algorithm)
    };
    // Computed by other means: bit by bit with the polynomials of the CRC catalogue, and by Python.
    let put = check(ChecksumAlgorithm::Crc32C)
        .body(body("123456789"))
        .send()
        .await
        .expect("CRC32C");
    assert_eq!(put.checksum_crc32_c(), Some("4waSgw=="));
    let put = check(ChecksumAlgorithm::Crc64Nvme)
        .body(body("123456789"))
        .send()
        .await
        .expect("CRC64NVME");
    assert_eq!(put.checksum_crc64_nvme(), Some("rosUhgp5mIg="));
    let put = check(ChecksumAlgorithm::Sha256)
        .body(body("123456789"))
        .send()
        .await
        .expect("SHA256");
    assert_eq!(
        put.checksum_sha256(),
        Some("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU=")
    );
    let md5 = client
        .put_object()
        .bucket(server.bucket())
        .key("a")
        .content_md5("JfnnlDI7RTiF9RgfG2JNCw==");
    let put = md5.body(body("123456789")).send().await.expect("MD5");
    assert_eq!(put.e_tag(), Some("\"25f9e794323b453885f5181f1b624d0b\""));
}

#[tokio::test]
async fn a_corrupted_object_keeps_its_old_checksum() {
    let server = S3Server::start();
    let client = client(&server);
    client
        .put_object()
        .bucket(server.bucket())
        .key("a")
        .body(body("right"))
        .send()
        .await
        .expect("put");
    server.corrupt("a", |bytes| bytes[0] ^= 1);
    let got = client
        .get_object()
        .bucket(server.bucket())
        .key("a")
        .send()
        .await
        .expect("the head is fine");
    got.body.collect().await.expect_err("the client notices");
    assert!(server.remove("a") && !server.remove("a"));
}

#[tokio::test]
async fn a_streamed_body_with_a_trailing_checksum_is_taken() {
    let server = S3Server::start();
    let client = client(&server);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), vec![7; 300_000]).expect("written");
    let stream = ByteStream::from_path(file.path()).await.expect("opened");
    client
        .put_object()
        .bucket(server.bucket())
        .key("a")
        .body(stream)
        .send()
        .await
        .expect("streamed");
    assert_eq!(server.object("a"), Some(vec![7; 300_000]));

    let plain = client
        .config()
        .to_builder()
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired);
    let put = Client::from_conf(plain.build())
        .put_object()
        .bucket(server.bucket())
        .key("b")
        .body(body("x"));
    put.send().await.expect("without a checksum");
}
