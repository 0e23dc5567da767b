//! The work of a backup, cut in pieces that any thread takes: bundles of small files, slices of large ones.
//!
//! Directories come in the first bundle, so that `tar -x` makes them with their modes before anything is in them. A
//! large file is opened when its first slice is handed out; from then on its length is settled, and all its slices
//! are read from that one open file.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::Error;
use super::blocks::BLOCK_BYTES;
use super::places::Places;
use super::reading::as_asked;
use super::walk::{Source, attributes, is_gone};
use crate::archive::tree::{Attributes, layout};
use crate::job::version::owned;
use crate::linux::kernel::Owner;

/// Headers of a small file, roughly: what it costs in a bundle beside its content.
const MEMBER_BYTES: u64 = 2 * layout::BLOCK_BYTES;

/// Everything that is to be copied.
#[derive(Debug)]
pub(in crate::job) struct Plan {
    pub(in crate::job) places: Arc<Places>,
    pub(in crate::job) sources: Vec<Source>,
    /// Regular files among them.
    pub(in crate::job) files: u64,
    /// Their plain bytes, when they were listed.
    pub(in crate::job) bytes: u64,
    /// To whom they belong in what is stored, if not to whom they do.
    owner: Option<Owner>,
}

/// A file that is open, with the length that it has from here on.
#[derive(Debug)]
pub(in crate::job) struct Opened {
    pub(in crate::job) path: Box<[u8]>,
    pub(in crate::job) file: File,
    pub(in crate::job) bytes: u64,
    pub(in crate::job) attributes: Attributes,
}

/// A piece of work.
#[derive(Debug)]
pub(in crate::job) enum Work {
    /// These sources, in one part.
    Bundle { volume: u32, sources: Vec<u32> },
    /// One slice of a large file.
    Slice {
        volume: u32,
        index: u64,
        large: Arc<Opened>,
    },
}

/// Hands out the work.
#[derive(Debug)]
pub(in crate::job) struct Queue {
    plan: Arc<Plan>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bundles: VecDeque<Vec<u32>>,
    large: VecDeque<u32>,
    next_volume: u32,
    /// The large file that is being handed out, and which of its slices are left.
    open: Option<(u32, Arc<Opened>, Range<u64>)>,
}

impl Plan {
    pub(in crate::job) fn new(places: impl Into<Arc<Places>>, sources: Vec<Source>) -> Self {
        let lengths = || sources.iter().filter_map(|source| source.bytes);
        Self {
            files: lengths().count() as u64,
            bytes: lengths().sum(),
            places: places.into(),
            sources,
            owner: None,
        }
    }

    /// The same, but that all of it belongs to somebody else, if so.
    pub(in crate::job) fn owned_by(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// Opens a file; `None` if it has been removed since it was listed.
    pub(in crate::job) fn open(&self, source: u32) -> Result<Option<Opened>, Error> {
        let path = &self.sources[source as usize].path;
        let opened = self
            .places
            .open(path)
            .and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, file)) => {
                // What is read in one go needs no advice.
                if metadata.len() > BLOCK_BYTES {
                    as_asked(&file);
                }
                Ok(Some(Opened {
                    path: path.clone(),
                    file,
                    bytes: metadata.len(),
                    attributes: owned(attributes(&metadata), self.owner),
                }))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(Error::read(&self.places.real(path), source)),
        }
    }
}

impl Queue {
    pub(in crate::job) fn new(plan: Arc<Plan>, first_volume: u32) -> Self {
        let (bundles, large) = cut(&plan.sources);
        Self {
            plan,
            state: Mutex::new(State {
                bundles,
                large,
                next_volume: first_volume,
                open: None,
            }),
        }
    }

    /// The next piece of work; `None` when all is handed out.
    pub(in crate::job) fn next(&self) -> Result<Option<Work>, Error> {
        let mut state = self.state.lock().expect("no panic while held");
        if let Some(sources) = state.bundles.pop_front() {
            let volume = state.take_volume();
            return Ok(Some(Work::Bundle { volume, sources }));
        }
        loop {
            if let Some((volume, large, left)) = &mut state.open
                && let Some(index) = left.next()
            {
                return Ok(Some(Work::Slice {
                    volume: *volume,
                    index,
                    large: large.clone(),
                }));
            }
            state.open = None;
            let Some(source) = state.large.pop_front() else {
                return Ok(None);
            };
            if let Some(opened) = self.plan.open(source)? {
                let slices = 0..layout::slices(opened.bytes);
                state.open = Some((state.take_volume(), Arc::new(opened), slices));
            }
        }
    }

    /// The number of a volume that begins now, after all others.
    pub(in crate::job) fn next_volume(&self) -> u32 {
        self.state.lock().expect("no panic while held").take_volume()
    }
}

impl State {
    fn take_volume(&mut self) -> u32 {
        let volume = self.next_volume;
        self.next_volume += 1;
        volume
    }
}

/// Bundles of about [`layout::BUNDLE_BYTES`], never above a slice unless files grow; and the large files.
fn cut(sources: &[Source]) -> (VecDeque<Vec<u32>>, VecDeque<u32>) {
    let (mut bundles, mut large) = (VecDeque::new(), VecDeque::new());
    let (mut open, mut open_bytes) = (Vec::new(), 0);
    for (number, source) in (0..).zip(sources) {
        let bytes = source.bytes.unwrap_or(0);
        if bytes > layout::LARGE_BYTES {
            large.push_back(number);
            continue;
        }
        if open_bytes >= layout::BUNDLE_BYTES || open_bytes + bytes > layout::LARGE_BYTES {
            bundles.push_back(std::mem::take(&mut open));
            open_bytes = 0;
        }
        open.push(number);
        open_bytes += bytes + MEMBER_BYTES;
    }
    if !open.is_empty() {
        bundles.push_back(open);
    }
    (bundles, large)
}
