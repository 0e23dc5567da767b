//! Listing a bucket's prefix.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;

use super::{Error, ErrorKind, Key, Meta, Page, S3, system_time};

impl S3 {
    /// Asks on where a page held only foreign names: an empty page must mean the end.
    pub(super) async fn list_objects(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let mut after = after.map(|after| self.full(after));
        loop {
            let answer = self.send_list(prefix, after.clone(), limit).await?;
            let entries = self.entries(prefix, after.as_deref(), &answer)?;
            let more = answer.is_truncated() == Some(true) && !answer.contents().is_empty();
            if !entries.is_empty() || !more {
                return Ok(Page { entries, more });
            }
            after = answer
                .contents()
                .last()
                .and_then(|object| object.key())
                .map(str::to_owned);
        }
    }

    async fn send_list(
        &self,
        prefix: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<ListObjectsV2Output, Error> {
        let used = self.connections.current();
        let request = used
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(self.full(prefix));
        let request = request.set_start_after(after).max_keys(limit as i32);
        match request.send().await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self
                .connections
                .failed(&used, "list", self.target(prefix), &error)
                .await),
        }
    }

    /// The archive's own objects of a page. Order is checked: callers continue after the last key, and would miss
    /// objects of a server that lists in another order.
    fn entries(
        &self,
        prefix: &str,
        after: Option<&str>,
        answer: &ListObjectsV2Output,
    ) -> Result<Vec<(Key, Meta)>, Error> {
        let mut last = after.unwrap_or_default();
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
