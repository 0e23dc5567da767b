//! Sets of blocks, as bytes.
//!
//! ```text
//! u8 shift: blocks are told in groups of 2^shift that begin at a multiple of as many
//! number of relation forks; then of each, ascending:
//!   tablespace, database, relation, fork, number of runs
//!   of each run of groups: how many groups lie between it and the one before (at first: before it; later one less), times
//!   two, and one more if it has more than one group; then how many more than two it has
//! ```
//! All numbers but the first have seven bits in each byte, the lowest first, with the highest bit set if more follow. A group
//! tells that one of its blocks at least was touched: so what is too long is told more coarsely, and never less.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::super::record::RelationFork;

/// What the blocks of one frame of WAL may take, in bytes.
const MOST_FRAME_BYTES: usize = 8 << 10;

/// Tried in this order; with the last one each relation is one group.
const SHIFTS: [u8; 9] = [0, 1, 2, 3, 4, 6, 9, 13, 32];

/// Keys that were added last, so that most of what is added again costs nothing.
const RECENT: usize = 1024;

/// Relations that are found without a look into the table of all.
const KNOWN: usize = 64;

/// Some blocks of a fork of a relation, told as groups of 2^`shift` blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Whose blocks.
    pub relation: RelationFork,
    /// How coarsely they are told.
    pub shift: u8,
    /// Runs of blocks, ascending.
    pub runs: Vec<RangeInclusive<u32>>,
}

/// Gathers blocks.
#[derive(Debug)]
pub(super) struct Collector {
    relations: Vec<RelationFork>,
    numbers: HashMap<RelationFork, u32>,
    /// Those that were asked for last, by some bits of their numbers.
    known: [Option<(RelationFork, u32)>; KNOWN],
    keys: Vec<u64>,
    recent: Box<[u64; RECENT]>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            relations: Vec::new(),
            numbers: HashMap::new(),
            known: [None; KNOWN],
            keys: Vec::new(),
            recent: Box::new([u64::MAX; RECENT]),
        }
    }
}

impl Collector {
    pub(super) fn add(&mut self, relation: RelationFork, block: u32) {
        let key = u64::from(self.number(relation)) << 32 | u64::from(block);
        let slot = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize;
        if std::mem::replace(&mut self.recent[slot], key) != key {
            self.keys.push(key);
        }
    }

    fn number(&mut self, relation: RelationFork) -> u32 {
        let slot = (relation.relation as usize ^ usize::from(relation.fork) << 4) % KNOWN;
        if let Some((known, number)) = self.known[slot]
            && known == relation
        {
            return number;
        }
        let relations = &mut self.relations;
        let number = *self.numbers.entry(relation).or_insert_with(|| {
            relations.push(relation);
            relations.len() as u32 - 1
        });
        self.known[slot] = Some((relation, number));
        number
    }

    /// As the blocks of one frame; empty if there are none, `None` if they are too many.
    pub(super) fn encoded(mut self) -> Option<Box<[u8]>> {
        self.encode(0, MOST_FRAME_BYTES)
    }

    fn encode(&mut self, least: u8, most_bytes: usize) -> Option<Box<[u8]>> {
        if self.keys.is_empty() {
            return Some(Box::default());
        }
        // Relations ascending.
        let mut order: Vec<u32> = (0..self.relations.len() as u32).collect();
        order.sort_unstable_by_key(|number| self.relations[*number as usize]);
        let mut places = vec![0_u32; order.len()];
        for (place, number) in order.iter().enumerate() {
            places[*number as usize] = place as u32;
        }
        for key in &mut self.keys {
            *key = u64::from(places[(*key >> 32) as usize]) << 32 | *key & 0xFFFF_FFFF;
        }
        self.keys.sort();
        self.keys.dedup();
        let relations: Vec<RelationFork> = order
            .iter()
            .map(|number| self.relations[*number as usize])
            .collect();
        let shifts = SHIFTS.into_iter().filter(|shift| *shift >= least);
        let found = shifts
            .map(|shift| written(&relations, &self.keys, shift))
            .find(|bytes| bytes.len() <= most_bytes);
        found.map(Vec::into_boxed_slice)
    }
}

fn written(relations: &[RelationFork], keys: &[u64], shift: u8) -> Vec<u8> {
    let mut bytes = vec![shift];
    put(&mut bytes, relations.len() as u64);
    for (place, of_relation) in keys.chunk_by(|one, other| one >> 32 == other >> 32).enumerate() {
        let relation = relations[place];
        put(&mut bytes, relation.tablespace.into());
        put(&mut bytes, relation.database.into());
        put(&mut bytes, relation.relation.into());
        put(&mut bytes, relation.fork.into());
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for key in of_relation {
            let group = (key & 0xFFFF_FFFF) >> shift;
            match runs.last_mut() {
                Some((_, last)) if *last == group => {}
                Some((_, last)) if *last + 1 == group => *last = group,
                _ => runs.push((group, group)),
            }
        }
        put(&mut bytes, runs.len() as u64);
        let mut next = 0;
        for (first, last) in runs {
            let is_long = last > first;
            put(&mut bytes, (first - next) << 1 | u64::from(is_long));
            if is_long {
                put(&mut bytes, last - first - 1);
            }
            next = last + 2;
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A set of blocks, or some that add up to one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocks(Vec<Box<[u8]>>);

impl Blocks {
    pub(super) fn of(sets: &[Box<[u8]>]) -> Self {
        Self(sets.to_vec())
    }

    /// Does one of the blocks belong to a relation of this kind?
    pub fn touch(&self, mut is_one: impl FnMut(&RelationFork) -> bool) -> bool {
        self.iter().any(|touched| is_one(&touched.relation))
    }

    /// Of each set, each fork of a relation and its blocks. What is damaged ends a set.
    pub fn iter(&self) -> impl Iterator<Item = Touched> + '_ {
        self.0.iter().flat_map(|set| read(set).unwrap_or_default())
    }

    /// All as one set, of so many bytes at most; `None` if that is not possible.
    pub(super) fn joined(&self, most_bytes: usize) -> Option<Box<[u8]>> {
        if let [one] = &self.0[..]
            && one.len() <= most_bytes
        {
            return Some(one.clone());
        }
        let least = self.0.iter().filter_map(|set| set.first().copied()).max()?;
        let mut all = Collector::default();
        for touched in self.iter() {
            let number = u64::from(all.number(touched.relation)) << 32;
            for run in touched.runs {
                // One block of each group is enough.
                let step = 1_u64 << touched.shift;
                let blocks = (u64::from(*run.start())..=u64::from(*run.end())).step_by(step as usize);
                all.keys.extend(blocks.map(|block| number | block));
            }
        }
        all.encode(least, most_bytes)
    }
}

/// `None` for what is no set. No more is allocated than the bytes make up.
pub(super) fn read(bytes: &[u8]) -> Option<Vec<Touched>> {
    let (shift, rest) = bytes.split_first()?;
    let (shift, mut left) = (*shift, rest);
    if shift > 32 {
        return None;
    }
    let mut next = || {
        let mut value = 0_u64;
        for place in 0..10 {
            let (byte, rest) = left.split_first()?;
            left = rest;
            value |= u64::from(byte & 0x7F).checked_shl(7 * place)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    let small = |value: u64| u32::try_from(value).ok();
    let count = next()?;
    let mut found = Vec::new();
    for _ in 0..count {
        let relation = RelationFork {
            tablespace: small(next()?)?,
            database: small(next()?)?,
            relation: small(next()?)?,
            fork: u8::try_from(next()?).ok()?,
        };
        let mut runs = Vec::new();
        let mut at = 0_u64;
        for _ in 0..next()? {
            let gap = next()?;
            let first = at.checked_add(gap >> 1)?;
            let last = match gap & 1 {
                0 => first,
                _ => first.checked_add(next()?)?.checked_add(1)?,
            };
            let begin = small(
                first
                    .checked_shl(shift.into())
                    .filter(|begin| begin >> shift == first)?,
            )?;
            let end = last.checked_add(1)?.checked_mul(1 << shift)? - 1;
            runs.push(begin..=u32::try_from(end).unwrap_or(u32::MAX));
            at = last.checked_add(2)?;
        }
        found.push(Touched {
            relation,
            shift,
            runs,
        });
    }
    left.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(number: u32) -> RelationFork {
        RelationFork {
            tablespace: 1663,
            database: 5,
            relation: number,
            fork: 0,
        }
    }

    fn collected(blocks: &[(u32, u32)]) -> Collector {
        let mut collector = Collector::default();
        blocks
            .iter()
            .for_each(|(number, block)| collector.add(relation(*number), *block));
        collector
    }

    #[test]
    fn what_was_touched_comes_back() {
        let blocks = [
            (9, 7),
            (8, 3),
            (8, 1),
            (8, 2),
            (9, 7),
            (8, u32::MAX),
            (8, 600),
            (8, 0),
        ];
        let bytes = collected(&blocks).encoded().unwrap();
        let found = read(&bytes).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].relation, found[0].shift), (relation(8), 0));
        assert_eq!(found[0].runs, [0..=3, 600..=600, u32::MAX..=u32::MAX]);
        assert_eq!(
            (found[1].relation, &found[1].runs[..]),
            (relation(9), &[7..=7][..])
        );
        assert_eq!(collected(&[]).encoded(), Some(Box::default()));
    }

    /// Never less than was touched.
    #[test]
    fn what_is_too_long_is_told_more_coarsely() {
        let mut random = fastrand::Rng::with_seed(3);
        let blocks: Vec<(u32, u32)> = (0..20_000)
            .map(|_| (random.u32(1..4), random.u32(0..200_000)))
            .collect();
        let sets: Vec<Box<[u8]>> = blocks
            .chunks(5000)
            .map(|some| collected(some).encoded().unwrap())
            .collect();
        assert!(sets.iter().all(|set| set.len() <= MOST_FRAME_BYTES));
        for most in [40_000, 12_000, 3000, 60] {
            let joined = Blocks(sets.clone()).joined(most).unwrap();
            assert!(joined.len() <= most);
            let found = read(&joined).unwrap();
            for (number, block) in &blocks {
                let touched = found.iter().find(|touched| touched.relation == relation(*number));
                let mut runs = touched.unwrap().runs.iter();
                assert!(runs.any(|run| run.contains(block)), "{most}: {number} {block}");
            }
        }
        assert_eq!(Blocks(sets).joined(10), None);
    }

    /// S8: sizes are claims.
    #[test]
    fn s8_what_is_no_set_is_none() {
        let bytes = collected(&[(9, 7), (8, 3), (8, 4), (8, 5)]).encoded().unwrap();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None, "{length}");
        }
        assert_eq!(read(&[&bytes[..], &[0]].concat()), None);
        for bad in [
            &[33, 0][..],
            &[0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            &[
                0, 1, 1, 1, 1, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F,
            ],
            &[32, 1, 1, 1, 1, 0, 1, 4],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let mut noise = bytes.to_vec();
            let at = random.usize(0..noise.len());
            noise[at] = random.u8(..);
            let _ = read(&noise);
        }
    }
}
