//! Plain frames that nobody needs any more, for the next ones: memory that the kernel must bring costs more time than what
//! is done with it.

use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::codec::FRAME_BYTES;

/// Frames that lie ready.
#[derive(Debug)]
pub(super) struct Spare {
    frames: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

/// Plain bytes of a frame. Its memory comes back when it goes.
#[derive(Debug)]
pub(super) struct Frame {
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
        let mut frame = self.empty();
        frame.extend_from_slice(bytes);
        frame
    }

    /// A full frame of zeros.
    pub(super) fn zeros(self: &Arc<Self>) -> Frame {
        let mut frame = self.empty();
        frame.resize(FRAME_BYTES, 0);
        frame
    }

    fn empty(self: &Arc<Self>) -> Frame {
        let bytes = self.frames().pop();
        Frame {
            bytes: bytes.unwrap_or_else(|| Vec::with_capacity(FRAME_BYTES)),
            spare: self.clone(),
        }
    }

    fn frames(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.frames.lock().expect("no panic while held")
    }
}

impl Deref for Frame {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Frame {
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
        assert_eq!(**third, b"more"[..]);
        drop((second, third));
        assert_eq!(spare.frames().len(), 1);
    }
}
