//! Archived WAL, looked at while it is proved: does it belong under its name, does each page where it lies, and is each record
//! what was written?

use std::sync::{Arc, Mutex};

use crate::archive::{Archive, Error};
use crate::job::proof::Look;
use crate::pg::wal_index::{Chain, Stop};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, SystemId, WalName};
use crate::read::wal_index::{Indexed, WalIndexReader};
use crate::store::Patience;

/// Bytes of a page's header that are looked at: magic, flags, timeline, address.
const HEAD_BYTES: usize = 16;

/// What the content of an archived file says of itself.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Why it belongs elsewhere.
    pub(super) misplaced: Option<String>,
    /// The cluster that wrote it.
    pub(super) system_id: Option<SystemId>,
    /// The first page that is of another place: where in the segment it lies, and what it says.
    pub(super) page: Option<(u64, Lsn)>,
    /// Where the first page without a head lies.
    empty: Option<u64>,
    /// Up to where the pages are its own.
    own_bytes: u64,
    chain: Chain,
    /// Up to where its records were looked at.
    chain_bytes: u64,
    header: Option<PageHeader>,
    is_big_endian: bool,
}

/// Looks at the content of a file as it comes.
pub(super) fn look(
    archive: &Arc<Archive>,
    name: WalName,
    size: Option<SegmentSize>,
) -> (Arc<Look>, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let (archive, noted) = (archive.clone(), seen.clone());
    let look = move |offset: u64, content: &[u8]| {
        let mut seen = noted.lock().expect("no panic while held");
        if offset == 0 {
            *seen = Seen::default();
            if let Err(Error::Misplaced { reason, .. }) = archive.check_place(name, content) {
                seen.misplaced = Some(reason);
            }
            if name.has_pages() {
                seen.header = PageHeader::parse(content).ok();
                seen.system_id = seen.header.map(|header| header.system_id);
                seen.is_big_endian = content.first() == Some(&0xD1);
            }
        }
        // What is behind the end of an unfinished segment is of whatever segment the file was before.
        if let (WalName::Segment(segment), Some(size)) = (name, size) {
            seen.look_at_pages(segment.start(size), offset, content);
            if offset == seen.chain_bytes {
                seen.chain.go_on(content);
                seen.chain_bytes += content.len() as u64;
            }
        }
    };
    (Arc::new(look), seen)
}

impl Seen {
    /// Where in a segment of this size a record is not what was written, or none is and there is more of its WAL behind that.
    pub(super) fn broken(&self, size: SegmentSize) -> Option<u64> {
        let ended = self.chain.ended()?;
        let start = ended.at.0 - ended.at.0 % size.bytes();
        let is_full = self.own_bytes == size.bytes();
        let block = self.header?.block_bytes.into();
        let is_wrong = ended.is_damaged || is_full || ended.is_followed(Lsn(start + self.own_bytes), block);
        is_wrong.then_some(ended.at.0 - start)
    }

    /// Behind which position no whole record goes on into the segments that follow this one, although they are archived.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn leads_nowhere(
        &self,
        archive: &Arc<Archive>,
        (segment, size): (SegmentName, SegmentSize),
        patience: Patience,
    ) -> Result<Option<Lsn>, Error> {
        let reader = WalIndexReader::new(archive.clone());
        let walked = self.chain.walked();
        let Some(mut walked) = walked.filter(|walked| walked.stop == Stop::Window).cloned() else {
            return Ok(None);
        };
        let mut number = segment.number(size);
        loop {
            number += 1;
            let Some(next) = SegmentName::from_number(segment.timeline, number, size) else {
                return Ok(None);
            };
            let index = match reader.stored(next, size, patience).await {
                Ok(Indexed::With(index)) => index.walked,
                // What is wrong there is found there.
                Ok(Indexed::Absent | Indexed::Without(_)) | Err(Error::Damaged { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let end = walked.end;
            match walked.leads_to(&index) {
                Some(both) if index.passes() => walked = both,
                Some(_) => return Ok(None),
                None => return Ok(Some(end)),
            }
        }
    }

    fn look_at_pages(&mut self, start: Lsn, offset: u64, content: &[u8]) {
        let Some(header) = self.header.filter(|_| self.page.is_none()) else {
            return;
        };
        let block = u64::from(header.block_bytes);
        for (index, page) in (0..).zip(content.chunks(block as usize)) {
            let at = offset + index * block;
            let Some(head) = page.first_chunk::<HEAD_BYTES>() else {
                return;
            };
            // Behind a switch to the next segment there is nothing, and nothing behind that.
            if head.iter().all(|byte| *byte == 0) {
                self.empty.get_or_insert(at);
                continue;
            }
            if let Some(empty) = self.empty {
                self.page = Some((empty, Lsn(0)));
                return;
            }
            let address = head.last_chunk::<8>().expect("it is longer");
            let found = match self.is_big_endian {
                true => u64::from_be_bytes(*address),
                false => u64::from_le_bytes(*address),
            };
            if found != start.0 + at {
                self.page = Some((at, Lsn(found)));
                return;
            }
            self.own_bytes = at + block;
        }
    }
}
