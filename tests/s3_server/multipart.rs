//! Objects that arrive in parts.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};

use super::{client, refusal};
use crate::common::s3::S3Server;

const KEY: &str = "basebackups/x/part";
const PART_BYTES: usize = 5 << 20;

async fn begin(
    server: &S3Server,
    client: &Client,
    kind: ChecksumType,
    algorithm: ChecksumAlgorithm,
) -> String {
    let begin = client.create_multipart_upload().bucket(server.bucket()).key(KEY);
    let begun = begin
        .checksum_algorithm(algorithm)
        .checksum_type(kind)
        .send()
        .await;
    begun.expect("begun").upload_id.expect("an id")
}

async fn put_part(server: &S3Server, client: &Client, id: &str, number: i32, bytes: usize) -> CompletedPart {
    let put = client
        .upload_part()
        .bucket(server.bucket())
        .key(KEY)
        .upload_id(id)
        .part_number(number);
    let put = put
        .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
        .body(vec![number as u8; bytes].into());
    let answer = put.send().await.expect("a part");
    assert!(answer.checksum_crc64_nvme().is_some());
    CompletedPart::builder()
        .part_number(number)
        .set_e_tag(answer.e_tag)
        .build()
}

fn list(parts: &[&CompletedPart]) -> CompletedMultipartUpload {
    CompletedMultipartUpload::builder()
        .set_parts(Some(parts.iter().copied().cloned().collect()))
        .build()
}

#[tokio::test]
async fn an_object_appears_when_its_upload_is_completed() {
    let server = S3Server::start();
    let client = client(&server);
    let id = begin(
        &server,
        &client,
        ChecksumType::FullObject,
        ChecksumAlgorithm::Crc64Nvme,
    )
    .await;
    let two = put_part(&server, &client, &id, 2, 10).await;
    let one = put_part(&server, &client, &id, 1, PART_BYTES).await;
    assert_eq!(
        (server.keys(""), server.uploads_in_progress()),
        (vec![], vec![KEY.to_owned()])
    );
    let told = client
        .list_parts()
        .bucket(server.bucket())
        .key(KEY)
        .upload_id(&id)
        .send()
        .await
        .expect("parts");
    assert_eq!(
        told.parts().iter().map(|part| part.size()).collect::<Vec<_>>(),
        [Some(PART_BYTES as i64), Some(10)]
    );

    let complete = || {
        client
            .complete_multipart_upload()
            .bucket(server.bucket())
            .key(KEY)
            .upload_id(&id)
    };
    let wrong = complete()
        .multipart_upload(list(&[&one, &two]))
        .checksum_crc64_nvme("AAAAAAAAAAA=")
        .send()
        .await;
    assert_eq!(refusal(wrong).1, "BadDigest");
    let order = complete().multipart_upload(list(&[&two, &one])).send().await;
    assert_eq!(refusal(order).1, "InvalidPartOrder");
    let done = complete()
        .multipart_upload(list(&[&one, &two]))
        .if_none_match("*")
        .send()
        .await
        .expect("completed");

    let expected = [vec![1; PART_BYTES], vec![2; 10]].concat();
    assert_eq!(done.checksum_type(), Some(&ChecksumType::FullObject));
    assert_eq!(server.object(KEY), Some(expected));
    assert_eq!(server.uploads_in_progress(), Vec::<String>::new());
    // The client checks the whole against the checksum that the server made of the parts.
    let got = client
        .get_object()
        .bucket(server.bucket())
        .key(KEY)
        .send()
        .await
        .expect("get");
    assert_eq!(got.checksum_crc64_nvme(), done.checksum_crc64_nvme());
    got.body.collect().await.expect("a right checksum");
}

#[tokio::test]
async fn a_composite_checksum_counts_its_parts() {
    let server = S3Server::start();
    let client = client(&server);
    let id = begin(
        &server,
        &client,
        ChecksumType::Composite,
        ChecksumAlgorithm::Sha256,
    )
    .await;
    let one = put_part(&server, &client, &id, 1, 5).await;
    let complete = client
        .complete_multipart_upload()
        .bucket(server.bucket())
        .key(KEY)
        .upload_id(&id);
    let done = complete
        .multipart_upload(list(&[&one]))
        .send()
        .await
        .expect("completed");
    assert!(done.checksum_sha256().is_some_and(|sum| sum.ends_with("-1")));
    assert!(done.e_tag().is_some_and(|tag| tag.ends_with("-1\"")));
}

#[tokio::test]
async fn a_refused_completion_leaves_object_and_upload_alone() {
    let server = S3Server::start();
    let client = client(&server);
    server.put_object(KEY, "old");
    let id = begin(
        &server,
        &client,
        ChecksumType::FullObject,
        ChecksumAlgorithm::Crc64Nvme,
    )
    .await;
    let small = put_part(&server, &client, &id, 1, 5).await;
    let last = put_part(&server, &client, &id, 2, 5).await;
    let complete = || {
        client
            .complete_multipart_upload()
            .bucket(server.bucket())
            .key(KEY)
            .upload_id(&id)
    };
    let exists = complete()
        .multipart_upload(list(&[&small]))
        .if_none_match("*")
        .send()
        .await;
    assert_eq!(refusal(exists), (412, "PreconditionFailed".to_owned()));
    let too_small = complete().multipart_upload(list(&[&small, &last])).send().await;
    assert_eq!(refusal(too_small).1, "EntityTooSmall");
    let unknown = CompletedPart::builder().part_number(3).e_tag("x").build();
    assert_eq!(
        refusal(complete().multipart_upload(list(&[&unknown])).send().await).1,
        "InvalidPart"
    );
    assert_eq!(server.object(KEY).as_deref(), Some(&b"old"[..]));
    assert_eq!(server.uploads_in_progress(), [KEY]);

    let abort = || {
        client
            .abort_multipart_upload()
            .bucket(server.bucket())
            .key(KEY)
            .upload_id(&id)
    };
    abort().send().await.expect("aborted");
    assert_eq!(refusal(abort().send().await).1, "NoSuchUpload");
    let uploads = client
        .list_multipart_uploads()
        .bucket(server.bucket())
        .send()
        .await
        .expect("a list");
    assert_eq!(uploads.uploads().len(), 0);
}

#[tokio::test]
async fn a_part_with_a_wrong_checksum_is_refused() {
    let server = S3Server::start();
    let client = client(&server);
    let id = begin(
        &server,
        &client,
        ChecksumType::FullObject,
        ChecksumAlgorithm::Crc64Nvme,
    )
    .await;
    let put = client
        .upload_part()
        .bucket(server.bucket())
        .key(KEY)
        .upload_id(&id)
        .part_number(1);
    let put = put
        .checksum_crc64_nvme("AAAAAAAAAAA=")
        .body(vec![1].into())
        .send()
        .await;
    assert_eq!(refusal(put).1, "BadDigest");
    let parts = client
        .list_parts()
        .bucket(server.bucket())
        .key(KEY)
        .upload_id(&id)
        .send()
        .await
        .expect("parts");
    assert_eq!(parts.parts().len(), 0);
}
