//! What is missing in the copy, and what it has otherwise: before anything is touched.

use super::*;
use crate::archive::wal::Found;
use crate::codec;
use crate::pg::WalName;

/// Objects that are compared at once.
const COMPARED: usize = 16;

/// Names that are kept until they are compared.
const NAMES: usize = 256;

impl Copying<'_> {
    pub(super) async fn look(&mut self) -> Result<(), Error> {
        self.look_at_wal().boxed().await?;
        let (from, to) = (self.from.clone(), self.to.clone());
        let mut pages = Pages::new(&from, &to, Folder::Receiving, self.wait);
        while let Some((listed, there)) = pages.next().await? {
            self.count(&listed.meta, there.is_some());
        }
        let lacking = self.look_at_trees().boxed().await?;
        self.look_at_backups(&lacking).boxed().await
    }

    /// Folders of trees of which the copy has not all.
    async fn look_at_trees(&mut self) -> Result<HashSet<String>, Error> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let mut pages = Pages::new(&from, &to, Folder::Trees, self.wait);
        let mut lacking = HashSet::new();
        while let Some((listed, there)) = pages.next().await? {
            self.progress.advance(1);
            let (Object::Part(id) | Object::Manifest(id)) = &listed.object else {
                continue;
            };
            match there {
                Some(there) if there.stored_bytes == listed.meta.stored_bytes => {}
                Some(_) => self.conflict(listed.key.as_str()),
                None => drop(lacking.insert(id.to_string())),
            }
        }
        Ok(lacking)
    }

    fn count(&mut self, meta: &Meta, is_there: bool) {
        match is_there {
            true => self.report.present.add(meta.stored_bytes),
            false => self.report.copied.add(meta.stored_bytes),
        }
        self.progress.advance(1);
    }

    pub(super) fn conflict(&mut self, key: &str) {
        match self.conflicts.len() < MOST_NAMED {
            true => self.conflicts.push(key.to_owned()),
            false => self.more_conflicts += 1,
        }
    }

    async fn look_at_wal(&mut self) -> Result<(), Error> {
        let (from, to) = (self.from.clone(), self.to.clone());
        let mut pages = Pages::new(&from, &to, Folder::Wal, self.wait);
        let mut both = Vec::new();
        while let Some((listed, there)) = pages.next().await? {
            self.count(&listed.meta, there.is_some());
            if let (Object::Wal(name), Some(there)) = (&listed.object, &there)
                && self.is_compared(*name, &listed.meta, there)
            {
                both.push(*name);
            }
            if both.len() >= NAMES {
                self.compare(std::mem::take(&mut both)).boxed().await?;
            }
        }
        self.compare(both).boxed().await
    }

    /// Does the length not tell whether it is the same? What is compressed has hardly ever the length of another content.
    fn is_compared(&self, name: WalName, own: &Meta, there: &Meta) -> bool {
        let plain_bytes = self
            .from
            .known_cluster()
            .map(|cluster| cluster.segment_size.bytes());
        let is_plain =
            plain_bytes.is_some_and(|bytes| own.stored_bytes >= codec::stored_bytes_uncompressed(bytes));
        self.options.compare || !name.has_pages() || is_plain || own.stored_bytes != there.stored_bytes
    }

    /// By their content: another level of compression makes other bytes of the same.
    async fn compare(&mut self, names: Vec<WalName>) -> Result<(), Error> {
        let (from, to, wait) = (self.from.clone(), self.to.clone(), self.wait);
        let looks = stream::iter(names).map(|name| {
            let (from, to) = (&from, &to);
            async move {
                let patience = Patience::for_at_most(wait);
                let (own, there) = futures::join!(hash(from, name, patience), hash(to, name, patience));
                Ok::<_, Error>((name, own?, there?))
            }
            .boxed()
        });
        let mut looks = looks.buffered(COMPARED);
        let mut other = Vec::new();
        while let Some(looked) = looks.next().await {
            let (name, own, there) = looked?;
            // Pruned meanwhile: it is none any more.
            let (Some(own), Some(there)) = (own, there) else {
                continue;
            };
            if own != there {
                other.push(name);
            }
        }
        drop(looks);
        for name in other {
            let key = self.from.wal_key(name);
            self.conflict(key.as_str());
        }
        Ok(())
    }

    /// Which backups are missing, or have lost something, and how much of them.
    async fn look_at_backups(&mut self, lacking: &HashSet<String>) -> Result<(), Error> {
        let patience = self.patience();
        let complete = self.from.all_summaries(patience).await?;
        let beside = self.from.unfinished_beside(&complete, patience).await?;
        let left_out = beside.unfinished.iter().map(|tree| tree.id.name().to_string());
        self.report.left_out = left_out.collect();
        for (kind, name, summary) in complete {
            let (there, own_key) = (self.read_there(kind, &name).await?, name.summary_key(kind));
            match (summary, there) {
                (Err(error), _) => self.fail(own_key.as_str(), error.to_string()),
                (Ok(_), There::Other) => self.conflict(own_key.as_str()),
                (Ok(own), There::Backup(there)) if there.id != own.id => self.conflict(own_key.as_str()),
                (Ok(own), There::Backup(_)) if lacks(&own, lacking) => self.backups.push((name, own)),
                (Ok(own), There::Backup(_)) => {
                    self.report.present.objects += 1;
                    self.report.present.bytes = self.report.present.bytes.saturating_add(own.stored_bytes);
                }
                (Ok(own), There::Nothing) => self.backups.push((name, own)),
            }
        }
        let missing: HashSet<String> = self
            .backups
            .iter()
            .map(|(_, summary)| summary.id.clone())
            .collect();
        for number in 0..self.backups.len() {
            let (name, summary) = &self.backups[number];
            let Ok(parts) = self.parts(name, summary).boxed().await? else {
                continue;
            };
            let (own, name) = (summary.id.clone(), name.to_string());
            let inventory = self.from.manifest_part(&self.backups[number].0, summary)?;
            // What lies in the folder of another one that is missing is counted there.
            let counted: Vec<Part> = parts
                .into_iter()
                .chain([inventory])
                .filter(|part| part.tree() == own || !missing.contains(part.tree()))
                .collect();
            let there = self.listed_there(&counted).await?;
            for part in counted {
                match there.contains_key(&part.key) {
                    false => self.report.copied.add(part.stored_bytes),
                    true => self.report.present.add(part.stored_bytes),
                }
            }
            self.report.backups.extend(self.options.dry_run.then_some(name));
        }
        Ok(())
    }

    async fn read_there(&self, kind: TreeKind, name: &TreeName) -> Result<There, Error> {
        match self.to.summary(kind, name, self.patience()).await {
            Ok(Some(summary)) => Ok(There::Backup(Box::new(summary))),
            Ok(None) => Ok(There::Nothing),
            Err(Error::TreeDamaged { .. }) => Ok(There::Other),
            Err(error) => Err(error),
        }
    }

    /// Parts of a backup; why its manifest cannot be read.
    pub(super) async fn parts(
        &self,
        name: &TreeName,
        summary: &Summary,
    ) -> Result<Result<Vec<Part>, String>, Error> {
        let read = async {
            let tree = self.trees.open(name, summary, self.patience()).await?;
            tree.parts(|| self.patience()).await
        };
        match read.await {
            Ok(parts) => Ok(Ok(parts)),
            Err(error @ Error::TreeDamaged { .. }) => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// What the copy has in the folders of these parts: stored bytes.
    pub(super) async fn listed_there(&self, parts: &[Part]) -> Result<HashMap<Key, u64>, Error> {
        let trees: HashSet<&str> = parts.iter().map(Part::tree).collect();
        let mut found = HashMap::new();
        for tree in trees {
            let prefix = format!("{TREES}/{tree}/");
            let mut after: Option<Key> = None;
            loop {
                let from = after.as_ref().map(Key::as_str);
                let page = self.to.store().list(&prefix, from, 1000, self.patience()).await?;
                after = page.entries.last().map(|(key, _)| key.clone());
                let is_done = !page.more || after.is_none();
                found.extend(
                    page.entries
                        .into_iter()
                        .map(|(key, meta)| (key, meta.stored_bytes)),
                );
                if is_done {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Has the copy not all of a backup, of which it has the summary?
fn lacks(summary: &Summary, lacking: &HashSet<String>) -> bool {
    let mut ids = summary.builds_on.iter().map(|on| &on.id).chain([&summary.id]);
    ids.any(|id| lacking.contains(id))
}

/// What the copy has under a backup's name.
enum There {
    Nothing,
    Backup(Box<Summary>),
    Other,
}

/// Of an object that cannot be read none: then it is not the same.
async fn hash(
    archive: &Archive,
    name: WalName,
    patience: Patience,
) -> Result<Option<Option<codec::ContentHash>>, Error> {
    match archive.look(name, patience).await {
        Ok(Found::Archived(table)) => Ok(Some(Some(table.hash()))),
        Ok(Found::Absent) => Ok(None),
        Err(Error::Damaged { .. }) => Ok(Some(None)),
        Err(error) => Err(error),
    }
}
