//! Leave to complete a put that was begun before it was known whether it may be.
//!
//! Whether a name is free must be asked before it is written, and the answer takes a round trip, as the put does. With a
//! [`Leave`] both are on their way at once: everything about the put is done but its end, which waits for the [`Grant`].

use tokio::sync::watch;

/// Gives leave. Dropped without a word, leave is refused for ever.
#[derive(Debug)]
pub struct Grant(watch::Sender<bool>);

/// What a put waits for before it sends the last of its bytes. Clones hear the same.
#[derive(Debug, Clone)]
pub struct Leave(watch::Receiver<bool>);

/// Both ends.
pub fn leave() -> (Grant, Leave) {
    let (sender, receiver) = watch::channel(false);
    (Grant(sender), Leave(receiver))
}

impl Grant {
    /// The put may be completed.
    pub fn give(self) {
        self.0.send_replace(true);
    }
}

impl Leave {
    /// One that is given already.
    pub fn given() -> Self {
        let (grant, leave) = leave();
        grant.give();
        leave
    }

    /// Waits for it. `false`: it is refused.
    pub async fn is_given(mut self) -> bool {
        self.0.wait_for(|&given| given).await.is_ok()
    }

    /// Is it refused already?
    pub fn is_refused(&self) -> bool {
        !*self.0.borrow() && self.0.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leave_is_given_or_refused() {
        let (grant, granted) = leave();
        let second = granted.clone();
        grant.give();
        assert!(granted.is_given().await);
        assert!(second.is_given().await);
        let (refusal, refused) = leave();
        assert!(!refused.is_refused() && !Leave::given().is_refused());
        drop(refusal);
        assert!(refused.is_refused());
        assert!(!refused.is_given().await);
    }
}
