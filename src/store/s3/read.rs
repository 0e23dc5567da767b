//! Reading objects: get and head.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;

use super::super::{room_for, too_long};
use super::error::chain;
use super::{ByteRange, Error, ErrorKind, Fetched, Key, Meta, S3, system_time};

/// Memory taken on a server's word for how long a body will be. More is taken as it comes.
const MOST_TRUSTED_BYTES: usize = 64 << 20;

/// How much of a body is taken.
#[derive(Debug, Clone, Copy)]
enum Most {
    /// A longer one is damaged.
    Allowed(u64),
    /// Of a longer one the rest is left: by a server that does not know ranges.
    Enough(u64),
}

impl S3 {
    pub(super) async fn get_object(
        &self,
        key: &Key,
        range: ByteRange,
        room: Vec<u8>,
    ) -> Result<Fetched, Error> {
        match range {
            ByteRange::AtMost(most) => self.get_whole(key, room, most).await,
            // HTTP cannot ask for nothing.
            ByteRange::Span(span) if span.is_empty() => self.get_nothing(key).await,
            ByteRange::First(0) | ByteRange::Last(0) => self.get_nothing(key).await,
            ByteRange::Span(span) => {
                let range = format!("bytes={}-{}", span.start, span.end - 1);
                let got = self
                    .send_get(key, Some(range), room, Most::Enough(span.end))
                    .await?;
                self.cut(key, got, span.start, span.end - span.start)
            }
            ByteRange::First(bytes) => {
                let range = format!("bytes=0-{}", bytes - 1);
                let got = self.send_get(key, Some(range), room, Most::Enough(bytes)).await?;
                let size = got.1.meta.stored_bytes;
                self.cut(key, got, 0, bytes.min(size))
            }
            ByteRange::Last(bytes) => self.get_last(key, bytes).await,
        }
    }

    async fn get_whole(&self, key: &Key, room: Vec<u8>, most: u64) -> Result<Fetched, Error> {
        let (first, fetched) = self.send_get(key, None, room, Most::Allowed(most)).await?;
        if first != 0 || fetched.bytes.len() as u64 != fetched.meta.stored_bytes {
            return Err(self.wrong_bytes(key, "a part, where the whole was asked for"));
        }
        Ok(fetched)
    }

    async fn get_nothing(&self, key: &Key) -> Result<Fetched, Error> {
        let meta = self.head_object(key).await?;
        let bytes = Bytes::new();
        Ok(Fetched { bytes, meta })
    }

    /// Some servers answer 416 or 500 when fewer bytes are there than asked for, all of them for an empty object.
    async fn get_last(&self, key: &Key, bytes: u64) -> Result<Fetched, Error> {
        let range = format!("bytes=-{bytes}");
        let most = Most::Allowed(bytes.max(MOST_TRUSTED_BYTES as u64));
        let got = match self.send_get(key, Some(range), Vec::new(), most).await {
            Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::Transient) => {
                let meta = self.head_object(key).await.map_err(|_| error.clone())?;
                let too_small = meta.stored_bytes <= bytes;
                return if too_small {
                    self.get_whole(key, Vec::new(), bytes).await
                } else {
                    Err(error)
                };
            }
            got => got?,
        };
        let size = got.1.meta.stored_bytes;
        self.cut(key, got, size.saturating_sub(bytes), bytes.min(size))
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

    /// One GET: the offset of the first byte in the object, and the bytes with the whole object's size.
    async fn send_get(
        &self,
        key: &Key,
        range: Option<String>,
        room: Vec<u8>,
        most: Most,
    ) -> Result<(u64, Fetched), Error> {
        let used = self.connections.current();
        // A checksum of the whole cannot be compared with a part.
        let mode = range.is_none().then_some(ChecksumMode::Enabled);
        let request = used
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let outcome = request.set_range(range).set_checksum_mode(mode).send().await;
        if status_of(&outcome) == Some(416) {
            return Err(self.wrong_bytes(key, "nothing: the range is outside of the object"));
        }
        let mut answer = self.answer(&used, "get", key.as_str(), outcome).await?;
        self.check_stored("get", key, answer.e_tag(), true)?;
        let announced = announced(&answer);
        let bytes = self.read_body(key, &mut answer, room, most).await?;
        let place = match answer.content_range() {
            None => Some((0, announced.unwrap_or(bytes.len() as u64))),
            Some(text) => parse_content_range(text),
        };
        let (first, stored_bytes) = place.ok_or_else(|| self.wrong_bytes(key, "an unreadable range"))?;
        let modified = system_time(answer.last_modified());
        let meta = Meta {
            stored_bytes,
            modified,
        };
        Ok((first, Fetched { bytes, meta }))
    }

    /// The body, or its beginning as far as it is wanted.
    async fn read_body(
        &self,
        key: &Key,
        answer: &mut GetObjectOutput,
        room: Vec<u8>,
        most: Most,
    ) -> Result<Bytes, Error> {
        let announced = announced(answer);
        let likely = announced.unwrap_or(0).min(MOST_TRUSTED_BYTES as u64);
        let mut bytes = room_for(likely as usize, room);
        loop {
            match most {
                Most::Allowed(most) => {
                    let found = announced.unwrap_or(0).max(bytes.len() as u64);
                    if found > most {
                        return Err(self.error(
                            ErrorKind::Damaged,
                            "get",
                            key.as_str(),
                            too_long(found, most),
                        ));
                    }
                }
                Most::Enough(enough) if bytes.len() as u64 >= enough => return Ok(bytes.into()),
                Most::Enough(_) => {}
            }
            let Some(piece) = answer.body.next().await else {
                break;
            };
            let piece = piece.map_err(|error| self.broken_body(key, &chain(&error)))?;
            bytes.extend_from_slice(&piece);
        }
        match announced {
            Some(announced) if announced != bytes.len() as u64 => {
                let message = format!("{} bytes came, {announced} were announced", bytes.len());
                Err(self.error(ErrorKind::Transient, "get", key.as_str(), message))
            }
            _ => Ok(bytes.into()),
        }
    }

    /// The SDK compares the checksum of a whole object at the body's end, and tells by an error of the body.
    fn broken_body(&self, key: &Key, why: &str) -> Error {
        let kind = match why.to_ascii_lowercase().contains("checksum mismatch") {
            true => ErrorKind::Damaged,
            false => ErrorKind::Transient,
        };
        self.error(kind, "get", key.as_str(), format!("the body broke off: {why}"))
    }

    fn wrong_bytes(&self, key: &Key, came: &str) -> Error {
        self.error(
            ErrorKind::Damaged,
            "get",
            key.as_str(),
            format!("there came {came}"),
        )
    }

    /// Asked by a GET of one byte. A refused HEAD has no body, so nothing says whether a 404 is S3's, of the object or of
    /// the bucket, or a 400 of an expired key: it would have to be asked again. So presence and absence cost one request
    /// each, and an empty object, which the archive never stores, two.
    pub(super) async fn head_object(&self, key: &Key) -> Result<Meta, Error> {
        let operation = "head";
        let first = Some("bytes=0-0".into());
        let fetched = match self.send_get(key, first, Vec::new(), Most::Enough(1)).await {
            // The first byte is outside of an empty object.
            Err(error) if error.kind == ErrorKind::Damaged => self.get_whole(key, Vec::new(), 0).await,
            got => got.map(|(_, fetched)| fetched),
        };
        fetched
            .map(|fetched| fetched.meta)
            .map_err(|error| Error { operation, ..error })
    }

    /// What the server calls the content that an object has now, if it says so.
    pub(super) async fn tag_of(&self, key: &Key) -> Result<Option<String>, Error> {
        let used = self.connections.current();
        let request = used
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(self.full(key.as_str()));
        let outcome = request.range("bytes=0-0").send().await;
        let answer = self.answer(&used, "head", key.as_str(), outcome).await?;
        Ok(answer.e_tag().map(str::to_owned))
    }
}

/// How long a body will be, if the server says so.
fn announced(answer: &GetObjectOutput) -> Option<u64> {
    answer
        .content_length()
        .and_then(|length| u64::try_from(length).ok())
}

/// The HTTP status of a refusal.
pub(super) fn status_of<T, E>(outcome: &Result<T, SdkError<E, HttpResponse>>) -> Option<u16> {
    Some(outcome.as_ref().err()?.raw_response()?.status().as_u16())
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
