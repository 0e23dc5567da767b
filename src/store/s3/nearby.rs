//! Archives beside a prefix, and in it.

use super::super::nearby::{NAMED, most_alike};
use super::S3;
use super::bounded::Bounded;

/// The most folders of one listing; more than one page is not asked for.
const FOLDERS: i32 = 1000;

impl S3 {
    /// Prefixes beside this one, or below it, that have an object `marker`. What cannot be asked is not named.
    pub(super) async fn look_nearby(&self, marker: &str) -> Vec<String> {
        let wanted = format!("{}/", self.prefix);
        let parent = self
            .prefix
            .rsplit_once('/')
            .map_or(String::new(), |(parent, _)| format!("{parent}/"));
        let own = if self.prefix.is_empty() {
            String::new()
        } else {
            wanted.clone()
        };
        let mut found = Vec::new();
        let mut places = vec![parent, own];
        places.dedup();
        for place in places {
            let mut folders = self.folders(&place).await;
            folders.retain(|folder| *folder != wanted);
            for folder in most_alike(folders, &wanted) {
                if found.len() < NAMED && self.has(format!("{folder}{marker}")).await {
                    found.push(format!("s3://{}/{}", self.bucket, folder.trim_end_matches('/')));
                }
            }
        }
        found
    }

    /// The nearest prefix above this one that has an object `marker`.
    pub(super) async fn look_around(&self, marker: &str) -> Option<String> {
        let mut rest = self.prefix.as_str();
        while !rest.is_empty() {
            rest = rest.rsplit_once('/').map_or("", |(above, _)| above);
            let folder = if rest.is_empty() {
                String::new()
            } else {
                format!("{rest}/")
            };
            if self.has(format!("{folder}{marker}")).await {
                return Some(format!("s3://{}/{rest}", self.bucket));
            }
        }
        None
    }

    async fn folders(&self, prefix: &str) -> Vec<String> {
        let used = self.connections.current();
        let listing = used.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
        let listed = listing
            .delimiter("/")
            .max_keys(FOLDERS)
            .customize()
            .interceptor(Bounded::Answer)
            .send()
            .await;
        let listed = listed.map(|listed| listed.common_prefixes.unwrap_or_default());
        let folders = listed.unwrap_or_default().into_iter();
        folders.filter_map(|folder| folder.prefix).collect()
    }

    async fn has(&self, key: String) -> bool {
        let used = self.connections.current();
        used.client
            .head_object()
            .bucket(&self.bucket)
            .key(key)
            .send()
            .await
            .is_ok()
    }
}
