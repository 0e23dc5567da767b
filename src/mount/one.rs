//! One archive in a mount: its rooms, and what they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use jiff::Timestamp;

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::archive::tree::TreeKind;
use crate::memory::Buffers;
use crate::metrics::Metrics;
use crate::overview::{Looks, Overview};
use crate::read::Reader;
use crate::staging::Staging;

use super::basebackups::Basebackups;
use super::common::{Common, Options};
use super::error::Error;
use super::node::{Inodes, Node};
use super::own::Own;
use super::room::Room;
use super::section::Section;
use super::versions::Versions;
use super::wal::Wal;
use super::wal::archived::Archived;

/// The rooms of an open archive.
#[derive(Debug)]
pub struct One {
    common: Arc<Common>,
    own: Own,
    wal: Arc<Wal>,
    basebackups: Basebackups,
    files: Arc<Versions>,
    dumps: Arc<Versions>,
    /// Was it open before? Then the kernel may have numbers that nobody knows any more.
    is_open_again: bool,
}

impl One {
    /// Over an open archive. `ahead`: what sends segments before the archiver brings them (promise W8).
    pub fn new(
        archive: Arc<Archive>,
        reader: Reader,
        staging: Staging,
        metrics: Arc<Metrics>,
        options: Options,
        ahead: Option<Arc<Ahead>>,
    ) -> Self {
        let common = Arc::new(Common {
            archive,
            reader,
            staging,
            metrics,
            options,
            inodes: Inodes::default(),
            mounted_at: Timestamp::now(),
            closing: AtomicBool::new(false),
            plain_writes: AtomicUsize::new(0),
        });
        let archived = Arc::new(Archived::new(common.clone(), ahead));
        let wal = Arc::new(Wal::new(common.clone(), archived.clone()));
        let basebackups = Basebackups::new(common.clone(), archived);
        let versions = |kind| Arc::new(Versions::new(kind, common.clone(), &basebackups));
        Self {
            own: Own {
                common: common.clone(),
                wal: wal.clone(),
                looks: None,
            },
            wal,
            files: versions(TreeKind::Files),
            dumps: versions(TreeKind::Dump),
            basebackups,
            common,
            is_open_again: false,
        }
    }

    /// With the state of the archive in `.walfs/`.
    pub fn showing(mut self, overview: Arc<dyn Overview>) -> Self {
        self.own.looks = Some(Looks::new(overview));
        self
    }

    /// For an archive that was open before, and closed: its backups get numbers from this one on.
    pub fn numbering_trees_from(mut self, first: u32) -> Self {
        self.is_open_again = true;
        self.basebackups.complete().number_from(first);
        self
    }

    /// The number that its next backup gets.
    pub(super) fn next_tree(&self) -> u32 {
        self.basebackups.complete().next_number()
    }

    /// Is nothing being written? A backup that was written has numbers that only this one knows.
    pub(super) fn may_be_closed(&self) -> bool {
        self.open_writes() == 0 && !self.basebackups.is_written_to()
    }

    /// Refuses new files from now on; those being written may be finished.
    pub(super) fn close_gates(&self) {
        self.common.close_gates();
    }

    /// The mount has ended: completes what was written without a word of its end.
    pub(super) async fn end(&self) {
        self.basebackups.drafting().end_versions().await;
    }

    /// Memory for what the kernel hands over to be written.
    pub(super) fn write_buffers(&self) -> Buffers {
        self.common.archive.memory().buffers.clone()
    }

    /// Files being written now.
    pub(super) fn open_writes(&self) -> usize {
        self.own.open_writes()
    }
}

impl Section for One {
    fn node(&self, number: u64) -> Option<Node> {
        let node = self.common.inodes.node(number);
        node.filter(|node| match node {
            Node::Writing(number) => !self.is_open_again || self.wal.is_writing(*number),
            Node::Tree(at) => !self.is_open_again || self.basebackups.complete().of(at.slot).is_ok(),
            _ => true,
        })
    }

    fn room(&self, node: Node) -> &dyn Room {
        match node {
            Node::Root | Node::Own | Node::OwnFile(_) | Node::Absent | Node::AbsentFile(_) => &self.own,
            Node::Wal | Node::Folder(_) | Node::Archived(_) | Node::Writing(_) => &self.wal,
            Node::Versions(TreeKind::Dump)
            | Node::VersionSet(TreeKind::Dump, _)
            | Node::VersionsLatest(TreeKind::Dump, _)
            | Node::Plain(TreeKind::Dump, _)
            | Node::Newest(TreeKind::Dump, _) => &self.dumps,
            Node::Versions(_)
            | Node::VersionSet(..)
            | Node::VersionsLatest(..)
            | Node::Plain(..)
            | Node::Newest(..) => &self.files,
            Node::Basebackups | Node::Latest | Node::Tree(_) | Node::Draft(_) => self.basebackups.room(node),
        }
    }

    fn note(&self, what: &str, error: &Error) {
        self.common.note(what, error);
    }
}
