//! Will the WAL of a backup arrive? Asked before anything is copied, and helped where the server cannot do it alone: a
//! standby does not end a segment, its primary does.

use crate::pg::Lsn;
use crate::server::{self, Facts, Resolved, Session};

use super::Error;

/// Refuses a backup that could never be complete, and says what stands in the way of any other.
///
/// # Errors
/// [`Error::NotArchiving`]; [`Error::Server`].
pub(super) async fn expect(session: &Session, facts: &Facts) -> Result<(), Error> {
    let archiver = session.archiver().await?;
    if archiver.is_idle() {
        return Err(Error::NotArchiving);
    }
    // A standby's WAL is its primary's business, which is asked when it is known what is wanted.
    if !facts.in_recovery
        && let Some(complaint) = archiver.complaint()
    {
        tracing::warn!("the backup will not be complete before its WAL is in the archive: {complaint}");
    }
    Ok(())
}

/// Has the primary of a standby end the segment with `end`, so that it is archived; says what to do if it does not.
pub(super) async fn end_segment(session: &Session, facts: &Facts, primary: Option<&Resolved>, end: Lsn) {
    let asked = match primary {
        Some(primary) => switch(primary, facts, end).await,
        None => match session.primary().await {
            Some(primary) => switch(&primary, facts, end).await,
            None => Err("the standby does not say where its primary is (primary_conninfo)".to_owned()),
        },
    };
    if let Err(reason) = asked {
        tracing::warn!(
            "the last segment of the backup comes when the primary has filled it, and walfs cannot have it ended now: \
             {reason}. HINT: SELECT pg_switch_wal() on the primary; or name it with --primary, and a role that may"
        );
    }
}

async fn switch(primary: &Resolved, facts: &Facts, end: Lsn) -> Result<(), String> {
    let told = |error: server::Error| error.to_string().replace('\n', " ");
    let session = Session::open(primary).await.map_err(told)?;
    let (system_id, in_recovery) = session.cluster().await.map_err(told)?;
    if system_id != facts.system_id {
        return Err(format!(
            "the server at {} has system identifier {}, the standby has {}",
            primary.server, system_id, facts.system_id
        ));
    }
    if in_recovery {
        return Err(format!("the server at {} is a standby, too", primary.server));
    }
    let boundary = facts.segment_size.bytes();
    let until = Lsn(end.0.saturating_sub(1) / boundary * boundary + boundary);
    session.end_segments_to(until).await.map_err(told)
}
