//! Several archives in one mount: a directory for each, by the name that it has at their place.
//!
//! Each archive is a section of the mount, with the upper bits of the numbers for its own, and is opened when something in it
//! is looked at: `member`. The directory over them is `top`. What is seen of an archive that does not open is `closed`: the
//! others are not touched by it. Neither this directory nor `closed` ever says that something is absent without the store's
//! word (promise R1).

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::archive::{self, MAX_ARCHIVES};
use crate::memory::Buffers;
use crate::store::{self, ErrorKind};

use super::asker::Asker;
use super::common::while_wanted;
use super::error::{Error, Result};
use super::node::{Attributes, Kept, Kind, Node, ROOT, fixed_number};
use super::one::One;
use super::section::{At, Section, numbered_in, split};

mod closed;
mod member;
mod top;

use closed::Closed;
use member::Member;

/// The most archives that are open, but for those that are in use. [`crate::memory::Memory::of_one_of`] is asked for so many.
pub const MOST_OPEN: usize = 16;

/// How soon an archive that did not open is tried again for who waits for it.
const AGAIN: Duration = Duration::from_secs(1);

/// What knows the archives of a place.
#[async_trait]
pub trait Archives: Debug + Send + Sync {
    /// Names of all that there are now. Those that are known need only be there.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, known: &HashSet<String>) -> std::result::Result<Vec<String>, store::Error>;

    /// Is there an archive of that name? Waits for the store as a reader does.
    ///
    /// # Errors
    /// The store's: nobody knows.
    async fn is_one(&self, name: &str) -> std::result::Result<bool, store::Error>;

    /// Makes a new one.
    ///
    /// # Errors
    /// Why there is none.
    async fn make(&self, name: &str) -> std::result::Result<(), archive::Error>;

    /// Opens one. If it was open before, its backups get numbers from `first_tree` on.
    ///
    /// # Errors
    /// Why it is not shown.
    async fn open(&self, name: &str, first_tree: Option<u32>) -> std::result::Result<One, archive::Error>;
}

/// The directory over several archives.
#[derive(Debug)]
pub struct Fleet {
    archives: Arc<dyn Archives>,
    /// How long a reader waits; `None`: for as long as it takes.
    read_deadline: Option<Duration>,
    /// Are no archives made here?
    read_only: bool,
    write_buffers: Buffers,
    members: Mutex<Members>,
    uses: AtomicU64,
    mounted_at: Timestamp,
    closing: AtomicBool,
}

/// All archives that were seen, in the order of their numbers, from 1 on.
#[derive(Debug, Default)]
struct Members {
    all: Vec<Arc<Member>>,
    named: HashMap<String, u16>,
    /// Was it said that there are too many?
    complained: bool,
}

impl Fleet {
    /// A directory over the archives of a place. `write_buffers`: for what the kernel hands over to be written.
    pub fn new(
        archives: Arc<dyn Archives>,
        read_deadline: Option<Duration>,
        read_only: bool,
        write_buffers: Buffers,
    ) -> Self {
        Self {
            archives,
            read_deadline,
            read_only,
            write_buffers,
            members: Mutex::default(),
            uses: AtomicU64::new(0),
            mounted_at: Timestamp::now(),
            closing: AtomicBool::new(false),
        }
    }

    pub(super) fn close_gates(&self) {
        self.closing.store(true, Ordering::Release);
        self.each_open().iter().for_each(|one| one.close_gates());
    }

    pub(super) fn write_buffers(&self) -> Buffers {
        self.write_buffers.clone()
    }

    pub(super) fn open_writes(&self) -> usize {
        self.each_open().iter().map(|one| one.open_writes()).sum()
    }

    pub(super) async fn end(&self) {
        for one in self.each_open() {
            one.end().await;
        }
    }

    fn each_open(&self) -> Vec<Arc<One>> {
        let members = self.members().all.clone();
        members.iter().filter_map(|member| member.open_now()).collect()
    }

    /// What a number stands for; opens its archive.
    pub(super) async fn find(self: &Arc<Self>, ino: u64, asker: Option<&Asker>) -> Result<At> {
        let (archive, number) = split(ino);
        if archive == 0 {
            return At::new(self.clone(), number, 0);
        }
        let member = self.member(archive).ok_or(Error::NotFound)?;
        let section: Arc<dyn Section> = match while_wanted(asker, self.open(&member)).await? {
            Ok(one) => one,
            Err(error) => {
                let closed = Closed::new(self.clone(), member.clone(), error);
                match closed.node(number) {
                    Some(_) => Arc::new(closed),
                    None => self.opened(&member, asker).await?,
                }
            }
        };
        At::new(section, number, archive)
    }

    /// Attributes of the directories that stand for archives, none of which is opened for that.
    pub(super) fn attributes(&self, ino: u64) -> Option<Result<Attributes>> {
        let (archive, number) = split(ino);
        (archive != 0 && number == ROOT).then(|| {
            let member = self.member(archive).ok_or(Error::NotFound)?;
            Ok(self.of_member(&member))
        })
    }

    fn of_member(&self, member: &Member) -> Attributes {
        Attributes {
            ino: numbered_in(member.number, ROOT),
            ..self.directory(Node::Root)
        }
    }

    /// Of a directory that is made here.
    fn directory(&self, node: Node) -> Attributes {
        Attributes {
            kind: Kind::Directory,
            mode: 0o500,
            kept: Kept::AWhile,
            ..self.file(node, 0)
        }
    }

    /// Of a file that is made here.
    fn file(&self, node: Node, bytes: u64) -> Attributes {
        Attributes {
            ino: fixed_number(node).expect("only such nodes are made here"),
            kind: Kind::File,
            bytes,
            modified: self.mounted_at.into(),
            mode: 0o400,
            owner: None,
            kept: Kept::Never,
        }
    }

    /// The archive, opened if it is not.
    async fn open(&self, member: &Member) -> std::result::Result<Arc<One>, Arc<archive::Error>> {
        let use_of = self.uses.fetch_add(1, Ordering::Relaxed);
        let (one, is_new) = member.open(&*self.archives, use_of).await?;
        if is_new {
            self.close_unused();
        }
        if self.closing.load(Ordering::Acquire) {
            one.close_gates();
        }
        Ok(one)
    }

    /// The archive, waited for while its store is away.
    async fn opened(&self, member: &Member, asker: Option<&Asker>) -> Result<Arc<One>> {
        let began = Instant::now();
        let wait = async {
            loop {
                let error = match self.open(member).await {
                    Ok(one) => return Ok(one),
                    Err(error) => error,
                };
                let is_late = self.read_deadline.is_some_and(|most| began.elapsed() >= most);
                if is_late || !is_away(&error) {
                    return Err(Error::Archive(error));
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        while_wanted(asker, wait).await?
    }

    /// Closes those that were used longest ago, and are not in use, until no more than [`MOST_OPEN`] are.
    fn close_unused(&self) {
        let mut open: Vec<_> = self.members().all.clone();
        open.retain(|member| member.open_now().is_some());
        open.sort_by_key(|member| member.last_use());
        let mut excess = open.len().saturating_sub(MOST_OPEN);
        for member in open {
            if excess > 0 && member.close() {
                excess -= 1;
            }
        }
    }

    fn member(&self, number: u16) -> Option<Arc<Member>> {
        let members = self.members();
        members.all.get(usize::from(number).checked_sub(1)?).cloned()
    }

    fn known(&self, name: &str) -> Option<Arc<Member>> {
        let number = self.members().named.get(name).copied()?;
        self.member(number)
    }

    /// The archive of that name, which gets a number if it has none; `None` if there are too many.
    fn note_name(&self, name: &str) -> Option<Arc<Member>> {
        if let Some(known) = self.known(name) {
            return Some(known);
        }
        let mut members = self.members();
        if let Some(number) = members.named.get(name) {
            return members.all.get(usize::from(*number) - 1).cloned();
        }
        if members.all.len() >= MAX_ARCHIVES {
            if !std::mem::replace(&mut members.complained, true) {
                tracing::error!(
                    "more than {MAX_ARCHIVES} archives were seen: {name} and others are not shown\n\
                     HINT: start the mount again if archives have gone meanwhile, or mount the place in parts"
                );
            }
            return None;
        }
        let number = members.all.len() as u16 + 1;
        let member = Arc::new(Member::new(name.to_owned(), number));
        members.named.insert(name.to_owned(), number);
        members.all.push(member.clone());
        Some(member)
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().expect("no panic while held")
    }
}

/// May it open by itself, later on?
fn is_away(error: &archive::Error) -> bool {
    matches!(error, archive::Error::Store(error) if error.kind == ErrorKind::Transient)
}
