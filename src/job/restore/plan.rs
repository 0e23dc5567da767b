//! What a restore removes, moves aside and leaves where it is: found before anything is touched, shown by `--dry-run`, and
//! carried out in one place (promise S7).

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Options;
use super::error::Error;
use super::only_here::Unarchived;
use super::place::{LOST_AND_FOUND, MARK, PLACE_MARK, START_LOCK};
use super::spot::{Base, Roots, Spot};
use crate::archive::Archive;
use crate::beneath::{Kind, Root};
use crate::linux::process;
use crate::pg::{SegmentName, WalName};

/// What becomes of WAL that only the old directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldWal {
    /// There is none, or the restore is refused.
    Refuse,
    /// It stays in `pg_wal`, where recovery finds it.
    Keep,
    /// It is moved to this directory, or to one beside its own.
    SetAside(Option<PathBuf>),
}

/// WAL that is moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The new directory.
    pub directory: PathBuf,
    /// Names of the files.
    pub files: Vec<WalName>,
}

/// What is done to what is there and not in the backup.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What goes, directories with all that is in them.
    pub remove: Vec<Spot>,
    /// What is moved.
    pub aside: Option<Aside>,
    /// The directory beside which that is put, if nobody has said where.
    beside: Option<Base>,
    /// WAL that stays.
    pub kept: Vec<WalName>,
    /// Segments of it that are archived before anything is touched.
    pub saved: Vec<SegmentName>,
}

impl Plan {
    /// Out of what would go, if there were no WAL in it that only this directory has.
    ///
    /// # Errors
    /// [`Error::UnarchivedWal`], [`Error::KeptWalDiffers`].
    pub(super) fn new(
        remove: Vec<Spot>,
        roots: &Roots,
        unarchived: &[Unarchived],
        options: &Options,
        archive: &Archive,
    ) -> Result<Self, Error> {
        let names = || unarchived.iter().map(|wal| wal.name).collect::<Vec<_>>();
        let pg_wal = || roots.bases.path(&roots.bases.spot(b"pg_wal"));
        let mut plan = Self {
            remove,
            ..Self::default()
        };
        match &options.old_wal {
            _ if unarchived.is_empty() => {}
            OldWal::Refuse => {
                return Err(Error::UnarchivedWal {
                    directory: pg_wal(),
                    place: archive.place(),
                    wal: unarchived.to_vec(),
                });
            }
            OldWal::Keep => {
                if let Some(differs) = unarchived.iter().find(|wal| wal.differs) {
                    return Err(Error::KeptWalDiffers {
                        path: differs.path.clone(),
                    });
                }
                plan.kept = names();
            }
            OldWal::SetAside(directory) => {
                let directory = match directory {
                    Some(directory) => directory.clone(),
                    None => {
                        let near = roots.bases.wal.as_ref().map_or(Base::Data, |_| Base::Wal);
                        plan.beside = Some(near);
                        beside(near, roots)?
                    }
                };
                let files = names();
                plan.aside = Some(Aside { directory, files });
            }
        }
        plan.spare(roots, unarchived);
        Ok(plan)
    }

    /// Takes WAL, its marks and its directory out of what goes. The mark of a segment that stays and is not whole goes: the server
    /// would archive that as if it were, with what an older one has left in it.
    fn spare(&mut self, roots: &Roots, wal: &[Unarchived]) {
        let mut spared: HashSet<Spot> = HashSet::new();
        for found in wal {
            let name = found.name;
            let file = format!("pg_wal/{name}");
            let (ready, done) = (
                format!("pg_wal/archive_status/{name}.ready"),
                format!("pg_wal/archive_status/{name}.done"),
            );
            let goes = self.aside.is_none() && found.is_ready && !found.is_whole;
            let marks = [(file, true), (ready, !goes), (done, true)];
            let stay = marks.into_iter().filter(|(_, stays)| *stays);
            spared.extend(stay.map(|(path, _)| roots.bases.spot(path.as_bytes())));
        }
        self.remove.retain(|spot| !spared.contains(spot));
    }

    /// Makes the directory for what is moved: the one step that may fail although nothing was touched.
    pub(super) fn prepare(&self, roots: &Roots) -> Result<Option<Root>, Error> {
        let Some(Aside { directory, .. }) = &self.aside else {
            return Ok(None);
        };
        let above = match self.beside {
            Some(near) => roots.root(near).and_then(Root::above),
            None => Root::open_to_pass(directory.parent().unwrap_or(Path::new("/"))),
        };
        let name = Path::new(directory.file_name().unwrap_or_default());
        let made = above.and_then(|above| above.make_new(name));
        let made = made.map_err(Error::at("create", directory))?;
        // Whose the WAL is can read it there.
        let owner = roots.metadata(&roots.bases.spot(b"pg_wal"))?;
        if let Some(owner) = owner.filter(|owner| owner.uid() != process::user()) {
            made.set_owner(Path::new(""), owner.uid(), owner.gid())
                .map_err(Error::at("change the owner of", directory))?;
        }
        Ok(Some(made))
    }

    /// Moves, to the directory that was made for it, and removes.
    pub(super) fn carry_out(&self, roots: &Roots, aside: Option<&Root>) -> Result<(), Error> {
        if let (Some(Aside { directory, files }), Some(to)) = (&self.aside, aside) {
            for name in files {
                move_aside(roots, *name, to)?;
            }
            to.sync_directory(Path::new(""))
                .map_err(Error::at("sync", directory))?;
        }
        self.remove
            .iter()
            .try_for_each(|spot| roots.on("remove", spot, Root::remove_tree))
    }
}

/// A new name beside a directory, in the same file system if there is a way.
fn beside(near: Base, roots: &Roots) -> Result<PathBuf, Error> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let find = || {
        let root = roots.root(near)?;
        let (real, above) = (root.real()?, root.above()?);
        let own = real.file_name().unwrap_or_default();
        // Another restore may have taken the name in this second.
        for number in 1.. {
            let mut name = own.to_owned();
            name.push(format!(".walfs-kept-wal-{now}"));
            if number > 1 {
                name.push(format!("-{number}"));
            }
            if above.kind(Path::new(&name))?.is_none() {
                return Ok(real.with_file_name(name));
            }
        }
        unreachable!("a directory has fewer names than there are numbers")
    };
    find().map_err(Error::at("look at", roots.bases.directory(near)))
}

/// Moves a file of the WAL and its mark; in another file system it is copied, and removed when the copy is durable.
fn move_aside(roots: &Roots, name: WalName, to: &Root) -> Result<(), Error> {
    let spot = roots.bases.spot(format!("pg_wal/{name}").as_bytes());
    let target = PathBuf::from(name.to_string());
    roots.on("move aside", &spot, |root, below| {
        match root.move_to(below, to, &target) {
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                copy(root, below, to, &target)?;
                root.remove_file(below).map(drop)
            }
            moved => moved,
        }
    })?;
    for ending in ["ready", "done"] {
        let mark = roots
            .bases
            .spot(format!("pg_wal/archive_status/{name}.{ending}").as_bytes());
        roots.on("remove", &mark, Root::remove_file)?;
    }
    Ok(())
}

fn copy(from: &Root, below: &Path, to: &Root, target: &Path) -> io::Result<()> {
    let mut copied = to.create(target, 0o600)?;
    io::copy(&mut from.open_file(below)?, &mut copied)?;
    copied.sync_all()
}

/// Everything in the directories that a restore has begun to fill and begins anew with: all that it has made, and what
/// was put beside that. Of `pg_wal` each file by name: WAL may be among them, and a disk of its own may begin there.
pub(super) fn everything(roots: &Roots) -> Result<Vec<Spot>, Error> {
    let mut found = Vec::new();
    for base in roots.bases.all() {
        let below = PathBuf::new();
        list(roots, &Spot { base, below }, &mut found)?;
    }
    Ok(found)
}

fn list(roots: &Roots, directory: &Spot, found: &mut Vec<Spot>) -> Result<(), Error> {
    let wal = ["pg_wal", "pg_wal/archive_status"].map(|path| roots.bases.spot(path.as_bytes()));
    let Some(names) = roots.list(directory)? else {
        return Ok(());
    };
    for (name, kind) in names {
        let spot = Spot {
            base: directory.base,
            below: directory.below.join(&name),
        };
        let is_top = spot.base == Base::Data && directory.below.as_os_str().is_empty();
        match kind {
            Kind::Directory if wal.contains(&spot) => list(roots, &spot, found)?,
            Kind::Directory if name == LOST_AND_FOUND => {}
            Kind::Link if is_top && name == "pg_wal" && roots.bases.wal.is_some() => {}
            _ if is_top && name == MARK => {}
            Kind::File if is_top && name == START_LOCK => {}
            _ if spot.base != Base::Data && spot.below == Path::new(PLACE_MARK) => {}
            _ => found.push(spot),
        }
    }
    Ok(())
}
