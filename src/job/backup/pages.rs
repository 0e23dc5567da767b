//! Data pages, looked at on the way (promise B4): a damaged one is read again, because it may have been written at that
//! moment, and then reported by file and block. It is copied as it is; the backup is kept, and marked.
//!
//! A page that changed since the backup began is recovery's business, if the backup's WAL has the change. Whether it has
//! is known only in the end: until then the pages with the latest changes are remembered.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::reading::read_at;
use crate::archive::tree::backup::{BadPage, Pages};
use crate::pg::Lsn;
use crate::pg::data_page::{Damage, PageChecker, PageVerdict};
use crate::pg::relation::{RelationFile, relation_file};
use crate::pg::slru;

/// Damaged pages that are listed one by one; the others are counted.
const LISTED: usize = 100;

/// Pages with the latest changes that are remembered. Should all of them be beyond the WAL, there may be more.
const REMEMBERED: usize = 1000;

/// The largest page whose boundaries all reads respect: they cut files at multiples of 8 KiB.
pub(in crate::job) const LARGEST_PAGE_BYTES: u32 = 8192;

/// How often a page, or a length, that is wrong is looked at again.
const LOOKS: u32 = 3;

/// Between two looks at a page that is wrong: its writer may have been interrupted.
const PAUSE: Duration = Duration::from_millis(10);

/// Damaged pages of one part that are waited for. Where there are more, it is no writer's doing.
const WAITED_FOR: u64 = 10;

/// What holds for every page of a cluster.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct Rules {
    pub(in crate::job) page_bytes: u32,
    /// Pages of each file of a relation but the last.
    pub(in crate::job) file_pages: u32,
    pub(in crate::job) checker: PageChecker,
}

/// What was found in pages so far.
#[derive(Debug, Default)]
pub(in crate::job) struct Findings {
    pages: Pages,
    /// Pages whose checksums are wrong, which counts if they have had checksums all the time: how many, and the first.
    mismatched: u64,
    first_mismatched: Vec<(Arc<[u8]>, u32, Damage)>,
    /// Those with the latest changes: when, which file, which block.
    newest: BTreeSet<(Lsn, Arc<[u8]>, u32)>,
}

impl Findings {
    /// Adds what another thread has found.
    pub(in crate::job) fn add(&mut self, mut more: Self) {
        self.pages.verified += more.pages.verified;
        self.pages.bad += more.pages.bad;
        self.pages.first_bad.append(&mut more.pages.first_bad);
        self.mismatched += more.mismatched;
        self.first_mismatched.append(&mut more.first_mismatched);
        self.newest.append(&mut more.newest);
        while self.newest.len() > REMEMBERED {
            self.newest.pop_first();
        }
    }

    /// The page with the latest change, if that lies behind `end`: file, block, and where.
    pub(in crate::job) fn beyond(&self, end: Lsn) -> Option<(String, u32, Lsn)> {
        let (lsn, path, block) = self.newest.last()?;
        (*lsn > end).then(|| (String::from_utf8_lossy(path).into_owned(), *block, *lsn))
    }

    /// All of it, now that the backup's WAL is known to end at `end`, and whether pages have had checksums until then: in
    /// order, and not more than are listed.
    pub(in crate::job) fn settle(mut self, end: Lsn, checksums: bool) -> Pages {
        if checksums {
            let named = std::mem::take(&mut self.first_mismatched);
            self.pages.bad += self.mismatched - named.len() as u64;
            for (path, block, damage) in named {
                self.report(&path, block, damage);
            }
        }
        for (lsn, path, block) in std::mem::take(&mut self.newest) {
            if lsn > end {
                self.report(&path, block, Damage::BeyondWal { lsn });
            }
        }
        let mut pages = self.pages;
        pages
            .first_bad
            .sort_by(|left, right| (&left.path, left.block).cmp(&(&right.path, right.block)));
        pages.first_bad.truncate(LISTED);
        pages
    }

    fn remember(&mut self, lsn: Lsn, path: &Arc<[u8]>, block: u32) {
        let is_full = self.newest.len() >= REMEMBERED;
        if is_full && self.newest.first().is_some_and(|(oldest, ..)| lsn < *oldest) {
            return;
        }
        self.newest.insert((lsn, path.clone(), block));
        if self.newest.len() > REMEMBERED {
            self.newest.pop_first();
        }
    }

    fn report(&mut self, path: &[u8], block: u32, damage: Damage) {
        let path = String::from_utf8_lossy(path).into_owned();
        self.pages.bad += 1;
        if self.pages.first_bad.len() < LISTED {
            tracing::warn!(
                "page {block} of {path} is damaged: {damage}. HINT: the disk, its memory or a hand has changed it; an \
                 earlier backup may have it whole"
            );
            self.pages.first_bad.push(BadPage {
                path,
                block,
                reason: damage.to_string(),
            });
        }
    }
}

/// Looks at the length of a file of pages, again if it may just be growing.
pub(in crate::job) fn check_length(
    rules: Rules,
    (path, file): (&[u8], &File),
    mut bytes: u64,
    found: &mut Findings,
) {
    let relation = relation_file(path);
    let most_pages = match relation {
        Some(_) => rules.file_pages,
        None if slru::is_slru_file(path) => slru::FILE_PAGES,
        None => return,
    };
    let page_bytes = u64::from(rules.page_bytes);
    let is_right =
        |bytes: u64| bytes.is_multiple_of(page_bytes) && bytes / page_bytes <= u64::from(most_pages);
    for _ in 0..LOOKS {
        if is_right(bytes) {
            return;
        }
        thread::sleep(PAUSE);
        bytes = file.metadata().map_or(bytes, |metadata| metadata.len());
    }
    if !is_right(bytes) {
        let base = relation.map_or(0, |relation| relation.first_block(rules.file_pages));
        let damage = Damage::Length {
            bytes,
            page_bytes: rules.page_bytes,
            most_pages,
        };
        found.report(path, base.wrapping_add((bytes / page_bytes) as u32), damage);
    }
}

/// Looks at the pages of one file.
#[derive(Debug)]
pub(in crate::job) struct Verifier {
    rules: Rules,
    path: Arc<[u8]>,
    relation: RelationFile,
}

impl Verifier {
    /// For a file with that path; `None` if it has no pages.
    pub(in crate::job) fn of(rules: Option<Rules>, path: &[u8]) -> Option<Self> {
        let relation = relation_file(path)?;
        rules.map(|rules| Self {
            rules,
            path: path.into(),
            relation,
        })
    }

    /// Looks at the whole pages among `bytes`, which were read at `offset`. A page that is better the second time is
    /// put in its place.
    pub(in crate::job) fn check(&self, bytes: &mut [u8], offset: u64, file: &File, found: &mut Findings) {
        let page_bytes = u64::from(self.rules.page_bytes);
        let first = (offset / page_bytes) as u32;
        let base = self
            .relation
            .first_block(self.rules.file_pages)
            .wrapping_add(first);
        for (index, page) in (0..).zip(bytes.chunks_exact_mut(self.rules.page_bytes as usize)) {
            let block = base.wrapping_add(index);
            let place = offset + u64::from(index) * page_bytes;
            let pause = if found.pages.bad + found.mismatched < WAITED_FOR {
                PAUSE
            } else {
                Duration::ZERO
            };
            match self.verdict(page, block, || {
                read_again(file, place, pause, self.rules.page_bytes)
            }) {
                PageVerdict::Good => found.pages.verified += 1,
                PageVerdict::New | PageVerdict::Partial => {}
                PageVerdict::NewerThanBackup(lsn) => found.remember(lsn, &self.path, block),
                PageVerdict::Damaged(damage @ Damage::Checksum { .. }) => {
                    found.mismatched += 1;
                    if found.first_mismatched.len() < LISTED {
                        found.first_mismatched.push((self.path.clone(), block, damage));
                    }
                }
                PageVerdict::Damaged(damage) => found.report(&self.path, block, damage),
            }
        }
    }

    fn verdict(&self, page: &mut [u8], block: u32, again: impl Fn() -> Option<Vec<u8>>) -> PageVerdict {
        let mut verdict = self.rules.checker.check(page, block);
        for _ in 0..LOOKS {
            if !matches!(verdict, PageVerdict::Damaged(_)) {
                break;
            }
            // Cut off since: recovery does not need it.
            let Some(bytes) = again() else {
                return PageVerdict::Partial;
            };
            page.copy_from_slice(&bytes);
            verdict = self.rules.checker.check(page, block);
        }
        verdict
    }
}

/// The page at `place` as it is a moment later; `None` if it is no longer in the file.
fn read_again(file: &File, place: u64, pause: Duration, page_bytes: u32) -> Option<Vec<u8>> {
    thread::sleep(pause);
    let mut bytes = vec![0; page_bytes as usize];
    let read = read_at(file, &mut bytes, place).ok()?;
    (read == bytes.len()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::pg::data_page::tests::good_page;

    const START: Lsn = Lsn(0x0200_0000);

    fn rules() -> Rules {
        Rules {
            page_bytes: 8192,
            file_pages: 131_072,
            checker: PageChecker::new(8192, START, true),
        }
    }

    /// The same page, changed at `lsn`.
    fn at(mut page: Vec<u8>, lsn: u64) -> Vec<u8> {
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn checked(path: &str, bytes: &mut [u8], file: &File) -> Findings {
        let mut found = Findings::default();
        let verifier = Verifier::of(Some(rules()), path.as_bytes()).unwrap();
        verifier.check(bytes, 0, file, &mut found);
        found
    }

    #[test]
    fn a_bad_page_is_named_by_its_block_in_the_relation() {
        let first = 131_072;
        let page = |block| good_page(block, 7);
        let mut bad = [page(first), page(first + 1), vec![0; 8192], page(first + 3)].concat();
        bad[8192 + 5000] ^= 1;
        let file = file(&bad);
        let pages = checked("base/5/16384.1", &mut bad, &file).settle(START, true);
        assert_eq!((pages.verified, pages.bad), (2, 1));
        let named = &pages.first_bad[0];
        assert_eq!((&*named.path, named.block), ("base/5/16384.1", first + 1));
        assert!(named.reason.contains("checksum"), "{}", named.reason);
        assert!(Verifier::of(Some(rules()), b"base/5/pg_filenode.map").is_none());
    }

    /// PostgreSQL 19 switches checksums on and off while it runs.
    #[test]
    fn checksums_count_only_if_there_were_any_until_the_end() {
        let mut bad = [good_page(0, 7), good_page(1, 7), vec![9; 8192]].concat();
        bad[8192 + 5000] ^= 1;
        let file = file(&bad);
        let with = checked("base/5/16384", &mut bad.clone(), &file).settle(START, true);
        let without = checked("base/5/16384", &mut bad, &file).settle(START, false);
        let blocks = |pages: &Pages| -> Vec<u32> { pages.first_bad.iter().map(|page| page.block).collect() };
        assert_eq!((with.bad, blocks(&with)), (2, vec![1, 2]));
        assert_eq!((without.bad, blocks(&without)), (1, vec![2]));
    }

    #[test]
    fn a_page_that_is_whole_the_second_time_is_taken() {
        let whole = good_page(0, 7);
        for torn_at in [0, 8, 4096] {
            let mut torn = whole.clone();
            torn[torn_at..].fill(1);
            let pages = checked("base/5/16384", &mut torn, &file(&whole)).settle(START, true);
            assert_eq!((pages.verified, pages.bad), (1, 0));
            assert!(torn == whole);
        }
    }

    #[test]
    fn a_page_cut_off_meanwhile_is_not_needed() {
        let mut torn = good_page(0, 7);
        torn[5000] = 1;
        let pages = checked("base/5/16384", &mut torn, &file(b"")).settle(START, true);
        assert_eq!((pages.verified, pages.bad), (0, 0));
    }

    #[test]
    fn a_change_that_the_wal_does_not_have_is_told_in_the_end() {
        let page = good_page(0, 7);
        let end = START.0 + 5000;
        let mut bytes = [
            at(page.clone(), end),
            at(page.clone(), end + 1),
            at(page, START.0),
        ]
        .concat();
        let file = file(&bytes);
        let mut all = Findings::default();
        all.add(checked("base/5/1", &mut bytes, &file));
        all.add(checked("base/5/2", &mut bytes, &file));
        let pages = all.settle(Lsn(end), true);
        assert_eq!((pages.verified, pages.bad), (0, 2));
        let named: Vec<_> = pages
            .first_bad
            .iter()
            .map(|page| (&*page.path, page.block))
            .collect();
        assert_eq!(named, [("base/5/1", 1), ("base/5/2", 1)]);
    }

    #[test]
    fn however_many_pages_change_few_are_remembered() {
        let mut found = Findings::default();
        for round in 0..3 * REMEMBERED as u32 {
            found.remember(
                Lsn(START.0 + u64::from(round)),
                &Arc::from(&b"base/5/1"[..]),
                round,
            );
        }
        assert_eq!(found.newest.len(), REMEMBERED);
        let pages = found.settle(Lsn(START.0 + 3 * REMEMBERED as u64 - 2), true);
        assert_eq!(
            (pages.bad, pages.first_bad[0].block),
            (1, 3 * REMEMBERED as u32 - 1)
        );
    }
}
