//! Files of stored trees, read at any place: extents of parts, frame by frame, verified and cached.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Reader;
use crate::archive::Error;
use crate::archive::tree::{Content, Part, Tree};
use crate::cache::BlockId;
use crate::codec::{FRAME_BYTES, SeekTable};
use crate::store::{ByteRange, Patience};

impl Reader {
    /// Reads from a file of a tree; short only at its end, and empty for what is no file.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn read_tree(
        &self,
        tree: &Arc<Tree>,
        number: u32,
        offset: u64,
        bytes: usize,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let Some(Content::File { extents, .. }) = tree.entry(number).map(|entry| &entry.content) else {
            return Ok(Bytes::new());
        };
        let (mut skip, mut found) = (offset, BytesMut::new());
        for extent in extents {
            while found.len() < bytes && skip < extent.bytes {
                let part = &tree.parts[extent.part as usize];
                let at = extent.offset + skip;
                let frame = self.frame(part, at / FRAME_BYTES as u64, patience).await?;
                let from = (at % FRAME_BYTES as u64) as usize;
                let take = (frame.len() - from)
                    .min((extent.bytes - skip) as usize)
                    .min(bytes - found.len());
                found.extend_from_slice(&frame[from..from + take]);
                skip += take as u64;
            }
            skip -= skip.min(extent.bytes);
        }
        Ok(found.freeze())
    }

    async fn frame(&self, part: &Part, frame: u64, patience: Patience) -> Result<Bytes, Arc<Error>> {
        let id = BlockId {
            object: part.key.as_str().into(),
            piece: frame,
        };
        self.cache.get(id, self.fetch_frame(part, frame, patience)).await
    }

    async fn fetch_frame(&self, part: &Part, frame: u64, patience: Patience) -> Result<Bytes, Error> {
        let table: SeekTable = self.archive.seek_table(&part.key, patience).await?;
        let range = ByteRange::Span(table.stored_range(frame..frame + 1));
        let stored = self.archive.store().get(&part.key, range, patience).await?.bytes;
        let place = table.plain_range(frame);
        let mut plain = vec![0; (place.end - place.start) as usize];
        let unpacked = table.unpack(frame, &stored, &mut plain);
        unpacked.map_err(|damage| self.archive.damaged(&part.key, damage))?;
        Ok(plain.into())
    }
}
