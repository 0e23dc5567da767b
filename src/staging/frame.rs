//! The plain bytes of frames: a share of what somebody has handed over, or a copy.

use std::ops::Deref;

use bytes::Bytes;

use crate::codec::FRAME_BYTES;

/// Plain bytes of a frame.
#[derive(Debug)]
pub(super) enum Frame {
    /// Of somebody who changes them no more.
    Shared(Bytes),
    /// A copy, that may be changed.
    Own(Vec<u8>),
}

impl Frame {
    /// A full frame of zeros.
    pub(super) fn zeros() -> Self {
        Self::Own(vec![0; FRAME_BYTES])
    }

    /// The whole frame to be changed: what it lacks is zeros.
    pub(super) fn whole(&mut self) -> &mut [u8] {
        if let Self::Shared(bytes) = self {
            *self = Self::Own(bytes.to_vec());
        }
        let Self::Own(own) = self else {
            unreachable!("copied above");
        };
        own.resize(FRAME_BYTES, 0);
        own
    }

    /// Forgets what lies behind.
    pub(super) fn truncate(&mut self, bytes: usize) {
        match self {
            Self::Shared(shared) => shared.truncate(bytes),
            Self::Own(own) => own.truncate(bytes),
        }
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own(own) => own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_copied_before_it_is_changed() {
        let bytes = Bytes::from_static(b"shared");
        let mut frame = Frame::Shared(bytes.clone());
        frame.truncate(5);
        let whole = frame.whole();
        assert!(whole[..5] == b"share"[..] && whole[5..].iter().all(|byte| *byte == 0));
        whole[0] = b'S';
        assert_eq!(
            (frame.len(), &frame[..5], &*bytes),
            (FRAME_BYTES, &b"Share"[..], &b"shared"[..])
        );
    }
}
