//! Page checksums, verified on the way (contract B4): a bad page is read again once, because it may have been written
//! at that moment, and then reported by file and block. It is copied as it is; the backup is kept, and marked.

use std::fs::File;

use super::reading::read_at;
use crate::archive::tree::summary::{BadPage, Pages};
use crate::pg::checksum::{PageChecker, PageVerdict};
use crate::pg::relation::{RelationFile, relation_file};

/// Bad pages that are listed one by one; the others are counted.
const LISTED: usize = 100;

/// The largest page whose boundaries all reads respect: they cut files at multiples of 8 KiB.
pub(super) const LARGEST_PAGE_BYTES: u32 = 8192;

/// What holds for every page of a cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) page_bytes: u32,
    /// Pages of each file of a relation but the last.
    pub(super) file_pages: u32,
    pub(super) checker: PageChecker,
}

/// Verifies the pages of one file.
#[derive(Debug)]
pub(super) struct Verifier<'a> {
    rules: Rules,
    path: &'a [u8],
    relation: RelationFile,
}

impl<'a> Verifier<'a> {
    /// For a file with that path; `None` if it has no pages.
    pub(super) fn of(rules: Option<Rules>, path: &'a [u8]) -> Option<Self> {
        let relation = relation_file(path)?;
        rules.map(|rules| Self {
            rules,
            path,
            relation,
        })
    }

    /// Looks at the whole pages among `bytes`, which were read at `offset`. A page that is better the second time is
    /// put in its place.
    pub(super) fn check(&self, bytes: &mut [u8], offset: u64, file: &File, found: &mut Pages) {
        let page_bytes = u64::from(self.rules.page_bytes);
        let first = (offset / page_bytes) as u32;
        let base = self
            .relation
            .first_block(self.rules.file_pages)
            .wrapping_add(first);
        for (index, page) in (0..).zip(bytes.chunks_exact_mut(self.rules.page_bytes as usize)) {
            let block = base.wrapping_add(index);
            let place = offset + u64::from(index) * page_bytes;
            match self.verdict(page, block, place, file) {
                PageVerdict::Good => found.verified += 1,
                PageVerdict::New | PageVerdict::Partial | PageVerdict::NewerThanBackup => {}
                PageVerdict::Bad { computed, stated } => self.report(block, computed, stated, found),
            }
        }
    }

    fn verdict(&self, page: &mut [u8], block: u32, place: u64, file: &File) -> PageVerdict {
        let verdict = self.rules.checker.check(page, block);
        if !matches!(verdict, PageVerdict::Bad { .. }) {
            return verdict;
        }
        let mut again = vec![0; page.len()];
        if !read_at(file, &mut again, place).is_ok_and(|bytes| bytes == page.len()) {
            // Cut off since: recovery does not need it.
            return PageVerdict::Partial;
        }
        page.copy_from_slice(&again);
        self.rules.checker.check(page, block)
    }

    fn report(&self, block: u32, computed: u16, stated: u16, found: &mut Pages) {
        let path = String::from_utf8_lossy(self.path).into_owned();
        found.bad += 1;
        if found.first_bad.len() < LISTED {
            tracing::warn!(
                "page {block} of {path} is damaged: its checksum is {stated}, its content gives {computed}. \
                 HINT: the disk or its memory has changed it; an earlier backup may have it whole"
            );
            found.first_bad.push(BadPage { path, block });
        }
    }
}

/// Adds what another thread has found.
pub(super) fn add(all: &mut Pages, more: Pages) {
    all.verified += more.verified;
    all.bad += more.bad;
    all.first_bad.extend(more.first_bad);
}

/// In order, and not more than are listed.
pub(super) fn settle(mut all: Pages) -> Pages {
    all.first_bad
        .sort_by(|left, right| (&left.path, left.block).cmp(&(&right.path, right.block)));
    all.first_bad.truncate(LISTED);
    all
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::pg::Lsn;

    fn rules() -> Rules {
        Rules {
            page_bytes: 8192,
            file_pages: 131_072,
            checker: PageChecker::new(8192, Lsn(0x0200_0000)),
        }
    }

    fn page(block: u32) -> Vec<u8> {
        let mut page = vec![7; 8192];
        page[..8].fill(0);
        let PageVerdict::Bad { computed, .. } = rules().checker.check(&page, block) else {
            panic!("it has no checksum yet");
        };
        page[8..10].copy_from_slice(&computed.to_le_bytes());
        page
    }

    #[test]
    fn a_bad_page_is_named_by_its_block_in_the_relation() {
        let first = 131_072;
        let good = [page(first), page(first + 1), vec![0; 8192], page(first + 3)].concat();
        let mut bad = good.clone();
        bad[8192 + 5000] ^= 1;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bad).unwrap();
        let verifier = Verifier::of(Some(rules()), b"base/5/16384.1").unwrap();
        let mut found = Pages::default();
        verifier.check(&mut bad, 0, &file, &mut found);
        let expected = BadPage {
            path: "base/5/16384.1".into(),
            block: first + 1,
        };
        assert_eq!(
            (found.verified, found.bad, found.first_bad),
            (2, 1, vec![expected])
        );
        assert!(Verifier::of(Some(rules()), b"base/5/pg_filenode.map").is_none());
    }

    #[test]
    fn a_page_that_is_whole_the_second_time_is_taken() {
        let whole = page(0);
        let mut torn = whole.clone();
        torn[4096..].fill(1);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&whole).unwrap();
        let mut found = Pages::default();
        Verifier::of(Some(rules()), b"base/5/16384")
            .unwrap()
            .check(&mut torn, 0, &file, &mut found);
        assert_eq!((found.verified, found.bad), (1, 0));
        assert!(torn == whole);
    }
}
