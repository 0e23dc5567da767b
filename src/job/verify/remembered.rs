//! What a run remembers in the archive ([`crate::archive::verified`]).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Run;
use crate::archive::verified::{Checks, Found, MOST_FOUND};
use crate::store::Key;

impl Run<'_> {
    /// What is known now, as a record: also what was found before and was not looked at.
    fn checks(&self, is_whole: bool) -> Checks {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for (object, (old, is_proved)) in &self.remembered {
            let is_known_anew = *is_proved || (is_whole && self.is_settled(object));
            if !is_known_anew {
                found.insert(object.clone(), old.clone());
            }
        }
        let ids = (self.backups.iter())
            .map(|backup| (&backup.name, backup.summary.id.as_str()))
            .collect();
        for finding in &self.findings {
            found.insert(finding.object.clone(), finding.remembered(self.began, &ids));
        }
        Checks {
            at: Timestamp::now(),
            place: self.archive.place(),
            ranges: self.ledger.ranges(),
            found: found.into_values().take(MOST_FOUND).collect(),
        }
    }

    /// Does a run that has come to its end know whether an earlier finding still holds? Unless other objects were wanted, or
    /// some were never read, which come before all others.
    fn is_settled(&self, object: &str) -> bool {
        let Some(key) = Key::parse(object) else {
            return true;
        };
        let kind = self.archive.object(&key);
        let wanted = kind.is_none_or(|kind| self.wants(&key, &kind));
        wanted && self.never.objects == 0
    }

    pub(super) async fn remember(&self, is_whole: bool) -> Option<String> {
        let checks = self.checks(is_whole);
        let put = self.archive.put_checks(&checks, self.patience()).await;
        put.err().map(|error| error.to_string())
    }

    pub(super) async fn remember_so_far(&self, partial: &mut Option<Key>) {
        let checks = self.checks(false);
        match self.archive.put_checks(&checks, self.patience()).await {
            Ok(key) => {
                let old: Vec<Key> = partial.replace(key).into_iter().collect();
                if let Err(error) = self.archive.delete_checks(&old, self.patience()).await {
                    tracing::debug!("an older record of checks stays: {error}");
                }
            }
            Err(error) => tracing::debug!("what was verified so far is not remembered: {error}"),
        }
    }
}
