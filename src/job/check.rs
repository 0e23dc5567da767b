//! Does WAL get into the archive, now? The server ends its segment, and that is waited for.

use std::time::{Duration, Instant};

use crate::archive::wal::Found;
use crate::archive::{self, Archive};
use crate::pg::{SegmentName, SystemId, WalName};
use crate::server::{self, Ended, Resolved, Session};
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
    /// What is archived under that name is not what the server has ended.
    #[error(
        "{segment} in {place} is not the one that this server has written: another server has archived it, and what this one \
         archives under that name is refused.\n\
         HINT: a copy of a server, or one that was put back to an earlier state, has its own history: give it an archive of its own, \
         or a timeline of its own (`walfs restore` from this archive)."
    )]
    Others {
        /// What the server has ended.
        segment: String,
        /// The archive.
        place: String,
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
    let ended = session.end_segment().await?;
    let segment = ended.segment;
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
            if !is_marked(archive, &ended, patience()).await? {
                return Err(Error::Others {
                    segment: segment.to_string(),
                    place: archive.place(),
                });
            }
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

/// Is what is archived under that name what the server has ended?
async fn is_marked(archive: &Archive, ended: &Ended, patience: Patience) -> Result<bool, archive::Error> {
    let name = WalName::Segment(ended.segment);
    let Found::Archived(table) = archive.look(name, patience).await? else {
        return Ok(false);
    };
    if table.plain_bytes() < ended.mark_end {
        return Ok(false);
    }
    let bytes = archive.unpacked(name, &table, ended.place(), patience).await?;
    let mark = ended.mark.as_bytes();
    Ok(bytes.windows(mark.len()).any(|window| window == mark))
}
