//! Word of a file that was sent to the store before its copier came, for the copier's [`WalDraft`] to wait for.
//!
//! [`WalDraft`]: super::wal::WalDraft

use tokio::sync::watch;

use crate::codec::ContentHash;

/// Who is sending a file ahead. Dropped without a word, it has failed.
#[derive(Debug)]
pub struct Promise(watch::Sender<Option<ContentHash>>);

/// What a copier's version of the file follows.
#[derive(Debug, Clone)]
pub struct Forerunner(watch::Receiver<Option<ContentHash>>);

/// Both ends.
pub fn promise() -> (Promise, Forerunner) {
    let (sender, receiver) = watch::channel(None);
    (Promise(sender), Forerunner(receiver))
}

impl Promise {
    /// The store has confirmed all of a content with this hash.
    pub fn keep(self, hash: ContentHash) {
        self.0.send_replace(Some(hash));
    }
}

impl Forerunner {
    /// Waits until it is decided: the hash of what is stored, or `None` if nothing was.
    pub async fn stored(&self) -> Option<ContentHash> {
        let mut word = self.0.clone();
        word.wait_for(Option::is_some).await.ok().and_then(|hash| *hash)
    }

    /// Is it stored?
    pub fn is_kept(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Has it failed?
    pub fn is_lost(&self) -> bool {
        self.0.borrow().is_none() && self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_promise_is_kept_or_lost() {
        let hash = ContentHash::of(b"content");
        let (kept, follows) = promise();
        assert!(!follows.is_lost());
        assert!(!follows.is_kept());
        kept.keep(hash);
        assert!(!follows.is_lost() && follows.is_kept());
        assert_eq!(follows.stored().await, Some(hash));
        let (lost, follows) = promise();
        drop(lost);
        assert!(follows.is_lost());
        assert_eq!(follows.stored().await, None);
    }
}
