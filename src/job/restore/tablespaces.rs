//! Where tablespaces go: where they were, or elsewhere by `--tablespace-mapping`.
//!
//! PostgreSQL finds a tablespace by the link `pg_tblspc/<oid>`, and a start with a `backup_label` makes these links anew
//! from `tablespace_map`. So both say the same, whatever the backup said.

use std::path::{Component, Path, PathBuf};

use super::error::Error;
use super::links;
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
                .map(|known| match known.location.as_str() {
                    "" => format!("oid {}, whose old place is not known", known.oid),
                    location => format!("{location} (oid {})", known.oid),
                })
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
    let place = |known: &crate::archive::tree::backup::Tablespace| {
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
    if location.is_empty() {
        // A plain pg_basebackup does not tell.
        let reason = "the backup does not say where it was".to_owned();
        return Err(Error::Tablespace { oid, reason });
    }
    if location.contains(char::REPLACEMENT_CHARACTER) {
        let reason = format!("the name of its directory, {location:?}, is not UTF-8");
        return Err(Error::Tablespace { oid, reason });
    }
    if location.chars().any(char::is_control) {
        let reason = format!("the name of its directory, {location:?}, has control characters");
        return Err(Error::Tablespace { oid, reason });
    }
    Ok(PathBuf::from(location))
}

fn check(oid: u32, directory: &Path, data: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Tablespace { oid, reason });
    if !directory.is_absolute() {
        return wrong(format!("{directory:?} is no absolute path"));
    }
    let leads_up = |part| matches!(part, Component::ParentDir);
    if directory.components().any(leads_up) {
        return wrong(format!("{directory:?} has .. in it"));
    }
    // PostgreSQL takes such a place, with a warning.
    if let Ok(nested) = directory.strip_prefix(data)
        && links::is_of_cluster(nested)
    {
        return wrong(format!("{directory:?} is the data directory's own"));
    }
    if data.starts_with(directory) {
        return wrong(format!("the data directory lies in {directory:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_that_a_server_may_have() {
        let data = Path::new("/srv/pg");
        let is_right = |place: &str| check(7, Path::new(place), data).is_ok();
        assert!(is_right("/srv/fast") && is_right("/srv/pg/space") && is_right("/srv/pg/more/space"));
        for wrong in [
            "fast",
            "/srv/pg",
            "/srv",
            "/srv/pg/base/x",
            "/srv/pg/pg_tblspc",
            "/srv/x/../pg/base",
        ] {
            assert!(!is_right(wrong), "{wrong}");
        }
    }

    /// Whoever writes the archive says where a tablespace was.
    #[test]
    fn a_name_of_several_lines_is_refused() {
        for wrong in ["", "/srv/a\n2 /etc", "/srv/\u{1b}[2J", "/srv/\u{fffd}"] {
            let error = original(7, wrong).unwrap_err().to_string();
            assert!(error.contains("--tablespace-mapping 7="), "{error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
        assert_eq!(original(7, "/srv/a b").unwrap(), Path::new("/srv/a b"));
    }
}
