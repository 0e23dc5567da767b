//! Carrying a plan out: summaries first, parts last.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::Error;
use super::plan::{Plan, Planned, locked_until};
use crate::archive::Archive;
use crate::archive::object::Object;
use crate::archive::prune::ASKED_AT_ONCE;
use crate::archive::tree::{Part, TreeId};
use crate::archive::wal::WalCursor;
use crate::job::look::Known;
use crate::job::progress::Progress;
use crate::job::runs::Span;
use crate::pg::{SegmentName, SegmentSize, Timeline, WalName};
use crate::read::tree::TreeReader;
use crate::store::{self, Key, Patience};

/// Manifests that are gone through at once.
const MANIFESTS: usize = 8;

/// Trees that are listed at once, when they are only counted.
const LISTINGS: usize = 8;

/// So many objects, and their bytes as stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Objects.
    pub objects: u64,
    /// Bytes, as stored.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn and(self, other: Self) -> Self {
        Self {
            objects: self.objects + other.objects,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What was removed, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects of backups.
    pub trees: Tally,
    /// Archived WAL files.
    pub wal: Tally,
    /// What the store has locked, and so stays.
    pub locked: Locked,
}

impl Removed {
    fn and(self, other: Self) -> Self {
        Self {
            trees: self.trees.and(other.trees),
            wal: self.wal.and(other.wal),
            locked: Locked {
                tally: self.locked.tally.and(other.locked.tally),
                until: self.locked.until.max(other.locked.until),
            },
        }
    }
}

/// Objects that nothing needs and that the store keeps (promise K4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locked {
    /// How many.
    pub tally: Tally,
    /// When the last of them that ends by itself is free.
    pub until: Option<Timestamp>,
}

/// An object, and its bytes as stored.
type Sized = (Key, u64);

/// Does it remove, or only count?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Count,
    Remove,
}

/// Goes through everything that a plan lets go.
pub(super) struct Deed<'a, P> {
    pub archive: &'a Arc<Archive>,
    pub plan: &'a Plan,
    pub mode: Mode,
    pub progress: &'a Arc<dyn Progress>,
    /// Nothing is removed later than this.
    pub until: Instant,
    pub patience: P,
}

impl<P: Fn() -> Patience> Deed<'_, P> {
    /// All of it, in the order in which it can be broken off: what has no summary is no backup, and its parts are nobody's.
    ///
    /// # Errors
    /// [`Error::Archive`]; what was removed before stays so.
    pub(super) async fn run(&self) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let needed = self.needed_parts().await?;
        if self.mode == Mode::Remove {
            for planned in self.plan.backups.iter().filter(|planned| planned.goes()) {
                self.remove_summary(planned).await?;
            }
        }
        match self.mode {
            Mode::Count => removed = self.count_trees(&needed).await?,
            Mode::Remove => {
                for id in self.plan.trees() {
                    self.remove_tree(&id, &needed, &mut removed).await?;
                }
            }
        }
        if let Some(size) = self.plan.size {
            for (timeline, spans) in &self.plan.wal {
                for span in spans {
                    self.wal(*timeline, *span, size, &mut removed).await?;
                }
            }
        }
        Ok(removed)
    }

    /// Only this backup's: another one may have come under its name.
    async fn remove_summary(&self, Planned { known, .. }: &Planned) -> Result<(), Error> {
        let key = known.name.summary_key(known.summary.content);
        let text = match self
            .archive
            .summary_text(known.summary.content, &known.name, (self.patience)())
            .await?
        {
            Some((found, text)) if found.id == known.summary.id => text,
            _ => return Ok(()),
        };
        self.check_time()?;
        let deleted = self
            .archive
            .store()
            .delete_if_same(&key, &text, (self.patience)());
        deleted.await.map_err(crate::archive::Error::from)?;
        Ok(())
    }

    /// Parts of what goes that a backup points to which stays. Several manifests are gone through at once, and of each only
    /// these parts are kept.
    async fn needed_parts(&self) -> Result<Needed, Error> {
        let going = self.plan.trees();
        let reader = TreeReader::alone(self.archive.clone());
        let stay = self.plan.backups.iter().filter(|planned| !planned.goes());
        let pointing = stay.filter_map(|Planned { known, .. }| {
            let on = known.summary.builds_on.iter();
            let on = on.filter_map(|on| TreeId::parse(&on.id).filter(|id| going.contains(id)));
            let on: BTreeSet<TreeId> = on.collect();
            (!on.is_empty()).then_some((known, on))
        });
        let mut found = stream::iter(pointing)
            .map(|(known, on)| self.parts_in(&reader, known, on))
            .buffered(MANIFESTS);
        let mut needed = Needed {
            trees: self.plan.claimed.clone(),
            ..Needed::default()
        };
        while let Some(of_one) = found.try_next().await? {
            needed.parts.extend(of_one.parts);
            needed.trees.extend(of_one.trees);
        }
        Ok(needed)
    }

    /// What a backup needs of some trees: all of them, if its manifest does not tell.
    async fn parts_in(
        &self,
        reader: &TreeReader,
        known: &Known,
        trees: BTreeSet<TreeId>,
    ) -> Result<Needed, Error> {
        let mut needed = Needed::default();
        let read = async {
            let tree = reader.open(&known.name, &known.summary, (self.patience)());
            let take = |part: &Part| {
                if trees.iter().any(|id| id.as_str() == part.tree()) {
                    needed.parts.insert(part.key.clone());
                }
            };
            tree.await?.each_part(&self.patience, take).await
        };
        match read.await {
            Ok(()) => Ok(needed),
            Err(damage @ crate::archive::Error::TreeDamaged { .. }) => {
                tracing::warn!("all parts stay that backup {} may point to: {damage}", known.name);
                needed.trees = trees;
                Ok(needed)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What would go of all trees. They are listed page by page: none is in memory.
    async fn count_trees(&self, needed: &Needed) -> Result<Removed, Error> {
        let trees = stream::iter(self.plan.trees()).map(|id| self.count_tree(id, needed));
        let counted: Vec<Removed> = trees.buffered(LISTINGS).try_collect().await?;
        Ok(counted.into_iter().fold(Removed::default(), Removed::and))
    }

    async fn count_tree(&self, id: TreeId, needed: &Needed) -> Result<Removed, Error> {
        let mut counted = Removed::default();
        let mut after = None;
        loop {
            let page = self
                .archive
                .tree_page(&id, after.as_ref(), (self.patience)())
                .await?;
            let goes = page
                .entries
                .iter()
                .filter(|(key, _)| self.goes(&id, key, needed).is_some());
            let objects: Vec<Sized> = goes.map(|(key, meta)| (key.clone(), meta.stored_bytes)).collect();
            if self.plan.remnants.contains(&id) {
                self.remove(objects, |removed| &mut removed.trees, &mut counted)
                    .await?;
            } else {
                // Of a backup that goes, the plan knows that nothing is locked.
                self.progress.advance(objects.len() as u64);
                objects
                    .into_iter()
                    .for_each(|(_, bytes)| counted.trees.add(bytes));
            }
            after = page.entries.into_iter().next_back().map(|(key, _)| key);
            if !page.more || after.is_none() {
                return Ok(counted);
            }
        }
    }

    /// Does it go, and is it a part? What walfs has not put there is not for it to remove.
    fn goes(&self, id: &TreeId, key: &Key, needed: &Needed) -> Option<bool> {
        let is_part = matches!(self.archive.object(key)?, Object::Part(_));
        (!is_part || !needed.has(id, key)).then_some(is_part)
    }

    /// What has no name any more goes before what it was made of: so a folder that is half gone is never taken for that of
    /// a backup.
    async fn remove_tree(&self, id: &TreeId, needed: &Needed, removed: &mut Removed) -> Result<(), Error> {
        let objects = self.archive.tree_objects(id, (self.patience)()).await?;
        let (mut words, mut parts): (Vec<Sized>, Vec<Sized>) = (Vec::new(), Vec::new());
        for (key, meta) in objects {
            let Some(is_part) = self.goes(id, &key, needed) else {
                continue;
            };
            if is_part { &mut parts } else { &mut words }.push((key, meta.stored_bytes));
        }
        // Who began it first: from what has no such word, and no manifest, nothing is swept but by a prune.
        words.sort_by_key(|(key, _)| !key.as_str().ends_with("/begun.json"));
        for objects in [words, parts] {
            self.remove(objects, |removed| &mut removed.trees, removed)
                .await?;
        }
        Ok(())
    }

    /// Oldest first: broken off, it leaves no hole in what stays.
    async fn wal(
        &self,
        timeline: Timeline,
        (first, last): Span,
        size: SegmentSize,
        removed: &mut Removed,
    ) -> Result<(), Error> {
        let Some(from) = SegmentName::from_number(timeline, first, size).map(WalCursor::before) else {
            return Ok(());
        };
        let mut pages = self.archive.wal_pages(Some(from), size, &self.patience);
        while let Some(entries) = pages.next().await? {
            let (mut objects, mut done) = (Vec::new(), false);
            for (name, meta) in &entries {
                let segment = match name {
                    WalName::Segment(segment) | WalName::Partial(segment) => *segment,
                    WalName::Backup(segment, _) => *segment,
                    // What tells the timelines apart stays.
                    WalName::History(_) => continue,
                };
                if segment.timeline != timeline || segment.number(size) > last {
                    done = true;
                    break;
                }
                if segment.number(size) >= first {
                    objects.push((self.archive.wal_key(*name), meta.stored_bytes));
                }
            }
            self.remove(objects, |removed| &mut removed.wal, removed).await?;
            if done {
                break;
            }
        }
        Ok(())
    }

    fn check_time(&self) -> Result<(), Error> {
        if Instant::now() < self.until {
            return Ok(());
        }
        let hours = super::MOST_TIME.as_secs() / 3600;
        Err(Error::TooLate { hours })
    }

    /// Removes, or only counts, in this order, but for those that the store has locked.
    async fn remove(
        &self,
        objects: Vec<Sized>,
        tally: impl Fn(&mut Removed) -> &mut Tally,
        removed: &mut Removed,
    ) -> Result<(), Error> {
        let asked = stream::iter(objects).map(|object| async {
            let locked = self
                .archive
                .store()
                .retention(&object.0, (self.patience)())
                .await?;
            Ok((
                object,
                locked.and_then(|locked| locked_until(locked, self.plan.now)),
            ))
        });
        let asked: Vec<_> = asked
            .buffered(ASKED_AT_ONCE)
            .try_collect()
            .await
            .map_err(|error: store::Error| crate::archive::Error::from(error))?;
        let mut keys = Vec::with_capacity(asked.len());
        for ((key, bytes), locked) in asked {
            match locked {
                None => {
                    tally(removed).add(bytes);
                    keys.push(key);
                }
                Some(until) => {
                    removed.locked.tally.add(bytes);
                    removed.locked.until = removed.locked.until.max(until);
                }
            }
        }
        if self.mode == Mode::Remove && !keys.is_empty() {
            self.check_time()?;
            let deleted = self.archive.store().delete(&keys, (self.patience)());
            deleted.await.map_err(crate::archive::Error::from)?;
        }
        self.progress.advance(keys.len() as u64);
        Ok(())
    }
}

/// What must stay of trees that go.
#[derive(Debug, Default)]
struct Needed {
    parts: HashSet<Key>,
    /// All parts of these.
    trees: BTreeSet<TreeId>,
}

impl Needed {
    fn has(&self, id: &TreeId, key: &Key) -> bool {
        self.parts.contains(key) || self.trees.contains(id)
    }
}
