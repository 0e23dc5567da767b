//! The directories that are restored to, as they are found: may they be used, and what does the restore begin with?

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::Options;
use super::content::Source;
use super::error::Error;
use super::links;
use super::place::{self, Holds, Mark, PlaceMark};
use super::spot::{Base, Bases, Held, Roots};
use super::tablespaces::Place;
use crate::archive::tree::backup::Shape;
use crate::beneath::{Kind, Root};
use crate::linux::process;
use crate::pg::SystemId;

/// What the data directory was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Empty, or not there.
    Empty,
    /// A restore that was interrupted.
    Unfinished,
    /// The same cluster, older or newer.
    Delta,
}

/// Looks at all directories, and holds them open from then on. `data` is the first of them. Says by which name the restore
/// marks them: that of the one that it goes on with, or a new one.
///
/// # Errors
/// Why one of them cannot be used; nothing was touched.
pub(super) fn look(
    options: &Options,
    source: &Source,
    system_id: Option<SystemId>,
    shape: Shape,
    places: Vec<Place>,
    data: Held,
) -> Result<(Start, Roots, String), Error> {
    let directory = &options.directory;
    refuse_dangling(directory)?;
    let real_data = data.real()?;
    // Before anything is said of what lies there.
    place::check_outside(&source.archive, directory, &real_data)?;
    if let Some(root) = data.root() {
        place::check_no_server(root)?;
    }
    let (start, mark) = data_directory(options, source, system_id, shape, data.root())?;
    let wal = waldir(options, start, mark.as_ref(), &data)?;
    let bases = Bases {
        data: directory.clone(),
        wal: wal.as_ref().map(|(path, _)| path.clone()),
        places,
    };
    let mut held = Vec::new();
    for (number, place) in bases.places.iter().enumerate() {
        refuse_dangling(&place.directory)?;
        let base = Base::Tablespace(number);
        let nested = bases.nested_path(base);
        let found = match nested {
            Some(nested) => nested_place(&data, nested, &place.directory)?,
            None => Some(Held::open(&place.directory)?),
        };
        let root = found.as_ref().and_then(Held::root);
        let is_own = match (start, &mark) {
            (Start::Empty, _) => false,
            (Start::Delta, _) => is_linked(place, data.root()),
            // What lies in the data directory, its own mark answers for.
            (Start::Unfinished, Some(mark)) if nested.is_some() => {
                mark.tablespaces.contains(&place.directory)
            }
            (Start::Unfinished, mark) => is_marked(mark.as_ref(), root)?,
        };
        check_tablespace(place, root, is_own)?;
        held.extend(found.map(|found| (base, found)));
    }
    held.extend(wal.map(|(_, wal)| (Base::Wal, wal)));
    held.push((Base::Data, data));
    held.sort_by_key(|(base, _)| *base);
    let real = |base: Base, held: &Held| Ok::<_, Error>((bases.directory(base), held.real()?));
    let real: Vec<(&Path, PathBuf)> = held
        .iter()
        .map(|(base, held)| real(*base, held))
        .collect::<Result<_, _>>()?;
    for (directory, real) in &real {
        place::check_not_in_cluster(directory, real, &real_data)?;
        place::check_outside(&source.archive, directory, real)?;
        check_writable(directory)?;
    }
    check_apart(&bases, &held)?;
    if start == Start::Delta {
        refuse_unnamed(options, &bases, &held)?;
    }
    for (directory, real) in &real {
        place::check_not_used(directory, real, &real_data)?;
    }
    let restore = mark
        .and_then(|mark| mark.restore)
        .unwrap_or_else(place::fresh_restore);
    Ok((start, Roots::new(bases, held), restore))
}

/// Whatever links lead to them: tablespaces are apart from each other, from the WAL and from what PostgreSQL keeps in the data
/// directory.
fn check_apart(bases: &Bases, held: &[(Base, Held)]) -> Result<(), Error> {
    let mut known: Vec<(Base, PathBuf)> = Vec::new();
    for (base, held) in held {
        let real = held.real()?;
        if let Base::Tablespace(number) = *base {
            let Place { oid, directory } = &bases.places[number];
            let wrong = |what: &str| Error::Tablespace {
                oid: *oid,
                reason: format!("{directory:?} {what}"),
            };
            for (other, there) in &known {
                let is_wrong = match other {
                    Base::Data => {
                        let inside = real.strip_prefix(there).ok();
                        there.starts_with(&real)
                            || inside.is_some_and(|inside| {
                                bases.nested_path(*base).is_none() || links::is_of_cluster(inside)
                            })
                    }
                    Base::Wal => real.starts_with(there),
                    Base::Tablespace(_) => real == *there,
                };
                if is_wrong {
                    let other = bases.directory(*other);
                    return Err(wrong(&format!("leads to where {other:?} is, or what is in it")));
                }
            }
        }
        known.push((*base, real));
    }
    Ok(())
}

/// A tablespace's directory in the data directory: no link in there is followed. `None`: it is not there.
fn nested_place(data: &Held, nested: &Path, directory: &Path) -> Result<Option<Held>, Error> {
    let Some(data) = data.root() else { return Ok(None) };
    match data.directory(nested) {
        Ok(root) => Ok(Some(Held::There(root))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::at("open", directory)(error)),
    }
}

/// A copy of a data directory has the links of its original, which may live: what lies behind one is replaced only if the
/// operator names it.
fn refuse_unnamed(options: &Options, bases: &Bases, held: &[(Base, Held)]) -> Result<(), Error> {
    let mut words = Vec::new();
    let real_data = held[0].1.real()?;
    for (base, held) in held {
        if matches!(place::look(held.root())?, Holds::Absent | Holds::Nothing) {
            continue;
        }
        match *base {
            Base::Data => {}
            Base::Wal if options.waldir.is_some() => {}
            Base::Wal => words.push(format!("--waldir={:?}", bases.directory(*base))),
            Base::Tablespace(number) => {
                let Place { oid, directory } = &bases.places[number];
                let mut named = options.tablespaces.iter();
                let is_named = named.any(|mapping| is_same(&mapping.new, directory));
                if !is_named && !held.real()?.starts_with(&real_data) {
                    words.push(format!("--tablespace-mapping={oid}={directory:?}"));
                }
            }
        }
    }
    match words.is_empty() {
        true => Ok(()),
        false => Err(Error::BehindLinks {
            directory: options.directory.clone(),
            words: words.join(" "),
        }),
    }
}

fn data_directory(
    options: &Options,
    source: &Source,
    system_id: Option<SystemId>,
    shape: Shape,
    data: Option<&Root>,
) -> Result<(Start, Option<Mark>), Error> {
    let directory = &options.directory;
    let not = |reason: &str| Error::NotACluster {
        directory: directory.clone(),
        reason: reason.into(),
    };
    match (place::look(data)?, data) {
        (Holds::Absent | Holds::Nothing, _) | (_, None) => Ok((Start::Empty, None)),
        (Holds::Unfinished(mark), _) => {
            check_mark(&mark, source, system_id).map_err(not)?;
            Ok((Start::Unfinished, Some(mark)))
        }
        (Holds::Files, _) if !options.delta => {
            let directory = directory.clone();
            Err(Error::NotEmpty { directory })
        }
        (Holds::Files, _) if shape == Shape::Tar => Err(not(
            "the backup is kept in tar files, with which nothing can be compared",
        )),
        (Holds::Files, Some(data)) => {
            let expected = system_id.ok_or_else(|| not("the backup does not say whose it is"))?;
            place::check_same_cluster(data, expected)?;
            Ok((Start::Delta, None))
        }
    }
}

fn check_mark(mark: &Mark, source: &Source, system_id: Option<SystemId>) -> Result<(), &'static str> {
    let own = system_id.map(|id| id.to_string());
    let other_cluster = matches!((&mark.system_identifier, &own), (Some(mark), Some(own)) if mark != own);
    if other_cluster || mark.archive_id != source.archive.marker().identity.archive_id {
        return Err("it is the unfinished restore of another archive's backup");
    }
    Ok(())
}

/// Where `pg_wal` is, or shall be, a link to: as it was told, or as the directory has it already.
fn waldir(
    options: &Options,
    start: Start,
    mark: Option<&Mark>,
    data: &Held,
) -> Result<Option<(PathBuf, Held)>, Error> {
    let link = Path::new("pg_wal");
    let there = data.root().and_then(|root| root.read_link(link).ok());
    let there = there.map(|to| options.directory.join(to));
    let Some(directory) = options.waldir.clone().or(there.clone()) else {
        return Ok(None);
    };
    let wrong = |reason: &str| Error::Waldir {
        directory: directory.clone(),
        reason: reason.into(),
    };
    let is_linked = there.as_deref().is_some_and(|there| is_same(there, &directory));
    if options.waldir.is_none() {
        refuse_dangling(&options.directory.join(link))?;
    }
    refuse_dangling(&directory)?;
    let held = Held::open(&directory)?;
    let (real, real_data) = (held.real()?, data.real()?);
    if real.starts_with(&real_data) || real_data.starts_with(&real) {
        return Err(wrong("it and the data directory lie in one another"));
    }
    if start == Start::Delta && !is_linked {
        return Err(wrong("pg_wal is elsewhere, and --delta leaves it where it is"));
    }
    let kind = data.root().and_then(|root| root.kind(link).ok().flatten());
    if kind == Some(Kind::Directory) {
        return Err(wrong("the data directory has a directory pg_wal already"));
    }
    let is_own = is_marked(mark, held.root())?;
    let is_empty = matches!(place::look(held.root())?, Holds::Absent | Holds::Nothing);
    if !is_own && start != Start::Delta && !is_empty {
        return Err(wrong("it is not empty"));
    }
    Ok(Some((directory, held)))
}

fn is_same(left: &Path, right: &Path) -> bool {
    left == right
        || matches!((left.canonicalize(), right.canonicalize()), (Ok(left), Ok(right)) if left == right)
}

/// A tablespace's directory is empty or absent, or one that is this cluster's own.
fn check_tablespace(place: &Place, root: Option<&Root>, own: bool) -> Result<(), Error> {
    match place::look(root)? {
        Holds::Absent | Holds::Nothing => Ok(()),
        Holds::Files if own => Ok(()),
        Holds::Unfinished(_) | Holds::Files => Err(Error::Tablespace {
            oid: place.oid,
            reason: format!("{:?} is not empty", place.directory),
        }),
    }
}

/// Is the tablespace's directory this cluster's already?
fn is_linked(place: &Place, data: Option<&Root>) -> bool {
    let link = Path::new("pg_tblspc").join(place.oid.to_string());
    let to = data.and_then(|data| data.read_link(&link).ok());
    to.is_some_and(|to| to == place.directory)
}

/// Has the unfinished restore that left a mark in the data directory left one here as well? What that mark says of other
/// directories may be long past: they may have been removed, and be another cluster's by now.
fn is_marked(mark: Option<&Mark>, root: Option<&Root>) -> Result<bool, Error> {
    let (Some(mark), Some(root)) = (mark, root) else {
        return Ok(false);
    };
    let found = PlaceMark::read(root)?;
    Ok(mark.restore.is_some() && found.is_some_and(|found| Some(found.restore) == mark.restore))
}

/// A link without an end is neither a directory nor a free name.
fn refuse_dangling(path: &Path) -> Result<(), Error> {
    let Ok(to) = fs::read_link(path) else {
        return Ok(());
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::DanglingLink {
            path: path.to_owned(),
            to: path.parent().unwrap_or(Path::new("/")).join(to),
        }),
        _ => Ok(()),
    }
}

/// May this user make the directory, or write in it?
fn check_writable(directory: &Path) -> Result<(), Error> {
    let above = place::existing(directory);
    match rustix::fs::accessat(CWD, above, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::ACCESS) => Err(Error::NotWritable {
            directory: directory.to_owned(),
            wish: if above == directory { "written" } else { "made" },
            above: above.to_owned(),
            user: process::user(),
        }),
        Err(error) => Err(Error::at("write to", above)(error.into())),
    }
}
