//! Where tablespaces go: where they were, or elsewhere by `--tablespace-mapping`.
//!
//! PostgreSQL finds a tablespace by the link `pg_tblspc/<oid>`, and a start with a `backup_label` makes these links anew
//! from `tablespace_map`. So both say the same, whatever the backup said.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::Error;
use crate::archive::tree::summary::Summary;

/// `OLD=NEW` of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where it was, or its object identifier in decimal.
    pub old: String,
    /// Where it shall be: an absolute path.
    pub new: PathBuf,
}

/// A tablespace that is restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its object identifier.
    pub oid: u32,
    /// Its directory.
    pub directory: PathBuf,
}

/// Where each of the backup's tablespaces goes.
///
/// # Errors
/// [`Error::NoTablespace`], [`Error::Tablespace`].
pub(super) fn places(summary: &Summary, mappings: &[Mapping], data: &Path) -> Result<Vec<Place>, Error> {
    let tablespaces = &summary.backup.tablespaces;
    let named = |mapping: &Mapping, oid: u32, location: &str| {
        mapping.old == oid.to_string() || mapping.old.trim_end_matches('/') == location
    };
    for mapping in mappings {
        if !tablespaces
            .iter()
            .any(|known| named(mapping, known.oid, &known.location))
        {
            let known: Vec<String> = tablespaces
                .iter()
                .map(|known| format!("{} (oid {})", known.location, known.oid))
                .collect();
            return Err(Error::NoTablespace {
                old: mapping.old.clone(),
                known: if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                },
            });
        }
    }
    let place = |known: &crate::archive::tree::summary::Tablespace| {
        let mapping = mappings
            .iter()
            .rfind(|mapping| named(mapping, known.oid, &known.location));
        let directory = match mapping {
            Some(mapping) => mapping.new.clone(),
            None => original(known.oid, &known.location)?,
        };
        check(known.oid, &directory, data)?;
        Ok(Place {
            oid: known.oid,
            directory,
        })
    };
    let places: Vec<Place> = tablespaces.iter().map(place).collect::<Result<_, Error>>()?;
    for (at, place) in places.iter().enumerate() {
        if let Some(other) = places[..at]
            .iter()
            .find(|other| other.directory == place.directory)
        {
            let reason = format!(
                "{:?} is already taken by tablespace {}",
                place.directory, other.oid
            );
            return Err(Error::Tablespace {
                oid: place.oid,
                reason,
            });
        }
    }
    Ok(places)
}

fn original(oid: u32, location: &str) -> Result<PathBuf, Error> {
    if location.contains(char::REPLACEMENT_CHARACTER) {
        let reason = format!("the name of its directory, {location:?}, is not UTF-8");
        return Err(Error::Tablespace { oid, reason });
    }
    Ok(PathBuf::from(location))
}

fn check(oid: u32, directory: &Path, data: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Tablespace { oid, reason });
    if !directory.is_absolute() {
        return wrong(format!("{directory:?} is no absolute path"));
    }
    if directory.starts_with(data) {
        return wrong(format!("{directory:?} lies in the data directory"));
    }
    if data.starts_with(directory) {
        return wrong(format!("the data directory lies in {directory:?}"));
    }
    Ok(())
}

/// Where the backup's path belongs: below the data directory, or below a tablespace's own.
pub(super) fn destination(data: &Path, places: &[Place], path: &[u8]) -> PathBuf {
    if let Some(rest) = path.strip_prefix(b"pg_tblspc/") {
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (oid, below) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
        let place = places
            .iter()
            .find(|place| place.oid.to_string().as_bytes() == oid);
        if let Some(place) = place {
            return if below.is_empty() {
                place.directory.clone()
            } else {
                place.directory.join(OsStr::from_bytes(below))
            };
        }
    }
    if path.is_empty() {
        data.to_owned()
    } else {
        data.join(OsStr::from_bytes(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_tablespace() {
        let place = |oid, directory: &str| Place {
            oid,
            directory: directory.into(),
        };
        let places = [place(16400, "/srv/fast"), place(164, "/srv/slow")];
        let at = |path: &str| destination(Path::new("/data"), &places, path.as_bytes());
        assert_eq!(at(""), Path::new("/data"));
        assert_eq!(at("base/1/2"), Path::new("/data/base/1/2"));
        assert_eq!(at("pg_tblspc"), Path::new("/data/pg_tblspc"));
        assert_eq!(at("pg_tblspc/16400"), Path::new("/srv/fast"));
        assert_eq!(at("pg_tblspc/16400/PG_15/x"), Path::new("/srv/fast/PG_15/x"));
        assert_eq!(at("pg_tblspc/164/x"), Path::new("/srv/slow/x"));
        // One inside of the data directory (allow_in_place_tablespaces).
        assert_eq!(at("pg_tblspc/9/x"), Path::new("/data/pg_tblspc/9/x"));
    }
}
