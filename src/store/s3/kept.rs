//! What a bucket keeps: objects under retention (Object Lock), and the parts of uploads that nobody completes.

use std::time::SystemTime;

use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockLegalHoldStatus};

use super::bounded::Bounded;
use super::read::status_of;
use super::{Error, ErrorKind, Key, Retention, S3, Upload, system_time};

impl S3 {
    pub(super) async fn object_retention(&self, key: &Key) -> Result<Option<Retention>, Error> {
        // A HEAD that fails does not say why.
        let answer = match self.send_retention(key, Some("bytes=0-0".to_owned())).await {
            Ok(None) => self.send_retention(key, None).await,
            answer => answer,
        };
        match answer {
            Ok(retention) => Ok(retention.flatten()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: there is no such range.
    async fn send_retention(
        &self,
        key: &Key,
        range: Option<String>,
    ) -> Result<Option<Option<Retention>>, Error> {
        let used = self.connections.current();
        let request = used.client.get_object().bucket(&self.bucket);
        let request = request.key(self.full(key.as_str()));
        let is_part = range.is_some();
        let outcome = request.set_range(range).send().await;
        if is_part && status_of(&outcome) == Some(416) {
            return Ok(None);
        }
        let answer = self.answer(&used, "get", key.as_str(), outcome).await?;
        let held = answer.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On);
        let until = answer.object_lock_retain_until_date();
        Ok(Some(match (held, until) {
            (true, _) => Some(Retention::Hold),
            (false, Some(until)) => Some(Retention::Until(system_time(Some(until)))),
            (false, None) => None,
        }))
    }

    /// A server that does not know the question has no locks, and who may not ask it is told of none.
    pub(super) async fn ask_for_locks(&self) -> Result<bool, Error> {
        let used = self.connections.current();
        let request = used.client.get_object_lock_configuration().bucket(&self.bucket);
        let outcome = request.customize().interceptor(Bounded::Answer).send().await;
        if let Some(400 | 403 | 404 | 405 | 501) = status_of(&outcome) {
            return Ok(false);
        }
        let answer = self.answer(&used, "get the lock of", "", outcome).await?;
        let lock = answer.object_lock_configuration();
        Ok(lock.and_then(|lock| lock.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled))
    }

    /// All pages of them.
    pub(super) async fn uploads_begun_before(&self, moment: SystemTime) -> Result<Vec<Upload>, Error> {
        let mut found = Vec::new();
        let mut from: Option<(String, Option<String>)> = None;
        loop {
            let used = self.connections.current();
            let (key, upload) = from.clone().unzip();
            let request = used
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(self.full(""))
                .set_key_marker(key)
                .set_upload_id_marker(upload.flatten());
            let outcome = request.customize().interceptor(Bounded::Answer).send().await;
            let answer = self.answer(&used, "list uploads", "", outcome).await?;
            for upload in answer.uploads() {
                let key = upload.key().and_then(|key| Key::parse(self.relative(key)?));
                let (Some(key), Some(id), Some(begun)) = (key, upload.upload_id(), upload.initiated()) else {
                    continue;
                };
                if system_time(Some(begun)) < moment {
                    let id = id.to_owned();
                    found.push(Upload { key, id });
                }
            }
            let next = answer.next_key_marker().map(|key| {
                let upload = answer.next_upload_id_marker().map(str::to_owned);
                (key.to_owned(), upload)
            });
            if answer.is_truncated() != Some(true) || next.is_none() || next == from {
                return Ok(found);
            }
            from = next;
        }
    }
}
