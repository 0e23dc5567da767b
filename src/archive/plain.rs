//! The plain content of an object, by its seek table: each frame is verified.

use std::ops::Range;
use std::sync::Arc;

use super::{Archive, Error};
use crate::codec::{FRAME_BYTES, SeekTable};
use crate::store::{ByteRange, Key, Patience};

/// Plain bytes read at once where they are only to be verified: 16 MiB.
const WINDOW_BYTES: usize = 64 * FRAME_BYTES;

impl Archive {
    /// Plain bytes of an object, as far as it has any there.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn read_plain(
        &self,
        key: &Key,
        table: &Arc<SeekTable>,
        plain: Range<u64>,
        patience: Patience,
    ) -> Result<Vec<u8>, Error> {
        let frames = table.frames_of(plain.clone());
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        let range = ByteRange::Span(table.stored_range(frames));
        let stored = self.store.get(key, range, patience).await?.bytes;
        let table = table.clone();
        let unpacked = tokio::task::spawn_blocking(move || table.unpack_range(plain, &stored)).await;
        unpacked
            .expect("unpacking does not panic")
            .map_err(|damage| self.damaged(key, damage))
    }

    /// Reads all of an object, for no other purpose than to verify every frame of it against its seek table.
    ///
    /// # Errors
    /// As [`Archive::read_plain`].
    pub async fn prove(&self, key: &Key, table: &Arc<SeekTable>, patience: Patience) -> Result<(), Error> {
        for start in (0..table.plain_bytes()).step_by(WINDOW_BYTES) {
            let frames = table.frames_of(start..start + WINDOW_BYTES as u64);
            let range = ByteRange::Span(table.stored_range(frames.clone()));
            let stored = self.store.get(key, range, patience).await?.bytes;
            let table = table.clone();
            let verified = tokio::task::spawn_blocking(move || table.verify(frames, &stored)).await;
            let verified = verified.expect("verifying does not panic");
            verified.map_err(|damage| self.damaged(key, damage))?;
        }
        Ok(())
    }
}
