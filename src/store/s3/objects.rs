//! Whole objects: put, get, head, delete.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, Delete, ObjectIdentifier};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};

use super::error::chain;
use super::{ByteRange, Error, ErrorKind, Fetched, Key, Meta, PutMode, S3, checksum, system_time};

/// Memory taken on a server's word for how long a body will be. More is taken as it comes.
const MOST_TRUSTED_BYTES: usize = 64 << 20;

/// Single deletions on the way at a time, where the server has no common one.
const DELETES_IN_FLIGHT: usize = 8;

impl S3 {
    pub(super) async fn put_object(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), Error> {
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
            .body(ByteStream::from(body));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                return Err(self
                    .connections
                    .failed(&used, "put", self.target(key.as_str()), &error)
                    .await);
            }
        };
        self.check_stored(
            "put",
            key,
            answer.e_tag(),
            checksum::agrees(answer.checksum_crc32_c(), crc32c),
        )
    }

    /// Is an answer of success one? Any gateway can say 200.
    pub(super) fn check_stored(
        &self,
        operation: &'static str,
        key: &Key,
        e_tag: Option<&str>,
        checksum_agrees: bool,
    ) -> Result<(), Error> {
        if e_tag.is_none_or(str::is_empty) {
            let message = "the answer of success has no ETag: not an S3 server's";
            return Err(self.error(ErrorKind::Transient, operation, key.as_str(), message));
        }
        if !checksum_agrees {
            let message = "the server's checksum of what it stored is another one";
            return Err(self.error(ErrorKind::Damaged, operation, key.as_str(), message));
        }
        Ok(())
    }

    pub(super) async fn get_object(&self, key: &Key, range: ByteRange) -> Result<Fetched, Error> {
        match range {
            ByteRange::Whole => self.get_whole(key).await,
            // HTTP cannot ask for nothing.
            ByteRange::Span(span) if span.is_empty() => self.get_nothing(key).await,
            ByteRange::Last(0) => self.get_nothing(key).await,
            ByteRange::Span(span) => {
                let fetched = self
                    .get_range(key, format!("bytes={}-{}", span.start, span.end - 1))
                    .await?;
                self.cut(key, fetched, span.start, span.end - span.start)
            }
            ByteRange::Last(bytes) => self.get_last(key, bytes).await,
        }
    }

    async fn get_whole(&self, key: &Key) -> Result<Fetched, Error> {
        let (first, fetched) = self.send_get(key, None).await?;
        if first != 0 || fetched.bytes.len() as u64 != fetched.meta.stored_bytes {
            return Err(self.wrong_bytes(key, "a part, where the whole was asked for"));
        }
        Ok(fetched)
    }

    async fn get_nothing(&self, key: &Key) -> Result<Fetched, Error> {
        Ok(Fetched {
            bytes: Bytes::new(),
            meta: self.head_object(key).await?,
        })
    }

    async fn get_range(&self, key: &Key, range: String) -> Result<(u64, Fetched), Error> {
        self.send_get(key, Some(range)).await
    }

    /// Some servers answer 416 or 500 when fewer bytes are there than asked for, all of them for an empty object.
    async fn get_last(&self, key: &Key, bytes: u64) -> Result<Fetched, Error> {
        let (first, fetched) = match self.get_range(key, format!("bytes=-{bytes}")).await {
            Ok(got) => got,
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::Transient) => {
                let meta = self.head_object(key).await.map_err(|_| error.clone())?;
                return if meta.stored_bytes <= bytes {
                    self.get_whole(key).await
                } else {
                    Err(error)
                };
            }
            Err(error) => return Err(error),
        };
        let size = fetched.meta.stored_bytes;
        self.cut(key, (first, fetched), size.saturating_sub(bytes), bytes.min(size))
    }

    /// The bytes asked for out of what came: the same, or more from a server that does not know ranges.
    fn cut(&self, key: &Key, got: (u64, Fetched), start: u64, length: u64) -> Result<Fetched, Error> {
        let (first, Fetched { bytes, meta }) = got;
        let end = start + length;
        if first > start || first + (bytes.len() as u64) < end {
            let came = format!(
                "{} bytes from {first} on, where {length} from {start} on were asked for",
                bytes.len()
            );
            return Err(self.wrong_bytes(key, &came));
        }
        let bytes = bytes.slice((start - first) as usize..(end - first) as usize);
        Ok(Fetched { bytes, meta })
    }

    fn wrong_bytes(&self, key: &Key, came: &str) -> Error {
        self.error(
            ErrorKind::Damaged,
            "get",
            key.as_str(),
            format!("there came {came}"),
        )
    }

    /// One GET: the offset of the first byte in the object, and the bytes with the whole object's size.
    async fn send_get(&self, key: &Key, range: Option<String>) -> Result<(u64, Fetched), Error> {
        let used = self.connections.current();
        // A checksum of the whole cannot be compared with a part.
        let mode = range.is_none().then_some(ChecksumMode::Enabled);
        let request = used
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let mut answer = match request.set_range(range).set_checksum_mode(mode).send().await {
            Ok(answer) => answer,
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|raw| raw.status().as_u16() == 416) =>
            {
                return Err(self.wrong_bytes(key, "nothing: the range is outside of the object"));
            }
            Err(error) => {
                return Err(self
                    .connections
                    .failed(&used, "get", self.target(key.as_str()), &error)
                    .await);
            }
        };
        self.check_stored("get", key, answer.e_tag(), true)?;
        let bytes = self.read_body(key, &mut answer).await?;
        let (first, stored_bytes) = match answer.content_range() {
            None => (0, bytes.len() as u64),
            Some(text) => {
                parse_content_range(text).ok_or_else(|| self.wrong_bytes(key, "an unreadable range"))?
            }
        };
        let meta = Meta {
            stored_bytes,
            modified: system_time(answer.last_modified()),
        };
        Ok((first, Fetched { bytes, meta }))
    }

    async fn read_body(&self, key: &Key, answer: &mut GetObjectOutput) -> Result<Bytes, Error> {
        let expected = answer
            .content_length()
            .and_then(|length| usize::try_from(length).ok());
        let mut bytes = BytesMut::with_capacity(expected.unwrap_or(0).min(MOST_TRUSTED_BYTES));
        while let Some(piece) = answer.body.next().await {
            let piece = piece.map_err(|error| self.broken_body(key, &chain(&error)))?;
            bytes.extend_from_slice(&piece);
        }
        if expected.is_some_and(|expected| expected != bytes.len()) {
            let message = format!(
                "{} bytes came, {} were announced",
                bytes.len(),
                expected.unwrap_or(0)
            );
            return Err(self.error(ErrorKind::Transient, "get", key.as_str(), message));
        }
        Ok(bytes.freeze())
    }

    /// The SDK compares the checksum of a whole object at the body's end, and tells by an error of the body.
    fn broken_body(&self, key: &Key, why: &str) -> Error {
        let mismatch = why.to_ascii_lowercase().contains("checksum mismatch");
        let kind = if mismatch {
            ErrorKind::Damaged
        } else {
            ErrorKind::Transient
        };
        self.error(kind, "get", key.as_str(), format!("the body broke off: {why}"))
    }

    /// A refused HEAD has no body, so nothing says whether a 404 is S3's, of the object or of the bucket, or a 400 of
    /// an expired key. What it means is asked by a GET of one byte: absence costs two requests, presence one.
    pub(super) async fn head_object(&self, key: &Key) -> Result<Meta, Error> {
        let used = self.connections.current();
        let request = used
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error)
                if error
                    .raw_response()
                    .is_some_and(|raw| raw.status().is_client_error()) =>
            {
                return self.head_by_get(key).await.map_err(|error| Error {
                    operation: "head",
                    ..error
                });
            }
            Err(error) => {
                return Err(self
                    .connections
                    .failed(&used, "head", self.target(key.as_str()), &error)
                    .await);
            }
        };
        self.check_stored("head", key, answer.e_tag(), true)?;
        let Some(stored_bytes) = answer
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
        else {
            return Err(self.error(
                ErrorKind::Transient,
                "head",
                key.as_str(),
                "the answer names no length",
            ));
        };
        Ok(Meta {
            stored_bytes,
            modified: system_time(answer.last_modified()),
        })
    }

    async fn head_by_get(&self, key: &Key) -> Result<Meta, Error> {
        match self.send_get(key, Some("bytes=0-0".into())).await {
            Ok((_, fetched)) => Ok(fetched.meta),
            // The first byte is outside of an empty object.
            Err(error) if error.kind == ErrorKind::Damaged => Ok(self.get_whole(key).await?.meta),
            Err(error) => Err(error),
        }
    }

    /// One request for all of them; where the server has no such request, one each.
    pub(super) async fn delete_objects(&self, keys: &[Key]) -> Result<(), Error> {
        let Some(first) = keys.first() else { return Ok(()) };
        let used = self.connections.current();
        let name = |key: &Key| {
            ObjectIdentifier::builder()
                .key(self.full(key.as_str()))
                .build()
                .expect("has a key")
        };
        let all = Delete::builder()
            .set_objects(Some(keys.iter().map(name).collect()))
            .quiet(true)
            .build();
        let request = used
            .client
            .delete_objects()
            .bucket(&self.bucket)
            .delete(all.expect("has objects"));
        match request.send().await {
            Ok(answer) => {
                let is_failure = |error: &&aws_sdk_s3::types::Error| error.code() != Some("NoSuchKey");
                match answer.errors().iter().find(is_failure) {
                    None => Ok(()),
                    Some(_) => self.delete_singly(keys).await,
                }
            }
            Err(error) => {
                let code = error.code().map(str::to_owned);
                let failed = self
                    .connections
                    .failed(&used, "delete", self.target(first.as_str()), &error)
                    .await;
                match failed.kind {
                    ErrorKind::Permanent if code.as_deref() != Some("NoSuchBucket") => {
                        self.delete_singly(keys).await
                    }
                    _ => Err(failed),
                }
            }
        }
    }

    async fn delete_singly(&self, keys: &[Key]) -> Result<(), Error> {
        let deletions: Vec<_> = keys.iter().map(|key| self.delete_object(key)).collect();
        futures::stream::iter(deletions)
            .buffer_unordered(DELETES_IN_FLIGHT)
            .try_collect()
            .await
    }

    async fn delete_object(&self, key: &Key) -> Result<(), Error> {
        let used = self.connections.current();
        let request = used
            .client
            .delete_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let Err(error) = request.send().await else {
            return Ok(());
        };
        let failed = self
            .connections
            .failed(&used, "delete", self.target(key.as_str()), &error)
            .await;
        if failed.kind == ErrorKind::NotFound {
            Ok(())
        } else {
            Err(failed)
        }
    }
}

/// First offset and whole size of `bytes 5-9/20`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (span, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = span.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/20"), Some((5, 20)));
        assert_eq!(parse_content_range("bytes */20"), None);
        assert_eq!(parse_content_range("bytes 5-9/*"), None);
        assert_eq!(parse_content_range("5-9/20"), None);
    }
}
