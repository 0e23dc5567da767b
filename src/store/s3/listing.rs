//! Listing a bucket's prefix.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::bounded::Bounded;
use super::{Error, ErrorKind, Key, Meta, Page, S3, system_time};

/// Where a page starts.
#[derive(Debug, Clone)]
enum Start {
    Beginning,
    After(String),
    /// The server's own word for it. Only within one call: it says nothing to another server.
    Token(String),
}

impl Start {
    fn is_token(&self, other: &str) -> bool {
        matches!(self, Self::Token(token) if token == other)
    }
}

/// Pages without an object of ours that are asked for in one call: of a million foreign ones.
const VAIN_PAGES: u32 = 1000;

impl S3 {
    /// Asks on where a page holds no object of ours, because all are foreign or the server gave up searching: to our
    /// caller an empty page means the end.
    pub(super) async fn list_objects(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut last = after.map(|after| self.full(after)).unwrap_or_default();
        let mut vain = 0;
        let mut start = after.map_or(Start::Beginning, |after| Start::After(self.full(after)));
        loop {
            let answer = self.send_list(prefix, &start, limit).await?;
            let entries = self.entries(prefix, &last, &answer)?;
            let more = answer.is_truncated() == Some(true);
            if !entries.is_empty() || !more {
                return Ok(Page { entries, more });
            }
            vain += 1;
            if let Some(object) = answer.contents().last() {
                last = object.key().unwrap_or_default().to_owned();
            }
            start = match answer.next_continuation_token() {
                Some(token) if !start.is_token(token) && vain < VAIN_PAGES => Start::Token(token.to_owned()),
                None if !answer.contents().is_empty() && vain < VAIN_PAGES => Start::After(last.clone()),
                _ => {
                    let message = "page after page is empty, and none is the last";
                    return Err(self.error(ErrorKind::Transient, "list", prefix, message));
                }
            };
        }
    }

    async fn send_list(
        &self,
        prefix: &str,
        start: &Start,
        limit: usize,
    ) -> Result<ListObjectsV2Output, Error> {
        let used = self.connections.current();
        let request = used
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix));
        let request = match start {
            Start::Beginning => request,
            Start::After(after) => request.start_after(after),
            Start::Token(token) => request.continuation_token(token),
        };
        let outcome = request
            .max_keys(limit as i32)
            .customize()
            .interceptor(Bounded::Answer)
            .send()
            .await;
        self.answer(&used, "list", prefix, outcome).await
    }

    /// The archive's own objects of a page. Order is checked: callers continue after the last key, and would miss
    /// objects of a server that lists in another order.
    fn entries(
        &self,
        prefix: &str,
        after: &str,
        answer: &ListObjectsV2Output,
    ) -> Result<Vec<(Key, Meta)>, Error> {
        let mut last = after;
        let mut entries = Vec::with_capacity(answer.contents().len());
        for object in answer.contents() {
            let full = object.key().unwrap_or_default();
            if full <= last {
                let message =
                    format!("{full:?} is listed after {last:?}: this server's listings are of no use");
                return Err(self.error(ErrorKind::Permanent, "list", prefix, message));
            }
            last = full;
            let Some(key) = self.relative(full).and_then(Key::parse) else {
                continue;
            };
            let stored_bytes = object
                .size()
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(0);
            entries.push((
                key,
                Meta {
                    stored_bytes,
                    modified: system_time(object.last_modified()),
                },
            ));
        }
        Ok(entries)
    }
}
