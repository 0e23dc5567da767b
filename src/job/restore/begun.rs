//! The beginning of a segment that is not archived whole: what `pg_receivewal` has kept of it, or a promoted server has
//! archived of it as `.partial`. Of both the longer one counts.

use std::sync::Arc;

use super::received::READ_BYTES;
use crate::archive::wal::{Found, Torn};
use crate::archive::{self, Archive};
use crate::pg::written::Written;
use crate::pg::{PageHeader, SegmentName, WalName};
use crate::staging::received::Received;
use crate::staging::{self, Draft, Staging};
use crate::store::Patience;

/// What there is of it.
#[derive(Debug)]
pub(in crate::job) struct Begun {
    /// As long as the segment; behind the WAL lie zeros, or what an older one has left.
    pub content: Draft,
    /// So many bytes from its beginning on are WAL.
    pub filled_bytes: u64,
    /// ... and of these so many lie before a record that may have come in part.
    whole_bytes: u64,
    /// What was received and does not follow these.
    pub torn: Option<Torn>,
    /// Does the shorter of the two say something else?
    pub differs: bool,
}

/// Looks for it, and brings it; `None`: there is nothing of it. What is damaged of it is lost, and named in the log.
///
/// # Errors
/// [`archive::Error`]: the store does not answer.
pub(in crate::job) async fn load(
    archive: &Arc<Archive>,
    segment: SegmentName,
    patience: Patience,
) -> Result<Option<Begun>, archive::Error> {
    let options = staging::Options {
        memory: archive.memory().clone(),
        ..Default::default()
    };
    let staging = Staging::new(archive.compression(), &options);
    let (received, partial) = futures::try_join!(
        received(archive, &staging, segment, patience),
        partial_or_lost(archive, &staging, segment, patience)
    )?;
    let (mut longer, mut shorter) = match (received, partial) {
        (Some(received), Some(partial)) if received.filled_bytes < partial.filled_bytes => {
            (partial, received)
        }
        (Some(received), Some(partial)) => (received, partial),
        (only, None) | (None, only) => return Ok(only),
    };
    longer.torn = longer.torn.or(shorter.torn);
    longer.torn = longer.torn.and_then(|torn| torn.behind(longer.filled_bytes));
    let same = is_same(&mut longer.content, &mut shorter.content, shorter.whole_bytes).await;
    longer.differs = !same.map_err(|error| archive::Error::staging(WalName::Partial(segment), &error))?;
    Ok(Some(longer))
}

async fn received(
    archive: &Arc<Archive>,
    staging: &Staging,
    segment: SegmentName,
    patience: Patience,
) -> Result<Option<Begun>, archive::Error> {
    let deadline = archive::DEFAULT_DEADLINE;
    let received = Received::load_readable(archive, staging, segment, deadline, patience).await?;
    let begun = received.map(|received| Begun {
        filled_bytes: received.filled_bytes(),
        whole_bytes: received.filled_bytes(),
        torn: received.torn(),
        differs: false,
        content: received.into_draft(),
    });
    Ok(begun.filter(|begun| begun.filled_bytes > 0 || begun.torn.is_some()))
}

/// Of a damaged one nobody knows how far it led.
async fn partial_or_lost(
    archive: &Archive,
    staging: &Staging,
    segment: SegmentName,
    patience: Patience,
) -> Result<Option<Begun>, archive::Error> {
    let error = match partial(archive, staging, segment, patience).await {
        Err(error @ archive::Error::Damaged { .. }) => error,
        found => return found,
    };
    tracing::warn!("{error}");
    let cluster = archive.cluster(patience).await?;
    let until = cluster.map_or(0, |cluster| cluster.segment_size.bytes());
    Ok(Some(Begun {
        content: staging.draft(),
        filled_bytes: 0,
        whole_bytes: 0,
        torn: Torn { from: 0, until }.behind(0),
        differs: false,
    }))
}

async fn partial(
    archive: &Archive,
    staging: &Staging,
    segment: SegmentName,
    patience: Patience,
) -> Result<Option<Begun>, archive::Error> {
    let name = WalName::Partial(segment);
    let Found::Archived(table) = archive.look(name, patience).await? else {
        return Ok(None);
    };
    let staging_error = |error: &std::io::Error| archive::Error::staging(name, error);
    let (mut content, mut written, mut at) = (staging.draft(), None, 0);
    while at < table.plain_bytes() {
        let end = table.plain_bytes().min(at + READ_BYTES as u64);
        let piece = archive.unpacked(name, &table, at..end, patience).await?;
        let written = match &mut written {
            Some(written) => written,
            none => {
                let Ok(header) = PageHeader::parse(&piece) else {
                    return Ok(None);
                };
                none.insert((Written::new(header), header.block_bytes as usize))
            }
        };
        piece.chunks(written.1).for_each(|page| written.0.add(page));
        let put = content.write_shared(at, &piece.into()).await;
        put.map_err(|error| staging_error(&error))?;
        at = end;
    }
    let (filled_bytes, whole_bytes) = written.map_or((0, 0), |(written, _)| (written.end(), written.whole()));
    Ok((filled_bytes > 0).then_some(Begun {
        content,
        filled_bytes,
        whole_bytes,
        torn: None,
        differs: false,
    }))
}

/// Are so many first bytes of both the same?
async fn is_same(one: &mut Draft, other: &mut Draft, bytes: u64) -> std::io::Result<bool> {
    let mut at = 0;
    while at < bytes {
        let wanted = READ_BYTES.min((bytes - at) as usize);
        let piece = one.read(at, wanted).await?;
        if piece.is_empty() || piece != other.read(at, wanted).await? {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
