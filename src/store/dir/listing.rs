//! Listing a directory in pages, in order.
//!
//! The kernel gives names in no order and cannot start from one, so a page costs a pass over the whole directory: of a
//! million entries seconds, and 40 MB. So that a listing of a thousand pages does not cost a thousand
//! passes, what is left after a page is kept, sorted, for whoever continues just there within ten seconds. At most
//! four are kept. A pass sees every object stored before it began; later pages may miss later objects, as the
//! contract allows.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::folders::MARK;
use super::{Error, ErrorKind, Key, Page, Root, TEMP_DIR};
use crate::beneath::LOST_AND_FOUND;

/// How long a pass may be continued.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// Bytes of names of one listing: of ten million segments.
const MOST_TEXT_BYTES: usize = 320 << 20;

/// How many unfinished listings are kept.
const MOST_LISTINGS: usize = 4;

/// The rest of a listing: sorted keys, in one piece of memory.
#[derive(Debug)]
pub(super) struct Listing {
    prefix: String,
    /// The last key of the page before.
    after: String,
    began: Instant,
    text: String,
    /// Start and length of each key in `text`; the next one last.
    keys: Vec<(u32, u16)>,
}

impl Root {
    pub(super) fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Page, Error> {
        let mut listing = match self.kept(prefix, after) {
            Some(listing) => listing,
            None => Listing::new(self, prefix, after)?,
        };
        let page = self.page(&mut listing, limit)?;
        if page.more {
            self.keep(listing);
        }
        Ok(page)
    }

    fn kept(&self, prefix: &str, after: &str) -> Option<Listing> {
        let mut kept = self.listings.lock().expect("no panic inside");
        kept.retain(|listing| listing.began.elapsed() < FRESH_FOR);
        let found = kept
            .iter()
            .position(|listing| listing.prefix == prefix && listing.after == after);
        found.map(|index| kept.swap_remove(index))
    }

    fn keep(&self, listing: Listing) {
        let mut kept = self.listings.lock().expect("no panic inside");
        if kept.len() >= MOST_LISTINGS {
            kept.remove(0);
        }
        kept.push(listing);
    }

    fn page(&self, listing: &mut Listing, limit: usize) -> Result<Page, Error> {
        let mut page = Page::default();
        while page.entries.len() < limit
            && let Some(key) = listing.next()
        {
            if let Some(meta) = self.listed(&key)? {
                page.entries.push((key.clone(), meta));
            }
            key.as_str().clone_into(&mut listing.after);
        }
        // A page without entries must not claim that more comes after its last one.
        page.more = !listing.keys.is_empty() && !page.entries.is_empty();
        Ok(page)
    }
}

impl Listing {
    /// One pass over everything under the prefix.
    fn new(root: &Root, prefix: &str, after: &str) -> Result<Self, Error> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let mut new = Self {
            prefix,
            after,
            began: Instant::now(),
            text: String::new(),
            keys: Vec::new(),
        };
        let folder = new
            .prefix
            .rfind('/')
            .map_or("", |slash| &new.prefix[..slash])
            .to_owned();
        if !folder.is_empty() && Key::parse(&folder).is_none() {
            return Ok(new);
        }
        new.refuse_link(root, &folder)?;
        new.walk(root, &folder)?;
        // Only now: a disk that was unmounted during the pass has shown nothing.
        root.check("list")?;
        root.check_folders_of(&new.prefix)?;
        let text = &new.text;
        new.keys
            .sort_unstable_by(|one, other| slice(text, *other).cmp(slice(text, *one)));
        Ok(new)
    }

    /// What a folder of the archive leads to somewhere else is not in it, nor is there nothing.
    fn refuse_link(&self, root: &Root, folder: &str) -> Result<(), Error> {
        let first = folder.split('/').next().unwrap_or_default();
        let path = root.path.join(first);
        let is_link = !first.is_empty() && fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        if !is_link {
            return Ok(());
        }
        let message = "it is a link, which is not followed: nobody can tell what the archive has there.\n\
                       HINT: put the directory itself there, by a bind mount for example";
        Err(Error::new(
            ErrorKind::Permanent,
            "list",
            path.display().to_string(),
            message,
        ))
    }

    fn walk(&mut self, root: &Root, folder: &str) -> Result<(), Error> {
        let path = root.path.join(folder);
        let failed = |error: io::Error| Error {
            operation: "list",
            ..root.read_error("list", &path, &error)
        };
        let entries = match fs::read_dir(&path).map_err(failed) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let key = if folder.is_empty() {
                name.to_owned()
            } else {
                format!("{folder}/{name}")
            };
            // A link to a directory is none.
            if entry.file_type().map_err(failed)?.is_dir() {
                self.descend(root, &key)?;
            } else if name != MARK {
                self.note(&key);
            }
            if self.text.len() > MOST_TEXT_BYTES {
                let message = "there are more files than walfs can list";
                return Err(Error::new(
                    ErrorKind::Permanent,
                    "list",
                    path.display().to_string(),
                    message,
                ));
            }
        }
        Ok(())
    }

    /// Into a directory, if keys under it can match.
    fn descend(&mut self, root: &Root, folder: &str) -> Result<(), Error> {
        let under = format!("{folder}/");
        let matching = under.starts_with(&self.prefix) || self.prefix.starts_with(&under);
        // A longer one holds no objects.
        let is_foreign = matches!(folder.rsplit('/').next(), Some(TEMP_DIR | LOST_AND_FOUND));
        if !is_foreign && matching && Key::parse(folder).is_some() {
            self.walk(root, folder)?;
        }
        Ok(())
    }

    fn note(&mut self, key: &str) {
        let wanted = key.starts_with(&self.prefix) && key > self.after.as_str();
        if wanted && Key::parse(key).is_some() {
            let start = u32::try_from(self.text.len()).expect("less than MOST_TEXT_BYTES");
            self.text.push_str(key);
            self.keys.push((start, key.len() as u16));
        }
    }

    fn next(&mut self) -> Option<Key> {
        let at = self.keys.pop()?;
        Key::parse(slice(&self.text, at))
    }
}

fn slice(text: &str, (start, length): (u32, u16)) -> &str {
    &text[start as usize..start as usize + usize::from(length)]
}
