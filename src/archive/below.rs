//! Archives of one place: each in a folder right below it, by that folder's name. None is looked for deeper: what lies in an
//! archive is that archive's.

use std::collections::HashSet;

use futures::stream::{self, StreamExt};

use super::MARKER;
use crate::store::{Error, Key, Location, Patience, Store};

/// The most archives of a place that one process knows: each has a number of 12 bits.
pub const MAX_ARCHIVES: usize = (1 << 12) - 1;

/// How many folders are looked into at once.
const LOOKS: usize = 16;

/// Where the archive of a name is, if it can be one's.
pub fn place(of: &Location, name: &str) -> Option<Location> {
    let is_hidden = name.starts_with('.');
    of.below(name).filter(|_| !is_hidden)
}

/// Names of all archives of a place, in no order. A folder of which the store does not say that it is none is one, and so is
/// what is known to be one, as long as the folder is there.
///
/// # Errors
/// The store's: it does not list the place.
pub async fn list(
    store: &Store,
    of: &Location,
    known: &HashSet<String>,
    patience: Patience,
) -> Result<Vec<String>, Error> {
    let mut folders = store.folders(patience).await?;
    folders.retain(|name| place(of, name).is_some());
    let looks = folders.into_iter().map(|name| async {
        let is_one = known.contains(&name) || is_one(store, of, &name, patience).await.unwrap_or(true);
        is_one.then_some(name)
    });
    let looked: Vec<Option<String>> = stream::iter(looks).buffer_unordered(LOOKS).collect().await;
    Ok(looked.into_iter().flatten().collect())
}

/// Is there an archive of this name?
///
/// # Errors
/// The store's: it does not tell.
pub async fn is_one(store: &Store, of: &Location, name: &str, patience: Patience) -> Result<bool, Error> {
    match place(of, name) {
        Some(_) => store.has_below(name, &Key::new(MARKER), patience).await,
        None => Ok(false),
    }
}

/// Is the place an archive itself?
///
/// # Errors
/// The store's.
pub async fn is_archive(store: &Store, patience: Patience) -> Result<bool, Error> {
    match store.head(&Key::new(MARKER), patience).await {
        Err(error) if error.kind == crate::store::ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}
