//! A segment that was received in part, from what the store has of it: by another process, maybe on another machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{READ_BYTES, Received};
use crate::archive::wal::{Fragment, Prefix, Prefixes, Torn};
use crate::archive::{Archive, Error};
use crate::pg::SegmentName;
use crate::staging::{Draft, Staging};
use crate::store::{ErrorKind, Patience};

/// How often it is begun anew because fragments were replaced meanwhile.
const ATTEMPTS: usize = 10;

/// What a damaged fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damaged {
    /// An error: whoever goes on writing the file has to know what is kept.
    Fails,
    /// As if it were not there.
    IsLost,
}

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
        Self::load_with(archive, staging, (segment, Damaged::Fails), deadline, patience).await
    }

    /// The same, for somebody who only reads it: a damaged fragment is a lost one, which the log names.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Staging`].
    pub async fn load_readable(
        archive: &Arc<Archive>,
        staging: &Staging,
        segment: SegmentName,
        deadline: Duration,
        patience: Patience,
    ) -> Result<Option<Self>, Error> {
        Self::load_with(archive, staging, (segment, Damaged::IsLost), deadline, patience).await
    }

    async fn load_with(
        archive: &Arc<Archive>,
        staging: &Staging,
        (segment, damaged): (SegmentName, Damaged),
        deadline: Duration,
        patience: Patience,
    ) -> Result<Option<Self>, Error> {
        let mut attempts = 1..ATTEMPTS;
        loop {
            let mut received = Self::new(archive.clone(), staging, segment, deadline);
            match received.fill(damaged, patience).await {
                Err(Error::Store(error))
                    if error.kind == ErrorKind::NotFound && attempts.next().is_some() => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(received.is_known().then_some(received)),
            }
        }
    }

    async fn fill(&mut self, damaged: Damaged, patience: Patience) -> Result<(), Error> {
        let mut fragments = self.archive.received(self.segment, patience).await?;
        let Some(file_bytes) = fragments.iter().map(|fragment| fragment.file_bytes).max() else {
            return Ok(());
        };
        self.kept.is_known = true;
        let mut passed_over = 0;
        while let Some(next) = self.next_fragment(&mut fragments) {
            let end = next.range.end;
            match self.join(next, patience).await {
                Ok(true) => {}
                Ok(false) => passed_over = passed_over.max(end),
                Err(error @ Error::Damaged { .. }) if damaged == Damaged::IsLost => {
                    tracing::warn!("{error}");
                    passed_over = passed_over.max(end);
                }
                Err(error) => return Err(error),
            }
        }
        let kept_bytes = self.kept.prefixes.bytes();
        self.lay_out(file_bytes)
            .await
            .map_err(|error| self.staging_error(&error))?;
        self.filled = kept_bytes;
        self.admitted = kept_bytes > 0;
        let left = fragments.iter().filter(|left| left.bytes() > 0);
        let until = left.map(|left| left.range.end).fold(passed_over, u64::max);
        let torn = Torn {
            from: kept_bytes,
            until,
        };
        self.kept.torn = torn.behind(kept_bytes);
        fragments.retain(|fragment| fragment.range.end <= kept_bytes);
        self.find_same(fragments).await
    }

    /// Its first byte is written, if by nobody else then here: whoever fills it in writes that once more.
    async fn lay_out(&mut self, file_bytes: u64) -> io::Result<()> {
        if self.kept.prefixes.bytes() == 0 {
            self.draft().write(0, &[0]).await?;
        }
        self.draft().truncate(file_bytes).await
    }

    /// The fragment that leads furthest from where the others have led so far.
    fn next_fragment(&self, fragments: &mut Vec<Fragment>) -> Option<Fragment> {
        let at = self.kept.prefixes.bytes();
        let leads = |fragment: &Fragment| fragment.range.start <= at && fragment.range.end > at;
        let found = fragments
            .iter()
            .enumerate()
            .filter(|(_, fragment)| leads(fragment));
        let (index, _) = found.max_by_key(|(_, fragment)| fragment.range.end)?;
        Some(fragments.swap_remove(index))
    }

    /// Adds a fragment, if it belongs to those before it; false: it does not.
    async fn join(&mut self, fragment: Fragment, patience: Patience) -> Result<bool, Error> {
        let (at, from) = (self.kept.prefixes.bytes(), fragment.range.start);
        let before = match from == at {
            true => self.kept.prefixes.prefix(),
            false => self.prefix_of(from).await?,
        };
        let plain = match before == fragment.before {
            true => self.archive.fetch_fragment(&fragment, patience).await?,
            false => return Ok(false),
        };
        let new = Bytes::from(plain).slice((at - from) as usize..);
        let mut prefixes = self.kept.prefixes.clone();
        prefixes.add(&new);
        if prefixes.prefix() != fragment.after {
            tracing::warn!("{fragment:?} is not what its name says: passed over");
            return Ok(false);
        }
        let written = self.draft().write_shared(at, &new).await;
        written.map_err(|error| self.staging_error(&error))?;
        self.kept.prefixes = prefixes;
        self.kept.found.push(fragment);
        Ok(true)
    }

    /// Those that were replaced by others and are still there go when the segment is complete, if they are the same.
    async fn find_same(&mut self, mut left: Vec<Fragment>) -> Result<(), Error> {
        left.sort_by_key(|fragment| fragment.range.end);
        let mut prefixes = Prefixes::default();
        for fragment in left {
            self.add_up(&mut prefixes, fragment.range.end).await?;
            if prefixes.prefix() == fragment.after {
                self.kept.found.push(fragment);
            }
        }
        Ok(())
    }

    pub(super) async fn prefix_of(&mut self, bytes: u64) -> Result<Prefix, Error> {
        let mut prefixes = Prefixes::default();
        self.add_up(&mut prefixes, bytes).await?;
        Ok(prefixes.prefix())
    }

    pub(super) async fn add_up(&mut self, prefixes: &mut Prefixes, up_to: u64) -> Result<(), Error> {
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

    /// What was received of it and does not follow what has come.
    pub fn torn(&self) -> Option<Torn> {
        self.kept.torn
    }

    /// How much of it has come, in bytes from its beginning on.
    pub fn filled_bytes(&self) -> u64 {
        self.filled
    }
}
