//! How a finished file becomes archived: looked for, uploaded or compared, acknowledged.
//!
//! The store is asked whether the name is taken while the file still comes. An answer that is not there yet when the
//! file is complete does not hold up a segment's upload, if its name is most likely free: that begins, and waits with its
//! last byte. A store that judges races by itself needs no such answer, but what is archived already would be stored once
//! more in vain.
//!
//! Most likely free is a segment after one that was. What PostgreSQL archives again, after a crash, is not; nor is what
//! another server has archived, which the first of its segments shows.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::turns::NameTurn;
use super::{Archive, Error, Found, Looked};
use crate::archive::copied::SINGLE_PUT_BYTES;
use crate::archive::put_mode;
use crate::codec::{ContentHash, SeekTable};
use crate::pg::{PageHeader, WalName};
use crate::store::{self, ErrorKind, Leave, Patience};

/// Size of every part but the last; 1 GiB of incompressible WAL makes 64 of them.
const PART_BYTES: u64 = 16 << 20;

/// A finished object, ready to be read for its upload as often as it takes.
#[async_trait]
pub trait Offered: Send + Sync {
    /// Hash of the plain content.
    fn hash(&self) -> ContentHash;
    /// Size of the object to be stored, in bytes.
    fn stored_bytes(&self) -> u64;
    /// Bytes of the object to be stored.
    async fn read(&self, range: Range<u64>) -> io::Result<Bytes>;
    /// Memory that its upload takes, in bytes, beside what is held for it already.
    fn upload_bytes(&self) -> u64 {
        self.stored_bytes()
    }
}

/// How an offered file became archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It was uploaded for this file: now, or ahead of its copier.
    Stored,
    /// The same content was there already; nothing was uploaded.
    AlreadyThere,
}

impl Archive {
    /// Archives a file. `Ok` means: the store has all of it (promise W1), now or already.
    ///
    /// `header` is the first page's, for segments. `looking`: what the store says of the name, asked while the file came;
    /// `None` if it was not, or it gave no answer. The upload does not wait for it, only its end does: so archiving takes
    /// the time of the longer of the two, and what is archived already is not stored again (promise W4).
    ///
    /// # Errors
    /// Those of [`Archive::check_header`], and [`Error::Conflict`].
    pub async fn commit_wal(
        &self,
        name: WalName,
        offered: Arc<dyn Offered>,
        header: Option<&PageHeader>,
        looking: impl Future<Output = Option<Looked>>,
        patience: Patience,
    ) -> Result<Committed, Error> {
        if let Some(header) = header {
            self.admit(name, header, patience).await?;
        }
        let turn = self.name_turns.of(name);
        let judged = self.store_judges(&*offered);
        let _held = match judged {
            true => None,
            false => Some(turn.turn.lock().await),
        };
        let found = async {
            match looking.await {
                Some(known) if judged || known.is_recent() => Ok(known.found),
                _ => self.look(name, patience).await,
            }
        };
        self.store_or_compare(name, offered, &turn, found, patience).await
    }

    async fn store_or_compare(
        &self,
        name: WalName,
        offered: Arc<dyn Offered>,
        turn: &NameTurn,
        found: impl Future<Output = Result<Found, Error>>,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let begins_early = self.is_beyond_frontier(name);
        let (grant, leave) = store::leave();
        let mut upload = Box::pin(self.upload(name, &offered, leave, patience));
        let mut found = pin!(found);
        let (found, failed_early) = tokio::select! {
            // First of the two: where the answer is there already, nothing is sent in vain.
            biased;
            found = &mut found => (found?, false),
            // A store may not wait long for the end of a body. What it says before it has all of it does not count.
            _ = &mut upload, if begins_early => (found.await?, true),
        };
        self.move_frontier(name, &found);
        match found {
            Found::Archived(table) => {
                drop((grant, upload));
                self.compare(name, &table, offered.hash(), patience).await
            }
            Found::Absent => {
                let _writes = turn.writes();
                grant.give();
                if failed_early {
                    upload.set(self.upload(name, &offered, Leave::given(), patience));
                }
                upload.await
            }
        }
    }

    /// Is this a segment that most likely is not archived yet?
    fn is_beyond_frontier(&self, name: WalName) -> bool {
        let frontier = *self.frontier.lock().expect("no panic while held");
        matches!((name, frontier), (WalName::Segment(name), Some(last)) if name > last)
    }

    fn move_frontier(&self, name: WalName, found: &Found) {
        if let WalName::Segment(name) = name {
            let mut frontier = self.frontier.lock().expect("no panic while held");
            *frontier = match found {
                Found::Absent => (*frontier).max(Some(name)),
                Found::Archived(_) => None,
            };
        }
    }

    /// Does the store refuse a second object of this name by itself?
    fn store_judges(&self, offered: &dyn Offered) -> bool {
        if is_single_put(offered) {
            self.marker.put_if_absent
        } else {
            self.marker.complete_if_absent
        }
    }

    /// The same content is archived if the store can show all of it: an earlier put may have ended with a wrong
    /// checksum, and its object be there all the same (promise W1).
    async fn compare(
        &self,
        name: WalName,
        table: &Arc<SeekTable>,
        offered: ContentHash,
        patience: Patience,
    ) -> Result<Committed, Error> {
        if table.hash() == offered {
            let key = self.wal_key(name);
            self.prove(&key, table, patience).await?;
            self.store.settle(&key, patience).await?;
            return Ok(Committed::AlreadyThere);
        }
        Err(Error::Conflict {
            name,
            place: self.place(),
            archived: table.hash(),
            offered,
        })
    }

    async fn upload(
        &self,
        name: WalName,
        offered: &Arc<dyn Offered>,
        leave: Leave,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let key = self.wal_key(name);
        // What is sent in parts takes all the memory: nobody shall wait for it who need not.
        if !is_single_put(&**offered) && !leave.clone().is_given().await {
            return Err(store::Error::withdrawn(format!("{}/{key}", self.place())).into());
        }
        let _space = self.memory.uploads.take(offered.upload_bytes()).await;
        let mode = put_mode(self.store_judges(&**offered));
        let put = if is_single_put(&**offered) {
            let body = offered
                .read(0..offered.stored_bytes())
                .await
                .map_err(|error| staging(name, &error))?;
            self.store.put_with_leave(&key, body, mode, leave, patience).await
        } else {
            let source = offered.clone();
            let parts = stream::iter(part_ranges(offered.stored_bytes())).then(move |range| {
                let source = source.clone();
                async move { source.read(range).await }
            });
            self.store.put_large(&key, parts.boxed(), mode, patience).await
        };
        match put {
            Ok(()) => Ok(Committed::Stored),
            // Somebody was quicker, or the answer to our own first try was lost: the contents decide.
            Err(error) if error.kind == ErrorKind::AlreadyExists => match self.look(name, patience).await? {
                Found::Archived(table) => self.compare(name, &table, offered.hash(), patience).await,
                Found::Absent => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

fn is_single_put(offered: &dyn Offered) -> bool {
    offered.stored_bytes() <= SINGLE_PUT_BYTES
}

pub(in crate::archive) fn part_ranges(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    (0..bytes.div_ceil(PART_BYTES)).map(move |part| part * PART_BYTES..bytes.min((part + 1) * PART_BYTES))
}

fn staging(name: WalName, error: &io::Error) -> Error {
    Error::staging(name, error)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;
    use crate::archive::Options;
    use crate::store::Location;

    /// So many zeros, whatever they stand for.
    struct Zeros(u64);

    #[async_trait]
    impl Offered for Zeros {
        fn hash(&self) -> ContentHash {
            ContentHash::of(b"")
        }

        fn stored_bytes(&self) -> u64 {
            self.0
        }

        async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
            Ok(vec![0; (range.end - range.start) as usize].into())
        }
    }

    /// S4: "one slow request never blocks another". An object that takes all the memory for uploads takes it when it may
    /// be sent, not while its name is being looked for.
    #[tokio::test]
    async fn s4_a_large_object_whose_look_is_out_holds_up_nobody() {
        let place = tempfile::tempdir().unwrap();
        let location = Location::Dir(place.path().to_owned());
        let store = store::open(&location, &store::Options::default()).await.unwrap();
        let options = Options {
            create: true,
            ..Options::default()
        };
        let patience = Patience::for_at_most(Duration::from_secs(45));
        let archive = Archive::open(store, &options, patience).await.unwrap();
        let commit = |number: u32, bytes| {
            let name = format!("0000000100000000{number:08X}").parse().unwrap();
            let object: Arc<dyn Offered> = Arc::new(Zeros(bytes));
            (name, object)
        };
        let (first, small) = commit(1, 10);
        let stored = archive
            .commit_wal(first, small, None, ready(None), patience)
            .await;
        assert_eq!(stored.unwrap(), Committed::Stored);
        let (large_name, large) = commit(2, SINGLE_PUT_BYTES + 1);
        let (other_name, other) = commit(3, 10);
        let stuck = archive.commit_wal(large_name, large, None, pending(), patience);
        let other = async {
            // After the first one has come as far as it gets.
            tokio::task::yield_now().await;
            archive
                .commit_wal(other_name, other, None, ready(None), patience)
                .await
        };
        tokio::select! {
            biased;
            stuck = stuck => panic!("nothing has been said of it: {stuck:?}"),
            stored = other => assert_eq!(stored.unwrap(), Committed::Stored),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("it waits for memory"),
        }
    }
}
