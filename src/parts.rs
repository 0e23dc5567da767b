//! Parts of a stored tree: made of files, and put together into the tree.
//!
//! Two kinds of makers have files: `job` reads a data directory, `staging` takes what is written through the mount. Both
//! make their parts here. Only a large file that is written through the mount, whose name and length come last, is packed by
//! `staging`, frame by frame, around the headers that it gets here:
//!
//! - [`volume`]: files become the plain content of a part, a bundle of small ones or a slice of a large one;
//! - [`part`]: plain content becomes an object, frame by frame;
//! - `chunk`: what is learnt of a file's content while its bytes pass;
//! - [`tree`]: the parts that hold each file become the tree.
//!
//! Everything here computes and nothing waits: it belongs on a thread for blocking work.

use crate::archive::tree::page_hashes::PageKey;
use crate::codec::Compression;

pub(crate) mod chunk;
pub mod part;
pub mod tree;
pub mod volume;

/// How parts are made.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Codec and level of their frames.
    pub compression: Compression,
    /// By what their pages are hashed.
    pub page_key: PageKey,
}
