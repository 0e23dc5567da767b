//! The directory and its reference, side by side: does an operation to both, and compares.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walfs::archive::{self, Archive};
use walfs::codec;
use walfs::mount::error::Error;
use walfs::mount::fs::Result;
use walfs::store::{ErrorKind, Patience};

use super::model::{Archived, Expect, File, Rule};
use super::operation::{Closer, Operation, Step};
use super::process::{asker, me};
use super::sample::{self, FINALS, NAMES, PIECES};
use crate::common::below::{Below, LONG};
use crate::common::scripted::{Answer, Fault, Scripted};

/// How long a store that hangs is waited for, where that is tested.
const HASTE: Duration = Duration::from_millis(250);

/// The directory over a store, and what is expected of it.
pub(crate) struct World {
    backend: Arc<Scripted>,
    below: Below,
    deadline: Duration,
    archived: Archived,
    /// Objects as they were when first seen: they stay so.
    stored: BTreeMap<String, Bytes>,
    files: BTreeMap<usize, File>,
    /// Handle and file, in the order of opening.
    open: Vec<(u64, usize)>,
    next_file: usize,
}

/// What happened to the store during an operation.
struct Happened {
    /// Something went wrong that patience does not mend.
    hard: bool,
    answers: Vec<Answer>,
}

impl World {
    pub(crate) async fn new(backend: Arc<Scripted>, hasty: bool) -> Self {
        let deadline = if hasty { HASTE } else { LONG };
        let below = reopen(&backend, deadline).await;
        Self {
            backend,
            below,
            deadline,
            archived: Archived::default(),
            stored: BTreeMap::new(),
            files: BTreeMap::new(),
            open: Vec::new(),
            next_file: 0,
        }
    }

    /// Does them one after the other, and compares after each.
    pub(crate) async fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.backend.answers();
            self.backend.arm(&step.faults);
            self.apply(&step.operation).await;
            self.backend.disarm();
            self.agree().await;
        }
        let directory = reopen(&self.backend, LONG).await;
        for (name, content) in &self.archived.contents {
            assert!(
                directory.read(name).await.unwrap() == **content,
                "{name} reads otherwise"
            );
        }
    }

    async fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Start { name, known } => self.start(name, known).await,
            Operation::Write {
                file,
                from,
                to,
                source,
            } => {
                if let Some((handle, file)) = self.pick(file)
                    && !self.files[&file].would_be_received(from, source)
                {
                    let (offset, bytes) = self.files[&file].bytes(from, to, source);
                    let outcome = self.below.write(handle, offset as u64, &bytes).await;
                    let outcome = outcome.map(|taken| assert_eq!(taken, bytes.len()));
                    self.changed(file, outcome, |file| file.write(from, to, &bytes));
                }
            }
            Operation::WriteBeyond { file } => {
                if let Some((handle, file)) = self.pick(file) {
                    let (from, to) = (PIECES, PIECES + 1);
                    let (offset, bytes) = self.files[&file].bytes(from, to, sample::Source::Zeros);
                    let outcome = self.below.write(handle, offset as u64, &bytes).await;
                    self.changed(file, outcome.map(drop), |file| file.write(from, to, &bytes));
                }
            }
            Operation::Truncate { file, cut, more } => {
                if let Some((handle, file)) = self.pick(file) {
                    let bytes = self.files[&file].length(cut, more);
                    let outcome = self.below.fs.truncate(handle, bytes as u64, None).await;
                    // How long a file is whose write failed, nobody promises; its close will say that it failed.
                    if self.files[&file].verdict == Some(false) {
                        self.judge(&Rule::Nothing(Expect::Either), &outcome);
                    } else if self.files[&file].content.len() == bytes {
                        self.judge(&Rule::Nothing(Expect::Success), &outcome);
                    } else {
                        self.changed(file, outcome, |file| file.truncate(bytes));
                    }
                }
            }
            Operation::Flush { file, closer } => self.close(file, closer, false).await,
            Operation::Fsync { file, closer } => self.close(file, closer, true).await,
            Operation::Release { file } => {
                if let Some((handle, file)) = self.pick(file) {
                    self.below.fs.release(handle).await;
                    self.open.retain(|(open, _)| *open != handle);
                    self.change(file, |file| file.handles -= 1);
                    self.judge(&Rule::Nothing(Expect::Success), &Ok(()));
                }
            }
            Operation::Rename { from, to, replace } => self.rename(from, to, replace).await,
            Operation::Unlink { name } => self.unlink(name).await,
            Operation::Lookup { name } => self.lookup(name).await,
            Operation::Read { name, offset, bytes } => self.read(name, offset, bytes).await,
            Operation::ReadBack { file, offset, bytes } => self.read_back(file, offset, bytes).await,
            Operation::List => {
                let listed = self.below.list().await;
                let happened = self.happened(listed.as_ref().err());
                match listed {
                    Ok(listed) => assert_eq!(sorted(listed), self.sizes()),
                    Err(error) => assert!(happened.hard, "list: {error}"),
                }
            }
            Operation::Restart => {
                let opened = Below::open(self.backend.store(), self.deadline).await;
                let fired = self.backend.disarm();
                self.below = match opened {
                    Ok(below) => below,
                    Err(error) => {
                        assert!(self.is_hasty() || fired.iter().any(is_hard), "restart: {error}");
                        reopen(&self.backend, self.deadline).await
                    }
                };
                self.files.clear();
                self.open.clear();
            }
        }
    }

    async fn start(&mut self, name: usize, known: bool) {
        let asker = known.then(me);
        let opened = self.below.start(&NAMES[name], asker.as_ref()).await;
        let happened = self.happened(opened.as_ref().err());
        let handle = match opened {
            Ok(handle) => handle,
            Err(error) => return assert!(happened.hard, "start {}: {error}", NAMES[name]),
        };
        // A file that others could find keeps its writers, and loses its name to the new version.
        if let Some(old) = self.seen(name) {
            self.change(old, |file| file.visible = None);
        }
        self.next_file += 1;
        let file = self.next_file;
        self.files.insert(file, File::new(name, known));
        self.open.push((handle, file));
    }

    /// After a write or a truncate of other length: `apply` does the same to the reference.
    fn changed(&mut self, number: usize, outcome: Result<()>, apply: impl FnOnce(&mut File)) {
        let mut file = self.files[&number].clone();
        let before = file.content.clone();
        apply(&mut file);
        if let Some(archived) = file.verdict {
            // What is archived may be written once more, the same.
            let same = archived && file.content == before;
            let expect = if same { Expect::Success } else { Expect::Failure };
            return self.judge(&Rule::Nothing(expect), &outcome);
        }
        let rule = file.after_change(&self.archived);
        self.judge(&rule, &outcome);
        if file.is_temporary() {
            assert!(outcome.is_ok(), "a temporary file takes what comes");
        } else if outcome.is_err() {
            decide(&mut file, false);
        } else if matches!(rule, Rule::Archives { .. }) {
            decide(&mut file, true);
        }
        self.files.insert(number, file);
    }

    async fn close(&mut self, file: usize, closer: Closer, only_sync: bool) {
        let Some((handle, file)) = self.pick(file) else {
            return;
        };
        let (fs, asker) = (&self.below.fs, asker(closer));
        let outcome = match only_sync {
            true => fs.fsync(handle, asker.as_ref()).await,
            false => fs.flush(handle, None, asker.as_ref()).await,
        };
        let killed = closer == Closer::Killed;
        let rule = self.files[&file].flush(closer, only_sync, &self.archived);
        self.judge(&rule, &outcome);
        self.change(file, |file| {
            file.abandoned |= killed;
            if file.verdict.is_none() && matches!(rule, Rule::Archives { .. }) {
                decide(file, outcome.is_ok());
            }
        });
    }

    async fn rename(&mut self, from: usize, to: usize, replace: bool) {
        let to_temporary = to >= FINALS;
        let moves_partial = NAMES[from].ends_with(".partial") && to_temporary;
        // The kernel does not ask to rename a file to itself. Nobody moves a `.partial` aside.
        if from == to || moves_partial {
            return;
        }
        let outcome = self.below.rename(&NAMES[from], &NAMES[to], replace).await;
        let Some(number) = self.seen(from) else {
            return self.judge(&Rule::Nothing(Expect::Failure), &outcome);
        };
        if to_temporary {
            let taken = self.seen(to).filter(|_| !replace);
            let expect = taken.map_or(Expect::Success, |_| Expect::Failure);
            self.judge(&Rule::Nothing(expect), &outcome);
            if taken.is_none() {
                if let Some(old) = self.seen(to) {
                    self.change(old, |file| file.visible = None);
                }
                self.change(number, |file| file.visible = Some(to));
            }
            return;
        }
        let rule = self.files[&number].rename(&NAMES[to], replace, &self.archived);
        self.judge(&rule, &outcome);
        if outcome.is_ok() {
            self.change(number, |file| decide(file, true));
        }
    }

    async fn unlink(&mut self, name: usize) {
        let outcome = self
            .below
            .fs
            .unlink(self.below.wal, OsStr::new(&NAMES[name]))
            .await;
        match self.seen(name) {
            Some(file) => {
                self.judge(&Rule::Nothing(Expect::Success), &outcome);
                self.change(file, |file| file.visible = None);
            }
            None => self.judge(&Rule::Nothing(Expect::Failure), &outcome),
        }
    }

    async fn lookup(&mut self, name: usize) {
        let found = self.below.lookup(&NAMES[name]).await;
        let happened = self.happened(found.as_ref().err());
        let expected = self.size(name);
        match (found, expected) {
            (Ok(found), Some(bytes)) => assert_eq!(found.bytes, bytes, "size of {}", NAMES[name]),
            (Ok(_), None) => panic!("{} is not there and was found", NAMES[name]),
            (Err(Error::NotFound), None) => {
                assert!(
                    name >= FINALS || happened.said_absent(name),
                    "NotFound is not the store's word"
                );
            }
            (Err(Error::NotFound), Some(_)) => panic!("{} is there and was not found", NAMES[name]),
            (Err(error), _) => assert!(happened.hard, "lookup {}: {error}", NAMES[name]),
        }
    }

    async fn read(&mut self, name: usize, offset: usize, bytes: usize) {
        let read = self.below.read_part(&NAMES[name], offset as u64, bytes).await;
        let happened = self.happened(read.as_ref().err());
        match (read, self.whole(name)) {
            (Ok(read), Some(whole)) => assert_eq!(read, part(whole, offset, bytes), "{}", NAMES[name]),
            (Ok(_), None) => panic!("{} is not there and was read", NAMES[name]),
            (Err(Error::NotFound), None) => {}
            (Err(error), _) => assert!(happened.hard, "read {}: {error}", NAMES[name]),
        }
    }

    async fn read_back(&mut self, file: usize, offset: usize, bytes: usize) {
        let Some((handle, file)) = self.pick(file) else {
            return;
        };
        let read = self.below.fs.read(handle, offset as u64, bytes, None).await;
        // Of a file that failed nobody promises what is in it.
        if self.files[&file].verdict != Some(false) {
            assert_eq!(read.unwrap(), part(&self.files[&file].content, offset, bytes));
        }
    }

    /// Was the outcome the one, and is archived what should be?
    fn judge(&mut self, rule: &Rule, outcome: &Result<()>) {
        let happened = self.happened(outcome.as_ref().err());
        let objects = self.backend.objects();
        let now: BTreeMap<&str, &Bytes> = objects
            .iter()
            .filter_map(|(key, bytes)| Some((name_of(key)?, bytes)))
            .collect();
        let new: Vec<&str> = now
            .keys()
            .filter(|name| !self.archived.contents.contains_key(**name))
            .copied()
            .collect();
        match rule {
            Rule::Nothing(expect) => {
                assert!(new.is_empty(), "archived, and should not have been: {new:?}");
                let wrong = match expect {
                    Expect::Success => outcome.is_err() && !happened.hard,
                    Expect::Failure => outcome.is_ok(),
                    Expect::Either => false,
                };
                assert!(!wrong, "expected {expect:?}, got {outcome:?}");
            }
            Rule::Archives { name, content } => {
                assert!(
                    new.iter().all(|new| new == name),
                    "archived something else: {new:?}"
                );
                match self.archived.contents.get(name) {
                    Some(old) if old == content => {
                        assert!(outcome.is_ok() || happened.hard, "the same again: {outcome:?}");
                        assert!(!happened.stored(name), "the same again was uploaded");
                    }
                    Some(_) => assert!(outcome.is_err(), "other content was accepted"),
                    None => {
                        assert!(
                            outcome.is_ok() || happened.hard,
                            "{name} should be archived: {outcome:?}"
                        );
                        let there = now.get(name.as_str());
                        assert!(
                            outcome.is_err() || there.is_some(),
                            "{name} was acknowledged and is not there"
                        );
                        if let Some(stored) = there {
                            let plain = codec::unpack_all(stored).expect("an object is whole");
                            assert!(plain == **content, "{name} was archived with other content");
                            self.archived.contents.insert(name.clone(), content.clone());
                            self.stored.insert(name.clone(), (*stored).clone());
                        }
                    }
                }
            }
        }
        self.archived.cluster = objects.get("cluster.json").map(|text| {
            let text: serde_json::Value = serde_json::from_slice(text).expect("cluster.json is JSON");
            let id = text["system_identifier"].as_str().expect("it is a text");
            id.parse().expect("it is a number")
        });
    }

    /// List, lookup and store agree with the reference; what is archived has not changed.
    async fn agree(&mut self) {
        let objects = self.backend.objects();
        let now: BTreeMap<String, Bytes> = objects
            .into_iter()
            .filter_map(|(key, bytes)| Some((name_of(&key)?.to_owned(), bytes)))
            .collect();
        assert!(now == self.stored, "an archived object has changed, come or gone");
        let expected = self.sizes();
        // A busy machine may be too slow for so short a deadline.
        let listed = self.below.list().await;
        if !self.is_hasty() || listed.is_ok() {
            assert_eq!(sorted(listed.unwrap()), expected);
        }
        for name in 0..NAMES.len() {
            let found = self.below.lookup(&NAMES[name]).await;
            match found {
                Ok(found) => assert_eq!(Some(found.bytes), self.size(name), "{}", NAMES[name]),
                Err(Error::NotFound) => assert_eq!(None, self.size(name), "{}", NAMES[name]),
                Err(error) => assert!(self.is_hasty(), "{}: {error}", NAMES[name]),
            }
        }
    }

    fn happened(&self, error: Option<&Error>) -> Happened {
        let fired = self.backend.disarm();
        let hard = fired.iter().any(is_hard) || self.is_hasty() && error.is_some();
        let answers = self.backend.answers();
        Happened { hard, answers }
    }

    fn is_hasty(&self) -> bool {
        self.deadline == HASTE
    }

    /// The handle that is meant, and its file.
    fn pick(&self, back: usize) -> Option<(u64, usize)> {
        let at = self.open.len().checked_sub(1 + back % self.open.len().max(1))?;
        Some(self.open[at])
    }

    fn change(&mut self, number: usize, change: impl FnOnce(&mut File)) {
        let file = self.files.get_mut(&number).expect("an open file");
        change(file);
        if file.is_gone() {
            self.files.remove(&number);
        }
    }

    /// The file being written that others find under a name.
    fn seen(&self, name: usize) -> Option<usize> {
        let mut found = self.files.iter().filter(|(_, file)| file.visible == Some(name));
        found.next().map(|(number, _)| *number)
    }

    fn whole(&self, name: usize) -> Option<&[u8]> {
        match self.seen(name) {
            Some(file) => Some(&self.files[&file].content),
            None => self
                .archived
                .contents
                .get(&NAMES[name])
                .map(|content| content.as_slice()),
        }
    }

    fn size(&self, name: usize) -> Option<u64> {
        self.whole(name).map(|content| content.len() as u64)
    }

    fn sizes(&self) -> Vec<(String, u64)> {
        // In the order of PostgreSQL's names; the store's may differ, where one name begins with another.
        let contents = self.archived.contents.iter();
        contents
            .map(|(name, content)| (name.clone(), content.len() as u64))
            .collect()
    }
}

impl Happened {
    fn said_absent(&self, name: usize) -> bool {
        self.answers.iter().any(|answer| {
            name_of(&answer.target) == Some(&NAMES[name]) && answer.error == Some(ErrorKind::NotFound)
        })
    }

    /// Did the store take an upload? One that it refuses is how a writer learns that another was quicker.
    fn stored(&self, name: &str) -> bool {
        self.answers.iter().any(|answer| {
            answer.operation == "put" && answer.error.is_none() && name_of(&answer.target) == Some(name)
        })
    }
}

/// Opens a directory over a store that has no faults now: the haste is for what is done in it.
async fn reopen(backend: &Arc<Scripted>, deadline: Duration) -> Below {
    let options = archive::Options {
        create: true,
        ..Default::default()
    };
    let archive = Archive::open(backend.store(), &options, Patience::for_at_most(LONG)).await;
    Below::over(Arc::new(archive.expect("a store without faults")), deadline).await
}

fn is_hard(fault: &Fault) -> bool {
    let mended = |kind| matches!(kind, ErrorKind::Transient | ErrorKind::Damaged);
    !matches!(fault, Fault::Fails(kind) | Fault::LosesAnswer(kind) if mended(*kind))
}

/// A file has a verdict now: it is not found by its name any more.
fn decide(file: &mut File, archived: bool) {
    file.verdict = Some(archived);
    file.visible = None;
}

fn sorted(mut listed: Vec<(String, u64)>) -> Vec<(String, u64)> {
    listed.sort();
    listed
}

fn name_of(key: &str) -> Option<&str> {
    key.strip_prefix("wal/")?.strip_suffix(".lz4")
}

fn part(whole: &[u8], offset: usize, bytes: usize) -> Bytes {
    let start = whole.len().min(offset);
    let end = whole.len().min(offset + bytes);
    Bytes::copy_from_slice(&whole[start..end])
}
