//! Which data pages lie in which part of a tree, and their checksums, looked at while the part is proved.
//!
//! A page's checksum has its number in it, so a manifest must say which pages a part has. That is kept for as many parts as
//! there is memory for, in the order in which they are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::archive::Error;
use crate::archive::tree::Part;
use crate::archive::tree::backup::Shape;
use crate::archive::tree::summary::Summary;
use crate::job::backup::pages::{LARGEST_PAGE_BYTES, Rules};
use crate::job::proof::Look;
use crate::pg::control::{CONTROL_FILE_BYTES, ControlFile};
use crate::pg::data_page::{PageChecker, PageVerdict};
use crate::pg::relation::relation_file;
use crate::read::tree::TreeReader;
use crate::read::tree::stored::StoredTree;
use crate::store::{Key, Patience};

/// Pieces that are kept at once: of 24 bytes each.
const MOST_PIECES: usize = 1 << 20;

/// Damaged pages of one part that are told.
const MOST_TOLD: usize = 100;

/// Neighbouring pages of a relation in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    /// Where in the part's content they begin.
    offset: u64,
    bytes: u32,
    /// Number of the first one in its relation's fork.
    block: u32,
    /// Number of the file among the entries of the tree.
    file: u32,
}

/// A damaged page.
#[derive(Debug, Clone)]
pub(super) struct Bad {
    pub(super) file: u32,
    pub(super) block: u32,
    pub(super) reason: String,
    /// Where in the part's content it lies.
    pub(super) range: Range<u64>,
}

/// The pages in some parts of a tree: in all from one key to before another.
#[derive(Debug)]
pub(super) struct PageMap {
    parts: BTreeMap<Key, Arc<Vec<Piece>>>,
    from: Key,
    /// `None`: to the last.
    until: Option<Key>,
}

impl PageMap {
    /// The rules of the cluster that a backup is of; `None` if it has no pages that can be told apart.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn rules(
        reader: &TreeReader,
        tree: &StoredTree,
        summary: &Summary,
        patience: Patience,
    ) -> Result<Option<Rules>, Error> {
        let (Shape::Plain, Some((_, start))) = (summary.backup.shape, summary.backup.start()) else {
            return Ok(None);
        };
        // What is wrong with the file itself is found in its part.
        let control = match tree.find(b"global/pg_control", patience).await {
            Err(error @ Error::Store(_)) => return Err(error),
            found => found.ok().flatten().and_then(|found| found.file()),
        };
        let Some(file) = control else { return Ok(None) };
        let content = match reader.read(tree, &file, 0, CONTROL_FILE_BYTES, patience).await {
            Ok(content) => content,
            Err(error) => match &*error {
                Error::Store(error) => return Err(error.clone().into()),
                _ => return Ok(None),
            },
        };
        let control = ControlFile::parse(&content).ok();
        let control = control.filter(|control| control.block_bytes <= LARGEST_PAGE_BYTES);
        Ok(control.map(|control| Rules {
            page_bytes: control.block_bytes,
            file_pages: control.segment_blocks,
            checker: PageChecker::new(control.block_bytes, start, control.has_data_checksums()),
        }))
    }

    /// The pages in the parts from `from` on, as many as there is memory for. `parts` are those of the tree, by their numbers.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`], [`Error::Store`].
    pub(super) async fn read(
        tree: &StoredTree,
        parts: &[Part],
        rules: Rules,
        from: Key,
        patience: impl Fn() -> Patience,
    ) -> Result<Self, Error> {
        let folder = format!(
            "{}/",
            from.as_str().rsplit_once('/').map_or("", |(folder, _)| folder)
        );
        let mut order: Vec<u32> = (0..parts.len() as u32)
            .filter(|number| {
                let key = &parts[*number as usize].key;
                key.as_str().starts_with(&folder) && *key >= from
            })
            .collect();
        order.sort_by(|one, other| parts[*one as usize].key.cmp(&parts[*other as usize].key));
        // By the place in that order, so that the last ones are dropped when there are too many.
        let mut places = vec![u32::MAX; parts.len()];
        for (place, number) in (0..).zip(&order) {
            places[*number as usize] = place;
        }
        let mut found: BTreeMap<u32, Vec<Piece>> = BTreeMap::new();
        let (mut count, mut end) = (0, u32::MAX);
        tree.each_file(patience, |file, path, extents| {
            let Some(relation) = relation_file(path) else {
                return;
            };
            let base = relation.first_block(rules.file_pages);
            let mut at = extents.from;
            for extent in extents.extents {
                let (begin, page) = (at, u64::from(rules.page_bytes));
                at += extent.bytes;
                let place = places.get(extent.part as usize).copied().unwrap_or(u32::MAX);
                if place >= end || !begin.is_multiple_of(page) {
                    continue;
                }
                found.entry(place).or_default().push(Piece {
                    offset: extent.offset,
                    bytes: u32::try_from(extent.bytes).unwrap_or(u32::MAX),
                    block: base.wrapping_add((begin / page) as u32),
                    file,
                });
                count += 1;
                while count > MOST_PIECES && found.len() > 1 {
                    let (last, pieces) = found.pop_last().expect("there are two");
                    (count, end) = (count - pieces.len(), last);
                }
            }
        })
        .await?;
        let key = |place: u32| parts[order[place as usize] as usize].key.clone();
        let until = (end < u32::MAX).then(|| key(end));
        let parts = found.into_iter().map(|(place, mut pieces)| {
            pieces.sort_unstable();
            (key(place), Arc::new(pieces))
        });
        Ok(Self {
            parts: parts.collect(),
            from,
            until,
        })
    }

    /// Does it say what is in that part?
    pub(super) fn covers(&self, key: &Key) -> bool {
        *key >= self.from && self.until.as_ref().is_none_or(|until| key < until)
    }

    /// The pages in a part.
    pub(super) fn of(&self, key: &Key) -> Option<Arc<Vec<Piece>>> {
        self.parts.get(key).cloned()
    }
}

/// Looks at the pages of a part as its content comes.
pub(super) fn look(rules: Rules, pieces: Arc<Vec<Piece>>) -> (Arc<Look>, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let noted = seen.clone();
    let look = move |offset: u64, content: &[u8]| {
        let mut seen = noted.lock().expect("no panic while held");
        if offset == 0 {
            *seen = Seen::default();
        }
        seen.look(rules, &pieces, offset, content);
    };
    (Arc::new(look), seen)
}

/// What was seen of a part's pages.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) bad: Vec<Bad>,
    /// The beginning of a page that goes on in what comes next, and where that begins.
    rest: (u64, Vec<u8>),
}

impl Seen {
    fn look(&mut self, rules: Rules, pieces: &[Piece], offset: u64, content: &[u8]) {
        let page_bytes = u64::from(rules.page_bytes);
        let (rest_end, rest) = std::mem::take(&mut self.rest);
        let rest = if rest_end == offset { rest } else { Vec::new() };
        let begin = offset - rest.len() as u64;
        let end = offset + content.len() as u64;
        // Pieces do not overlap, but for those of files that share bytes of their base: so all are asked.
        let behind = pieces.partition_point(|piece| piece.offset < end);
        let mut joined = Vec::new();
        for piece in &pieces[..behind] {
            let pages = u64::from(piece.bytes) / page_bytes;
            let skipped = begin.saturating_sub(piece.offset).div_ceil(page_bytes);
            for number in skipped..pages {
                let at = piece.offset + number * page_bytes;
                if at >= end {
                    break;
                }
                if at + page_bytes > end {
                    if self.rest.1.is_empty() && at >= offset {
                        self.rest = (end, content[(at - offset) as usize..].to_vec());
                    }
                    break;
                }
                let page = match at.checked_sub(offset) {
                    Some(within) => &content[within as usize..(within + page_bytes) as usize],
                    None => {
                        joined.clear();
                        joined.extend_from_slice(&rest[(at - begin) as usize..]);
                        joined.extend_from_slice(&content[..(at + page_bytes - offset) as usize]);
                        &joined
                    }
                };
                let block = piece.block.wrapping_add(number as u32);
                if let PageVerdict::Damaged(damage) = rules.checker.check(page, block)
                    && self.bad.len() < MOST_TOLD
                {
                    self.bad.push(Bad {
                        file: piece.file,
                        block,
                        reason: damage.to_string(),
                        range: at..at + page_bytes,
                    });
                }
            }
        }
    }
}
