//! Is a segment this archive's? Told by its first page (promise W5).

use super::{Archive, Error};
use crate::archive::Cluster;
use crate::pg::{PageHeader, SegmentName, SegmentSize, TimelineMatch, WalName, history};
use crate::store::Patience;

impl Archive {
    /// As [`Archive::check_header`], and ties the archive to the segment's cluster if it is the first.
    ///
    /// # Errors
    /// As [`Archive::check_header`].
    pub async fn admit(&self, name: WalName, header: &PageHeader, patience: Patience) -> Result<(), Error> {
        let cluster = self.check_header(name, header, patience).await?;
        let archived = self.claim(cluster, name, patience).await?;
        self.check_cluster(name, archived, cluster)
    }

    /// Does a segment's first page fit its name and this archive? Changes nothing.
    ///
    /// # Errors
    /// [`Error::Header`], [`Error::WrongTimeline`], [`Error::WrongCluster`], [`Error::WrongSegmentSize`], [`Error::Store`].
    pub async fn check_header(
        &self,
        name: WalName,
        header: &PageHeader,
        patience: Patience,
    ) -> Result<Cluster, Error> {
        let refused = |reason| Error::Header { name, reason };
        let segment = name.segment().expect("only segments have page headers");
        let fit = header.check_name(segment).map_err(refused)?;
        let segment_size = header.segment_size().map_err(refused)?;
        if let TimelineMatch::Ancestor(_) = fit {
            self.check_ancestor(name, segment, header, segment_size, patience)
                .await?;
        }
        let offered = Cluster {
            system_id: header.system_id,
            segment_size,
        };
        if let Some(archived) = self.cluster(patience).await? {
            self.check_cluster(name, archived, offered)?;
        }
        Ok(offered)
    }

    fn check_cluster(&self, name: WalName, archived: Cluster, offered: Cluster) -> Result<(), Error> {
        if archived.system_id != offered.system_id {
            return Err(Error::WrongCluster {
                name,
                place: self.place(),
                archived: archived.system_id,
                offered: offered.system_id,
            });
        }
        if archived.segment_size != offered.segment_size {
            return Err(Error::WrongSegmentSize {
                name,
                place: self.place(),
                archived: archived.segment_size,
                offered: offered.segment_size,
            });
        }
        Ok(())
    }

    /// A new timeline's first segment begins as a copy of its parent's pages (`XLogFileCopy` in xlog.c), so its first
    /// page may be of an older timeline, if that one ended inside this segment. The history file says so; without
    /// one in the archive (a prefix begun after the promotion) there is nothing to hold against the segment.
    async fn check_ancestor(
        &self,
        name: WalName,
        segment: SegmentName,
        header: &PageHeader,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<(), Error> {
        let name_history = WalName::History(segment.timeline);
        let Some(text) = self.read_small(name_history, patience).await? else {
            return Ok(());
        };
        let entries = history::parse(&text, segment.timeline).map_err(|reason| Error::Text {
            name: name_history,
            reason: reason.to_string(),
        })?;
        let inside = segment.start(size).0..segment.start(size).0 + size.bytes();
        let ended_here = entries
            .iter()
            .any(|entry| entry.timeline == header.timeline && inside.contains(&entry.end.0));
        if ended_here {
            Ok(())
        } else {
            Err(Error::WrongTimeline {
                name,
                page: header.timeline,
                name_history,
            })
        }
    }
}
