//! When a WAL file that is being written is whole (promise W3).
//!
//! A segment is whole when every byte of it has been written. Copiers of sparse files leave gaps on purpose; that it is
//! closed is no evidence of that, because a killed writer's file is closed too, and so is a child's copy of a descriptor
//! whose parent still writes. So a gap is a hole only
//!
//! - if the file that is being copied can be seen, is as long, and has zeros there; or
//! - if the WAL itself ends before it, with the record of a switch to the next segment: PostgreSQL has written nothing
//!   but zeros behind that; or
//! - if the file was written under a temporary name, going forward only, and is brought under its own by a rename, which
//!   no killed process does.

use super::*;
use crate::archive::wal::Lineage;
use crate::pg::{Searched, backup_history, history};

impl WalDraft {
    /// Has the last byte come? A byte written twice says that the writer fills in later what it laid out first, and that
    /// only it knows when it is done.
    pub(super) async fn is_complete(
        &mut self,
        source: impl FnOnce() -> Option<Source>,
    ) -> Result<bool, Error> {
        let (bytes, coverage) = (self.draft.bytes(), self.draft.coverage());
        if !self.name.has_pages() {
            return Ok(bytes > 0
                && coverage.is_full(bytes)
                && source().is_some_and(|source| source.bytes() == bytes));
        }
        let Some(header) = self.header.filter(|_| !coverage.is_rewritten()) else {
            return Ok(false);
        };
        let expected = u64::from(header.segment_bytes);
        if bytes != expected {
            return Ok(false);
        }
        let holes = |source: Source| {
            source.bytes() == expected && coverage.gaps(expected).all(|gap| source.is_zero(gap))
        };
        let filled = coverage.is_full(expected) || source().is_some_and(holes);
        Ok(filled || self.ends_before_gaps(&header).await?)
    }

    /// Is the file one that may be archived as it stands?
    pub(super) async fn check_whole(&mut self) -> Result<(), Error> {
        if self.name.has_pages() {
            self.check_segment().await
        } else {
            self.check_text().await
        }
    }

    async fn check_segment(&mut self) -> Result<(), Error> {
        let header = self.written_header().await?;
        let expected_bytes = u64::from(header.segment_bytes);
        let found_bytes = self.draft.bytes();
        if found_bytes != expected_bytes {
            return Err(self.incomplete(expected_bytes));
        }
        let coverage = self.draft.coverage();
        let is_whole = coverage.is_full(expected_bytes) || self.vouched && coverage.only_forward();
        if !is_whole {
            // What was looked at before may have been written anew.
            self.switch = SwitchSearch::default();
            if !self.ends_before_gaps(&header).await? {
                return Err(self.gap(expected_bytes));
            }
        }
        self.header = Some(header);
        Ok(())
    }

    /// The first page's header, read back rather than remembered: a draft brought under its name by a rename has not been
    /// looked at yet.
    async fn written_header(&mut self) -> Result<PageHeader, Error> {
        let head = self.read_back(0, HEADER_BYTES).await?;
        match PageHeader::parse(&head) {
            Ok(header) => Ok(header),
            Err(HeaderError::Short { .. }) => Err(self.incomplete(self.segment_bytes().unwrap_or(16 << 20))),
            Err(reason) => Err(Error::Header {
                name: self.name,
                reason,
            }),
        }
    }

    /// Does the segment's WAL end before the first byte that has not been written?
    async fn ends_before_gaps(&mut self, header: &PageHeader) -> Result<bool, Error> {
        let gap = self.draft.coverage().gaps(u64::from(header.segment_bytes)).next();
        let written = gap.map_or(0, |gap| gap.start);
        loop {
            let at = self.switch.next_page();
            if at >= written {
                return Ok(false);
            }
            let page_bytes = header.block_bytes as usize;
            let page = self.read_back(at, page_bytes).await?;
            // What has not been written is zeros, and no record: the search may go on when it has.
            if at + page_bytes as u64 > written {
                let mut search = self.switch.clone();
                let found = search.look(header, &page);
                return Ok(matches!(found, Searched::EndsAt(end) if end <= written));
            }
            match self.switch.look(header, &page) {
                Searched::NotYet => {}
                Searched::EndsAt(end) => return Ok(end <= written),
                Searched::NoWal => return Ok(false),
            }
        }
    }

    async fn read_back(&mut self, at: u64, bytes: usize) -> Result<Bytes, Error> {
        let read = self.draft.read(at, bytes).await;
        read.map_err(|error| self.staging_error(&error))
    }

    fn incomplete(&self, expected_bytes: u64) -> Error {
        Error::Incomplete {
            name: self.name,
            expected_bytes,
            found_bytes: self.draft.bytes(),
            detail: "",
        }
    }

    fn gap(&self, expected_bytes: u64) -> Error {
        let gap = self.draft.coverage().gaps(expected_bytes).next();
        let gap = gap.unwrap_or(expected_bytes..expected_bytes);
        Error::Gap {
            name: self.name,
            begins: gap.start,
            ends: gap.end,
        }
    }

    pub(super) async fn check_text(&mut self) -> Result<(), Error> {
        let bytes = self.draft.bytes();
        if bytes > SMALL_FILE_BYTES {
            return Err(Error::TooLong {
                name: self.name,
                limit_bytes: SMALL_FILE_BYTES,
            });
        }
        let text = self
            .small_text(bytes as usize)
            .await
            .map_err(|error| self.staging_error(&error))?;
        let patience = self.patience();
        let lineage = match self.name {
            WalName::History(own) => {
                let entries = history::parse(&text, own).map_err(|fault| self.text_fault(&fault))?;
                self.archive.check_history(own, &entries, patience).await?
            }
            WalName::Backup(segment, offset) => {
                let backup = backup_history::parse(&text)
                    .and_then(|backup| backup.check_name(segment, offset).map(|()| backup))
                    .map_err(|fault| self.text_fault(&fault))?;
                self.archive.check_backup(self.name, &backup, patience).await?
            }
            WalName::Segment(_) | WalName::Partial(_) => Lineage::default(),
        };
        for doubt in &lineage.doubts {
            tracing::warn!("{}: {doubt}", self.name);
        }
        self.fork = lineage.fork;
        Ok(())
    }

    fn text_fault(&self, fault: &dyn std::fmt::Display) -> Error {
        Error::Text {
            name: self.name,
            reason: fault.to_string(),
        }
    }

    /// The whole of a small file, which is stored uncompressed even if it came under another name and was not.
    async fn small_text(&mut self, bytes: usize) -> io::Result<Bytes> {
        self.draft.repack(Compression::None).await?;
        self.draft.read(0, bytes).await
    }
}
