//! Folders right below a prefix: what S3 calls common prefixes.

use super::bounded::Bounded;
use super::{Error, ErrorKind, Key, S3};

/// The most pages of a thousand folders.
const MOST_PAGES: usize = 100;

impl S3 {
    /// See [`super::Backend::folders`].
    pub(super) async fn list_folders(&self) -> Result<Vec<String>, Error> {
        let (mut names, mut token) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let used = self.connections.current();
            let listing = used.client.list_objects_v2().bucket(&self.bucket);
            let listing = listing.prefix(self.full("")).delimiter("/");
            let outcome = listing
                .set_continuation_token(token)
                .customize()
                .interceptor(Bounded::Answer)
                .send()
                .await;
            let answer = self.answer(&used, "list", "", outcome).await?;
            let folders = answer
                .common_prefixes()
                .iter()
                .filter_map(|folder| folder.prefix());
            let own = folders.filter_map(|folder| self.relative(folder)?.strip_suffix('/'));
            names.extend(
                own.filter(|name| !name.contains('/') && Key::parse(name).is_some())
                    .map(str::to_owned),
            );
            token = answer.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                return Ok(names);
            }
        }
        let message = format!("there are more than {MOST_PAGES} pages of folders");
        Err(self.error(ErrorKind::Permanent, "list", "", message))
    }
}
