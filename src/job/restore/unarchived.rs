//! WAL in the old data directory that the archive does not have (promise S7).
//!
//! After a crash the newest commits are only there: in segments that wait for the archiver, and in the one that was being
//! written. A segment that PostgreSQL keeps for later use has a name from the future and the first page of its past, or
//! zeros: nothing of it is WAL of that name.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::error::Error;
use super::only_here::Unarchived;
use super::saved::extent;
use super::spot::{Roots, Spot};
use super::{begun, received};
use crate::archive::Archive;
use crate::archive::wal::{Compared, Found};
use crate::beneath::{Kind, Root};
use crate::codec::{ContentHash, SeekTable};
use crate::pg::extent::Extent;
use crate::pg::written::Written;
use crate::pg::{HeaderError, PageHeader, SegmentName, SegmentSize, WalName};
use crate::store::Patience;

/// Names that the store is asked for at once.
const LOOKS: usize = 16;

/// A page of the WAL, as PostgreSQL is usually built.
const BLOCK_BYTES: usize = 8192;

/// What the magic numbers of pages, 0xD1xx, have in common.
const MAGIC_HIGH: u8 = 0xD1;

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
    archive: &Arc<Archive>,
    roots: &Roots,
    patience: Patience,
) -> Result<Vec<Unarchived>, Error> {
    let looks = stream::iter(local(archive, roots)?).map(|local| look(archive, roots, local, patience));
    looks
        .buffered(LOOKS)
        .try_filter_map(|found| async { Ok(found) })
        .try_collect()
        .await
}

/// What would go and stays, because it is or holds WAL beside `pg_wal`, or under another name, that the archive does not have:
/// an operator has put it out of the server's way.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// What stays.
    pub spot: Spot,
    /// The file in it.
    pub path: PathBuf,
    /// Whose WAL it may have, as far as its name tells.
    pub segment: Option<SegmentName>,
    /// Is it known to be WAL that is not archived? Otherwise only its name says so.
    pub is_known: bool,
}

/// Which of these, that would go, are held.
///
/// # Errors
/// As [`find`].
pub(super) async fn elsewhere(
    archive: &Arc<Archive>,
    roots: &Roots,
    going: &[Spot],
    patience: Patience,
) -> Result<Vec<Held>, Error> {
    let mut found = Vec::new();
    for spot in going {
        let mut beside = Vec::new();
        list_beside(roots, spot, &mut beside)?;
        for Beside { at, name } in beside {
            let unarchived = match name {
                Some(name) => {
                    let local = Local {
                        name,
                        spot: at.clone(),
                        is_ready: false,
                    };
                    look(archive, roots, local, patience).await?.is_some()
                }
                None => true,
            };
            if unarchived {
                found.push(Held {
                    spot: spot.clone(),
                    path: roots.bases.path(&at),
                    segment: named(&at).or_else(|| name.and_then(segment_of)),
                    is_known: name.is_some(),
                });
                break;
            }
        }
    }
    Ok(found)
}

/// A file that may be WAL: by which name the archive would have it, if that can be told.
struct Beside {
    at: Spot,
    name: Option<WalName>,
}

/// The files at or below a place that may be WAL, but for those that lie in `pg_wal` under their own names.
fn list_beside(roots: &Roots, spot: &Spot, found: &mut Vec<Beside>) -> Result<(), Error> {
    match roots.kind(spot)? {
        Some(Kind::Directory) => {
            for (name, _) in roots.list(spot)?.unwrap_or_default() {
                let below = spot.below.join(name);
                let base = spot.base;
                list_beside(roots, &Spot { base, below }, found)?;
            }
        }
        Some(Kind::File) => found.extend(may_be_wal(roots, spot)?),
        // It is not followed.
        Some(Kind::Link) if named(spot).is_some() => found.push(Beside {
            at: spot.clone(),
            name: None,
        }),
        _ => {}
    }
    Ok(())
}

fn may_be_wal(roots: &Roots, spot: &Spot) -> Result<Option<Beside>, Error> {
    let file = spot.below.file_name().and_then(|name| name.to_str());
    let exact = file.and_then(|name| name.parse::<WalName>().ok());
    let at = spot.clone();
    if let Some(name) = exact {
        let is_own = *spot == roots.bases.spot(format!("pg_wal/{name}").as_bytes());
        let is_wal = !is_own && is_wal(roots, name, spot)?;
        let name = Some(name);
        return Ok(is_wal.then_some(Beside { at, name }));
    }
    let named = named(spot);
    // Who may not read it sees its name.
    let first = match first_page(roots, spot) {
        Err(Error::System { source, .. }) if source.kind() == ErrorKind::PermissionDenied => None,
        first => first?,
    };
    let name = match first.map(|first| PageHeader::parse(&first)) {
        Some(Ok(header)) => {
            let named = named.filter(|name| header.check_name(*name).is_ok());
            named.or_else(|| segment_at(&header)).map(WalName::Partial)
        }
        // Damaged, or packed.
        Some(Err(error)) if named.is_some() => {
            let is_empty = error == HeaderError::Zero
                && roots.on("read", spot, |root, below| is_all_zeros(root.open_file(below)?))?;
            match is_empty {
                true => return Ok(None),
                false => None,
            }
        }
        // Shorter than a page's header, or not to be read.
        None if named.is_some() && roots.metadata(spot)?.is_some_and(|found| found.len() > 0) => None,
        _ => return Ok(None),
    };
    Ok(Some(Beside { at, name }))
}

/// The segment whose name is in that of a file: `SEGMENT.bak`, `save_SEGMENT`.
fn named(spot: &Spot) -> Option<SegmentName> {
    let file = spot.below.file_name()?.to_string_lossy();
    let mut runs = file.split(|letter: char| !letter.is_ascii_hexdigit());
    runs.find_map(|run| run.to_ascii_uppercase().parse().ok())
}

fn segment_of(name: WalName) -> Option<SegmentName> {
    match name {
        WalName::Segment(segment) | WalName::Partial(segment) => Some(segment),
        WalName::History(_) | WalName::Backup(..) => None,
    }
}

/// Whose first page it is.
fn segment_at(header: &PageHeader) -> Option<SegmentName> {
    let size = SegmentSize::new(header.segment_bytes.into()).ok()?;
    SegmentName::from_number(header.timeline, header.page_address.0 / size.bytes(), size)
}

fn is_all_zeros(file: File) -> io::Result<bool> {
    let (mut file, mut piece) = (BufReader::new(file), [0; BLOCK_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(true),
            bytes if piece[..bytes].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// A file of the WAL, unless the archive has it.
async fn look(
    archive: &Arc<Archive>,
    roots: &Roots,
    local: Local,
    patience: Patience,
) -> Result<Option<Unarchived>, Error> {
    let mut differs = false;
    for name in as_archived(local.name) {
        match archive.look(name, patience).await? {
            Found::Absent => {}
            Found::Archived(table) if is_same(archive, roots, &local, (name, &table), patience).await? => {
                return Ok(None);
            }
            Found::Archived(_) => differs = true,
        }
    }
    // Of a segment that is archived otherwise nothing is brought but that.
    let may_be_brought = !differs || !matches!(local.name, WalName::Segment(_));
    if may_be_brought && is_received(archive, roots, &local, patience).await? {
        return Ok(None);
    }
    let is_whole = local.is_ready && is_whole(roots, &local)?;
    let Local { name, spot, is_ready } = local;
    Ok(Some(Unarchived {
        name,
        path: roots.bases.path(&spot),
        is_ready,
        is_whole,
        differs,
    }))
}

/// What waits for the archiver may be damaged, and a mark somebody else's.
fn is_whole(roots: &Roots, local: &Local) -> Result<bool, Error> {
    let WalName::Segment(segment) = local.name else {
        return Ok(true);
    };
    let bytes = roots.metadata(&local.spot)?.map_or(0, |found| found.len());
    match SegmentSize::new(bytes) {
        Ok(size) => Ok(extent(roots, segment, size)? == Extent::Whole),
        Err(_) => Ok(false),
    }
}

/// Under which names the archive may have it: the whole segment is as good as its beginning.
fn as_archived(name: WalName) -> Vec<WalName> {
    match name {
        WalName::Partial(segment) => vec![name, WalName::Segment(segment)],
        _ => vec![name],
    }
}

/// Of a segment its WAL is compared: a stopped server has only begun its last one, and what came later is behind that, here
/// or there. A mark proves nothing: another server, or a command that archives elsewhere, may have left it.
async fn is_same(
    archive: &Arc<Archive>,
    roots: &Roots,
    local: &Local,
    (name, table): (WalName, &SeekTable),
    patience: Patience,
) -> Result<bool, Error> {
    let is_segment = matches!(local.name, WalName::Segment(_) | WalName::Partial(_));
    let (bytes, hash) = roots.on("read", &local.spot, |root, below| {
        let bytes = match is_segment {
            true => wal_bytes(root.open_file(below)?)?,
            false => u64::MAX,
        };
        Ok((bytes, ContentHash::of_all(root.open_file(below)?.take(bytes))?))
    })?;
    if !is_segment {
        return Ok(hash == table.hash());
    }
    let compared = archive.compare_first(name, bytes, hash, patience).await?;
    Ok(compared == Compared::Same)
}

/// Has the archive all of its WAL as the beginning of a segment, which a restore brings?
async fn is_received(
    archive: &Arc<Archive>,
    roots: &Roots,
    local: &Local,
    patience: Patience,
) -> Result<bool, Error> {
    let (WalName::Segment(segment) | WalName::Partial(segment)) = local.name else {
        return Ok(false);
    };
    let Some(mut begun) = begun::load(archive, segment, patience).await? else {
        return Ok(false);
    };
    let bytes = roots.on("read", &local.spot, |root, below| {
        wal_bytes(root.open_file(below)?)
    })?;
    let is_shorter = bytes <= begun.filled_bytes;
    Ok(is_shorter && received::is_in(&mut begun.content, roots, &local.spot, bytes).await?)
}

/// How many bytes of a segment, from its beginning on, are WAL of its own; all, if its first page does not tell.
pub(super) fn wal_bytes(file: File) -> io::Result<u64> {
    let whole = file.metadata()?.len();
    Ok(each_page(file, Written::new, Written::add)?.map_or(whole, |written| written.end()))
}

/// Looks at each page of a segment; `None`: its first page is no beginning of one.
pub(super) fn each_page<L>(
    file: File,
    begin: impl FnOnce(PageHeader) -> L,
    mut add: impl FnMut(&mut L, &[u8]),
) -> io::Result<Option<L>> {
    let mut file = BufReader::new(file);
    let mut first = [0; PageHeader::BYTES];
    file.read_exact(&mut first)?;
    let Ok(header) = PageHeader::parse(&first) else {
        return Ok(None);
    };
    file.rewind()?;
    let (mut looked, mut page) = (begin(header), Vec::new());
    loop {
        page.clear();
        (&mut file)
            .take(header.block_bytes.into())
            .read_to_end(&mut page)?;
        if page.is_empty() {
            return Ok(Some(looked));
        }
        add(&mut looked, &page);
    }
}

/// The files of the WAL that lie there. What is behind a link is not looked at, and a server would read it.
fn local(archive: &Archive, roots: &Roots) -> Result<Vec<Local>, Error> {
    let pg_wal = roots.bases.spot(b"pg_wal");
    if roots.kind(&pg_wal)? != Some(Kind::Directory) {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for (file, kind) in roots.on("read", &pg_wal, Root::list)? {
        let name = file.to_str().and_then(|name| name.parse::<WalName>().ok());
        let Some(name) = name else { continue };
        let spot = roots.bases.spot(format!("pg_wal/{name}").as_bytes());
        match (kind, name) {
            (Kind::File, _) => {}
            (Kind::Link, WalName::Segment(_) | WalName::Partial(_)) => {
                let path = roots.bases.path(&spot);
                let to = roots.on("read", &spot, Root::read_link)?;
                return Err(Error::WalIsLink {
                    to: path.parent().map_or_else(|| to.clone(), |above| above.join(&to)),
                    path,
                    place: archive.place(),
                });
            }
            _ => continue,
        }
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
    let Some(first) = first_page(roots, spot)? else {
        return Ok(false);
    };
    let is_own = match PageHeader::parse(&first) {
        Ok(header) => !matches!(header.check_name(segment), Err(HeaderError::PageAddress { .. })),
        Err(HeaderError::Zero) => false,
        // Damaged, and perhaps not all of it.
        Err(_) => true,
    };
    if is_own {
        return Ok(true);
    }
    let has_own = |root: &Root, below: &Path| has_own_page(segment, root.open_file(below)?);
    roots.on("read", spot, has_own)
}

/// The beginning of a file; `None`: it is shorter.
fn first_page(roots: &Roots, spot: &Spot) -> Result<Option<[u8; PageHeader::BYTES]>, Error> {
    roots.on("read", spot, |root: &Root, below: &Path| {
        let mut first = [0; PageHeader::BYTES];
        match root.open_file(below)?.read_exact(&mut first) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
            read => read.map(|()| Some(first)),
        }
    })
}

/// Is there a page of that segment behind the first one, which may be damaged? One that is kept for later use has none.
fn has_own_page(segment: SegmentName, file: File) -> io::Result<bool> {
    let Ok(size) = SegmentSize::new(file.metadata()?.len()) else {
        return Ok(false);
    };
    let (start, mut file) = (segment.start(size), BufReader::new(file));
    let mut page = [0; BLOCK_BYTES];
    for number in 0_u64.. {
        match file.read_exact(&mut page) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        let address = start.0 + number * BLOCK_BYTES as u64;
        if page[1] == MAGIC_HIGH && page[8..16] == address.to_le_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}
