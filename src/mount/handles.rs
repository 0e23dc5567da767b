//! Open files and directories of the mount, by the number the kernel holds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::pg::WalName;

use super::basebackups::browse::TreeListing;
use super::basebackups::drafting::OpenDraft;
use super::basebackups::loaded::Loaded;
use super::directory::Entry;
use super::error::Error;
use super::listing::WalListing;
use super::node::TreeNode;
use super::writing::Writing;

/// What is open.
#[derive(Debug)]
pub enum Handle {
    /// An archived file, to be read.
    Archived {
        /// Its name.
        name: WalName,
        /// Its plain size.
        bytes: u64,
    },
    /// A text made when it was opened.
    Text(Bytes),
    /// A file being written.
    Writing(Arc<Writing>),
    /// A file of a complete backup, to be read.
    InTree {
        /// The backup; kept in memory while the file is open.
        loaded: Arc<Loaded>,
        /// Number of its entry.
        entry: u32,
    },
    /// A file of a backup that is being written.
    Draft(OpenDraft),
    /// A directory.
    Listing {
        /// Its inode.
        ino: u64,
        /// What it holds beside the fixed entries.
        listing: Listing,
    },
}

/// Where the entries of an open directory come from.
#[derive(Debug)]
pub enum Listing {
    /// There are only fixed ones.
    Fixed,
    /// The archived files, page by page, and behind them what is received.
    Wal(WalListing, Vec<Entry>),
    /// These, made when it was opened.
    Held(Vec<Entry>),
    /// Of a backup that is being written: those that were in this directory when it was opened.
    Draft(TreeNode, Vec<Entry>),
    /// Those of a complete backup's directory.
    Tree(TreeListing),
}

/// All open files.
#[derive(Debug, Default)]
pub struct Handles {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Handle>>>,
}

impl Handles {
    /// Gives a handle a number.
    pub fn insert(&self, handle: Handle) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open
            .lock()
            .expect("no panic while held")
            .insert(number, Arc::new(handle));
        number
    }

    /// The handle of a number.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    pub fn get(&self, number: u64) -> Result<Arc<Handle>, Error> {
        self.open
            .lock()
            .expect("no panic while held")
            .get(&number)
            .cloned()
            .ok_or(Error::BadHandle)
    }

    /// Forgets a handle and gives it back.
    pub fn remove(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.lock().expect("no panic while held").remove(&number)
    }
}
