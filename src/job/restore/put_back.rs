//! Settings that were not in the data directory of the server: where the operator says so, they go back to a directory of this
//! machine (`--settings-mapping`). What is there stays: nothing is replaced, and no link is followed below that directory.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::content::Source;
use super::error::Error;
use super::finish::{LONGEST_TEXT, PERMISSIONS};
use super::tablespaces::Mapping;
use super::{Options, Owner, Report, owner, place};
use crate::archive::tree::{Content, Entry};
use crate::beneath::{Kind, Root};
use crate::pg::exclude::SETTINGS_FOLDER;

/// The mode of a directory that is made for them.
const DIRECTORY_MODE: u32 = 0o700;

/// What is where a file belongs.
enum There {
    Nothing,
    TheSame,
    Other(&'static str),
}

/// Refuses directories of the archive.
///
/// # Errors
/// [`Error::InArchive`].
pub(super) fn check(source: &Source, mappings: &[Mapping]) -> Result<(), Error> {
    for Mapping { new, .. } in mappings {
        let existing = place::existing(new);
        let real = existing.canonicalize().map_err(Error::at("look at", existing))?;
        place::check_outside(&source.archive, new, &real)?;
    }
    Ok(())
}

/// Puts them back, before a server can start, or says what it would. What cannot be written is a warning: the backup is in place
/// without it, and has it.
///
/// # Errors
/// The archive's.
pub(super) async fn put_back(source: &Source, options: &Options, report: &mut Report) -> Result<(), Error> {
    let owner = owner(options.owner, source);
    for mapping in &options.settings {
        let entries = entries(source, mapping);
        if entries.is_empty() {
            report.warnings.push(format!(
                "the backup has no settings that were in {}, and none were put back",
                mapping.old
            ));
            continue;
        }
        let place = match open(&mapping.new, options.dry_run) {
            Ok(place) => place,
            Err(error) => {
                let warning = format!("nothing is put back to {}: {error}", mapping.new.display());
                report.warnings.push(warning);
                continue;
            }
        };
        for (inside, entry) in entries {
            let content = source.whole(entry, LONGEST_TEXT).await?;
            let path = mapping.new.join(inside);
            let put = match &place {
                Some(place) => put(place, inside, (&content, entry), (owner, options.dry_run)),
                None => Ok(There::Nothing),
            };
            let left = match put {
                Ok(There::Nothing) => {
                    report.put_back.push(path);
                    continue;
                }
                Ok(There::TheSame) => continue,
                Ok(There::Other(what)) => what.to_owned(),
                Err(error) => error.to_string(),
            };
            report.warnings.push(format!(
                "{} is left as it is: {left}. The backup's is {} of the data directory",
                path.display(),
                String::from_utf8_lossy(&entry.path)
            ));
        }
    }
    Ok(())
}

/// The files of the backup that were below the old directory, and where in it.
fn entries<'a>(source: &'a Source, mapping: &Mapping) -> Vec<(&'a Path, &'a Entry)> {
    let above = format!("{SETTINGS_FOLDER}/{}/", mapping.old.trim_matches('/')).replace("//", "/");
    let entries = source.tree.entries().iter();
    let files = entries.filter(|entry| matches!(entry.content, Content::File { .. }));
    let inside = files.filter_map(|entry| Some((entry.path.strip_prefix(above.as_bytes())?, entry)));
    inside
        .map(|(inside, entry)| (Path::new(OsStr::from_bytes(inside)), entry))
        .collect()
}

/// The directory, which is made if it is not there; `None`: it would be.
fn open(directory: &Path, dry_run: bool) -> io::Result<Option<Root>> {
    match Root::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound && dry_run => Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            Root::open(directory).map(Some)
        }
        opened => opened.map(Some),
    }
}

/// Writes the file, unless something is there, and says what was. It takes its name when it is whole, and only a free one.
fn put(
    place: &Root,
    inside: &Path,
    (content, entry): (&[u8], &Entry),
    (owner, dry_run): (Option<Owner>, bool),
) -> io::Result<There> {
    let found = look(place, inside, content)?;
    if dry_run || !matches!(found, There::Nothing) {
        return Ok(found);
    }
    let above = inside.parent().unwrap_or(Path::new(""));
    place.make_directory(above, DIRECTORY_MODE)?;
    let new = above.join(format!(".walfs-{:016x}", fastrand::u64(..)));
    let mut file = place.create(&new, entry.attributes.mode & PERMISSIONS)?;
    let written = file.write_all(content).and_then(|()| {
        if let Some(Owner { uid, gid }) = owner {
            place.set_owner(&new, uid, gid)?;
        }
        file.sync_all()?;
        place.hard_link(&new, inside)
    });
    place.remove_file(&new)?;
    written?;
    place.sync_directory(above)?;
    Ok(There::Nothing)
}

fn look(place: &Root, inside: &Path, content: &[u8]) -> io::Result<There> {
    let kind = match place.kind(inside) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        kind => kind?,
    };
    Ok(match kind {
        None => There::Nothing,
        Some(Kind::File) if place.metadata(inside)?.len() != content.len() as u64 => {
            There::Other("it differs from the backup's")
        }
        Some(Kind::File) => match place.read(inside, LONGEST_TEXT)? == content {
            true => There::TheSame,
            false => There::Other("it differs from the backup's"),
        },
        Some(_) => There::Other("it is no plain file"),
    })
}
