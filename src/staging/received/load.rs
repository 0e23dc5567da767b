//! A segment that was received in part, from what the store has of it: by another process, maybe on another machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{READ_BYTES, Received};
use crate::archive::wal::{Piece, Prefix, Prefixes};
use crate::archive::{Archive, Error};
use crate::pg::SegmentName;
use crate::staging::{Draft, Staging};
use crate::store::{ErrorKind, Patience};

/// How often it is begun anew because pieces were replaced meanwhile.
const ATTEMPTS: usize = 10;

impl Received {
    /// The file as it was kept; `None` if nothing of it was.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`], [`Error::Staging`].
    pub async fn load(
        archive: &Arc<Archive>,
        staging: &Staging,
        segment: SegmentName,
        deadline: Duration,
        patience: Patience,
    ) -> Result<Option<Self>, Error> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let mut received = Self::new(archive.clone(), staging, segment, deadline);
            match received.fill(patience).await {
                Err(Error::Store(error))
                    if error.kind == ErrorKind::NotFound && attempts.next().is_some() => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(received.is_known().then_some(received)),
            }
        }
    }

    async fn fill(&mut self, patience: Patience) -> Result<(), Error> {
        let mut pieces = self.archive.received(self.segment, patience).await?;
        let Some(file_bytes) = pieces.iter().map(|piece| piece.file_bytes).max() else {
            return Ok(());
        };
        self.kept.is_known = true;
        while let Some(next) = self.next_piece(&mut pieces) {
            self.join(next, patience).await?;
        }
        let kept_bytes = self.kept.prefixes.bytes();
        self.lay_out(file_bytes)
            .await
            .map_err(|error| self.staging_error(&error))?;
        self.filled = kept_bytes;
        self.admitted = kept_bytes > 0;
        pieces.retain(|piece| piece.range.end <= kept_bytes);
        self.find_same(pieces).await
    }

    /// Its first byte is written, if by nobody else then here: whoever fills it in writes that once more.
    async fn lay_out(&mut self, file_bytes: u64) -> io::Result<()> {
        if self.kept.prefixes.bytes() == 0 {
            self.draft().write(0, &[0]).await?;
        }
        self.draft().truncate(file_bytes).await
    }

    /// The piece that leads furthest from where the others have led so far.
    fn next_piece(&self, pieces: &mut Vec<Piece>) -> Option<Piece> {
        let at = self.kept.prefixes.bytes();
        let leads = |piece: &Piece| piece.range.start <= at && piece.range.end > at;
        let found = pieces.iter().enumerate().filter(|(_, piece)| leads(piece));
        let (index, _) = found.max_by_key(|(_, piece)| piece.range.end)?;
        Some(pieces.swap_remove(index))
    }

    /// Adds a piece, if it belongs to those before it.
    async fn join(&mut self, piece: Piece, patience: Patience) -> Result<(), Error> {
        let (at, from) = (self.kept.prefixes.bytes(), piece.range.start);
        let before = match from == at {
            true => self.kept.prefixes.prefix(),
            false => self.prefix_of(from).await?,
        };
        let plain = match before == piece.before {
            true => self.archive.fetch_piece(&piece, patience).await?,
            false => return Ok(()),
        };
        let new = Bytes::from(plain).slice((at - from) as usize..);
        let mut prefixes = self.kept.prefixes.clone();
        prefixes.add(&new);
        if prefixes.prefix() != piece.after {
            tracing::warn!("{piece:?} is not what its name says: passed over");
            return Ok(());
        }
        let written = self.draft().write_shared(at, &new).await;
        written.map_err(|error| self.staging_error(&error))?;
        self.kept.prefixes = prefixes;
        self.kept.found.push(piece);
        Ok(())
    }

    /// Those that were replaced by others and are still there go when the segment is complete, if they are the same.
    async fn find_same(&mut self, mut left: Vec<Piece>) -> Result<(), Error> {
        left.sort_by_key(|piece| piece.range.end);
        let mut prefixes = Prefixes::default();
        for piece in left {
            self.add_up(&mut prefixes, piece.range.end).await?;
            if prefixes.prefix() == piece.after {
                self.kept.found.push(piece);
            }
        }
        Ok(())
    }

    async fn prefix_of(&mut self, bytes: u64) -> Result<Prefix, Error> {
        let mut prefixes = Prefixes::default();
        self.add_up(&mut prefixes, bytes).await?;
        Ok(prefixes.prefix())
    }

    async fn add_up(&mut self, prefixes: &mut Prefixes, up_to: u64) -> Result<(), Error> {
        while prefixes.bytes() < up_to {
            let (at, bytes) = (
                prefixes.bytes(),
                (up_to - prefixes.bytes()).min(READ_BYTES as u64),
            );
            let read = self.draft().read(at, bytes as usize).await;
            prefixes.add(&read.map_err(|error| self.staging_error(&error))?);
        }
        Ok(())
    }

    /// Its content: what was received, and zeros behind it.
    pub fn into_draft(self) -> Draft {
        match self.content {
            super::Content::Growing(wal) | super::Content::Whole(wal) => wal.into_draft(),
        }
    }

    /// How much of it has come, in bytes from its beginning on.
    pub fn filled_bytes(&self) -> u64 {
        self.filled
    }
}
