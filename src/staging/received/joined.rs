//! A `.partial` under whose name there is one already, with the same WAL and less or more of it.
//!
//! Of two standbys of a lost primary each may be promoted: each archives the segment in which it was, as far as it had come.
//! Their timelines fork at two places of one line, and both are right. An archived file never changes (promise W4), so what
//! the longer one has is kept as what a receiver would have brought; what the shorter one has is there already.

use std::io;
use std::sync::Arc;

use super::{READ_BYTES, Received};
use crate::archive::wal::{Committed, Found};
use crate::archive::{Archive, Error};
use crate::pg::written::Written;
use crate::pg::{PageHeader, SegmentName, WalName};
use crate::staging::{Draft, Options, Staging};
use crate::store::Patience;

/// A `.partial` that was brought, whole.
pub(in crate::staging) struct Brought<'a> {
    pub segment: SegmentName,
    pub header: PageHeader,
    pub content: &'a mut Draft,
    pub deadline: std::time::Duration,
}

impl Brought<'_> {
    /// Makes sure that the archive has all of its WAL; `conflict`, if what is archived has other WAL.
    ///
    /// # Errors
    /// `conflict`; [`Error::Kept`], if a receiver has brought other WAL; [`Error::Store`], [`Error::Damaged`].
    pub(in crate::staging) async fn join(
        self,
        archive: &Arc<Archive>,
        conflict: Error,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let name = WalName::Partial(self.segment);
        let failed = |error: &io::Error| Error::staging(name, error);
        let Found::Archived(table) = archive.look(name, patience).await? else {
            return Err(conflict);
        };
        let (mut own, mut archived) = (Written::new(self.header), Written::new(self.header));
        let (mut differs, mut at, block) = (None, 0, self.header.block_bytes as usize);
        let bytes = self.content.bytes().min(table.plain_bytes());
        while at < bytes {
            let wanted = READ_BYTES.min((bytes - at) as usize);
            let here = self
                .content
                .read(at, wanted)
                .await
                .map_err(|error| failed(&error))?;
            let there = archive
                .unpacked(name, &table, at..at + wanted as u64, patience)
                .await?;
            if here.len() != wanted || there.len() != wanted {
                return Err(conflict);
            }
            differs = differs.or_else(|| Difference::first(at, (&here, &there), block));
            here.chunks(block).for_each(|page| own.add(page));
            there.chunks(block).for_each(|page| archived.add(page));
            at += wanted as u64;
        }
        let is_other = differs.is_some_and(|differs| differs.is_in(&own, &archived));
        if is_other || own.whole().min(archived.whole()) == 0 {
            return Err(conflict);
        }
        // Also of a record that is not whole here: nothing that was brought is left out.
        if (own.whole(), own.end()) > (archived.whole(), archived.end()) {
            // At least as long as what is archived, so that it is what counts.
            let bytes = own.end().max(archived.end());
            self.keep(archive, bytes, patience).await?;
        }
        Ok(Committed::AlreadyThere)
    }

    /// Its first bytes, as if they had been received.
    async fn keep(self, archive: &Arc<Archive>, bytes: u64, patience: Patience) -> Result<(), Error> {
        let staging = Staging::new(
            archive.compression(),
            &Options {
                memory: archive.memory().clone(),
                ..Default::default()
            },
        );
        let (segment, deadline) = (self.segment, self.deadline);
        let loaded = Received::load(archive, &staging, segment, deadline, patience).await?;
        let fresh = || Received::new(archive.clone(), &staging, segment, deadline);
        let mut received = loaded.unwrap_or_else(fresh);
        let (kept_bytes, mut at) = (received.filled_bytes(), 0);
        while at < bytes {
            // Up to where something is kept that is compared, and then what is new.
            let end = if at < kept_bytes {
                kept_bytes.min(bytes)
            } else {
                bytes
            };
            let wanted = READ_BYTES.min((end - at) as usize);
            let piece = self.content.read(at, wanted).await;
            let piece = piece.map_err(|error| received.staging_error(&error))?;
            if at < kept_bytes {
                received.check_kept(at, &piece).await?;
            } else {
                let put = received.draft().write_shared(at, &piece).await;
                put.map_err(|error| received.staging_error(&error))?;
            }
            at += piece.len() as u64;
        }
        let laid_out = received.draft().truncate(self.content.bytes()).await;
        laid_out.map_err(|error| received.staging_error(&error))?;
        received.filled = received.filled.max(bytes);
        received.keep_as_it_is().await
    }
}

/// Where the two are not the same any more.
#[derive(Debug, Clone, Copy)]
struct Difference {
    at: u64,
    /// Has the one that was brought nothing but zeros from there to the end of the page? And the archived one?
    ends: (bool, bool),
}

impl Difference {
    /// The first in these bytes, which begin with a page there.
    fn first(begin: u64, (here, there): (&[u8], &[u8]), block: usize) -> Option<Self> {
        let first = here.iter().zip(there).position(|(here, there)| here != there)?;
        let page_end = first - first % block + block;
        let is_zero = |piece: &[u8]| {
            piece[first..page_end.min(piece.len())]
                .iter()
                .all(|byte| *byte == 0)
        };
        Some(Self {
            at: begin + first as u64,
            ends: (is_zero(here), is_zero(there)),
        })
    }

    /// Does it lie in the WAL that both have? The last record of the shorter one may have come in part, which nobody was told
    /// of.
    fn is_in(self, own: &Written, archived: &Written) -> bool {
        let (own_is_shorter, whole) = (own.whole() < archived.whole(), own.whole().min(archived.whole()));
        let ends = if own_is_shorter { self.ends.0 } else { self.ends.1 };
        self.at < whole || self.at < own.end().min(archived.end()) && !ends
    }
}
