//! A segment is archived of which something else was received (promise W4): one of two servers has lost what its commits
//! rest on, and recovery takes the other one's. Its receiver is told at its next sync, if it is still there; the log in any
//! case. Segments are looked at only where something is received: that is asked once a minute.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::mount::common::Common;
use crate::pg::SegmentName;

/// How often it is asked whether somebody receives.
const EVERY: Duration = Duration::from_secs(60);

/// Whether something is received into this archive, and when that was seen.
#[derive(Debug, Default)]
pub(super) struct Receivers(Mutex<Option<(Instant, bool)>>);

impl Receivers {
    pub(super) fn saw(&self, is_received: bool) {
        *self.0.lock().expect("no panic while held") = Some((Instant::now(), is_received));
    }

    /// `None`: it is time to ask.
    fn seen(&self) -> Option<bool> {
        let seen = *self.0.lock().expect("no panic while held");
        seen.filter(|(at, _)| at.elapsed() < EVERY)
            .map(|(_, is_received)| is_received)
    }
}

/// A segment is archived.
pub(super) fn look_for_received(receivers: &Arc<Receivers>, common: &Arc<Common>, segment: SegmentName) {
    if receivers.seen() == Some(false) {
        return;
    }
    let (receivers, common) = (receivers.clone(), common.clone());
    tokio::spawn(async move {
        let (archive, patience) = (&common.archive, common.prompt_patience());
        if receivers.seen().is_none() {
            match archive.first_received(patience).await {
                Ok(found) => receivers.saw(!found.is_empty()),
                Err(error) => return tracing::debug!("what is received could not be looked at: {error}"),
            }
        }
        if receivers.seen() == Some(false) {
            return;
        }
        match archive.received_otherwise(segment, patience).await {
            Ok(Some(bytes)) => tracing::warn!(
                "{segment} is archived, but {bytes} bytes of it were received with other content: recovery takes the \
                 archived segment, and commits that rest on what was received are not in it.\n\
                 HINT: of two servers that have parted one archives here and the other is received: stop one of them, or \
                 give it a prefix of its own. What was received stays in receiving/{segment}.*"
            ),
            Ok(None) => {}
            Err(error) => tracing::debug!("what was received of {segment} could not be compared: {error}"),
        }
    });
}
