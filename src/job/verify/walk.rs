//! Going through the listing: what is due is read, object by object, and what comes of each is taken down.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, stream};

use super::ledger::Ages;
use super::task::{Checked, Outcome, Task};
use super::tree::OpenTree;
use super::{Backup, Run, Scope, words};
use crate::archive::Error;
use crate::archive::object::{Folder, Object};
use crate::archive::tree::TreeId;
use crate::job::proof::Lost;
use crate::pg::WalName;
use crate::store::{Key, Meta, Patience};

/// Objects read at once; how much memory they take is the archive's to say.
const AT_ONCE: usize = 8;

/// After how long what was proved so far is remembered.
const REMEMBERED_EVERY: Duration = Duration::from_secs(300);

impl Run<'_> {
    /// How old the last check is of all that is verified. What is known of the rest stays so: all folders are listed.
    pub(super) async fn survey(&mut self) -> Result<Ages, Error> {
        // Ranges are counted first, so ages are told in a second pass over each folder's listing.
        let mut ages = Ages::new();
        for counts in [true, false] {
            for folder in Folder::ALL {
                let mut after = None;
                loop {
                    let page = self
                        .archive
                        .list_folder(folder, after.as_ref(), self.patience())
                        .await?;
                    for (key, meta) in &page.entries {
                        let Some(object) = self.archive.object(key) else {
                            continue;
                        };
                        if counts {
                            self.known.note(key, meta);
                        } else if self.wants(key, &object) && !words::is_always_read(&object) {
                            ages.entry(self.known.at(key, meta))
                                .or_default()
                                .add(meta.stored_bytes);
                        }
                    }
                    match page.entries.last() {
                        Some((last, _)) if page.more => after = Some(last.clone()),
                        _ => break,
                    }
                }
            }
        }
        Ok(ages)
    }

    /// Reads what is due, folder by folder. What was proved so far is remembered now and then: `partial` is that record.
    pub(super) async fn go_through(&mut self, partial: &mut Option<Key>) -> Result<(), Error> {
        let mut remembered = Instant::now();
        let needed = self.needed_trees();
        for folder in Folder::ALL {
            let mut tree: Option<OpenTree> = None;
            let mut seen_trees: BTreeSet<String> = BTreeSet::new();
            let mut after = None;
            loop {
                let page = self
                    .archive
                    .list_folder(folder, after.as_ref(), self.patience())
                    .await?;
                let mut tasks = Vec::new();
                for (key, meta) in &page.entries {
                    let Some(object) = self.archive.object(key) else {
                        continue;
                    };
                    if let Object::Part(id) | Object::Manifest(id) | Object::Word(id) = &object
                        && tree.as_ref().is_none_or(|open| open.id != *id)
                    {
                        self.run_tasks(std::mem::take(&mut tasks), &mut tree).await?;
                        self.close_tree(tree.take()).boxed().await?;
                        seen_trees.insert(id.to_string());
                        if self.looks_into(id, &needed) {
                            tree = Some(self.open_tree(id.clone()).boxed().await?);
                        }
                    }
                    let task = self.task(key, meta, object, &mut tree).boxed().await?;
                    tasks.push(task);
                }
                self.run_tasks(tasks, &mut tree).await?;
                if remembered.elapsed() > REMEMBERED_EVERY {
                    self.remember_so_far(partial).await;
                    remembered = Instant::now();
                }
                match page.entries.last() {
                    Some((last, _)) if page.more => after = Some(last.clone()),
                    _ => break,
                }
            }
            self.close_tree(tree.take()).boxed().await?;
            if folder == Folder::Trees {
                for id in needed.difference(&seen_trees) {
                    if let Some(id) = TreeId::parse(id).filter(|id| self.looks_into(id, &needed)) {
                        let tree = self.open_tree(id).boxed().await?;
                        self.close_tree(Some(tree)).boxed().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Is a tree's folder compared with what manifests say of it?
    fn looks_into(&self, id: &TreeId, needed: &BTreeSet<String>) -> bool {
        match self.scope {
            Scope::All | Scope::Backups => true,
            Scope::Wal => false,
            Scope::Backup(_) => needed.contains(id.as_str()),
        }
    }

    /// Folders that backups point to.
    fn needed_trees(&self) -> BTreeSet<String> {
        let backups = match (&self.scope, self.only) {
            (Scope::Backup(_), Some(only)) => &self.backups[only..=only],
            (Scope::Backup(_), None) => &[],
            _ => &self.backups[..],
        };
        let needed = backups.iter().flat_map(|Backup { summary, .. }| {
            let earlier = summary.builds_on.iter().map(|on| on.id.clone());
            earlier.chain([summary.id.clone()])
        });
        needed.collect()
    }

    /// What is to be done with a listed object.
    async fn task(
        &mut self,
        key: &Key,
        meta: &Meta,
        object: Object,
        tree: &mut Option<OpenTree>,
    ) -> Result<Task, Error> {
        let at = self.known.at(key, meta);
        let wanted = self.wants(key, &object);
        let is_due = wanted && (words::is_always_read(&object) || self.due.take(at, meta.stored_bytes));
        if wanted && !is_due {
            self.left.add(meta.stored_bytes);
            match at {
                None => self.never.add(meta.stored_bytes),
                Some(at) => self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at))),
            }
        }
        let mut task = Task::new(key.clone(), meta.clone(), object, at, is_due);
        if let Some(tree) = tree.as_mut() {
            self.prepare(tree, &mut task).await?;
        }
        if let (Object::Wal(WalName::Segment(segment)), Some(size), true) =
            (&task.object, self.segment_size, is_due)
        {
            let way = self.timelines.way(segment.timeline, false);
            task.way = way.filter(|way| way.comes_over(*segment, size));
        }
        Ok(task)
    }

    async fn run_tasks(&mut self, tasks: Vec<Task>, tree: &mut Option<OpenTree>) -> Result<(), Error> {
        let (archive, progress, size) = (self.archive, self.progress, self.segment_size);
        let (unreadable, wait) = (&self.unreadable, self.wait);
        let checks = stream::iter(tasks).map(|task| {
            async move {
                let checked = match task.is_due {
                    true => {
                        // Of a gigabyte more is to come than of a part.
                        let wait = wait + Duration::from_secs(task.meta.stored_bytes >> 20);
                        let patience = Patience::for_at_most(wait);
                        task.check(archive, size, unreadable, patience).await
                    }
                    false => Ok(Checked::default()),
                };
                if task.is_due {
                    progress.advance(task.meta.stored_bytes);
                }
                (task, checked)
            }
            .boxed()
        });
        let mut checked = checks.buffered(AT_ONCE);
        let mut done = Vec::new();
        let mut failed = None;
        while let Some((task, checked)) = checked.next().await {
            match checked {
                Ok(checked) => done.push((task, checked)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(checked);
        for (task, checked) in done {
            self.enter(task, checked, tree).boxed().await?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes down what came of an object.
    async fn enter(
        &mut self,
        task: Task,
        checked: Checked,
        tree: &mut Option<OpenTree>,
    ) -> Result<(), Error> {
        let Task {
            key,
            meta,
            object,
            at,
            is_due,
            ..
        } = task;
        if !is_due {
            match at {
                Some(at) => self.ledger.proved(&key, &meta, at),
                None => self.ledger.unproved(),
            }
            return Ok(());
        }
        self.read.add(meta.stored_bytes);
        if let Some(system_id) = checked.system_id {
            *self.clusters.entry(system_id).or_default() += 1;
        }
        if let Object::Fragment(fragment) = &object {
            self.received.insert(fragment.segment);
        }
        if let Some(tree) = tree.as_mut() {
            tree.bad_pages
                .extend(checked.pages.into_iter().map(|bad| (key.clone(), bad)));
        }
        match checked.outcome {
            Outcome::Proved => {
                self.ledger.proved(&key, &meta, self.began);
                if let Some((_, is_proved)) = self.remembered.get_mut(key.as_str()) {
                    *is_proved = true;
                }
            }
            // Fragments are replaced, and backups pruned, while this goes on. What a backup needs is looked for once more.
            Outcome::Gone => {
                if let Some(tree) = tree.as_mut() {
                    tree.gone(&key);
                }
            }
            Outcome::Wrong {
                kind,
                reason,
                lost,
                ends,
            } => {
                self.ledger.unproved();
                if let Object::Wal(WalName::Segment(segment)) = object
                    && lost != Lost::Annex
                {
                    self.bad_wal.insert(segment, ends);
                }
                self.find_wrong((&key, &meta), &object, (kind, reason, lost), tree)
                    .boxed()
                    .await?;
            }
        }
        Ok(())
    }
}
