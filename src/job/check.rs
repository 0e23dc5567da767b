//! Does WAL get into the archive, now? The server ends its segment, and that is waited for.

use std::time::{Duration, Instant};

use crate::archive::{self, Archive};
use crate::pg::{SegmentName, SystemId, WalName};
use crate::server::{self, Resolved, Session};
use crate::store::Patience;

/// How often the archive is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// Why it does not, or cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The server.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// A standby does not end segments.
    #[error(
        "this server is a standby, which does not end segments.\n\
         HINT: check the primary; here `walfs status` tells what the archive has."
    )]
    Standby,
    /// The archive is of another cluster.
    #[error(
        "the server is of cluster {server}, the archive in {place} of cluster {archived}.\n\
         HINT: one of the two addresses is wrong; each cluster has a prefix of its own."
    )]
    WrongCluster {
        /// Of the server.
        server: SystemId,
        /// The archive.
        place: String,
        /// Of the archive.
        archived: SystemId,
    },
    /// It has not come.
    #[error("{segment} is not in {place} after {seconds} s: {why}")]
    NotArchived {
        /// What the server has ended.
        segment: String,
        /// The archive.
        place: String,
        /// How long was waited.
        seconds: u64,
        /// What the server says of its archiver, with what to do.
        why: String,
    },
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The segment that the server ended.
    pub segment: SegmentName,
    /// Until it was in the archive.
    pub seconds: f64,
}

/// Ends the server's segment, and waits for it in the archive, `timeout` at most.
///
/// # Errors
/// [`Error`].
pub async fn check(
    archive: &Archive,
    server: &Resolved,
    timeout: Duration,
    patience: impl Fn() -> Patience,
) -> Result<Checked, Error> {
    let session = Session::open(server).await?;
    let (system_id, in_recovery) = session.cluster().await?;
    if in_recovery {
        return Err(Error::Standby);
    }
    let began = Instant::now();
    let segment = session.end_segment().await?;
    loop {
        let found = archive.wal_meta(WalName::Segment(segment), patience()).await?;
        if let Some(cluster) = archive.cluster(patience()).await?
            && cluster.system_id != system_id
        {
            return Err(Error::WrongCluster {
                server: system_id,
                place: archive.place(),
                archived: cluster.system_id,
            });
        }
        if found.is_some() {
            let seconds = began.elapsed().as_secs_f64();
            return Ok(Checked { segment, seconds });
        }
        if began.elapsed() >= timeout {
            let complaint = session.archiver().await?.complaint();
            return Err(Error::NotArchived {
                segment: segment.to_string(),
                place: archive.place(),
                seconds: timeout.as_secs(),
                why: complaint.unwrap_or_else(|| {
                    "its archiver says nothing of a failure.\n\
                     HINT: many may be before it (`walfs status --pg-wal DIR` counts them), or archive_command puts them elsewhere."
                        .into()
                }),
            });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
