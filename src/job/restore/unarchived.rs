//! WAL in the old data directory that the archive does not have (promise S7).
//!
//! After a crash the newest commits are only there: in segments that wait for the archiver, and in the one that was being
//! written. A segment that PostgreSQL keeps for later use has a name from the future and the first page of its past, or
//! zeros: nothing of it is WAL of that name.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};

use super::error::Error;
use super::spot::{Roots, Spot};
use crate::archive::Archive;
use crate::archive::wal::Found;
use crate::beneath::{Kind, Root};
use crate::codec::{ContentHash, SeekTable};
use crate::pg::{HeaderError, PageHeader, WalName};
use crate::store::Patience;

/// Names that the store is asked for at once.
const LOOKS: usize = 16;

/// A file of the WAL that only this directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unarchived {
    /// Its name.
    pub name: WalName,
    /// The file.
    pub path: PathBuf,
    /// Does it wait for the archiver, whole?
    pub is_ready: bool,
    /// Has the archive something else of that name?
    pub differs: bool,
}

/// A file of the WAL, as it lies there.
#[derive(Debug, Clone)]
struct Local {
    name: WalName,
    spot: Spot,
    is_ready: bool,
}

/// Finds it, in the order of names.
///
/// # Errors
/// Files that cannot be read; [`Error::Archive`]: it is not known what the archive has.
pub(super) async fn find(
    archive: &Archive,
    roots: &Roots,
    patience: Patience,
) -> Result<Vec<Unarchived>, Error> {
    let look = |local: Local| async move {
        let differs = match found(archive, &local, patience).await? {
            Found::Absent => false,
            Found::Archived(table) if is_same(roots, &local, &table)? => return Ok(None),
            Found::Archived(_) => true,
        };
        let Local {
            name, spot, is_ready, ..
        } = local;
        Ok(Some(Unarchived {
            name,
            path: roots.bases.path(&spot),
            is_ready,
            differs,
        }))
    };
    let looks = stream::iter(local(roots)?).map(look).buffered(LOOKS);
    looks
        .try_filter_map(|found| async { Ok(found) })
        .try_collect()
        .await
}

/// What the archive has of that name; the whole segment is as good as its beginning.
async fn found(archive: &Archive, local: &Local, patience: Patience) -> Result<Found, Error> {
    let found = archive.look(local.name, patience).await?;
    match (&found, local.name) {
        (Found::Absent, WalName::Partial(segment)) => {
            Ok(archive.look(WalName::Segment(segment), patience).await?)
        }
        _ => Ok(found),
    }
}

fn is_same(roots: &Roots, local: &Local, table: &SeekTable) -> Result<bool, Error> {
    // A beginning differs from the whole that came later. A mark proves nothing: another server, or a command that archives
    // elsewhere, may have left it.
    if matches!(local.name, WalName::Partial(_)) {
        return Ok(true);
    }
    let hash = roots.on("read", &local.spot, |root, below| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(root.open_file(below)?)?;
        Ok(ContentHash::from_bytes(*hasher.finalize().as_bytes()))
    })?;
    Ok(hash == table.hash())
}

/// The files of the WAL that lie there.
fn local(roots: &Roots) -> Result<Vec<Local>, Error> {
    let pg_wal = roots.bases.spot(b"pg_wal");
    if roots.kind(&pg_wal)? != Some(Kind::Directory) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (file, kind) in roots.on("read", &pg_wal, Root::list)? {
        let name = file.to_str().and_then(|name| name.parse::<WalName>().ok());
        let Some(name) = name.filter(|_| kind == Kind::File) else {
            continue;
        };
        let spot = roots.bases.spot(format!("pg_wal/{name}").as_bytes());
        if is_wal(roots, name, &spot)? {
            let mark = format!("pg_wal/archive_status/{name}.ready");
            // Behind a link there is none.
            let found_mark = roots.kind(&roots.bases.spot(mark.as_bytes()));
            found.push(Local {
                name,
                is_ready: found_mark.is_ok_and(|kind| kind.is_some()),
                spot,
            });
        }
    }
    Ok(found)
}

/// Is there WAL of that name in it?
fn is_wal(roots: &Roots, name: WalName, spot: &Spot) -> Result<bool, Error> {
    let (WalName::Segment(segment) | WalName::Partial(segment)) = name else {
        return Ok(true);
    };
    let first = roots.on("read", spot, |root: &Root, below: &Path| {
        let mut first = [0; PageHeader::BYTES];
        match root.open_file(below)?.read_exact(&mut first) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| Some(first)),
        }
    })?;
    let Some(first) = first else { return Ok(false) };
    Ok(match PageHeader::parse(&first) {
        Ok(header) => !matches!(header.check_name(segment), Err(HeaderError::PageAddress { .. })),
        Err(HeaderError::Zero) => false,
        // Damaged, and perhaps not all of it.
        Err(_) => true,
    })
}
