//! One file by a process of its own, whose time is that of the way to the store: what can be asked together is.
//!
//! The questions go out at the same time, each on a connection of its own: what the archive is, whose it is, and whether
//! the file is there, or the file itself. The last ones count once the first has its answer. What is to be archived is
//! packed meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::super::complain;
use super::super::options::newly_made;
use super::{Failure, FetchArgs, PushArgs, beside, cannot_write, put_in_place};
use crate::archive::Archive;
use crate::archive::wal::{Early, EarlyFile, WalMeta};
use crate::assemble;
use crate::cache::Cache;
use crate::codec;
use crate::job::wal_file::{self, LONGEST_BYTES, come_meanwhile};
use crate::long_write;
use crate::pg::WalName;
use crate::read::{PIECE_BYTES, Reader};
use crate::staging::wal::WalDraft;
use crate::staging::{Draft, Staging};
use crate::store::Patience;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Archives a file.
pub(super) async fn push(
    arguments: &PushArgs,
    place: &str,
    name: WalName,
    deadline: Duration,
) -> Result<(), Failure> {
    let file = open(&arguments.path)?;
    let mut config = arguments.store.config(place)?;
    arguments.write.add_to(&mut config);
    config.create = arguments.create.create;
    let store = assemble::reach(&config, deadline).await?;
    let patience = Patience::for_at_most(deadline);
    let early = Early::look(&store, name, config.compression, patience);
    // Most likely the archive's codec.
    let staging = Staging::new(config.compression.unwrap_or_default(), &config.staging());
    let draft = |codec| wal_file::draft(&staging, codec, name);
    let likely = draft(staging.compression());
    let path = arguments.path.clone();
    let packed = tokio::spawn(async move { pack(file, &path, likely).await });
    let archive = Arc::new(Archive::open(store, &config.archive(), patience).await?);
    newly_made(&archive).iter().for_each(|word| complain(word));
    let mut packed = packed.await.expect("packing does not panic")?;
    if archive.compression() != staging.compression() {
        // From the file once more: unpacked again, a segment of 1 GiB would lie in memory.
        packed = pack(
            open(&arguments.path)?,
            &arguments.path,
            draft(archive.compression()),
        )
        .await?;
    }
    let asked = archive.clone();
    let looking = async move { asked.looked_early(early).await };
    let mut draft = WalDraft::adopt(archive, packed, name, deadline).looked(looking);
    draft.finish().await?;
    if let Some(fork) = draft.fork() {
        tracing::warn!("{fork}");
    }
    Ok(())
}

/// Reads the file into the draft.
async fn pack(mut file: File, path: &Path, mut draft: Draft) -> Result<Draft, Failure> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(draft),
            Ok(bytes) => {
                let offset = draft.bytes();
                draft.write(offset, &buffer[..bytes]).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot_read(path, &error).into()),
        }
        if draft.bytes() > LONGEST_BYTES {
            return Err(format!("{} is longer than 1 GiB, as no WAL file is", path.display()).into());
        }
    }
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|error| cannot_read(path, &error))
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Restores a file; `false`: the store said that it does not exist.
pub(super) async fn fetch(arguments: &FetchArgs, place: &str, name: WalName) -> Result<bool, Failure> {
    let config = arguments.store.config(place)?;
    let (wait, patience) = (config.read_wait(), config.read_patience());
    let store = assemble::reach(&config, wait).await?;
    let one_piece = codec::stored_bytes_uncompressed(PIECE_BYTES);
    let early = Early::fetch(&store, name, one_piece, config.person_patience());
    let archive = Archive::open(store, &config.archive(), Patience::for_at_most(wait)).await?;
    let (meta, object) = match archive.early_file(early, patience).await? {
        EarlyFile::Absent => match come_meanwhile(&archive, name, patience).await? {
            Some(meta) => (meta, None),
            None => return Ok(false),
        },
        EarlyFile::Archived(meta, object) => (meta, object),
        EarlyFile::Unknown => {
            // A refusal may be one of everything: that is to be told, and not waited on.
            archive.store().arrive(Patience::for_at_most(wait)).await?;
            let found = match archive.wal_meta(name, patience).await? {
                None => come_meanwhile(&archive, name, patience).await?,
                found => found,
            };
            match found {
                Some(meta) => (meta, None),
                None => return Ok(false),
            }
        }
    };
    let reader = Reader::new(Arc::new(archive), Cache::new(PIECE_BYTES), None);
    let target = beside(&arguments.path)?;
    let unpacked = unpacked(&reader, name, meta, object).await;
    let mut at = 0;
    while at < meta.bytes {
        let piece = match &unpacked {
            Some(content) => content.clone(),
            None => {
                let piece = reader.read(name, meta.bytes, at, PIECE_BYTES as usize, patience);
                piece.await?
            }
        };
        long_write::write_all(target.as_file(), &piece)
            .map_err(|error| cannot_write(&arguments.path, &error))?;
        at += piece.len() as u64;
    }
    put_in_place(target, &arguments.path)?;
    Ok(true)
}

/// The content of an object that has come whole; what is damaged is fetched once more, by the usual way.
async fn unpacked(reader: &Reader, name: WalName, meta: WalMeta, object: Option<Bytes>) -> Option<Bytes> {
    let object = object.filter(|_| meta.bytes <= PIECE_BYTES)?;
    reader.unpack(name, meta.bytes, object).await.ok()
}
