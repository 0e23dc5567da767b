//! The folder of one tree: its parts against the manifests that name them, and what is lost with a part, in every backup
//! that points to it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use futures::FutureExt;

use super::finding::{Cost, Finding, Kind, NAMED_FILES};
use super::pages::{Bad, PageMap};
use super::task::Task;
use super::{Backup, Run, first_line};
use crate::archive::Error;
use crate::archive::object::Object;
use crate::archive::tree::summary::Object as Described;
use crate::archive::tree::{Part, TreeId};
use crate::job::backup::pages::Rules;
use crate::job::proof::{Expected, Lost};
use crate::read::tree::stored::StoredTree;
use crate::store::{ErrorKind, Key};

/// A tree whose folder is gone through.
pub(super) struct OpenTree {
    pub(super) id: TreeId,
    /// The backup that it was stored for, if that is complete.
    own: Option<usize>,
    /// All backups that point to it.
    users: Vec<usize>,
    /// Its parts, as manifests name them, and whether each was listed.
    expected: HashMap<Key, (Part, bool)>,
    /// By which its pages are told apart.
    source: Option<Source>,
    has_manifest: bool,
    /// Why that of its own backup cannot be read.
    manifest_error: Option<String>,
    bad: Vec<BadPart>,
    pub(super) bad_pages: Vec<(Key, Bad)>,
}

/// A manifest that says what the parts hold.
struct Source {
    backup: usize,
    tree: StoredTree,
    parts: Vec<Part>,
    rules: Option<Option<Rules>>,
    map: Option<PageMap>,
}

/// A part of which something is lost.
struct BadPart {
    key: Key,
    kind: Kind,
    reason: String,
    lost: Lost,
}

/// Files of one backup that have bytes in something lost.
#[derive(Default)]
struct Hit {
    numbers: HashSet<u32>,
    files: Vec<String>,
}

impl OpenTree {
    /// An object that was listed is not there any more.
    pub(super) fn gone(&mut self, key: &Key) {
        if let Some((_, is_listed)) = self.expected.get_mut(key) {
            *is_listed = false;
        }
    }

    pub(super) fn lose(&mut self, key: &Key, kind: Kind, reason: String, lost: Lost) {
        self.bad.push(BadPart {
            key: key.clone(),
            kind,
            reason,
            lost,
        });
    }
}

impl Run<'_> {
    pub(super) async fn open_tree(&mut self, id: TreeId) -> Result<OpenTree, Error> {
        let is_own = |backup: &Backup| backup.summary.id == id.as_str();
        let builds_on = |backup: &Backup| backup.summary.builds_on.iter().any(|on| on.id == id.as_str());
        let numbered = || self.backups.iter().enumerate();
        let own = numbered()
            .find(|(_, backup)| is_own(backup))
            .map(|(number, _)| number);
        let users: Vec<usize> = numbered()
            .filter(|(_, backup)| is_own(backup) || builds_on(backup))
            .map(|(number, _)| number)
            .collect();
        let mut tree = OpenTree {
            id,
            own,
            expected: HashMap::new(),
            source: None,
            has_manifest: false,
            manifest_error: None,
            bad: Vec::new(),
            bad_pages: Vec::new(),
            users,
        };
        // What was stored for it is in its own manifest. Without that, what others need of it is in theirs.
        let own_word = match self.only {
            Some(only) => vec![only],
            None => own.into_iter().collect(),
        };
        for backup in own_word {
            self.read_manifest(&mut tree, backup).boxed().await?;
        }
        if tree.source.is_none() && self.only.is_none() {
            for backup in tree.users.clone().into_iter().filter(|user| Some(*user) != own) {
                self.read_manifest(&mut tree, backup).boxed().await?;
            }
        }
        Ok(tree)
    }

    async fn read_manifest(&self, tree: &mut OpenTree, backup: usize) -> Result<(), Error> {
        let Backup { name, summary } = &self.backups[backup];
        let read = async {
            let stored = self.trees.open(name, summary, self.patience()).await?;
            let parts = stored.parts(|| self.patience()).await?;
            Ok((stored, parts))
        };
        match read.await {
            Ok((stored, parts)) => {
                let own = parts.iter().filter(|part| part.tree() == tree.id.as_str());
                tree.expected
                    .extend(own.map(|part| (part.key.clone(), (part.clone(), false))));
                tree.source.get_or_insert(Source {
                    backup,
                    tree: stored,
                    parts,
                    rules: None,
                    map: None,
                });
                Ok(())
            }
            Err(error @ Error::TreeDamaged { .. }) => {
                if Some(backup) == tree.own {
                    tree.manifest_error = Some(first_line(&error));
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Adds what is known of an object in the tree's folder. One that has not the length that it was stored with is read
    /// in any case.
    pub(super) async fn prepare(&mut self, tree: &mut OpenTree, task: &mut Task) -> Result<(), Error> {
        match &task.object {
            Object::Part(_) => {
                let Some((part, is_listed)) = tree.expected.get_mut(&task.key) else {
                    return Ok(());
                };
                *is_listed = true;
                task.is_due |= part.stored_bytes != task.meta.stored_bytes;
                task.expected = Expected {
                    plain_bytes: Some(part.plain_bytes),
                    hash: Some(part.hash),
                    by: "the backup's manifest",
                };
                if task.is_due {
                    task.pages = self.pages(tree, &task.key).boxed().await?;
                }
            }
            Object::Manifest(_) => {
                tree.has_manifest = true;
                let Some(own) = tree.own else { return Ok(()) };
                let described: &Described = &self.backups[own].summary.manifest;
                task.is_due |=
                    described.stored_bytes != task.meta.stored_bytes || tree.manifest_error.is_some();
                task.expected = Expected {
                    plain_bytes: Some(described.plain_bytes),
                    hash: described.content_hash(),
                    by: "the backup's summary",
                };
            }
            _ => {}
        }
        Ok(())
    }

    async fn pages(
        &self,
        tree: &mut OpenTree,
        key: &Key,
    ) -> Result<Option<(Rules, std::sync::Arc<Vec<super::pages::Piece>>)>, Error> {
        let Some(source) = &mut tree.source else {
            return Ok(None);
        };
        let summary = &self.backups[source.backup].summary;
        let rules = match source.rules {
            Some(rules) => rules,
            None => PageMap::rules(&self.trees, &source.tree, summary, self.patience()).await?,
        };
        source.rules = Some(rules);
        let Some(rules) = rules else { return Ok(None) };
        if source.map.as_ref().is_none_or(|map| !map.covers(key)) {
            let map = PageMap::read(&source.tree, &source.parts, rules, key.clone(), || {
                self.patience()
            })
            .await;
            match map {
                Ok(map) => source.map = Some(map),
                // It is found when it is proved, which it is because of this.
                Err(error @ Error::TreeDamaged { .. }) => {
                    tree.manifest_error.get_or_insert_with(|| first_line(&error));
                    source.rules = Some(None);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let pieces = source.map.as_ref().and_then(|map| map.of(key));
        Ok(pieces.map(|pieces| (rules, pieces)))
    }

    /// All of a tree's folder was gone through: what is missing of it, and what everything costs that was found.
    pub(super) async fn close_tree(&mut self, tree: Option<OpenTree>) -> Result<(), Error> {
        let Some(mut tree) = tree else { return Ok(()) };
        let is_whole = tree.has_manifest || tree.own.is_none();
        let unlisted: Vec<Key> = tree
            .expected
            .iter()
            .filter(|(_, (_, is_listed))| !is_listed)
            .map(|(key, _)| key.clone())
            .collect();
        if !unlisted.is_empty() || !is_whole {
            self.drop_pruned(&mut tree).await?;
        }
        if !tree.users.is_empty() {
            for key in unlisted {
                // It may have come between the listing and now: from a copy of the store.
                match self.archive.store().head(&key, self.patience()).await {
                    Err(error) if error.kind == ErrorKind::NotFound => {
                        tree.lose(&key, Kind::Missing, "it is not there".into(), Lost::All);
                    }
                    Err(error) if error.kind == ErrorKind::Damaged => {
                        tree.lose(&key, Kind::Damaged, error.message, Lost::All);
                    }
                    Err(error) => return Err(error.into()),
                    Ok(_) => {}
                }
            }
        }
        self.find_manifest(&tree);
        self.settle_pages(&mut tree).await?;
        self.tell_lost(&tree).boxed().await
    }

    /// Backups that were pruned meanwhile need nothing any more.
    async fn drop_pruned(&self, tree: &mut OpenTree) -> Result<(), Error> {
        let mut users = Vec::new();
        for user in std::mem::take(&mut tree.users) {
            let Backup { name, summary } = &self.backups[user];
            let found = self.archive.summary(summary.content, name, self.patience()).await;
            match found {
                Ok(found) if found.as_ref().is_none_or(|found| found.id != summary.id) => {
                    tree.own = tree.own.filter(|own| *own != user);
                }
                Ok(_) | Err(Error::TreeDamaged { .. }) => users.push(user),
                Err(error) => return Err(error),
            }
        }
        tree.users = users;
        Ok(())
    }

    fn find_manifest(&mut self, tree: &OpenTree) {
        let Some(own) = tree.own else { return };
        let key = self.archive.manifest_key(&tree.id);
        let (kind, reason) = match &tree.manifest_error {
            _ if self.only.is_some_and(|only| only != own) => return,
            _ if !tree.has_manifest => (Kind::Missing, "it is not there".to_owned()),
            Some(reason) => (Kind::Damaged, reason.clone()),
            None => return,
        };
        if !self.findings.iter().any(|finding| finding.object == key.as_str()) {
            let costs = self.costs_of_manifest(&tree.id);
            self.find(Finding {
                object: key.as_str().to_owned(),
                kind,
                reason,
                costs,
            });
        }
    }

    /// Without its manifest nothing of a backup is found. Those that build on it have their own.
    pub(super) fn costs_of_manifest(&self, id: &TreeId) -> Vec<Cost> {
        let own = self
            .backups
            .iter()
            .filter(|backup| backup.summary.id == id.as_str());
        let costs = own.map(|backup| Cost::Backup {
            backup: backup.name.clone(),
            because: "nothing else says which files it has, and where".into(),
        });
        costs.collect()
    }

    /// Damaged pages in what was proved: so they were when they came. What the backup has said itself is no finding.
    async fn settle_pages(&mut self, tree: &mut OpenTree) -> Result<(), Error> {
        let (Some(source), bad_pages) = (&tree.source, std::mem::take(&mut tree.bad_pages)) else {
            return Ok(());
        };
        let Backup { name, summary } = &self.backups[source.backup];
        let known = summary.backup.pages.clone().unwrap_or_default();
        let are_more_known = known.bad > known.first_bad.len() as u64;
        let mut lost = Vec::new();
        for (key, bad) in bad_pages {
            let path = match source.tree.entry(bad.file, self.patience()).await {
                Ok(found) => found.map(|found| String::from_utf8_lossy(&found.entry().path).into_owned()),
                Err(error @ Error::Store(_)) => return Err(error),
                Err(_) => None,
            };
            let path = path.unwrap_or_default();
            let is_known = known
                .first_bad
                .iter()
                .any(|page| page.path == path && page.block == bad.block);
            if is_known || are_more_known {
                self.remarks.push(format!(
                    "page {} of {path} is damaged, as it was when backup {name} was taken: {}",
                    bad.block, bad.reason
                ));
            } else {
                let reason = format!("page {} of {path} is damaged: {}", bad.block, bad.reason);
                lost.push((key, reason, Lost::Content(vec![bad.range])));
            }
        }
        for (key, reason, range) in lost {
            tree.lose(&key, Kind::Page, reason, range);
        }
        Ok(())
    }

    /// Names what each backup loses.
    async fn tell_lost(&mut self, tree: &OpenTree) -> Result<(), Error> {
        if tree.bad.is_empty() {
            return Ok(());
        }
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); tree.bad.len()];
        for user in &tree.users {
            let hits = self.hits(tree, *user).boxed().await?;
            let backup = &self.backups[*user].name;
            for ((bad, hit), costs) in tree.bad.iter().zip(hits).zip(&mut costs) {
                if hit.numbers.is_empty() {
                    continue;
                }
                costs.push(match bad.kind {
                    Kind::Page => Cost::Page {
                        backup: backup.clone(),
                        file: hit.files.first().cloned().unwrap_or_default(),
                    },
                    _ => Cost::Files {
                        backup: backup.clone(),
                        count: hit.numbers.len() as u64,
                        files: hit.files,
                    },
                });
            }
        }
        for (bad, mut costs) in tree.bad.iter().zip(costs) {
            if costs.is_empty() {
                costs.push(Cost::other(match bad.lost {
                    Lost::Annex => {
                        "all of its content is right; the next backup, and a restore over an old directory, find no \
                         page hashes in it and take its pages for changed"
                    }
                    _ if tree.users.is_empty() => "it is of a backup that is not complete",
                    _ => "no file of a backup lies in what is damaged of it; what stock tar unpacks is damaged",
                }));
            }
            self.find(Finding {
                object: bad.key.as_str().to_owned(),
                kind: bad.kind,
                reason: bad.reason.clone(),
                costs,
            });
        }
        Ok(())
    }

    /// The files of a backup in what is lost, part by part.
    async fn hits(&self, tree: &OpenTree, user: usize) -> Result<Vec<Hit>, Error> {
        let mut hits: Vec<Hit> = tree.bad.iter().map(|_| Hit::default()).collect();
        let Backup { name, summary } = &self.backups[user];
        let walk = async {
            let stored = self.trees.open(name, summary, self.patience()).await?;
            let parts = stored.parts(|| self.patience()).await?;
            let mut of_key: HashMap<&Key, Vec<usize>> = HashMap::new();
            for (place, bad) in tree.bad.iter().enumerate() {
                of_key.entry(&bad.key).or_default().push(place);
            }
            let mut of_part: HashMap<u32, &Vec<usize>> = HashMap::new();
            for (number, part) in (0..).zip(&parts) {
                if let Some(places) = of_key.get(&part.key) {
                    of_part.insert(number, places);
                }
            }
            if of_part.is_empty() {
                return Ok(());
            }
            let take = |file: u32, path: &[u8], extents: crate::archive::tree::manifest::Extents<'_>| {
                for extent in extents.extents {
                    for place in of_part.get(&extent.part).into_iter().copied().flatten() {
                        let range = extent.offset..extent.offset.saturating_add(extent.bytes);
                        if is_hit(&tree.bad[*place].lost, &range) {
                            hits[*place].add(file, path);
                        }
                    }
                }
            };
            stored.each_file(|| self.patience(), take).await
        };
        match walk.await {
            // A finding of its own.
            Ok(()) | Err(Error::TreeDamaged { .. }) => Ok(hits),
            Err(error) => Err(error),
        }
    }
}

fn is_hit(lost: &Lost, range: &Range<u64>) -> bool {
    match lost {
        Lost::All => true,
        Lost::Annex => false,
        Lost::Content(ranges) => ranges
            .iter()
            .any(|lost| lost.start < range.end && range.start < lost.end),
    }
}

impl Hit {
    fn add(&mut self, file: u32, path: &[u8]) {
        if self.numbers.insert(file) && self.files.len() < NAMED_FILES {
            self.files.push(String::from_utf8_lossy(path).into_owned());
        }
    }
}
