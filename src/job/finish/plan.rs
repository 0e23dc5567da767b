//! What is changed in a copy before it is a backup, file by file: found first, shown by `--dry-run`, then done.
//!
//! Only what the copy brought goes, and only in the backup's own directory: no link is followed, whatever a name stands
//! for. Links that PostgreSQL would follow are an error, because what they lead to is not in the backup; but for `pg_wal`,
//! which is empty in every backup, so that its link gives way to an empty directory.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::error::{Error, at};
use super::place::Place;
use super::source::Source;
use crate::archive::wal::Compared;
use crate::beneath::Kind;
use crate::pg::{SegmentName, WalName};

const PG_WAL: &str = "pg_wal";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file goes, or a link itself.
    Remove {
        /// Its path in the backup.
        file: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// An empty `pg_wal` takes the place of a link.
    EmptyPgWal {
        /// Where the link leads; nothing is changed there.
        to: PathBuf,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { file, why } => write!(out, "remove {}: {why}", file.display()),
            Self::EmptyPgWal { to } => write!(
                out,
                "replace the link pg_wal by an empty directory: pg_wal is a link, the copy has no WAL directory ({} stays \
                 as it is)",
                to.display()
            ),
        }
    }
}

/// What there is, and what becomes of it.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In the order in which they are done.
    pub(super) steps: Vec<Step>,
    /// Regular files that stay and a manifest names, ascending.
    pub(super) files: Vec<OsString>,
    /// Segments in the copy's own `pg_wal`, of their full length.
    pub(super) own_wal: Vec<SegmentName>,
}

impl Plan {
    /// Looks at all of the copy.
    ///
    /// # Errors
    /// [`Error::Tablespace`], [`Error::Outside`], [`Error::Io`].
    pub(super) fn make(place: &Place, source: &Source) -> Result<Self, Error> {
        let mut plan = Self::default();
        let mut links = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let listed = place.backup.list(&folder);
            for (name, kind) in listed.map_err(at("list", &place.shown(&folder)))? {
                let inside = folder.join(name);
                match kind {
                    Kind::Directory => folders.push(inside),
                    _ if is_below_pg_wal(&inside) => plan.wal_file(place, source, inside, kind)?,
                    Kind::File => plan.file(inside),
                    Kind::Link => links.push(inside),
                    Kind::Special => {}
                }
            }
        }
        plan.links(place, links)?;
        plan.files.sort();
        plan.steps
            .sort_by_key(|step| matches!(step, Step::EmptyPgWal { .. }));
        Ok(plan)
    }

    fn remove(&mut self, file: PathBuf, why: &'static str) {
        self.steps.push(Step::Remove { file, why });
    }

    fn file(&mut self, inside: PathBuf) {
        match inside.to_str() {
            Some("postmaster.pid" | "postmaster.opts") => {
                self.remove(inside, "it is the running server's own")
            }
            Some("backup_manifest.tmp") => {}
            _ => self.files.push(inside.into_os_string()),
        }
    }

    /// WAL of a running server is in the archive, and may be half-written here. That of a stopped one is whole; what of it is
    /// not archived stays; where the archive has something else, nothing goes (promise S7).
    fn wal_file(&mut self, place: &Place, source: &Source, inside: PathBuf, kind: Kind) -> Result<(), Error> {
        let name = inside.file_name().and_then(|name| name.to_str());
        let name: Option<WalName> = name.and_then(|name| name.parse().ok());
        if let (Kind::File, Some(WalName::Segment(segment))) = (kind, name) {
            let found = place.backup.metadata(&inside);
            let bytes = found.map_err(at("look at", &place.shown(&inside)))?.len();
            if bytes == source.control.segment_size.bytes() {
                self.own_wal.push(segment);
            }
        }
        match name {
            Some(WalName::Segment(segment)) if source.has_not_reached(segment) => {
                self.own_wal.retain(|own| *own != segment);
                self.remove(inside, "nothing is in it yet");
            }
            _ if source.label.is_some() => {
                self.remove(inside, "WAL comes from the archive, this may be half-written")
            }
            Some(name) => match place.compare(&inside, name, source.bytes_of_wal(name))? {
                Compared::Same => self.remove(inside, "it is in the archive"),
                Compared::Absent => {}
                Compared::Other if source.may_be_left_behind(name) => {}
                Compared::Other => return Err(Error::OtherWal { name }),
            },
            None => self.remove(inside, "it is the server's own note on WAL"),
        }
        Ok(())
    }

    fn links(&mut self, place: &Place, links: Vec<PathBuf>) -> Result<(), Error> {
        let mut outside = Vec::new();
        for link in links {
            let to = place.backup.read_link(&link);
            let to = to.map_err(at("read the link", &place.shown(&link)))?;
            if link == Path::new(PG_WAL) {
                self.steps.push(Step::EmptyPgWal { to });
            } else if link.parent() == Some(Path::new("pg_tblspc")) {
                return Err(Error::Tablespace {
                    path: place.shown(link),
                });
            } else if !leads_inside(place, &link, &to)? {
                outside.push((link, to));
            }
        }
        let others = outside.len().saturating_sub(1);
        match outside.into_iter().next() {
            Some((link, to)) => Err(Error::Outside {
                path: place.shown(link),
                to,
                others,
            }),
            None => Ok(()),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn carry_out(&self, place: &Place) -> Result<(), Error> {
        for step in &self.steps {
            match step {
                Step::Remove { file, .. } => {
                    let removed = place.backup.remove_file(file);
                    removed.map_err(at("remove", &place.shown(file)))?;
                }
                Step::EmptyPgWal { .. } => empty_pg_wal(place)?,
            }
        }
        Ok(())
    }
}

/// As a base backup has it, and open to those to whom the whole is.
fn empty_pg_wal(place: &Place) -> Result<(), Error> {
    let made = || {
        place.backup.remove_file(Path::new(PG_WAL))?;
        let own = place.backup.metadata(Path::new(""))?.mode() & 0o777;
        place
            .backup
            .make_directory(Path::new("pg_wal/archive_status"), own)
    };
    made().map_err(at("make a directory of", &place.shown(PG_WAL)))
}

fn is_below_pg_wal(inside: &Path) -> bool {
    inside.starts_with(PG_WAL) && inside != Path::new(PG_WAL)
}

/// Does a link lead to something that is in the backup as well, wherever that is put?
fn leads_inside(place: &Place, link: &Path, to: &Path) -> Result<bool, Error> {
    let mut at = link.parent().unwrap_or(Path::new("")).to_owned();
    for part in to.components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::ParentDir if at.pop() => {}
            Component::CurDir => {}
            _ => return Ok(false),
        }
    }
    Ok(place
        .kind(&at)
        .is_ok_and(|kind| matches!(kind, Some(Kind::File | Kind::Directory))))
}
