//! What an incremental backup of PostgreSQL is to be combined with: the backup that began where its own label says, which may
//! be an incremental one itself.

use std::collections::BTreeMap;

use super::TreeKind;
use super::backup::Backup;
use super::intact::SeenTrees;
use crate::archive::{Archive, Error};
use crate::pg::Lsn;
use crate::store::{ErrorKind, Patience};

/// Backups of which all files are there, by where they began, and where those began that they are to be combined with.
#[derive(Debug, Default)]
pub struct Bases(BTreeMap<Lsn, Vec<Option<Lsn>>>);

impl Bases {
    /// With this one.
    pub fn add(&mut self, backup: &Backup) {
        if let Some((_, start)) = backup.start() {
            self.0.entry(start).or_default().push(backup.incremental_from);
        }
    }

    /// Where that one began that is not there, of all that lead to a full one; `None`: they are there.
    pub fn lacking(&self, from: Lsn) -> Option<Lsn> {
        let mut from = from;
        loop {
            let found = self.0.get(&from).map_or(&[][..], Vec::as_slice);
            if found.contains(&None) {
                return None;
            }
            // None is combined with a later one.
            match found.iter().flatten().find(|before| **before < from) {
                Some(before) => from = *before,
                None => return Some(from),
            }
        }
    }
}

/// In words, that an incremental backup lacks the one that began there.
pub fn lacks(began: Lsn) -> String {
    format!("it is to be combined with the backup that began at {began}, and there is none, or not all of it")
}

impl Archive {
    /// As [`Bases::lacking`]. What a prune may be about to remove is not there: whoever is seen to be unfinished before he asks,
    /// is seen by every later prune.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn lacking_base(&self, from: Lsn, patience: Patience) -> Result<Option<Lsn>, Error> {
        let orders = match self.orders(patience).await {
            // Who may not list them has no prune either.
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => Vec::new(),
            orders => orders?,
        };
        let summaries = self.summaries(TreeKind::BaseBackup, patience).await?;
        let (seen, mut bases) = (SeenTrees::default(), Bases::default());
        while let Some(lacking) = bases.lacking(from) {
            for (name, summary) in &summaries {
                let Ok(summary) = summary else { continue };
                let begins = summary.backup.start().is_some_and(|(_, start)| start == lacking);
                let Some(id) = summary.tree_id(name).filter(|_| begins) else {
                    continue;
                };
                let goes = orders.iter().any(|order| order.concerns(&id));
                let missing = self.missing_of_tree(name, summary, &seen, patience).await?;
                if !goes && missing.is_none() {
                    bases.add(&summary.backup);
                }
            }
            if bases.lacking(from) == Some(lacking) {
                return Ok(Some(lacking));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::sample;
    use super::*;

    #[test]
    fn a_chain_ends_with_a_full_one() {
        let mut bases = Bases::default();
        let mut add = |start, from: Option<u64>| {
            let mut backup = sample("x").backup;
            backup.wal[0].start = Lsn(start);
            backup.incremental_from = from.map(Lsn);
            bases.add(&backup);
            [20, 30, 40].map(|from| bases.lacking(Lsn(from)).map(|lacking| lacking.0))
        };
        assert_eq!(add(30, Some(20)), [Some(20), Some(20), Some(40)]);
        assert_eq!(add(20, None), [None, None, Some(40)]);
        // Damaged summaries lead nowhere.
        assert_eq!(add(40, Some(40)), [None, None, Some(40)]);
    }
}
