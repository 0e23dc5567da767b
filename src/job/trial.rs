//! Can walfs work here? Asked before it has to: of the store, of its clock, of the server.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::archive::{self, Archive};
use crate::pg::SystemId;
use crate::server::{self, Archiving, Facts, Resolved, Session};
use crate::store::{self, ByteRange, Key, Patience, PutMode};

/// What is more than this apart is told of: S3 refuses requests of a clock that is off by 15 minutes, and times of recovery are
/// those of the server's clock.
const APART: Duration = Duration::from_secs(10);

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request failed: the keys may not do it, or the store is away.
    #[error("a first object cannot be {deed}: {source}")]
    Store {
        /// What was done with it.
        deed: &'static str,
        /// Why not.
        source: store::Error,
    },
    /// It gives back something else.
    #[error(
        "{place} does not give back what was written. HINT: is it a store, and the only one of that name?"
    )]
    Other {
        /// The store.
        place: String,
    },
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
}

/// What was seen of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTrial {
    /// The cluster that the archive is of, if it has WAL.
    pub cluster: Option<SystemId>,
    /// Does it keep conditional writes?
    pub is_conditional: bool,
    /// How far its clock and this machine's are apart, if that is too far; and is this machine's the one behind?
    pub apart: Option<(Duration, bool)>,
}

/// Writes an object, reads it back and deletes it.
///
/// # Errors
/// [`Error`].
pub async fn store(archive: &Archive, patience: Patience) -> Result<StoreTrial, Error> {
    let store = archive.store();
    let failed = |deed| move |source| Error::Store { deed, source };
    let key = Key::new(format!("probe/{:016x}", fastrand::u64(..)));
    let content = Bytes::from(format!("a trial of walfs, {:032x}", fastrand::u128(..)));
    let began = SystemTime::now();
    let written = store
        .put(&key, content.clone(), PutMode::Overwrite, patience)
        .await;
    written.map_err(failed("written"))?;
    let range = ByteRange::AtMost(content.len() as u64 + 1);
    let read = store.get(&key, range, patience).await;
    let told = store.head(&key, patience).await;
    let ended = SystemTime::now();
    // Whatever was read, it does not stay.
    store.delete(&[key], patience).await.map_err(failed("deleted"))?;
    if read.map_err(failed("read back"))?.bytes != content {
        return Err(Error::Other { place: store.place() });
    }
    let stored_at = told.map_err(failed("looked at"))?.modified;
    let cluster = archive.cluster(patience).await?;
    Ok(StoreTrial {
        cluster: cluster.map(|cluster| cluster.system_id),
        is_conditional: archive.marker().put_if_absent,
        apart: apart(stored_at, began, ended),
    })
}

/// Between two moments of this clock the store's said this. It tells whole seconds, mostly.
fn apart(stored_at: SystemTime, began: SystemTime, ended: SystemTime) -> Option<(Duration, bool)> {
    let behind = stored_at.duration_since(ended).ok().map(|apart| (apart, true));
    let ahead = began.duration_since(stored_at).ok().map(|apart| (apart, false));
    behind.or(ahead).filter(|(apart, _)| *apart > APART)
}

/// What was seen of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTrial {
    /// Who it is.
    pub facts: Facts,
    /// How it archives.
    pub archiving: Archiving,
    /// Why its data directory cannot be read from here, if so.
    pub unreadable: Option<String>,
    /// May this role take backups?
    pub may_back_up: bool,
}

/// Asks the server; changes nothing.
///
/// # Errors
/// Of [`server::Error`]: `Connect`, `Settings`, `TooOld`, `Refused`, `Lost`.
pub async fn server(server: &Resolved) -> Result<ServerTrial, server::Error> {
    let session = Session::open(server).await?;
    let facts = session.facts().await?;
    let control = facts.data_directory.join("global/pg_control");
    let unreadable = tokio::fs::File::open(&control).await.err();
    Ok(ServerTrial {
        archiving: session.archiving().await?,
        unreadable: unreadable.map(|error| format!("{}: {error}", control.display())),
        may_back_up: session.may_back_up().await?,
        facts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_more_than_what_the_request_took() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(apart(at(1000), at(1000), at(1001)), None);
        assert_eq!(apart(at(991), at(1000), at(1001)), None);
        assert_eq!(apart(at(1030), at(1000), at(1031)), None);
        assert_eq!(
            apart(at(985), at(1000), at(1001)),
            Some((Duration::from_secs(15), false))
        );
        assert_eq!(
            apart(at(1021), at(1000), at(1001)),
            Some((Duration::from_secs(20), true))
        );
    }
}
