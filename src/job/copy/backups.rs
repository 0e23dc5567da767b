//! Backups on their way: parts side by side, then what tells them apart, then, when all of it is seen there, the summary.

use super::source::{Known, Source, fetch, for_bytes};
use super::*;
use crate::archive::tree::combined::lacks;
use crate::archive::tree::{TreeId, pin};
use crate::job::progress::Silent;
use crate::job::wal_ranges::wal_ranges;
use crate::store::ByteRange;

/// The longest summary, and the longest word of who began a tree.
const TEXT_BYTES: u64 = 4 << 20;

impl Copying<'_> {
    pub(super) async fn copy_backups(&mut self) -> Result<(), Error> {
        for (name, summary) in std::mem::take(&mut self.backups) {
            match self.copy_backup(&name, &summary).boxed().await? {
                Ok(()) => self.report.backups.push(name.to_string()),
                // Whoever prunes it while it is copied wants none of it.
                Err(_) if self.is_pruned(&name, &summary).await? => {
                    self.report.left_out.push(name.to_string())
                }
                Err(reason) => self.fail(name.as_str(), reason),
            }
        }
        Ok(())
    }

    async fn is_pruned(&self, name: &TreeName, summary: &Summary) -> Result<bool, Error> {
        match self.from.summary(summary.content, name, self.patience()).await {
            Ok(found) => Ok(found.is_none_or(|found| found.id != summary.id)),
            Err(Error::TreeDamaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Why it was not copied, as text.
    async fn copy_backup(&mut self, name: &TreeName, summary: &Summary) -> Result<Result<(), String>, Error> {
        let parts = match self.parts(name, summary).boxed().await? {
            Ok(parts) => parts,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(id) = summary.tree_id(name) else {
            return Ok(Err("its folder is another one's".into()));
        };
        // What is looked at behind this stays.
        for on in &summary.builds_on {
            let base = TreeId::parse(&on.id);
            if let Some(base) = base
                && !self.to.claim_base(&id, &base, self.patience()).await?
            {
                return Ok(Err(
                    "a prune is at work in the copy: copy again when it is done".into()
                ));
            }
        }
        let there = self.listed_there(&parts).await?;
        let mut missing = Vec::new();
        for part in &parts {
            match there.get(&part.key) {
                None => missing.push(part.clone()),
                Some(bytes) if *bytes == part.stored_bytes => {}
                Some(_) => return Ok(Err(format!("the copy has other bytes under {}", part.key))),
            }
        }
        let manifest = self.from.manifest_part(name, summary)?;
        for objects in [missing, vec![manifest]] {
            if let Err(reason) = self.copy_parts(objects).boxed().await? {
                return Ok(Err(reason));
            }
        }
        self.copy_word(&id.key("begun.json")).await?;
        self.complete(name, summary, &parts).boxed().await
    }

    /// What prunes have removed from the original is not missing in the copy, and what is pinned stays there, too.
    pub(super) async fn copy_words(&mut self) -> Result<(), Error> {
        let Some(cluster) = self.from.cluster(self.patience()).await? else {
            return Ok(());
        };
        let removed = self.from.removed_wal(self.patience()).await?;
        let mut there = self.to.removed_wal(self.patience()).await?;
        let before = there.wal.clone();
        // What the copy has lost stays missing. What the copy has, it would miss, also if a prune of its own had removed it before. One that is at work is not
        // disturbed.
        let quiet: Arc<dyn Progress> = Arc::new(Silent);
        let kept = wal_ranges(self.to, &quiet, || self.patience()).await?;
        if self.to.orders(self.patience()).await?.is_empty() {
            there.wal = kept.without(&there.wal, cluster.segment_size);
        }
        let gone = kept.never_had(&removed.wal, cluster.segment_size);
        there.add(gone, cluster.segment_size);
        if there.wal != before {
            self.to.record_removed(there, self.patience()).await?;
        }
        let pinned = self.to.pins(self.patience()).await?;
        for (name, pin) in self.from.pins(self.patience()).await? {
            let is_there = pinned.iter().any(|(there, _)| *there == name);
            match pin {
                _ if is_there => {}
                Ok(pin) => {
                    if let Some(id) = TreeId::parse(&pin.id) {
                        self.to.pin(&id, &pin, self.patience()).await?;
                    }
                }
                Err(reason) => self.fail(
                    pin::key(&name).as_str(),
                    format!("it cannot be read: {reason}; `walfs backup-pin {name}` says anew, in both, that it stays"),
                ),
            }
        }
        Ok(())
    }

    async fn copy_parts(&mut self, parts: Vec<Part>) -> Result<Result<(), String>, Error> {
        let (from, to, wait) = (self.from.clone(), self.to.clone(), self.wait);
        let copies = stream::iter(parts).map(|part| {
            let (from, to) = (&from, &to);
            async move {
                let (key, bytes) = (part.key.clone(), part.stored_bytes);
                let source = match fetch(from, &key, bytes, &Known::Part(part), wait).await? {
                    Ok(source) => source,
                    Err(Unfit::Gone) => return Ok(Err(format!("{key} is not there"))),
                    Err(Unfit::Damaged(reason)) => return Ok(Err(format!("{key} is damaged: {reason}"))),
                };
                Ok::<_, Error>(match put(to, source, for_bytes(bytes, wait)).await? {
                    Some(committed) => Ok((committed, bytes)),
                    None => Err(format!("the copy has other bytes under {key}")),
                })
            }
            .boxed()
        });
        let mut copies = copies.buffer_unordered(AT_ONCE);
        let mut failed = None;
        while let Some(copied) = copies.next().await {
            match copied? {
                Ok((committed, bytes)) => self.committed(committed, bytes),
                // What can be copied is: it may be another backup's too.
                Err(reason) => drop(failed.get_or_insert(reason)),
            }
        }
        Ok(failed.map_or(Ok(()), Err))
    }

    /// Who began it, if that is still said. Nothing is read from it.
    async fn copy_word(&mut self, key: &Key) -> Result<(), Error> {
        let word = self
            .from
            .store()
            .get(key, ByteRange::AtMost(TEXT_BYTES), self.patience())
            .await;
        match word {
            Ok(word) => {
                let is_json = serde_json::from_slice::<serde_json::Value>(&word.bytes).is_ok();
                let bytes = word.bytes.len() as u64;
                if is_json && let Some(committed) = self.to.put_copy(key, word.bytes, self.patience()).await?
                {
                    self.committed(committed, bytes);
                }
                Ok(())
            }
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The summary goes last, when the copy is seen to have all else, and the original still has it. Behind it is looked once
    /// more: somebody may prune the copy, too.
    async fn complete(
        &mut self,
        name: &TreeName,
        summary: &Summary,
        parts: &[Part],
    ) -> Result<Result<(), String>, Error> {
        let key = name.summary_key(summary.content);
        let text = match self
            .from
            .store()
            .get(&key, ByteRange::AtMost(TEXT_BYTES), self.patience())
            .await
        {
            Ok(text) => text.bytes,
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged) => {
                return Ok(Err(format!("{key}: {}", error.message)));
            }
            Err(error) => return Err(error.into()),
        };
        if Summary::parse(&text).as_ref() != Ok(summary) {
            return Ok(Err(format!("{key} is not what it was when the copy began")));
        }
        if let Some(reason) = self.missing_there(name, summary, parts).boxed().await? {
            return Ok(Err(reason));
        }
        if let Some(from) = summary.backup.incremental_from
            && let Some(began) = self.to.lacking_base(from, self.patience()).boxed().await?
        {
            return Ok(Err(format!("{} in the copy", lacks(began))));
        }
        let bytes = text.len() as u64;
        let Some(committed) = self.to.put_copy(&key, text.clone(), self.patience()).await? else {
            return Ok(Err(format!("the copy has another backup of this name, {key}")));
        };
        self.committed(committed, bytes);
        let Some(reason) = self.missing_there(name, summary, parts).boxed().await? else {
            return Ok(Ok(()));
        };
        // What is not whole is not called a backup.
        let deleted = self.to.store().delete_if_same(&key, &text, self.patience());
        deleted.await?;
        Ok(Err(format!("{reason}; it went while it was copied")))
    }

    async fn missing_there(
        &self,
        name: &TreeName,
        summary: &Summary,
        parts: &[Part],
    ) -> Result<Option<String>, Error> {
        let manifest = self.from.manifest_part(name, summary)?;
        for parts in [std::slice::from_ref(&manifest), parts] {
            if let Some((key, reason)) = self.to.missing_part(parts, self.patience()).await? {
                return Ok(Some(format!("{key} of the copy: {reason}")));
            }
        }
        Ok(None)
    }
}

/// `None`: there is another one.
async fn put(to: &Archive, source: Source, patience: Patience) -> Result<Option<Committed>, Error> {
    match source.bytes() {
        Some(object) => to.put_copy(&source.key, object, patience).await,
        None => to.put_large_copy(&source.key, &source, patience).await,
    }
}
