//! A bounded number of bytes, of which a holder takes a part before it makes the bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A part of the memory, for one purpose. Clones are the same part.
#[derive(Debug, Clone)]
pub struct Share {
    /// One permit a KiB.
    free: Arc<Semaphore>,
    bytes: u64,
}

/// So much of a share, until it is dropped.
#[derive(Debug)]
pub struct Held(OwnedSemaphorePermit);

impl Share {
    /// A share of so many bytes; what is less than a KiB does not count.
    pub fn new(bytes: u64) -> Self {
        Self {
            free: Arc::new(Semaphore::new((bytes >> 10) as usize)),
            bytes,
        }
    }

    /// Its size, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are not held now.
    pub fn free_bytes(&self) -> u64 {
        (self.free.available_permits() as u64) << 10
    }

    /// Bytes that are held now.
    pub fn held_bytes(&self) -> u64 {
        (self.bytes & !((1 << 10) - 1)) - self.free_bytes()
    }

    /// Waits in its turn for so many bytes, or for all of the share if that is less.
    pub async fn take(&self, bytes: u64) -> Held {
        let most = bytes.min(self.bytes & !((1 << 10) - 1));
        let held = self.free.clone().acquire_many_owned(kib(most)).await;
        Held(held.expect("never closed"))
    }

    /// So many bytes, if they are free now.
    pub fn try_take(&self, bytes: u64) -> Option<Held> {
        self.free
            .clone()
            .try_acquire_many_owned(kib(bytes))
            .ok()
            .map(Held)
    }
}

impl Held {
    /// How much is held, in bytes.
    pub fn bytes(&self) -> u64 {
        (self.0.num_permits() as u64) << 10
    }

    /// Gives back what is more than so many bytes.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.0.num_permits().saturating_sub(kib(bytes) as usize);
        drop(self.0.split(excess));
    }

    /// Both together, of the same share.
    pub fn join(&mut self, more: Self) {
        self.0.merge(more.0);
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_is_held_in_parts_and_never_more_than_all_of_it() {
        let share = Share::new((10 << 10) + 7);
        let mut first = share.take(6 << 10).await;
        assert!(share.try_take(5 << 10).is_none());
        let second = share.try_take(4 << 10).expect("the rest is free");
        first.shrink_to(1);
        assert_eq!((first.bytes(), share.free_bytes()), (1 << 10, 5 << 10));
        assert_eq!(share.held_bytes(), 5 << 10);
        first.join(second);
        assert_eq!(first.bytes(), 5 << 10);
        drop(first);
        assert_eq!(share.take(1 << 40).await.bytes(), 10 << 10);
    }
}
