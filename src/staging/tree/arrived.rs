//! What has become of files that went out: a part that is stored, and where their bytes are in it and in parts of earlier
//! trees, which have what has not changed since.

use std::ops::Range;
use std::sync::Arc;

use crate::archive::tree::page_hashes::PAGE_BYTES;
use crate::archive::tree::{Extent, Part};
use crate::parts::tree::TreeBuilder;
use crate::read::page_hashes::Placed;

use super::sending::{Failure, Outgoing, Sender};

/// Bytes of a file that lie together.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    /// In the part that went out.
    Own {
        /// In its plain content.
        offset: u64,
        bytes: u64,
    },
    /// In a part that there was.
    Earlier(Placed),
}

impl Piece {
    fn bytes(&self) -> u64 {
        match self {
            Self::Own { bytes, .. } => *bytes,
            Self::Earlier(placed) => placed.bytes,
        }
    }
}

/// Where all bytes of a file, or of a slice of one, are, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces(Vec<Piece>);

impl Pieces {
    /// All in one place of the part.
    pub(super) fn whole(offset: u64, bytes: u64) -> Self {
        let pieces = (bytes > 0).then_some(Piece::Own { offset, bytes });
        Self(pieces.into_iter().collect())
    }

    /// Some pages where they were, and the others one behind the other in the part, from `offset` on.
    pub(super) fn changed(kept: Vec<Option<Placed>>, bytes: u64, mut offset: u64) -> Self {
        let mut pieces = Self::default();
        for (page, kept) in (0..bytes).step_by(PAGE_BYTES as usize).zip(kept) {
            let bytes = PAGE_BYTES.min(bytes - page);
            pieces.push(match kept {
                Some(placed) => Piece::Earlier(placed),
                None => {
                    offset += bytes;
                    Piece::Own {
                        offset: offset - bytes,
                        bytes,
                    }
                }
            });
        }
        pieces
    }

    fn push(&mut self, piece: Piece) {
        match (self.0.last_mut(), &piece) {
            (
                Some(Piece::Own { offset, bytes }),
                Piece::Own {
                    offset: next,
                    bytes: more,
                },
            ) if *offset + *bytes == *next => {
                *bytes += more;
            }
            (Some(Piece::Earlier(last)), Piece::Earlier(next))
                if last.part.key == next.part.key && last.offset + last.bytes == next.offset =>
            {
                last.bytes += next.bytes;
            }
            _ => self.0.push(piece),
        }
    }

    /// Where they are in the part, if they are in one place of it.
    pub(super) fn alone(&self) -> Option<u64> {
        match self.0[..] {
            [Piece::Own { offset, .. }] => Some(offset),
            _ => None,
        }
    }

    /// Are all of them in the part that went out?
    pub(super) fn are_own(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Own { .. }))
    }
}

/// What has become of what went out together.
#[derive(Debug)]
pub(super) struct Arrived {
    /// The part; `None` if nothing has changed.
    pub(super) part: Option<Part>,
    /// Of each file, in the order in which they went out.
    pub(super) files: Vec<Pieces>,
}

impl Arrived {
    /// Adds the extents of a file to a tree.
    pub(super) fn extents(&self, file: usize, builder: &mut TreeBuilder) -> Vec<Extent> {
        let pieces = self.files[file].0.iter();
        let extents = pieces.map(|piece| {
            let (part, offset) = match piece {
                Piece::Own { offset, .. } => (self.own(), *offset),
                Piece::Earlier(placed) => (&*placed.part, placed.offset),
            };
            Extent {
                part: builder.part(part),
                offset,
                bytes: piece.bytes(),
            }
        });
        extents.collect()
    }

    /// The part in which pieces are.
    fn own(&self) -> &Part {
        self.part.as_ref().expect("pieces of it are in no other")
    }
}

impl Sender {
    /// Bytes of a file that went out, which is awaited if it is on its way.
    pub(super) async fn read_file(
        &self,
        outgoing: &Outgoing,
        file: usize,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let arrived = outgoing.arrived().await?;
        let mut plain = Vec::with_capacity((range.end - range.start) as usize);
        let mut start = 0;
        for piece in &arrived.files[file].0 {
            let end = start + piece.bytes();
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                let (part, offset) = match piece {
                    Piece::Own { offset, .. } => (arrived.own(), *offset),
                    Piece::Earlier(placed) => (&*placed.part, placed.offset),
                };
                let within = offset + (from - start)..offset + (to - start);
                plain.extend(self.read_stored(part, within).await.map_err(Arc::new)?);
            }
            start = end;
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ContentHash;
    use crate::store::Key;

    #[test]
    fn neighbours_are_one_piece() {
        let part = Arc::new(Part {
            key: Key::new("trees/x/1"),
            plain_bytes: 1 << 20,
            stored_bytes: 1,
            hash: ContentHash::of(b""),
            used_bytes: 0,
        });
        let placed = |page: u64| {
            Some(Placed {
                part: part.clone(),
                offset: page * PAGE_BYTES,
                bytes: PAGE_BYTES,
            })
        };
        let kept = vec![placed(3), placed(4), None, None, placed(9), None];
        let Pieces(pieces) = Pieces::changed(kept, 5 * PAGE_BYTES + 100, 512);
        let lengths: Vec<u64> = pieces.iter().map(Piece::bytes).collect();
        assert_eq!(lengths, [2 * PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES, 100]);
        let own = |piece: &Piece| match piece {
            Piece::Own { offset, .. } => Some(*offset),
            Piece::Earlier(_) => None,
        };
        let own: Vec<u64> = pieces.iter().filter_map(own).collect();
        assert_eq!(own, [512, 512 + 2 * PAGE_BYTES]);
    }
}
