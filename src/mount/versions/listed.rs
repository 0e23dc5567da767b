//! The versions that the store has of one kind, and the newest of a name.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::archive::tree::TreeKind;
use crate::archive::tree::version::{SetName, Version};
use crate::mount::asker::Asker;
use crate::mount::basebackups::complete::{Complete, is_damage};
use crate::mount::basebackups::slots::Committed;
use crate::mount::common::Common;
use crate::mount::error::{Error, Result};

/// How long the versions serve that the store has named.
const KEPT: Duration = Duration::from_secs(1);

/// Versions, in the order of their names, and when the store named them.
type Named = (Instant, Arc<Vec<Version>>);

/// The versions of one kind.
#[derive(Debug)]
pub(super) struct Listed {
    kind: TreeKind,
    common: Arc<Common>,
    complete: Arc<Complete>,
    named: Mutex<Option<Named>>,
}

impl Listed {
    pub(super) fn new(kind: TreeKind, common: Arc<Common>, complete: Arc<Complete>) -> Self {
        Self {
            kind,
            common,
            complete,
            named: Mutex::default(),
        }
    }

    /// All versions, as the store names them now.
    pub(super) async fn all(&self, asker: Option<&Asker>) -> Result<Arc<Vec<Version>>> {
        let common = &self.common;
        let trees = common.archive.trees(self.kind, common.prompt_patience());
        let trees = common.while_wanted(asker, trees).await??;
        let versions = trees.iter().filter_map(|(name, _)| Version::of(name));
        let mut versions: Vec<Version> = versions.collect();
        versions.sort();
        let versions = Arc::new(versions);
        *self.named.lock().expect("no panic while held") = Some((Instant::now(), versions.clone()));
        Ok(versions)
    }

    /// There is one more: what the store named before does not serve any more.
    pub(super) fn forget(&self) {
        *self.named.lock().expect("no panic while held") = None;
    }

    /// Those that the store named within the last second.
    fn recent(&self) -> Option<Arc<Vec<Version>>> {
        let named = self.named.lock().expect("no panic while held");
        let (when, versions) = named.as_ref()?;
        (when.elapsed() < KEPT).then(|| versions.clone())
    }

    /// The versions of one name.
    pub(super) async fn of(&self, set: &SetName, asker: Option<&Asker>) -> Result<Vec<Version>> {
        let known = self.recent().map(|all| of(&all, set)).unwrap_or_default();
        match known.is_empty() {
            true => Ok(of(&self.all(asker).await?, set)),
            false => Ok(known),
        }
    }

    /// What there is to know of a version.
    pub(super) async fn version(&self, version: &Version, asker: Option<&Asker>) -> Result<Arc<Committed>> {
        self.complete.named(self.kind, &version.tree(), asker).await
    }

    /// The newest of these versions that can be read.
    pub(super) async fn newest(
        &self,
        versions: Vec<Version>,
        asker: Option<&Asker>,
    ) -> Result<(Version, Arc<Committed>)> {
        for version in versions.into_iter().rev() {
            if let Some(found) = readable(self.version(&version, asker).await)? {
                return Ok((version, found));
            }
        }
        Err(Error::NotFound)
    }
}

fn of(all: &[Version], set: &SetName) -> Vec<Version> {
    let of = all.iter().filter(|version| version.set == *set);
    of.cloned().collect()
}

/// `None`: it is gone, or cannot be read.
pub(super) fn readable<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound) => Ok(None),
        Err(Error::Archive(error)) if is_damage(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
