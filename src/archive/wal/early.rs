//! One file that is asked for at the same time as what the archive is, by a process that has nothing else to do.
//!
//! What the key's extension is, only the marker says: so all that it may be are asked for. Nothing that comes is believed
//! before the marker has come, from the same address.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Archive, Error, Found, Looked, TAIL_BYTES, WalMeta};
use crate::archive::WAL;
use crate::codec::{Compression, SeekTable, Tail};
use crate::pg::WalName;
use crate::store::{self, ByteRange, ErrorKind, Fetched, Key, Patience, Store};

/// The questions, under way; withdrawn when nobody wants the answers any more.
#[derive(Debug)]
pub struct Early {
    name: WalName,
    asked: JoinSet<(Key, Result<Fetched, store::Error>)>,
}

/// A file that was asked for early.
#[derive(Debug)]
pub enum EarlyFile {
    /// The store said that it is not there.
    Absent,
    /// It is there; with the whole object, unverified, if that is no longer than was asked for.
    Archived(WalMeta, Option<Bytes>),
    /// To be asked for in the usual way.
    Unknown,
}

impl Early {
    /// Asks whether the name is taken, for [`Archive::looked_early`]. `codec`: of the archive, if that is known.
    pub fn look(store: &Store, name: WalName, codec: Option<Compression>, patience: Patience) -> Self {
        let codec = codec.map(Compression::extension);
        Self::ask(store, name, codec, &ByteRange::Last(TAIL_BYTES), patience)
    }

    /// Asks for an object of so many bytes at most, for [`Archive::early_file`].
    pub fn fetch(store: &Store, name: WalName, bytes: u64, patience: Patience) -> Self {
        Self::ask(store, name, None, &ByteRange::First(bytes), patience)
    }

    fn ask(store: &Store, name: WalName, codec: Option<&str>, range: &ByteRange, patience: Patience) -> Self {
        // Of a directory the folder must be looked at first, and nothing is far.
        let extensions = if store.directory().is_none() {
            &["lz4", "zst"][..]
        } else {
            &[]
        };
        let small = (!name.has_pages()).then(|| Compression::None.extension());
        let mut asked = JoinSet::new();
        for extension in extensions {
            if small.or(codec).is_none_or(|only| only == *extension) {
                let key = Key::new(format!("{WAL}/{name}.{extension}"));
                let (store, range) = (store.clone(), range.clone());
                asked.spawn(async move {
                    let answer = store.get(&key, range, patience).await;
                    (key, answer)
                });
            }
        }
        Self { name, asked }
    }

    /// What the store said of the archive's key. `None`: nothing that counts.
    async fn answer(&mut self, archive: &Archive) -> Option<Result<Fetched, store::Error>> {
        if !archive.is_found_at_once {
            return None;
        }
        let right = archive.wal_key(self.name);
        loop {
            let (key, answer) = self.asked.join_next().await?.expect("a question does not panic");
            if key == right {
                return Some(answer);
            }
        }
    }
}

impl Archive {
    /// As [`Archive::look_before`], from what was asked early; `None` if that gave no answer.
    pub async fn looked_early(&self, mut early: Early) -> Option<Looked> {
        // Nobody in this process has written before the archive was open.
        let looked = Looked::begin(self.name_turns.of(early.name));
        match early.answer(self).await? {
            Ok(tail) => match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes).ok()? {
                Tail::Table(table) => Some(looked.found(Found::Archived(table.into()))),
                Tail::NeedLast(_) => None,
            },
            Err(error) if error.kind == ErrorKind::NotFound => Some(looked.found(Found::Absent)),
            Err(_) => None,
        }
    }

    /// The file that was asked for early. `patience` is for whose it is, should that not be known yet.
    ///
    /// # Errors
    /// [`Error::Store`], if the store did not answer; as [`Archive::wal_meta_of`].
    pub async fn early_file(&self, mut early: Early, patience: Patience) -> Result<EarlyFile, Error> {
        match early.answer(self).await {
            Some(Ok(Fetched { bytes, meta })) => {
                let is_whole = bytes.len() as u64 == meta.stored_bytes;
                let meta = self.wal_meta_of(early.name, &meta, patience).await?;
                Ok(EarlyFile::Archived(meta, is_whole.then_some(bytes)))
            }
            Some(Err(error)) if error.kind == ErrorKind::NotFound => Ok(EarlyFile::Absent),
            Some(Err(error)) if error.kind == ErrorKind::Transient => Err(error.into()),
            Some(Err(_)) | None => Ok(EarlyFile::Unknown),
        }
    }
}
