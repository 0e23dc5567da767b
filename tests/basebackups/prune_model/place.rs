//! One of the two archives, and what is done with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::Value;
use walfs::archive::{self, Archive};
use walfs::job::copy::{Options, Report, copy};
use walfs::job::progress::{Progress, Silent};
use walfs::job::prune::{Plan, Prune, Rules};
use walfs::store::Patience;

use super::history::{Line, Taken};
use crate::common::below::LONG;
use crate::common::scripted::Scripted;

pub(super) struct Place {
    pub(super) backend: Arc<Scripted>,
    pub(super) archive: Arc<Archive>,
}

pub(super) fn patience() -> Patience {
    Patience::for_at_most(LONG)
}

pub(super) fn quiet() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

impl Place {
    /// A new one; a copy has the number of the original.
    pub(super) async fn new(original: Option<&Archive>) -> Self {
        let backend = Scripted::map(true);
        let options = archive::Options {
            create: true,
            identity: original.map(|original| original.marker().identity.clone()),
            ..archive::Options::default()
        };
        let archive = Archive::open(backend.store(), &options, patience()).await;
        Self {
            backend,
            archive: Arc::new(archive.expect("an archive")),
        }
    }

    /// Of names that are in the store.
    pub(super) fn stored(&self, folder: &str) -> BTreeSet<String> {
        let objects = self.backend.objects().into_keys();
        objects.filter(|key| key.starts_with(folder)).collect()
    }

    pub(super) fn exists(&self, backup: &Taken) -> bool {
        let key = format!("basebackups/{}.json", backup.name);
        let Some(text) = self.backend.objects().remove(&key) else {
            return false;
        };
        let summary: Value = serde_json::from_slice(&text).expect("JSON");
        summary["id"] == backup.id.as_str()
    }

    pub(super) fn has_history(&self, line: &Line) -> bool {
        line.timeline == 1
            || !self
                .stored(&format!("wal/{:08X}.history.", line.timeline))
                .is_empty()
    }

    pub(super) fn prune_by<'a>(&'a self, rules: &'a Rules, progress: &'a Arc<dyn Progress>) -> Prune<'a> {
        Prune {
            archive: &self.archive,
            rules,
            grace: Duration::ZERO,
            progress,
            deadline: LONG,
        }
    }

    /// The process of a prune that has died is gone, as a kill would leave it.
    pub(super) fn bury(&self) {
        let orders = self.stored("prune/").into_iter();
        for key in orders.filter(|key| key.ends_with(".order.json")) {
            let text = self.backend.objects().remove(&key).expect("the order");
            let mut order: Value = serde_json::from_slice(&text).expect("JSON");
            order["pid_began_ticks"] = 1.into();
            self.backend.set(&key, Some(order.to_string().into()));
        }
    }

    pub(super) async fn copy_to(&self, there: &Self) -> Report {
        let progress = quiet();
        let copied = copy(&self.archive, &there.archive, Options::default(), &progress, LONG);
        copied.boxed().await.expect("copy")
    }
}

pub(super) fn going(plan: &Plan) -> BTreeSet<String> {
    let going = plan.backups.iter().filter(|planned| planned.goes());
    going.map(|planned| planned.name().to_string()).collect()
}
