//! WAL files of a server that are not in the store yet.

use std::path::Path;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};

use super::status::marked;
use crate::archive::wal::Found;
use crate::archive::{Archive, Error};
use crate::pg::WalName;
use crate::store::Patience;

/// Files that are asked for at once.
const LOOKS: usize = 16;

/// A WAL file of a server that the archive does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub name: WalName,
    /// Since when it is finished; `None` if its mark has gone.
    pub since: Option<SystemTime>,
}

/// The files in a `pg_wal` that have a `.ready` mark and are not in the archive, in the order of their names.
///
/// # Errors
/// The directory cannot be read, as a sentence; [`Error::Store`].
pub async fn waiting(
    archive: &Archive,
    pg_wal: &Path,
    patience: impl Fn() -> Patience,
) -> Result<Vec<Waiting>, Box<dyn std::error::Error + Send + Sync>> {
    let marks = marked(pg_wal).map_err(|error| {
        format!(
            "cannot read {}: {error}\nHINT: it is the server's pg_wal; run walfs as the server's user, or as root.",
            pg_wal.join("archive_status").display()
        )
    })?;
    let looks = marks.into_iter().map(|(name, since)| {
        let patience = patience();
        async move {
            let is_absent = match archive.look(name, patience).await {
                Ok(found) => matches!(found, Found::Absent),
                // It is there, as far as this is about that.
                Err(Error::Damaged { .. }) => false,
                Err(error) => return Err(error),
            };
            Ok(is_absent.then_some(Waiting { name, since }))
        }
    });
    let found: Vec<Option<Waiting>> = stream::iter(looks).buffer_unordered(LOOKS).try_collect().await?;
    let mut waiting: Vec<Waiting> = found.into_iter().flatten().collect();
    waiting.sort_by_key(|waiting| waiting.name.to_string());
    Ok(waiting)
}
