//! The versions of files, and the dumps, that there are.

use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeKind};
use crate::archive::{Archive, Error};
use crate::store::Patience;

/// A version that is stored.
#[derive(Debug)]
pub struct Stored {
    /// Which one.
    pub version: Version,
    /// What there is to know of it; or why that cannot be read.
    pub summary: Result<Summary, Error>,
}

/// All versions of a kind, or those of one name, by name, the oldest first.
///
/// # Errors
/// [`Error::Store`].
pub async fn versions(
    archive: &Archive,
    kind: TreeKind,
    set: Option<&SetName>,
    patience: Patience,
) -> Result<Vec<Stored>, Error> {
    let summaries = archive.summaries(kind, patience).await?;
    let stored = summaries.into_iter().filter_map(|(name, summary)| {
        let version = Version::of(&name).filter(|version| set.is_none_or(|set| version.set == *set))?;
        Some(Stored { version, summary })
    });
    let mut stored: Vec<Stored> = stored.collect();
    stored.sort_by(|one, other| one.version.cmp(&other.version));
    Ok(stored)
}

/// That version of a name, or the newest one that can be read for `LATEST`; `None` if the store said that there is none.
///
/// # Errors
/// [`Error::Store`]; [`Error::TreeDamaged`] if what is asked for cannot be read.
pub async fn find(
    archive: &Archive,
    kind: TreeKind,
    set: &SetName,
    text: &str,
    patience: Patience,
) -> Result<Option<(Version, Summary)>, Error> {
    let mut stored = versions(archive, kind, Some(set), patience).await?;
    if text == LATEST {
        let newest = stored.into_iter().rev();
        return Ok(newest
            .filter_map(|stored| Some((stored.version, stored.summary.ok()?)))
            .next());
    }
    match stored.iter().position(|stored| stored.version.text() == text) {
        Some(at) => {
            let Stored { version, summary } = stored.swap_remove(at);
            Ok(Some((version, summary?)))
        }
        None => Ok(None),
    }
}
