//! Where each path of a backup belongs, and the directories it goes to, held open.
//!
//! An operator names few directories: that of the data, those of tablespaces, that of the WAL. All that a restore reads,
//! writes or removes is below one of them, and reached by [`Root`]: no link below them is followed (promise S6).

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::place::{self, Holds};
use super::tablespaces::Place;
use crate::beneath::{Kind, Root};

/// One of the directories that were named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Base {
    /// The data directory.
    Data,
    /// That of the WAL, if `pg_wal` is a link.
    Wal,
    /// A tablespace's, by its place in [`Bases::places`].
    Tablespace(usize),
}

/// A place for a file or directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Spot {
    /// Below which directory.
    pub base: Base,
    /// Its path there; empty for the directory itself.
    pub below: PathBuf,
}

/// The directories by name.
#[derive(Debug, Clone)]
pub(super) struct Bases {
    /// The data directory.
    pub data: PathBuf,
    /// Where its `pg_wal` is a link to.
    pub wal: Option<PathBuf>,
    /// Tablespaces.
    pub places: Vec<Place>,
}

impl Bases {
    /// All of them, the data directory first.
    pub(super) fn all(&self) -> impl Iterator<Item = Base> + use<> {
        let wal = self.wal.is_some().then_some(Base::Wal);
        let tablespaces = (0..self.places.len()).map(Base::Tablespace);
        std::iter::once(Base::Data).chain(wal).chain(tablespaces)
    }

    /// The directory's path, as it was named.
    pub(super) fn directory(&self, base: Base) -> &Path {
        match base {
            Base::Data => &self.data,
            Base::Wal => self.wal.as_deref().unwrap_or(&self.data),
            Base::Tablespace(number) => &self.places[number].directory,
        }
    }

    /// A spot's path, for people.
    pub(super) fn path(&self, spot: &Spot) -> PathBuf {
        match spot.below.as_os_str().is_empty() {
            true => self.directory(spot.base).to_owned(),
            false => self.directory(spot.base).join(&spot.below),
        }
    }

    /// Where a path of the backup belongs.
    pub(super) fn spot(&self, path: &[u8]) -> Spot {
        let below = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        if let Some((base, inside)) = self.elsewhere(path) {
            let below = below(inside);
            return Spot { base, below };
        }
        Spot {
            base: Base::Data,
            below: below(path),
        }
    }

    /// The directory outside of the data directory that a path belongs to, and the rest of the path.
    fn elsewhere<'a>(&self, path: &'a [u8]) -> Option<(Base, &'a [u8])> {
        if self.wal.is_some()
            && let Some(inside) = inside(path, b"pg_wal")
        {
            return Some((Base::Wal, inside));
        }
        let rest = path.strip_prefix(b"pg_tblspc/")?;
        self.places.iter().enumerate().find_map(|(number, place)| {
            let inside = inside(rest, place.oid.to_string().as_bytes())?;
            Some((Base::Tablespace(number), inside))
        })
    }

    /// Tablespaces' directories that lie in the data directory, from there.
    pub(super) fn nested(&self) -> impl Iterator<Item = &Path> {
        self.places
            .iter()
            .filter_map(|place| place.directory.strip_prefix(&self.data).ok())
    }

    /// Where in the data directory a tablespace's directory lies, if it does.
    pub(super) fn nested_path(&self, base: Base) -> Option<&Path> {
        let directory = self.directory(base);
        let nested = matches!(base, Base::Tablespace(_)).then(|| directory.strip_prefix(&self.data).ok());
        nested.flatten()
    }

    /// Is it what a tablespace's directory in the data directory holds? A backup may have that twice.
    pub(super) fn is_nested(&self, spot: &Spot) -> bool {
        let is_below = |nested: &Path| spot.below.starts_with(nested) && spot.below != nested;
        spot.base == Base::Data && self.nested().any(is_below)
    }
}

/// What of a path is below `directory`.
fn inside<'a>(path: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(directory)?;
    match rest {
        b"" => Some(rest),
        [b'/', below @ ..] => Some(below),
        _ => None,
    }
}

/// A directory as the first look found it. It is held open from then on: whatever its path leads to later, all work is done
/// in what was looked at, or made below what was (promise S6).
#[derive(Debug)]
pub(super) enum Held {
    /// It is there.
    There(Root),
    /// It is not: the nearest directory above it, and the way down from that one.
    Missing { above: Root, below: PathBuf },
}

impl Held {
    /// Opens it. Links in the path are followed, this once.
    ///
    /// # Errors
    /// That of `open(2)`, but for a directory that is not there.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        match Root::open(directory) {
            Ok(root) => return Ok(Self::There(root)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::at("open", directory)(error)),
        }
        for ancestor in directory.ancestors().skip(1) {
            match Root::open_to_pass(ancestor) {
                Ok(above) => {
                    let below = directory.strip_prefix(ancestor).unwrap_or(Path::new(""));
                    let below = below.to_owned();
                    return Ok(Self::Missing { above, below });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::at("open", ancestor)(error)),
            }
        }
        Err(Error::at("open", directory)(ErrorKind::NotFound.into()))
    }

    /// The directory, if it is there.
    pub(super) fn root(&self) -> Option<&Root> {
        match self {
            Self::There(root) => Some(root),
            Self::Missing { .. } => None,
        }
    }

    /// The directory, or the nearest one above it.
    fn nearest(&self) -> &Root {
        match self {
            Self::There(root) => root,
            Self::Missing { above, .. } => above,
        }
    }

    /// Where it is, or will be, without links.
    pub(super) fn real(&self) -> Result<PathBuf, Error> {
        let nearest = self.nearest();
        let real = nearest.real().map_err(Error::at("look at", nearest.path()))?;
        Ok(match self {
            Self::There(_) => real,
            Self::Missing { below, .. } => real.join(below),
        })
    }

    /// Makes it, if it was not there: for its owner alone, and below what was seen, without following a link. By now there may
    /// be one, but with nothing in it.
    fn make(self, directory: &Path) -> Result<Root, Error> {
        let (above, below) = match self {
            Self::There(root) => return Ok(root),
            Self::Missing { above, below } => (above, below),
        };
        let made = above
            .make_directory(&below, 0o700)
            .and_then(|()| above.directory(&below))
            .map_err(Error::at("create", directory))?;
        match place::look(Some(&made))? {
            Holds::Absent | Holds::Nothing => Ok(made),
            Holds::Unfinished(_) | Holds::Files => Err(Error::NotEmpty {
                directory: directory.to_owned(),
            }),
        }
    }
}

/// The directories, held open. What is not there is empty.
#[derive(Debug)]
pub(super) struct Roots {
    /// By name.
    pub bases: Bases,
    open: Vec<(Base, Root)>,
    /// Those that are yet to be made, but for tablespaces in the data directory.
    missing: Vec<(Base, Held)>,
}

impl Roots {
    /// Of the directories that were looked at.
    pub(super) fn new(bases: Bases, held: Vec<(Base, Held)>) -> Self {
        let (mut open, mut missing) = (Vec::new(), Vec::new());
        for (base, held) in held {
            match held {
                Held::There(root) => open.push((base, root)),
                held @ Held::Missing { .. } => missing.push((base, held)),
            }
        }
        Self { bases, open, missing }
    }

    /// Makes those that are missing, for their owner alone. Of two that lie in one another the outer one first.
    pub(super) fn make(&mut self) -> Result<(), Error> {
        let mut missing = std::mem::take(&mut self.missing);
        missing.sort_by_key(|(base, _)| self.bases.directory(*base).components().count());
        for (base, held) in missing {
            let made = held.make(self.bases.directory(base))?;
            self.open.push((base, made));
        }
        for base in self.bases.all() {
            let Some(nested) = self.nested_path(base).map(Path::to_owned) else {
                continue;
            };
            if self.root(base).is_ok() {
                continue;
            }
            let spot = Spot {
                base: Base::Data,
                below: nested,
            };
            let made = self.on("create", &spot, |root, below| {
                root.make_directory(below, 0o700)?;
                root.directory(below)
            })?;
            self.open.push((base, made));
        }
        self.open.sort_by_key(|(base, _)| *base);
        Ok(())
    }

    /// Makes the data directory, if it is missing.
    pub(super) fn make_data(&mut self) -> Result<&Root, Error> {
        let data = self.missing.iter().position(|(base, _)| *base == Base::Data);
        if let Some(at) = data {
            let (base, held) = self.missing.swap_remove(at);
            let made = held.make(&self.bases.data)?;
            self.open.insert(0, (base, made));
        }
        let made = self.root(Base::Data);
        made.map_err(Error::at("open", &self.bases.data))
    }

    /// Refuses to go on, or to be content, if a path leads elsewhere by now: whoever can rename a directory has put
    /// another one, or a link, in its place.
    pub(super) fn check_unmoved(&self) -> Result<(), Error> {
        let above = self.missing.iter().map(|(_, held)| held.nearest());
        let above = above.map(|root| (root.path(), root));
        let open = self.all().map(|(base, root)| (self.bases.directory(base), root));
        for (directory, root) in open.chain(above) {
            if !root.is_at(directory).map_err(Error::at("look at", directory))? {
                return Err(Error::Replaced {
                    directory: directory.to_owned(),
                    now: root.real().map_err(Error::at("look at", directory))?,
                });
            }
        }
        Ok(())
    }

    /// A tablespace's directory in the data directory is no more the operator's word than what else is in there.
    fn nested_path(&self, base: Base) -> Option<&Path> {
        self.bases.nested_path(base)
    }

    /// The directory, or the nearest one above it that is there.
    pub(super) fn nearest(&self, base: Base) -> Option<&Root> {
        let base = match self.nested_path(base) {
            Some(_) if self.root(base).is_err() => Base::Data,
            _ => base,
        };
        let missing = || self.missing.iter().find(|(known, _)| *known == base);
        self.root(base)
            .ok()
            .or_else(|| missing().map(|(_, held)| held.nearest()))
    }

    /// A directory that is there.
    pub(super) fn root(&self, base: Base) -> io::Result<&Root> {
        let found = self.open.iter().find(|(known, _)| *known == base);
        found
            .map(|(_, root)| root)
            .ok_or_else(|| io::Error::from(ErrorKind::NotFound))
    }

    /// All that are there.
    pub(super) fn all(&self) -> impl Iterator<Item = (Base, &Root)> {
        self.open.iter().map(|(base, root)| (*base, root))
    }

    /// All that are there and not in the data directory.
    pub(super) fn outside(&self) -> impl Iterator<Item = &Root> {
        let outside = |base: Base| base != Base::Data && self.nested_path(base).is_none();
        self.all()
            .filter(move |(base, _)| outside(*base))
            .map(|(_, root)| root)
    }

    /// Does something at a spot; an error names the file.
    pub(super) fn on<T>(
        &self,
        operation: &'static str,
        spot: &Spot,
        act: impl FnOnce(&Root, &Path) -> io::Result<T>,
    ) -> Result<T, Error> {
        let done = self.root(spot.base).and_then(|root| act(root, &spot.below));
        done.map_err(|error| Error::at(operation, &self.bases.path(spot))(error))
    }

    /// What is at a spot, of a link the link itself.
    pub(super) fn metadata(&self, spot: &Spot) -> Result<Option<Metadata>, Error> {
        self.on("look at", spot, |root, below| match root.metadata(below) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        })
        .or_else(absent)
    }

    /// What kind of thing is at a spot.
    pub(super) fn kind(&self, spot: &Spot) -> Result<Option<Kind>, Error> {
        self.on("look at", spot, Root::kind).or_else(absent)
    }

    /// The names in a directory; `None`: there is none.
    pub(super) fn list(&self, spot: &Spot) -> Result<Option<Vec<(OsString, Kind)>>, Error> {
        let listed = self.on("read", spot, |root, below| root.list(below).map(Some));
        listed.or_else(absent)
    }

    /// A file of at most `most` bytes.
    pub(super) fn read(&self, spot: &Spot, most: u64) -> Result<Option<Vec<u8>>, Error> {
        self.on("read", spot, |root, below| match root.kind(below)? {
            None => Ok(None),
            Some(_) => root.read(below, most).map(Some),
        })
        .or_else(absent)
    }
}

/// Below a directory that is not there, there is nothing.
fn absent<T>(error: Error) -> Result<Option<T>, Error> {
    match error {
        Error::System { source, .. } if source.kind() == ErrorKind::NotFound => Ok(None),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(wal: Option<&str>) -> Bases {
        let place = |oid, directory: &str| Place {
            oid,
            directory: directory.into(),
        };
        Bases {
            data: "/data".into(),
            wal: wal.map(PathBuf::from),
            places: vec![
                place(16400, "/srv/fast"),
                place(164, "/srv/slow"),
                place(17000, "/data/own/space"),
            ],
        }
    }

    #[test]
    fn paths_find_their_tablespace() {
        let bases = bases(None);
        let at = |path: &str| bases.path(&bases.spot(path.as_bytes()));
        assert_eq!(at(""), Path::new("/data"));
        assert_eq!(at("base/1/2"), Path::new("/data/base/1/2"));
        assert_eq!(at("pg_tblspc"), Path::new("/data/pg_tblspc"));
        assert_eq!(at("pg_tblspc/16400"), Path::new("/srv/fast"));
        assert_eq!(at("pg_tblspc/16400/PG_15/x"), Path::new("/srv/fast/PG_15/x"));
        assert_eq!(at("pg_tblspc/164/x"), Path::new("/srv/slow/x"));
        assert_eq!(at("pg_wal/x"), Path::new("/data/pg_wal/x"));
        // One inside of the data directory (allow_in_place_tablespaces).
        assert_eq!(at("pg_tblspc/9/x"), Path::new("/data/pg_tblspc/9/x"));
    }

    #[test]
    fn wal_may_lie_elsewhere() {
        let bases = bases(Some("/wal"));
        let at = |path: &str| bases.path(&bases.spot(path.as_bytes()));
        assert_eq!(at("pg_wal"), Path::new("/wal"));
        assert_eq!(at("pg_wal/archive_status"), Path::new("/wal/archive_status"));
        assert_eq!(at("pg_walx"), Path::new("/data/pg_walx"));
    }

    #[test]
    fn a_nested_tablespace_is_known_by_its_path() {
        let bases = bases(None);
        let nested = |path: &str| bases.is_nested(&bases.spot(path.as_bytes()));
        assert!(nested("own/space/PG_15"));
        assert!(!nested("own/space") && !nested("own") && !nested("own/spacex"));
        assert!(!nested("pg_tblspc/17000/PG_15"));
    }
}
