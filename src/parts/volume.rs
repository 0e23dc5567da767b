//! Files become the plain content of parts: a bundle of small files, or the slices of a large one ([`layout`]).
//!
//! Whoever has a slice's bytes in order hands them to a [`VolumeBuilder`]. Whoever gets them in any order, and the file's
//! name and length last, keeps them where [`in_slices`] says, and puts [`slice_headers`] before them in the end.

use std::ops::Range;

use super::Form;
use super::part::{FinishedPart, PartBuilder};
use crate::archive::tree::page_hashes::{PageHasher, PageHashes, PageKey};
use crate::archive::tree::{Attributes, Content, Entry, headers, layout};

/// A part in the making, as tar has it: a header, the content, its padding; and two blocks of zeros at the end.
#[derive(Debug)]
pub struct VolumeBuilder {
    part: PartBuilder,
    page_key: PageKey,
    hashes: PageHashes,
    /// Of the content that is arriving, which began at `content_offset`.
    hasher: PageHasher,
    content_offset: u64,
}

impl VolumeBuilder {
    /// An empty one.
    pub fn new(form: Form) -> Self {
        Self {
            part: PartBuilder::new(form.compression),
            page_key: form.page_key,
            hashes: PageHashes::default(),
            hasher: PageHasher::new(form.page_key),
            content_offset: 0,
        }
    }

    /// Begins a member of a bundle. The content of a file follows, and [`VolumeBuilder::end_member`].
    pub fn begin_member(&mut self, entry: &Entry) {
        self.part.push(&headers::member_header(entry));
        self.content_offset = self.plain_bytes();
    }

    /// Ends a file of so many bytes.
    pub fn end_member(&mut self, file_bytes: u64) {
        self.end_content();
        self.zeros(layout::padding(file_bytes));
    }

    /// Begins a slice of a large file. Returns which of the file's bytes follow.
    ///
    /// # Panics
    /// If the path is too long, see [`slice_headers`].
    pub fn begin_slice(&mut self, index: u64, file: &Entry) -> Range<u64> {
        let headers = slice_headers(index, file).expect("a path in a file system has at most 4095 bytes");
        self.part.push(&headers);
        self.content_offset = self.plain_bytes();
        layout::slice_content(index, file.bytes()).0
    }

    /// What follows is a run of pages of its own: it begins with a page, wherever in the content that is.
    pub fn begin_run(&mut self) {
        self.end_content();
        self.content_offset = self.plain_bytes();
    }

    /// Takes the next bytes of a file's content.
    pub fn content(&mut self, plain: &[u8]) {
        self.hasher.update(plain);
        self.part.push(plain);
    }

    /// Plain bytes so far: where the next ones will lie.
    pub fn plain_bytes(&self) -> u64 {
        self.part.plain_bytes()
    }

    /// Ends a bundle.
    pub fn finish_bundle(mut self) -> FinishedPart {
        self.zeros(layout::END_BYTES);
        self.part.finish(&self.hashes.to_annex(self.page_key))
    }

    /// Ends slice `index` of a file of `file_bytes`; the last ones end the volume as well.
    pub fn finish_slice(mut self, index: u64, file_bytes: u64) -> FinishedPart {
        self.end_content();
        self.zeros(layout::slice_bytes(index, file_bytes) - self.plain_bytes());
        self.part.finish(&self.hashes.to_annex(self.page_key))
    }

    fn end_content(&mut self) {
        let (bytes, hashes) = self.hasher.take();
        self.hashes.push(self.content_offset, bytes, hashes);
    }

    fn zeros(&mut self, bytes: u64) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = bytes as usize;
        while left > 0 {
            let take = left.min(ZEROS.len());
            self.part.push(&ZEROS[..take]);
            left -= take;
        }
    }
}

/// What stands before the content of slice `index` of a large file: its headers in the first one, nothing in others.
/// `None` if its path is too long for them, some 7 KiB.
pub fn slice_headers(index: u64, file: &Entry) -> Option<Vec<u8>> {
    match index {
        0 => headers::large_header(file),
        _ => Some(Vec::new()),
    }
}

/// Where a range of a large file lies, slice by slice: the slice's number, the offset in its plain content, and which of the
/// file's bytes begin there. An empty range is one empty part of it.
pub fn in_slices(file: Range<u64>) -> impl Iterator<Item = (u64, u64, Range<u64>)> {
    let (first, last) = (spot(file.start).0, spot(file.end.max(file.start + 1) - 1).0);
    (first..=last).map(move |slice| {
        let content = layout::slice_content(slice, file.end).0;
        let start = file.start.max(content.start);
        (slice, spot(start).1, start..content.end)
    })
}

/// Number of the slice that holds the byte of a large file at `offset`, and the byte's offset there.
pub fn spot(offset: u64) -> (u64, u64) {
    let place = offset + layout::HEADER_BYTES;
    (place / layout::SLICE_BYTES, place % layout::SLICE_BYTES)
}

/// The members of a bundle whose contents are in memory, until it is packed.
#[derive(Debug, Default)]
pub struct Bundle {
    members: Vec<(Entry, Vec<u8>)>,
    plain_bytes: u64,
}

impl Bundle {
    /// Adds a directory, a link, or a file with its content. Returns where the content begins in the part.
    pub fn add(&mut self, entry: Entry, mut content: Vec<u8>) -> u64 {
        content.shrink_to_fit();
        let header_bytes = headers::member_header(&entry).len() as u64;
        let offset = self.plain_bytes + header_bytes;
        let bytes = content.len() as u64;
        self.plain_bytes = offset + bytes + layout::padding(bytes);
        self.members.push((entry, content));
        offset
    }

    /// Is there nothing in it?
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Length of its plain content, the end included.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes + layout::END_BYTES
    }

    /// Makes the part.
    pub fn pack(self, form: Form) -> FinishedPart {
        let mut volume = VolumeBuilder::new(form);
        for (entry, content) in self.members {
            volume.begin_member(&entry);
            volume.content(&content);
            volume.end_member(content.len() as u64);
        }
        volume.finish_bundle()
    }
}

/// Where changed pages of a file are in a bundle, as tar tools show it.
const PAGES_OF: &[u8] = b".walfs-pages/";

/// Changed pages of a file, so many bytes, as their header has them.
pub fn pages_entry(path: &[u8], attributes: Attributes, bytes: u64) -> Entry {
    file_entry(&[PAGES_OF, path].concat(), attributes, bytes)
}

/// A file as its headers have it: where its bytes lie is not known yet.
pub fn file_entry(path: &[u8], attributes: Attributes, bytes: u64) -> Entry {
    Entry {
        path: path.into(),
        attributes,
        content: Content::File {
            bytes,
            extents: [].into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::layout::{HEADER_BYTES, SLICE_BYTES};

    #[test]
    fn bytes_lie_where_slices_have_them() {
        let end = 3 * SLICE_BYTES;
        for start in [
            0,
            5,
            SLICE_BYTES - HEADER_BYTES - 1,
            SLICE_BYTES - HEADER_BYTES,
            end,
        ] {
            let mut at = start;
            for (slice, place, file) in in_slices(start..end) {
                let (content, offset) = layout::slice_content(slice, end);
                assert_eq!(file, at..content.end, "from {start}");
                assert_eq!(place, offset + at - content.start, "from {start}");
                at = file.end;
            }
            assert_eq!(at, end);
        }
    }
}
