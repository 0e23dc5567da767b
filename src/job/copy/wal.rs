//! WAL on its way: fetched side by side, archived one after the other, as an archiver would.

use std::sync::Arc;

use super::source::{Known, fetch, for_bytes};
use super::*;

/// Objects whose names are kept at once.
const NAMES: usize = 256;

impl Copying<'_> {
    /// Copies what is missing of archived WAL, or of what was received.
    pub(super) async fn copy_wal(&mut self, folder: Folder) -> Result<(), Error> {
        let (from, to, wait) = (self.from.clone(), self.to.clone(), self.wait);
        let mut pages = Pages::new(&from, &to, folder, wait);
        loop {
            let missing = pages.missing(NAMES).await?;
            if missing.is_empty() {
                return Ok(());
            }
            let fetches = stream::iter(missing).map(|listed| {
                let from = &from;
                async move {
                    let known = match &listed.object {
                        Object::Wal(name) => Known::Wal(*name),
                        _ => Known::Nothing,
                    };
                    let fetched = fetch(from, &listed.key, listed.meta.stored_bytes, &known, wait).await;
                    (listed, fetched)
                }
                .boxed()
            });
            let mut fetched = fetches.buffered(AT_ONCE);
            while let Some((listed, source)) = fetched.next().await {
                match source? {
                    Ok(source) => self.put_wal(&listed.object, source).boxed().await?,
                    // Fragments are replaced, and WAL is pruned, meanwhile.
                    Err(Unfit::Gone) => {}
                    Err(Unfit::Damaged(reason)) => self.fail(listed.key.as_str(), reason),
                }
            }
        }
    }

    async fn put_wal(&mut self, object: &Object, source: source::Source) -> Result<(), Error> {
        use crate::archive::wal::Offered;
        let (bytes, key) = (source.stored_bytes(), source.key.clone());
        let patience = for_bytes(bytes, self.wait);
        let put = match object {
            Object::Wal(name) => {
                let (header, source) = (source.header, Arc::new(source));
                let looking = std::future::ready(None);
                let committed = self
                    .to
                    .commit_wal(*name, source, header.as_ref(), looking, patience);
                committed.await.map(Some)
            }
            _ => match source.bytes() {
                Some(object) => self.to.put_copy(&key, object, patience).await,
                None => Ok(None),
            },
        };
        match put {
            Ok(Some(committed)) => self.committed(committed, bytes),
            Ok(None) => self.fail(key.as_str(), "the copy has other bytes under this name"),
            Err(Error::Store(error)) => return Err(error.into()),
            // It came meanwhile, and is another; or it does not belong there.
            Err(error) => self.fail(key.as_str(), error.to_string()),
        }
        Ok(())
    }
}
