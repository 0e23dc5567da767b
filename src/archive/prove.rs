//! Reading an object for no other purpose than to know that it is whole.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Archive, Error};
use crate::codec::{Damage, SeekTable};
use crate::store::{ByteRange, Key, Patience};

/// Frames read at once: 16 MiB of plain content.
const FRAMES: u64 = 64;

impl Archive {
    /// Reads all of an object and verifies every frame of it against its seek table.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn prove(&self, key: &Key, table: &Arc<SeekTable>, patience: Patience) -> Result<(), Error> {
        let mut at = 0;
        while at < table.frames() {
            let frames = at..table.frames().min(at + FRAMES);
            at = frames.end;
            let range = ByteRange::Span(table.stored_range(frames.clone()));
            let stored = self.store.get(key, range, patience).await?.bytes;
            let table = table.clone();
            let verified = tokio::task::spawn_blocking(move || verify(&table, frames, &stored)).await;
            verified
                .expect("verifying does not panic")
                .map_err(|damage| self.damaged(key, damage))?;
        }
        Ok(())
    }
}

/// `stored` begins with the first of the frames.
fn verify(table: &SeekTable, frames: Range<u64>, stored: &Bytes) -> Result<(), Damage> {
    let first = frames.start;
    let mut plain = Vec::new();
    for frame in frames {
        let content = table.plain_range(frame);
        plain.resize((content.end - content.start) as usize, 0);
        table.unpack(frame, table.cut(frame, stored, first)?, &mut plain)?;
    }
    Ok(())
}
