//! The plain bytes of frames: a share of what somebody has handed over, or a copy. Memory for copies is used again,
//! because what the kernel must bring costs more time than what is done with it.

use std::mem;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::codec::FRAME_BYTES;

/// Frames that lie ready.
#[derive(Debug)]
pub(super) struct Spare {
    frames: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

/// Plain bytes of a frame.
#[derive(Debug)]
pub(super) enum Frame {
    /// Of somebody who has them no more.
    Shared(Bytes),
    /// A copy, that may be changed.
    Own(Own),
}

/// Memory of a frame, that comes back when it goes.
#[derive(Debug)]
pub(super) struct Own {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl Spare {
    /// None yet, and never more than so many.
    pub(super) fn of(most: usize) -> Arc<Self> {
        Arc::new(Self {
            frames: Mutex::default(),
            most,
        })
    }

    /// A frame of these bytes.
    pub(super) fn frame_of(self: &Arc<Self>, bytes: &[u8]) -> Frame {
        let mut own = self.empty();
        own.bytes.extend_from_slice(bytes);
        Frame::Own(own)
    }

    /// A full frame of zeros.
    pub(super) fn zeros(self: &Arc<Self>) -> Frame {
        let mut own = self.empty();
        own.bytes.resize(FRAME_BYTES, 0);
        Frame::Own(own)
    }

    /// The whole frame to be changed: what it lacks is zeros.
    pub(super) fn whole<'a>(self: &Arc<Self>, frame: &'a mut Frame) -> &'a mut [u8] {
        if let Frame::Shared(bytes) = frame {
            *frame = self.frame_of(bytes);
        }
        let Frame::Own(own) = frame else {
            unreachable!("copied above");
        };
        own.bytes.resize(FRAME_BYTES, 0);
        &mut own.bytes
    }

    fn empty(self: &Arc<Self>) -> Own {
        let bytes = self.frames().pop();
        Own {
            bytes: bytes.unwrap_or_else(|| Vec::with_capacity(FRAME_BYTES)),
            spare: self.clone(),
        }
    }

    fn frames(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.frames.lock().expect("no panic while held")
    }
}

impl Frame {
    pub(super) fn truncate(&mut self, bytes: usize) {
        match self {
            Self::Shared(shared) => shared.truncate(bytes),
            Self::Own(own) => own.bytes.truncate(bytes),
        }
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own(own) => &own.bytes,
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut bytes = mem::take(&mut self.bytes);
        let mut frames = self.spare.frames();
        if frames.len() < self.spare.most {
            bytes.clear();
            frames.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_nothing_of_the_one_before() {
        let spare = Spare::of(1);
        let first = spare.frame_of(b"secret");
        let place = first.as_ptr();
        drop(first);
        let second = spare.zeros();
        assert_eq!(second.as_ptr(), place);
        assert!(second.len() == FRAME_BYTES && second.iter().all(|byte| *byte == 0));
        let third = spare.frame_of(b"more");
        assert_eq!(*third, b"more"[..]);
        drop((second, third));
        assert_eq!(spare.frames().len(), 1);
    }

    #[test]
    fn what_is_shared_is_copied_before_it_is_changed() {
        let spare = Spare::of(1);
        let bytes = Bytes::from_static(b"shared");
        let mut frame = Frame::Shared(bytes.clone());
        frame.truncate(5);
        let whole = spare.whole(&mut frame);
        assert!(whole[..5] == b"share"[..] && whole[5..].iter().all(|byte| *byte == 0));
        whole[0] = b'S';
        assert_eq!(
            (frame.len(), &frame[..5], &*bytes),
            (FRAME_BYTES, &b"Share"[..], &b"shared"[..])
        );
    }
}
