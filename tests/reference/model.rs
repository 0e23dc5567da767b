//! The reference: what a careful reader of docs/promises.md expects of the directory, in a few maps.
//!
//! A [`File`] is one version of a file being written; what is archived is a map of names to contents. Nothing here
//! waits, and nothing here knows how the real thing does it.

use std::collections::BTreeMap;
use std::sync::Arc;

use walfs::pg::{HeaderError, PageHeader};

use super::operation::Closer;
use super::sample::{self, FINALS, NAMES, PIECES, Source};

/// What must come of an operation.
#[derive(Debug, Clone)]
pub(crate) enum Rule {
    /// Success if, and only if, this content is archived under this name afterwards.
    Archives { name: String, content: Arc<Vec<u8>> },
    /// Nothing new is archived.
    Nothing(Expect),
}

/// What an operation that archives nothing must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Success,
    Failure,
    /// The promises leave it open.
    Either,
}

/// What is archived, by name, and whose the archive is.
#[derive(Debug, Default)]
pub(crate) struct Archived {
    pub(crate) contents: BTreeMap<String, Arc<Vec<u8>>>,
    pub(crate) cluster: Option<u64>,
}

/// One version of a file being written.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// Index of the name it was created under.
    pub(crate) name: usize,
    pub(crate) content: Vec<u8>,
    /// Index of the name others find it under.
    pub(crate) visible: Option<usize>,
    /// Has it been archived (true) or failed for good (false)?
    pub(crate) verdict: Option<bool>,
    pub(crate) handles: usize,
    /// Its writer was killed.
    pub(crate) abandoned: bool,
    /// Could be seen who created it?
    known: bool,
    /// Which pieces have been written; the last one lies beyond the end.
    written: [bool; PIECES + 1],
    frontier: usize,
    went_back: bool,
    rewritten: bool,
}

impl File {
    pub(crate) fn new(name: usize, known: bool) -> Self {
        let found_by_others = name >= FINALS || NAMES[name].ends_with(".partial");
        Self {
            name,
            content: Vec::new(),
            visible: found_by_others.then_some(name),
            verdict: None,
            handles: 1,
            abandoned: false,
            known,
            written: [false; PIECES + 1],
            frontier: 0,
            went_back: false,
            rewritten: false,
        }
    }

    pub(crate) fn is_temporary(&self) -> bool {
        self.name >= FINALS
    }

    fn has_pages(&self) -> bool {
        !NAMES[self.name].contains(".history") && !NAMES[self.name].contains(".backup")
    }

    /// Would these bytes lay a `.partial` out, as `pg_receivewal` does? What is received is not modelled here.
    pub(crate) fn would_be_received(&self, from: usize, source: Source) -> bool {
        let blank = from == 0 && self.content.is_empty() && source == Source::Zeros;
        blank && NAMES[self.name].ends_with(".partial")
    }

    /// Where each piece begins, and where the one beyond the end ends.
    fn borders(&self) -> [usize; PIECES + 2] {
        let whole = sample::content(&NAMES[self.name], Source::Right).len();
        let mut borders = [whole + 10; PIECES + 2];
        borders[..=PIECES].copy_from_slice(&sample::cuts(whole));
        borders
    }

    /// The bytes that a write of these pieces brings, and where to.
    pub(crate) fn bytes(&self, from: usize, to: usize, source: Source) -> (usize, Vec<u8>) {
        let borders = self.borders();
        let mut whole = sample::content(&NAMES[self.name], source).to_vec();
        whole.resize(borders[PIECES + 1], b'!');
        (borders[from], whole[borders[from]..borders[to]].to_vec())
    }

    /// The length that is meant by a number of pieces, and a few bytes.
    pub(crate) fn length(&self, pieces: usize, more: usize) -> usize {
        self.borders()[pieces] + more
    }

    pub(crate) fn write(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let (start, end) = (self.borders()[from], self.borders()[to]);
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[start..end].copy_from_slice(bytes);
        self.went_back |= start < self.frontier;
        self.frontier = self.frontier.max(end);
        self.rewritten |= self.written[from..to].contains(&true);
        self.written[from..to].fill(true);
    }

    pub(crate) fn truncate(&mut self, bytes: usize) {
        self.content.resize(bytes, 0);
        let borders = self.borders();
        for (piece, written) in self.written.iter_mut().enumerate() {
            *written &= borders[piece] < bytes;
        }
        self.frontier = bytes;
        if bytes == 0 {
            (self.went_back, self.rewritten) = (false, false);
        }
    }

    fn has_blank_head(&self) -> bool {
        self.written[0] && matches!(PageHeader::parse(&self.content), Err(HeaderError::Zero))
    }

    fn is_full(&self) -> bool {
        self.written[..PIECES].iter().all(|written| *written)
    }

    /// May it be archived under this name as it stands? Every byte is written; or `forward`, left out going forward, as in
    /// a sparse copy.
    fn is_whole(&self, name: &str, forward: bool, archived: &Archived) -> bool {
        let small = name.contains(".history") || name.contains(".backup");
        let is_covered = small || self.is_full() || forward && !self.went_back;
        sample::is_valid(name, &self.content, archived.cluster) && is_covered
    }

    /// What a write or a truncate must lead to, after it has been applied (promise W2). Gaps are not holes before the
    /// writer says that it is done: there is no source file here to show it.
    pub(crate) fn after_change(&self, archived: &Archived) -> Rule {
        let name = &NAMES[self.name];
        if self.is_temporary() || !self.has_pages() {
            return Rule::Nothing(Expect::Success);
        }
        let expected = self.borders()[PIECES];
        let complete = !self.rewritten && self.is_full() && self.content.len() == expected;
        if complete && self.is_whole(name, false, archived) {
            return self.archives(name);
        }
        // What can be seen to be wrong may be refused at once: a foreign page, bytes beyond the end.
        let headless = !self.written[0] || self.has_blank_head();
        let suspicious = self.content.len() > expected || !headless && !self.has_right_head(archived);
        Rule::Nothing(if suspicious {
            Expect::Either
        } else {
            Expect::Success
        })
    }

    fn has_right_head(&self, archived: &Archived) -> bool {
        let mut whole = self.content.clone();
        whole.resize(self.borders()[PIECES], 0);
        sample::is_valid(&NAMES[self.name], &whole, archived.cluster)
    }

    fn archives(&self, name: &str) -> Rule {
        Rule::Archives {
            name: name.to_owned(),
            content: Arc::new(self.content.clone()),
        }
    }

    /// What a close, or a demand for durability, must lead to (promise W2, W3). When a segment is whole that was written
    /// over, only the close of a writer can tell who is seen to live.
    pub(crate) fn flush(&self, closer: Closer, only_sync: bool, archived: &Archived) -> Rule {
        let name = &NAMES[self.name];
        let is_writers_close = !only_sync && self.known && closer == Closer::Opener;
        let is_whole = || {
            let told = !self.has_pages() || !self.rewritten || is_writers_close;
            told && self.is_whole(name, false, archived)
        };
        let answer = match self.verdict {
            Some(true) => Expect::Success,
            Some(false) => Expect::Failure,
            None if self.is_temporary() || self.content.is_empty() => Expect::Success,
            None if closer == Closer::Killed => Expect::Either,
            None if is_whole() => return self.archives(name),
            None => Expect::Failure,
        };
        Rule::Nothing(answer)
    }

    /// What a rename to a final name must lead to (promise W6).
    pub(crate) fn rename(&self, to: &str, replace: bool, archived: &Archived) -> Rule {
        let taken = !replace && archived.contents.contains_key(to);
        if taken || !self.is_whole(to, true, archived) {
            return Rule::Nothing(Expect::Failure);
        }
        self.archives(to)
    }

    /// Is there no way to it any more?
    pub(crate) fn is_gone(&self) -> bool {
        self.handles == 0 && (self.abandoned || self.visible.is_none())
    }
}
