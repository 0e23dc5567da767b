//! The directories that are restored to, as they are found: may they be used, and what does the restore begin with?

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::Options;
use super::content::Source;
use super::error::Error;
use super::place::{self, Holds, Mark};
use super::spot::Bases;
use super::tablespaces::Place;
use crate::archive::tree::summary::Shape;
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

/// Looks at all directories.
///
/// # Errors
/// Why one of them cannot be used; nothing was touched.
pub(super) fn look(
    options: &Options,
    source: &Source,
    system_id: Option<SystemId>,
    shape: Shape,
    places: Vec<Place>,
) -> Result<(Start, Bases), Error> {
    let data = &options.directory;
    refuse_dangling(data)?;
    // Before anything is said of what lies there.
    place::check_outside(&source.archive, data)?;
    place::check_no_server(data)?;
    let (start, mark) = data_directory(options, source, system_id, shape)?;
    let wal = waldir(options, start, mark.as_ref())?;
    for place in &places {
        refuse_dangling(&place.directory)?;
        check_tablespace(place, is_own(place, data, mark.as_ref()))?;
    }
    let bases = Bases {
        data: data.clone(),
        wal,
        places,
    };
    for base in bases.all() {
        let directory = bases.directory(base);
        place::check_outside(&source.archive, directory)?;
        check_writable(directory)?;
    }
    if start == Start::Delta {
        refuse_unnamed(options, &bases)?;
    }
    for base in bases.all() {
        place::check_not_used(bases.directory(base), data)?;
    }
    Ok((start, bases))
}

/// A copy of a data directory has the links of its original, which may live: what lies behind one is replaced only if the
/// operator names it.
fn refuse_unnamed(options: &Options, bases: &Bases) -> Result<(), Error> {
    let has_files =
        |directory: &Path| Ok::<_, Error>(!matches!(place::look(directory)?, Holds::Absent | Holds::Nothing));
    let mut words = Vec::new();
    if let (None, Some(wal)) = (&options.waldir, &bases.wal)
        && has_files(wal)?
    {
        words.push(format!("--waldir={wal:?}"));
    }
    let data = place::real(&options.directory);
    for Place { oid, directory } in &bases.places {
        let is_named = options
            .tablespaces
            .iter()
            .any(|mapping| is_same(&mapping.new, directory));
        let is_inside = place::real(directory).starts_with(&data);
        if !is_named && !is_inside && has_files(directory)? {
            words.push(format!("--tablespace-mapping={oid}={directory:?}"));
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
) -> Result<(Start, Option<Mark>), Error> {
    let directory = &options.directory;
    let not = |reason: &str| Error::NotACluster {
        directory: directory.clone(),
        reason: reason.into(),
    };
    match place::look(directory)? {
        Holds::Absent | Holds::Nothing => Ok((Start::Empty, None)),
        Holds::Unfinished(mark) => {
            check_mark(&mark, source, system_id).map_err(not)?;
            Ok((Start::Unfinished, Some(mark)))
        }
        Holds::Files if !options.delta => {
            let directory = directory.clone();
            Err(Error::NotEmpty { directory })
        }
        Holds::Files if shape == Shape::Tar => Err(not(
            "the backup is kept in tar files, with which nothing can be compared",
        )),
        Holds::Files => {
            let expected = system_id.ok_or_else(|| not("the backup does not say whose it is"))?;
            place::check_same_cluster(directory, expected)?;
            Ok((Start::Delta, None))
        }
    }
}

fn check_mark(mark: &Mark, source: &Source, system_id: Option<SystemId>) -> Result<(), &'static str> {
    let own = system_id.map(|id| id.to_string());
    let other_cluster = matches!((&mark.system_identifier, &own), (Some(mark), Some(own)) if mark != own);
    if other_cluster || mark.archive_id != source.archive.marker().archive_id {
        return Err("it is the unfinished restore of another archive's backup");
    }
    Ok(())
}

/// Where `pg_wal` is, or shall be, a link to: as it was told, or as the directory has it already.
fn waldir(options: &Options, start: Start, mark: Option<&Mark>) -> Result<Option<PathBuf>, Error> {
    let (data, link) = (&options.directory, options.directory.join("pg_wal"));
    let there = fs::read_link(&link).ok().map(|to| data.join(to));
    let Some(directory) = options.waldir.clone().or(there.clone()) else {
        return Ok(None);
    };
    let wrong = |reason: &str| Error::Waldir {
        directory: directory.clone(),
        reason: reason.into(),
    };
    let is_linked = there.as_deref().is_some_and(|there| is_same(there, &directory));
    if options.waldir.is_none() {
        refuse_dangling(&link)?;
    }
    refuse_dangling(&directory)?;
    let (real, real_data) = (place::real(&directory), place::real(data));
    if real.starts_with(&real_data) || real_data.starts_with(&real) {
        return Err(wrong("it and the data directory lie in one another"));
    }
    if start == Start::Delta && !is_linked {
        return Err(wrong("pg_wal is elsewhere, and --delta leaves it where it is"));
    }
    if link.is_dir() && there.is_none() {
        return Err(wrong("the data directory has a directory pg_wal already"));
    }
    let is_own = mark.is_some_and(|mark| mark.waldir.as_deref() == Some(&*directory));
    let is_empty = matches!(place::look(&directory)?, Holds::Absent | Holds::Nothing);
    if !is_own && start != Start::Delta && !is_empty {
        return Err(wrong("it is not empty"));
    }
    Ok(Some(directory))
}

fn is_same(left: &Path, right: &Path) -> bool {
    left == right
        || matches!((left.canonicalize(), right.canonicalize()), (Ok(left), Ok(right)) if left == right)
}

/// A tablespace's directory is empty or absent, or one that is this cluster's own.
fn check_tablespace(place: &Place, own: bool) -> Result<(), Error> {
    match place::look(&place.directory)? {
        Holds::Absent | Holds::Nothing => Ok(()),
        Holds::Files if own => Ok(()),
        Holds::Unfinished(_) | Holds::Files => Err(Error::Tablespace {
            oid: place.oid,
            reason: format!("{:?} is not empty", place.directory),
        }),
    }
}

/// Is the tablespace's directory this cluster's, or this restore's, already?
fn is_own(place: &Place, data: &Path, mark: Option<&Mark>) -> bool {
    let link = fs::read_link(data.join("pg_tblspc").join(place.oid.to_string()));
    link.is_ok_and(|to| to == place.directory)
        || mark.is_some_and(|mark| mark.tablespaces.contains(&place.directory))
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
            user: place::user(),
        }),
        Err(error) => Err(Error::at("write to", above)(error.into())),
    }
}
