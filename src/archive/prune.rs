//! What a prune says of itself in the archive: before it deletes, what it is about to; behind, which WAL is not kept any more.
//!
//! Nobody holds a lock. Who is about to delete stores an *order* first, `prune/<id>.order.json`, and looks again behind it at
//! what others need. Who needs something says so first ([`Archive::claim_base`], the summary of a backup, a pin), and
//! looks for orders behind that. So of two that meet, one at least sees the other, whatever their clocks say and however
//! long either of them is stopped in between.
//!
//! A *record*, `prune/<id>.done.json`, tells the WAL that was removed on purpose from that which is missing.

use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, future, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::object::Object;
use super::tree::begun::{Maker, Process};
use super::tree::summary::Summary;
use super::tree::{TreeId, TreeName};
use super::{Archive, Error};
use crate::pg::{SegmentName, SegmentSize, Timeline, WalName};
use crate::store::{self, ByteRange, ErrorKind, Key, Patience, PutMode, Retention};

/// Folder of what prunes say of themselves.
pub(super) const PRUNE: &str = "prune";
const ORDER: &str = ".order.json";
const RECORD: &str = ".done.json";

/// The longest order, and the longest record.
pub const WORD_BYTES: u64 = 16 << 20;

/// So many objects are asked for at a time whether the store has locked them.
pub const ASKED_AT_ONCE: usize = 16;

/// How often words are listed again because one was replaced meanwhile.
const TRIES: usize = 8;

/// Segments of one timeline that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSpan {
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
}

impl WalSpan {
    /// These numbers of a timeline, both ends included; `None` where no segment has such a number.
    pub fn new(timeline: Timeline, (first, last): (u64, u64), size: SegmentSize) -> Option<Self> {
        let name = |number| SegmentName::from_number(timeline, number, size);
        let (first, last) = (name(first)?.to_string(), name(last)?.to_string());
        Some(Self { first, last })
    }

    /// Timeline and numbers, both ends included; `None` if they are no span.
    pub fn numbers(&self, size: SegmentSize) -> Option<(Timeline, (u64, u64))> {
        let segment = |text: &str| match text.parse() {
            Ok(WalName::Segment(segment)) => Some(segment),
            _ => None,
        };
        let (first, last) = (segment(&self.first)?, segment(&self.last)?);
        let numbers = (first.number(size), last.number(size));
        (first.timeline == last.timeline && numbers.0 <= numbers.1).then_some((first.timeline, numbers))
    }

    /// Two segments of one timeline, the later one last: what nothing else is, whatever the size of segments.
    fn is_span(&self) -> bool {
        self.numbers(SegmentSize::MIN).is_some()
    }

    fn has(&self, segment: SegmentName, size: SegmentSize) -> bool {
        self.numbers(size).is_some_and(|(timeline, (first, last))| {
            timeline == segment.timeline && (first..=last).contains(&segment.number(size))
        })
    }
}

/// What a prune is about to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// When it was given.
    pub at: Timestamp,
    /// By whom.
    #[serde(flatten)]
    pub process: Process,
    /// Folders of trees of which objects go.
    pub trees: Vec<String>,
    /// Segments that go.
    pub wal: Vec<WalSpan>,
}

impl Order {
    /// What an object says.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let order: Self =
            serde_json::from_slice(text).map_err(|error| format!("it is no order of a prune: {error}"))?;
        match order.trees.iter().find(|tree| TreeId::parse(tree).is_none()) {
            Some(odd) => Err(format!("it names {odd:?}, which is no folder of a backup")),
            None => spans(&order.wal).map(|()| order),
        }
    }
}

fn spans(wal: &[WalSpan]) -> Result<(), String> {
    match wal.iter().find(|span| !span.is_span()) {
        Some(odd) => Err(format!(
            "{:?} to {:?} are no segments of one timeline",
            odd.first, odd.last
        )),
        None => Ok(()),
    }
}

/// An order that was found.
#[derive(Debug)]
pub struct Found {
    /// Its object.
    pub key: Key,
    /// When it was stored, by the store's clock.
    pub stored: SystemTime,
    /// What it says; `None` if it cannot be read.
    pub order: Option<Order>,
}

impl Found {
    /// May it be that this tree goes? One that cannot be read may concern all.
    pub fn concerns(&self, id: &TreeId) -> bool {
        let is_it = |order: &Order| order.trees.iter().any(|tree| tree == id.as_str());
        self.order.as_ref().is_none_or(is_it) && !self.is_over()
    }

    /// May it be that a backup of this name goes, which is another one?
    pub fn concerns_name(&self, name: &TreeName) -> bool {
        let trees = self.order.iter().flat_map(|order| &order.trees);
        let mut names = trees.filter_map(|tree| Some(TreeId::parse(tree)?.name()));
        names.any(|pruned| pruned == *name) && !self.is_over()
    }

    /// Is its prune seen to be gone? Silence proves nothing: a process that was stopped may go on.
    pub fn is_over(&self) -> bool {
        let process = self.order.as_ref().map(|order| &order.process);
        process.and_then(Process::is_alive) == Some(false)
    }

    /// Is its prune still at work, as far as can be told from here?
    pub fn maker(&self, now: SystemTime) -> Maker {
        let process = self.order.as_ref().map(|order| &order.process);
        Process::maker(process, self.stored, now)
    }
}

/// Which WAL is not kept any more, by all prunes so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    wal: Vec<WalSpan>,
}

impl Record {
    /// What an object says.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let record: Self =
            serde_json::from_slice(text).map_err(|error| format!("it is no record of a prune: {error}"))?;
        spans(&record.wal).map(|()| record)
    }
}

/// What a key of a prune's word is; `None` for one that is not ours.
pub(super) fn word(key: &Key) -> Option<Object> {
    let key = key.as_str();
    if key.ends_with(ORDER) {
        return Some(Object::Order);
    }
    key.ends_with(RECORD).then_some(Object::Pruned)
}

/// What the records say, and the objects that say it.
#[derive(Debug, Default)]
pub struct Removed {
    /// Segments that are not kept any more.
    pub wal: Vec<WalSpan>,
    records: Vec<Key>,
}

impl Removed {
    /// These are not kept any more, either.
    pub fn add(&mut self, spans: Vec<WalSpan>, size: SegmentSize) {
        let all = self
            .wal
            .iter()
            .chain(&spans)
            .filter_map(|span| span.numbers(size));
        let mut all: Vec<(Timeline, (u64, u64))> = all.collect();
        all.sort_unstable();
        let mut joined: Vec<(Timeline, (u64, u64))> = Vec::with_capacity(all.len());
        for (timeline, (first, last)) in all {
            match joined.last_mut() {
                Some((same, before)) if *same == timeline && first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((timeline, (first, last))),
            }
        }
        let spans = joined.into_iter();
        self.wal = spans
            .filter_map(|(timeline, numbers)| WalSpan::new(timeline, numbers, size))
            .collect();
    }
}

impl Archive {
    /// Why the store keeps a tree: any of its objects.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tree_locked(
        &self,
        summary: &Summary,
        id: &TreeId,
        patience: Patience,
    ) -> Result<Option<Retention>, Error> {
        if !self.store().can_lock(patience).await? {
            return Ok(None);
        }
        let objects = self.tree_objects(id, patience).await?.into_iter();
        let keys = objects.map(|(key, _)| key);
        let keys = keys.chain([id.name().summary_key(summary.content)]);
        let asked = stream::iter(keys).map(|key| async move { self.store().retention(&key, patience).await });
        let asked = asked.buffer_unordered(ASKED_AT_ONCE);
        Ok(asked
            .try_fold(None, |locked, next| future::ok(next.max(locked)))
            .await?)
    }

    /// Says what will be deleted. Behind it, and only then, is the moment to look at what others need.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn give_order(&self, order: &Order, patience: Patience) -> Result<Key, Error> {
        let key = Key::new(format!("{PRUNE}/{:016x}{ORDER}", fastrand::u64(..)));
        let text = serde_json::to_vec_pretty(order).expect("plain data becomes JSON");
        let put = self.store().put(&key, text.into(), PutMode::Overwrite, patience);
        put.await?;
        Ok(key)
    }

    /// Orders that are not done, by whomever.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn orders(&self, patience: Patience) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for (key, meta) in self.list_all(&format!("{PRUNE}/"), patience).await? {
            if !key.as_str().ends_with(ORDER) {
                continue;
            }
            let read = self
                .store()
                .get(&key, ByteRange::AtMost(WORD_BYTES), patience)
                .await;
            let order = match read {
                Ok(fetched) => Order::parse(&fetched.bytes).ok(),
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) if error.kind == ErrorKind::Damaged => None,
                Err(error) => return Err(error.into()),
            };
            let stored = meta.modified;
            found.push(Found { key, stored, order });
        }
        Ok(found)
    }

    /// An order is done, or will not be: its word goes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn end_order(&self, key: &Key, patience: Patience) -> Result<(), Error> {
        Ok(self.store().delete(std::slice::from_ref(key), patience).await?)
    }

    /// Which WAL was removed by prunes. One record at least is there at each moment once there was one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn removed_wal(&self, patience: Patience) -> Result<Removed, Error> {
        'again: for _ in 0..TRIES {
            let mut removed = Removed::default();
            for (key, _) in self.list_all(&format!("{PRUNE}/"), patience).await? {
                if !key.as_str().ends_with(RECORD) {
                    continue;
                }
                let read = self
                    .store()
                    .get(&key, ByteRange::AtMost(WORD_BYTES), patience)
                    .await;
                let record = match read {
                    Ok(fetched) => Record::parse(&fetched.bytes),
                    // Another one has taken its place.
                    Err(error) if error.kind == ErrorKind::NotFound => continue 'again,
                    Err(error) if error.kind == ErrorKind::Damaged => Err(error.message),
                    Err(error) => return Err(error.into()),
                };
                match record {
                    Ok(Record { wal }) => {
                        removed.wal.extend(wal);
                        removed.records.push(key);
                    }
                    Err(reason) => tracing::warn!(
                        "{}/{key} cannot be read: {reason}. WAL that `walfs prune` has removed may be told as missing\n\
                         HINT: bring it back from a copy of the store; or remove it, and prune again",
                        self.place()
                    ),
                }
            }
            return Ok(removed);
        }
        let message = "what prunes have recorded changes all the time".to_owned();
        Err(Error::Store(store::Error {
            kind: ErrorKind::Transient,
            operation: "list",
            target: format!("{}/{PRUNE}/", self.place()),
            message,
        }))
    }

    /// Records that this WAL is not kept any more, in the place of the records that were read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn record_removed(&self, removed: Removed, patience: Patience) -> Result<(), Error> {
        let Removed { wal, records } = removed;
        let key = Key::new(format!("{PRUNE}/{:016x}{RECORD}", fastrand::u64(..)));
        let text = serde_json::to_vec_pretty(&Record { wal }).expect("plain data becomes JSON");
        let put = self.store().put(&key, text.into(), PutMode::Overwrite, patience);
        put.await?;
        Ok(self.store().delete(&records, patience).await?)
    }

    /// Has a prune ever been here? Who may not list what prunes say of themselves has none.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn has_pruned(&self, patience: Patience) -> Result<bool, Error> {
        match self.store().list(&format!("{PRUNE}/"), None, 1, patience).await {
            Err(error) if error.kind == ErrorKind::Denied => Ok(false),
            page => Ok(!page?.entries.is_empty()),
        }
    }

    /// Which of these segments, if any, a prune has removed, or may be about to.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn pruned_of(
        &self,
        segments: &[SegmentName],
        size: SegmentSize,
        patience: Patience,
    ) -> Result<Option<SegmentName>, Error> {
        // In this order: a record is stored before its order goes.
        let orders = self.orders(patience).await?;
        let removed = self.removed_wal(patience).await?;
        // One whose prune is gone removes nothing any more.
        let orders = orders.iter().filter(|found| !found.is_over());
        let ordered = orders.filter_map(|found| found.order.as_ref());
        let spans = ordered.flat_map(|order| &order.wal).chain(&removed.wal);
        let spans: Vec<&WalSpan> = spans.collect();
        let mut all = segments.iter();
        let found = all.find(|segment| spans.iter().any(|span| span.has(**segment, size)));
        Ok(found.copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_what_lies_in_it() {
        let size = SegmentSize::MIN;
        let span = WalSpan::new(Timeline(2), (4, 6), size).unwrap();
        assert_eq!(span.numbers(size), Some((Timeline(2), (4, 6))));
        let has = |timeline, number| {
            span.has(
                SegmentName::from_number(Timeline(timeline), number, size).unwrap(),
                size,
            )
        };
        assert!(has(2, 4) && has(2, 6));
        assert!(!has(2, 3) && !has(2, 7) && !has(1, 5));
        let mut removed = Removed::default();
        for numbers in [(8, 9), (1, 2), (7, 7)] {
            removed.add(vec![WalSpan::new(Timeline(2), numbers, size).unwrap()], size);
        }
        removed.add(vec![WalSpan::new(Timeline(3), (10, 11), size).unwrap()], size);
        let told: Vec<_> = removed
            .wal
            .iter()
            .map(|span| span.numbers(size).unwrap())
            .collect();
        assert_eq!(
            told,
            [
                (Timeline(2), (1, 2)),
                (Timeline(2), (7, 9)),
                (Timeline(3), (10, 11))
            ]
        );
        for odd in [("x", "y"), (&*span.last, &*span.first), (&*span.first, "")] {
            let (first, last) = (odd.0.to_owned(), odd.1.to_owned());
            assert_eq!(WalSpan { first, last }.numbers(size), None);
        }
    }
}
