//! Objects in parts. The checksum's algorithm is declared at the beginning and sent with every part, so that every
//! server compares; see `checksum.rs`.
//!
//! The SDK reads the body of a completion: an error inside a 200 is an error (its deserializer takes any answer whose
//! root element is `Error` for one). An empty or unreadable body has no ETag and is an error here.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::bounded::Bounded;
use super::signing::TlsVouches;
use super::{Error, ErrorKind, Key, Part, PutMode, S3, Upload, checksum};

impl S3 {
    pub(super) async fn create_multipart(&self, key: &Key) -> Result<Upload, Error> {
        let used = self.connections.current();
        let request = used
            .client
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let request = request
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_type(ChecksumType::FullObject);
        let outcome = request.customize().interceptor(Bounded::Answer).send().await;
        let answer = self.answer(&used, "begin upload", key.as_str(), outcome).await?;
        let id = answer.upload_id.filter(|id| !id.is_empty());
        let nameless = || {
            self.error(
                ErrorKind::Transient,
                "begin upload",
                key.as_str(),
                "the answer names no upload",
            )
        };
        let (id, key) = (id.ok_or_else(nameless)?, key.clone());
        Ok(Upload { key, id })
    }

    pub(super) async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<Part, Error> {
        let used = self.connections.current();
        let (crc32c, bytes) = (crc32c::crc32c(&body), body.len() as u64);
        let request = used
            .client
            .upload_part()
            .bucket(&self.bucket)
            .key(self.full(upload.key.as_str()))
            .upload_id(&upload.id)
            .part_number(number as i32)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_crc32_c(checksum::spell(crc32c))
            .body(ByteStream::from(body))
            .customize()
            .interceptor(Bounded::Answer)
            .interceptor(TlsVouches);
        let outcome = request.send().await;
        let answer = self
            .answer(&used, "put part", upload.key.as_str(), outcome)
            .await?;
        let agrees = checksum::agrees(answer.checksum_crc32_c(), crc32c);
        self.check_stored("put part", &upload.key, answer.e_tag(), agrees)?;
        Ok(Part {
            number,
            tag: answer.e_tag.unwrap_or_default(),
            bytes,
            crc32c,
        })
    }

    pub(super) async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[Part],
        mode: PutMode,
    ) -> Result<(), Error> {
        let used = self.connections.current();
        let all = CompletedMultipartUpload::builder()
            .set_parts(Some(parts.iter().map(completed).collect()))
            .build();
        let request = used
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full(upload.key.as_str()))
            .upload_id(&upload.id)
            .set_if_none_match((mode == PutMode::IfAbsent).then(|| "*".to_owned()))
            .multipart_upload(all);
        let outcome = request.customize().interceptor(Bounded::Answer).send().await;
        let answer = self
            .answer(&used, "complete upload", upload.key.as_str(), outcome)
            .await?;
        let agrees = checksum::agrees_with_parts(answer.checksum_crc32_c(), parts);
        self.check_stored("complete upload", &upload.key, answer.e_tag(), agrees)
    }

    pub(super) async fn abort_multipart(&self, upload: &Upload) -> Result<(), Error> {
        let used = self.connections.current();
        let request = used
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(self.full(upload.key.as_str()));
        let outcome = request
            .upload_id(&upload.id)
            .customize()
            .interceptor(Bounded::Answer)
            .send()
            .await;
        match self
            .answer(&used, "abort upload", upload.key.as_str(), outcome)
            .await
        {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn completed(part: &Part) -> CompletedPart {
    let part_of = CompletedPart::builder()
        .part_number(part.number as i32)
        .e_tag(&part.tag);
    part_of.checksum_crc32_c(checksum::spell(part.crc32c)).build()
}
