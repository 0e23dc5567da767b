//! What there is below a directory. Nothing is opened but directories, by handle, and no link is followed.

use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::Serialize;

use super::Error;
use crate::archive::tree::{Content, Entry};
use crate::job::backup::places::Places;
use crate::job::backup::walk::{Source, attributes, in_order, is_gone, source};
use crate::job::version::owned;
use crate::linux::kernel::Owner;

/// What is named of what is left out, each.
const NAMED: usize = 10;

/// An attribute that systems with SELinux give to every file, by a policy of their own.
const LABEL: &[u8] = b"security.selinux";

/// A directory, listed.
pub(super) struct Walked {
    /// Directories and regular files.
    pub(super) sources: Vec<Source>,
    /// Symbolic links.
    pub(super) links: Vec<Entry>,
    pub(super) places: Places,
    pub(super) left_out: LeftOut,
}

impl Walked {
    /// All of it belongs to somebody else, if so.
    pub(super) fn give_to(&mut self, owner: Option<Owner>) {
        let sources = self.sources.iter_mut().map(|source| &mut source.attributes);
        let links = self.links.iter_mut().map(|link| &mut link.attributes);
        sources
            .chain(links)
            .for_each(|attributes| *attributes = owned(*attributes, owner));
    }
}

/// What is there and is not kept.
#[derive(Debug, Default, Serialize)]
pub struct LeftOut {
    /// Sockets, FIFOs and devices.
    pub special: Named,
    /// Directories on which other file systems are mounted: they are kept, without what is in them.
    pub file_systems: Named,
    /// Files and directories with extended attributes or ACLs, which are not kept; they themselves are.
    pub attributes: Named,
    /// Further names of a file that has several: each is kept as a file of its own.
    pub hard_links: Named,
}

/// Some of many.
#[derive(Debug, Default, Serialize)]
pub struct Named {
    /// How many there are.
    pub count: u64,
    /// The first of them, from the directory.
    pub first: Vec<String>,
}

impl Named {
    fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(String::from_utf8_lossy(path).into_owned());
        }
    }
}

/// Lists a directory, which may be named by a link; below it none is followed.
pub(super) fn walk(directory: &Path, cross: bool) -> Result<Walked, Error> {
    let unreadable = |source| Error::read(directory, source);
    let places = Places::of(directory, 0).map_err(unreadable)?;
    let top = places.metadata(b"").map_err(unreadable)?;
    let mut walk = Walk {
        device: (!cross).then_some(top.dev()),
        to_list: vec![Vec::new()],
        walked: Walked {
            sources: vec![source(Vec::new(), &top, None)],
            links: Vec::new(),
            places,
            left_out: LeftOut::default(),
        },
    };
    while let Some(path) = walk.to_list.pop() {
        walk.list(&path)?;
    }
    let mut walked = walk.walked;
    in_order(&mut walked.sources);
    Ok(walked)
}

struct Walk {
    /// The only one that is entered.
    device: Option<u64>,
    to_list: Vec<Vec<u8>>,
    walked: Walked,
}

impl Walk {
    fn list(&mut self, parent: &[u8]) -> Result<(), Error> {
        let places = &self.walked.places;
        let opened = places
            .directory(parent)
            .and_then(|opened| Ok((opened.list(Path::new(""))?, opened)));
        let (names, opened) = match opened {
            Ok(opened) => opened,
            // Removed since its parent was listed.
            Err(error) if is_gone(&error) && !parent.is_empty() => return Ok(()),
            Err(error) => return Err(Error::read(&places.real(parent), error)),
        };
        for (name, _) in names {
            let path = match parent {
                b"" => name.as_bytes().to_vec(),
                parent => [parent, b"/", name.as_bytes()].concat(),
            };
            let found = match opened.metadata(Path::new(&name)) {
                Ok(found) => found,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Error::read(&self.walked.places.real(&path), error)),
            };
            if found.is_symlink() {
                let to = match opened.read_link(Path::new(&name)) {
                    Ok(to) => to,
                    Err(error) if is_gone(&error) => continue,
                    Err(error) => return Err(Error::read(&self.walked.places.real(&path), error)),
                };
                self.walked.links.push(Entry {
                    path: path.into(),
                    attributes: attributes(&found),
                    content: Content::Symlink(OsString::from(to).into_vec().into()),
                });
                continue;
            }
            self.member(path, &found);
        }
        Ok(())
    }

    fn member(&mut self, path: Vec<u8>, found: &Metadata) {
        let kind = found.file_type();
        let left_out = &mut self.walked.left_out;
        if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            left_out.special.add(&path);
            return;
        }
        if has_extended_attributes(&self.walked.places.real(&path)) {
            left_out.attributes.add(&path);
        }
        if kind.is_file() {
            if found.nlink() > 1 {
                left_out.hard_links.add(&path);
            }
            let bytes = Some(found.len());
            self.walked.sources.push(source(path, found, bytes));
            return;
        }
        self.walked.sources.push(source(path.clone(), found, None));
        match self.device.is_some_and(|device| device != found.dev()) {
            true => left_out.file_systems.add(&path),
            false => self.to_list.push(path),
        }
    }
}

/// Where that cannot be asked there are none.
fn has_extended_attributes(path: &Path) -> bool {
    let mut names = [0_u8; 4096];
    let listed = rustix::fs::llistxattr(path, &mut names[..]);
    let names = match listed {
        Ok(bytes) => &names[..bytes],
        // More than fit.
        Err(rustix::io::Errno::RANGE) => return true,
        Err(_) => return false,
    };
    let mut names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.any(|name| name != LABEL)
}

/// Is it without content?
pub(super) fn is_empty(source: &Source) -> bool {
    source.bytes.is_none_or(|bytes| bytes == 0)
}

/// A directory, or an empty file, as the tree has it.
pub(super) fn node(source: &Source) -> Entry {
    match source.bytes {
        None => source.directory(),
        Some(bytes) => Entry {
            path: source.path.clone(),
            attributes: source.attributes,
            content: Content::File {
                bytes,
                extents: [].into(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_the_first_are_named() {
        let mut named = Named::default();
        (0..100).for_each(|number| named.add(format!("p{number}").as_bytes()));
        assert_eq!((named.count, named.first.len()), (100, NAMED));
        assert_eq!(named.first[9], "p9");
    }
}
