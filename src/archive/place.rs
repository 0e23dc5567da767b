//! Does a content belong under its name? Asked when an object is read, after its own checksums.
//!
//! An object proves that its bytes are those that were stored, not under which name. Somebody who copies a store by hand
//! can exchange two objects; recovery would then be given the wrong segment. WAL pages and backup histories say which
//! file they are. A timeline's history says only which it cannot be: one that another history could pass for is not
//! noticed.

use super::{Archive, Error};
use crate::pg::{PageHeader, SegmentName, WalName, backup_history, history};

impl Archive {
    /// Refuses a content that is another file's. `content` is all of it, or the first page at least.
    ///
    /// # Errors
    /// [`Error::Misplaced`].
    pub fn check_place(&self, name: WalName, content: &[u8]) -> Result<(), Error> {
        let fault = match name {
            WalName::Segment(segment) | WalName::Partial(segment) => match PageHeader::parse(content) {
                Ok(header) => self.foreign_page(segment, &header),
                Err(fault) => Some(fault.to_string()),
            },
            WalName::History(own) => history::parse(content, own).err().map(|fault| fault.to_string()),
            WalName::Backup(segment, offset) => backup_history::parse(content)
                .and_then(|backup| backup.check_name(segment, offset))
                .err()
                .map(|fault| fault.to_string()),
        };
        fault.map_or(Ok(()), |reason| {
            Err(Error::Misplaced {
                key: self.wal_key(name).as_str().to_owned(),
                place: self.place(),
                reason,
            })
        })
    }

    fn foreign_page(&self, segment: SegmentName, header: &PageHeader) -> Option<String> {
        if let Err(fault) = header.check_name(segment) {
            return Some(fault.to_string());
        }
        let archived = self.known_cluster()?.system_id;
        (header.system_id != archived)
            .then(|| format!("it is of system identifier {}, not {archived}", header.system_id))
    }
}
