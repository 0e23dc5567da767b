//! Writing and deleting whole objects.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, Delete, ObjectIdentifier};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::super::is_same;
use super::bounded::Bounded;
use super::held::HoldBack;
use super::signing::TlsVouches;
use super::{ByteRange, Error, ErrorKind, Key, Leave, PutMode, S3, checksum};

/// Single deletions on the way at a time, where the server has no common one.
const DELETES_IN_FLIGHT: usize = 8;

impl S3 {
    /// `leave`: what its last byte waits for.
    pub(super) async fn put_object(
        &self,
        key: &Key,
        body: Bytes,
        mode: PutMode,
        leave: Option<Leave>,
    ) -> Result<(), Error> {
        let used = self.connections.current();
        let crc32c = crc32c::crc32c(&body);
        let request = used
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()))
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .checksum_crc32_c(checksum::spell(crc32c))
            .set_if_none_match((mode == PutMode::IfAbsent).then(|| "*".to_owned()))
            .body(ByteStream::from(body.clone()))
            .customize()
            .interceptor(Bounded::Answer)
            .interceptor(TlsVouches);
        let outcome = match leave {
            Some(leave) => request.interceptor(HoldBack { body, leave }).send().await,
            None => request.send().await,
        };
        let answer = self.answer(&used, "put", key.as_str(), outcome).await?;
        let agrees = checksum::agrees(answer.checksum_crc32_c(), crc32c);
        self.check_stored("put", key, answer.e_tag(), agrees)
    }

    /// One request for all of them. Where the server has no such request, or it failed for some, one each: that gives
    /// the reason for the one that fails.
    pub(super) async fn delete_objects(&self, keys: &[Key]) -> Result<(), Error> {
        let Some(first) = keys.first() else { return Ok(()) };
        let used = self.connections.current();
        let request = used
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(self.deletion_of(keys));
        let outcome = request.customize().interceptor(Bounded::Answer).send().await;
        let no_bucket = outcome
            .as_ref()
            .is_err_and(|error| error.code() == Some("NoSuchBucket"));
        match self.answer(&used, "delete", first.as_str(), outcome).await {
            Ok(answer)
                if answer
                    .errors()
                    .iter()
                    .all(|error| error.code() == Some("NoSuchKey")) =>
            {
                Ok(())
            }
            Ok(_) => self.delete_singly(keys).await,
            Err(error) if error.kind == ErrorKind::Permanent && !no_bucket => self.delete_singly(keys).await,
            Err(error) => Err(error),
        }
    }

    fn deletion_of(&self, keys: &[Key]) -> Delete {
        let name = |key: &Key| {
            let named = ObjectIdentifier::builder().key(self.full(key.as_str()));
            named.build().expect("it has a key")
        };
        let objects = keys.iter().map(name).collect();
        let deletion = Delete::builder().set_objects(Some(objects)).quiet(true);
        deletion.build().expect("it has objects")
    }

    async fn delete_singly(&self, keys: &[Key]) -> Result<(), Error> {
        let deletions: Vec<_> = keys.iter().map(|key| self.delete_object(key, None)).collect();
        let deletions = futures::stream::iter(deletions);
        deletions.buffer_unordered(DELETES_IN_FLIGHT).try_collect().await
    }

    /// Only what has that tag, if one is given.
    async fn delete_object(&self, key: &Key, tag: Option<String>) -> Result<(), Error> {
        let used = self.connections.current();
        let request = used
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()))
            .set_if_match(tag);
        let outcome = request.customize().interceptor(Bounded::Answer).send().await;
        match self.answer(&used, "delete", key.as_str(), outcome).await {
            Err(error) if error.kind != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The tag is asked for first: what is read later and is the same, has it, or the condition fails.
    pub(super) async fn delete_object_if_same(&self, key: &Key, content: &Bytes) -> Result<bool, Error> {
        let tag = match self.tag_of(key).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
            tag => tag?,
        };
        let whole = ByteRange::AtMost(content.len() as u64);
        if !is_same(self.get_object(key, whole, Vec::new()).await, content)? {
            return Ok(false);
        }
        match self.delete_object(key, tag).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(false),
            // A server that does not know the condition.
            Err(error) if error.kind == ErrorKind::Permanent => {
                self.delete_object(key, None).await.map(|()| true)
            }
            Err(error) => Err(error),
        }
    }
}
