//! What the protocol's requests say, in the mount's own types.

use fuser::{Request, TimeOrNow};
use jiff::Timestamp;

use super::super::fs::Making;
use crate::linux::kernel::Owner;

/// What a new file gets.
pub(super) fn making(request: &Request, mode: u32) -> Making {
    let owner = Owner {
        uid: request.uid(),
        gid: request.gid(),
    };
    Making { mode, owner }
}

/// `None` for a time that nobody can have meant.
pub(super) fn timestamp(time: TimeOrNow) -> Option<Timestamp> {
    match time {
        TimeOrNow::SpecificTime(time) => time.try_into().ok(),
        TimeOrNow::Now => Some(Timestamp::now()),
    }
}
