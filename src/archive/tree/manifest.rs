//! The manifest of a tree: one JSON value a line, so that `lz4 -d` and any JSON reader show it.
//!
//! ```text
//! {"part":{"key":"trees/monday.0123456789abcdef/000000.00000.tar.lz4","plain_bytes":...,"stored_bytes":...,"hash":"..."}}
//! {"directory":{"path":"","mode":"0700","uid":26,"gid":26,"modified":"2026-11-21T03:00:00Z"}}
//! {"file":{"path":"PG_VERSION","mode":"0600",...,"bytes":3,"extents":[[0,512,3]]}}
//! {"link":{"path":"pg_tblspc/16400","mode":"0777",...,"to":"/srv/fast"}}
//! {"parts":{"at":0,"first":0}}
//! {"entries":{"at":190,"first":0,"path":""}}
//! {"tree":{"manifest_version":1,"id":"monday.0123456789abcdef","parts":1,"entries":3,"index_at":560}}
//! ```
//! An extent is `[part, offset, bytes]`: the place of the part among the `part` lines, from 0; single pages that lie over
//! these are in a short form (`overlay`). Entries are in their order, so what one directory holds
//! is together. A file of very many extents goes on in lines `{"more":{"from":...}}` behind its own. The last lines are the
//! index: one entry of a million is found without reading the others. Paths and targets that are not UTF-8 are
//! `{"hex":"..."}`.

use super::entry::{Content, Entry, Extent, Tree, TreeError};

mod index;
mod leaf;
mod line;
mod overlay;

pub use index::{EntryLeaf, Index, LAST_LINE_BYTES, PartLeaf, index_at};
pub use leaf::{Entries, Extents, parts};

/// The version of the manifest that this program writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

/// Extents in one line at most: some ten thousand bytes, so that one of them is found quickly.
const LINE_EXTENTS: usize = 4096;

/// Extents, and runs of pages, that are read of one line: what is short may claim very many.
const MOST_READ_EXTENTS: usize = 2 * LINE_EXTENTS;

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A line is not what it should be.
    #[error("the line at byte {at} of the manifest cannot be read: {reason}")]
    Line {
        /// Where it begins.
        at: u64,
        /// What is wrong.
        reason: String,
    },
    /// Written by a walfs that knows more.
    #[error(
        "the manifest has version {found}; this walfs reads version {MANIFEST_VERSION}.\nHINT: use a newer walfs."
    )]
    Version {
        /// Its version.
        found: u32,
    },
    /// The index is not that of these lines.
    #[error("the index of the manifest is wrong: {0}")]
    Index(&'static str),
    /// The lines do not make a tree.
    #[error("the manifest is no tree: {0}")]
    Tree(#[from] TreeError),
}

/// The manifest's text.
pub fn to_text(tree: &Tree) -> Vec<u8> {
    let mut text = Vec::new();
    let mut index = Index::new(
        tree.id.clone(),
        tree.parts.len() as u32,
        tree.entries().len() as u32,
    );
    let mut leaf = None;
    for (number, part) in (0..).zip(&tree.parts) {
        if begins_leaf(&mut leaf, &text) {
            index.part_leaf(text.len() as u64, number);
        }
        line::push(&mut text, &line::of_part(part));
    }
    leaf = None;
    for (number, entry) in (0..).zip(tree.entries()) {
        let mut push = |from: u64, line: &line::Line| {
            if begins_leaf(&mut leaf, &text) {
                let path = entry.path.clone();
                index.entry_leaf(text.len() as u64, index::FirstEntry { number, path, from });
            }
            line::push(&mut text, line);
        };
        let (first, more) = in_lines(entry);
        push(0, &line::of_entry(entry, first));
        let mut from = bytes(first);
        for extents in more {
            push(from, &line::of_more(from, extents));
            from += bytes(extents);
        }
    }
    index.write(&mut text);
    text
}

/// Is the next line the first of a leaf? `leaf` is where the last one begins.
fn begins_leaf(leaf: &mut Option<u64>, text: &[u8]) -> bool {
    let at = text.len() as u64;
    let begins = leaf.is_none_or(|leaf| at - leaf >= index::LEAF_BYTES);
    if begins {
        *leaf = Some(at);
    }
    begins
}

/// The extents of an entry's own line, and those of the lines behind it.
fn in_lines(entry: &Entry) -> (&[Extent], impl Iterator<Item = &[Extent]>) {
    let extents = match &entry.content {
        Content::File { extents, .. } => &extents[..],
        _ => &[],
    };
    let (first, more) = extents.split_at(extents.len().min(LINE_EXTENTS));
    (first, more.chunks(LINE_EXTENTS))
}

fn bytes(extents: &[Extent]) -> u64 {
    extents.iter().map(|extent| extent.bytes).sum()
}

/// Reads a manifest whole.
///
/// # Errors
/// Any [`ManifestError`]; never a tree that is not whole in itself.
pub fn parse(text: &[u8]) -> Result<Tree, ManifestError> {
    let at = index_at(text, text.len() as u64)?;
    let index = Index::parse(&text[at as usize..], at)?;
    let cut = |range: std::ops::Range<u64>| &text[range.start as usize..range.end as usize];
    let mut parts = Vec::new();
    for leaf in index.part_leaves() {
        parts.extend(self::parts(cut(index.range_of_parts(leaf)), &index, leaf)?);
    }
    let mut entries = Vec::new();
    for leaf in index.entry_leaves() {
        Entries::parse(cut(index.range_of_entries(leaf)), &index, leaf)?.join(&mut entries);
    }
    Ok(Tree::new(index.id, parts, entries)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::{Attributes, Part, TreeId};
    use crate::codec::ContentHash;

    fn sample() -> Tree {
        let id = TreeId::fresh(&"monday".parse().unwrap());
        let attributes = Attributes {
            mode: 0o640,
            uid: 26,
            gid: 27,
            modified: "2026-11-21T03:00:00.123456789Z".parse().unwrap(),
        };
        let entry = |path: &[u8], content| Entry {
            path: path.into(),
            attributes,
            content,
        };
        let part = Part {
            key: id.part_key(0, 0, "lz4"),
            plain_bytes: 4096,
            stored_bytes: 1000,
            hash: ContentHash::of(b"x"),
            used_bytes: 103,
        };
        let extents =
            [(0, 512, 100), (0, 1024, 3)].map(|(part, offset, bytes)| Extent { part, offset, bytes });
        let file = Content::File {
            bytes: 103,
            extents: extents.into(),
        };
        let entries = vec![
            entry(b"", Content::Directory),
            entry(b"odd\xff\n\"name", file),
            entry(b"link", Content::Symlink((*b"/to/\xfe").into())),
        ];
        Tree::new(id, vec![part], entries).unwrap()
    }

    #[test]
    fn a_tree_is_read_back() {
        let tree = sample();
        let text = to_text(&tree);
        assert_eq!(parse(&text).unwrap(), tree);
    }

    #[test]
    fn paths_stay_inside() {
        let text = String::from_utf8(to_text(&sample())).unwrap();
        for path in ["../x", "/xyz", "a//b", "abc/", "././"] {
            let evil = text.replace("\"link\",\"mode\"", &format!("\"{path}\",\"mode\""));
            let error = parse(evil.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{path}: {error}");
        }
    }

    #[test]
    fn damage_is_told_by_place() {
        let text = to_text(&sample());
        let cut = parse(&text[..text.len() - 5]).unwrap_err();
        assert!(matches!(cut, ManifestError::Index(_)), "{cut}");
        assert!(matches!(parse(b"").unwrap_err(), ManifestError::Index(_)));
        let broken = String::from_utf8(text.clone())
            .unwrap()
            .replace("\"mode\":\"0640\"", "\"mode\":\"0648\"");
        let error = parse(broken.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::Line { at: 1.., .. }), "{error}");
        let newer = String::from_utf8(text)
            .unwrap()
            .replace("_version\":1", "_version\":2");
        assert!(matches!(
            parse(newer.as_bytes()).unwrap_err(),
            ManifestError::Version { found: 2 }
        ));
    }

    /// Thousands of parts and files, and a file of changed pages that takes several lines and leaves.
    fn large() -> Tree {
        let tree = sample();
        let part = |number| Part {
            key: tree.id.part_key(number, 0, "lz4"),
            plain_bytes: 1 << 30,
            ..tree.parts[0].clone()
        };
        let like = tree.entries()[0].clone();
        let mut entries = vec![like.clone()];
        for directory in ["a", "a/b", "a-b"] {
            entries.push(Entry {
                path: directory.as_bytes().into(),
                ..like.clone()
            });
            entries.extend((0..2000).map(|number| {
                let pages = if number == 77 { 30_000 } else { number % 3 };
                let extents = (0..pages).map(|page| Extent {
                    part: page % 2 * (page % 7 + 1),
                    offset: u64::from(page) * if page % 2 == 0 { 8192 } else { 4096 },
                    bytes: 8192,
                });
                Entry {
                    path: format!("{directory}/{number:05}").as_bytes().into(),
                    content: Content::File {
                        bytes: u64::from(pages) * 8192,
                        extents: extents.collect(),
                    },
                    ..like.clone()
                }
            }));
        }
        Tree::new(tree.id.clone(), (0..1000).map(part).collect(), entries).unwrap()
    }

    #[test]
    fn each_entry_of_many_is_found_by_one_leaf() {
        let tree = large();
        let text = to_text(&tree);
        assert_eq!(parse(&text).unwrap(), tree);
        let at = index_at(&text[text.len() - LAST_LINE_BYTES as usize..], text.len() as u64).unwrap();
        let index = Index::parse(&text[at as usize..], at).unwrap();
        assert!(index.entry_leaves().count() > 10 && index.part_leaves().count() > 2);
        let cut = |range: std::ops::Range<u64>| &text[range.start as usize..range.end as usize];
        let mut last = None;
        let mut entries = |leaf: EntryLeaf| {
            let parse = || Entries::parse(cut(index.range_of_entries(leaf)), &index, leaf).unwrap();
            if last.as_ref().is_none_or(|(known, _)| *known != leaf) {
                last = Some((leaf, std::rc::Rc::new(parse())));
            }
            last.as_ref().unwrap().1.clone()
        };
        for (number, entry) in (0..).zip(tree.entries()) {
            let leaf = index.leaf_of_entry(number, 0).unwrap();
            assert_eq!(index.leaf_of_path(&entry.path), leaf);
            let leaf = entries(leaf);
            assert_eq!(leaf.entry(number).unwrap().path, entry.path);
            assert_eq!(leaf.first_from(&entry.path), number);
            let Content::File {
                extents: expected, ..
            } = &entry.content
            else {
                continue;
            };
            let mut found = Vec::new();
            let mut from = 0;
            while from < entry.bytes() {
                let leaf = entries(index.leaf_of_entry(number, from).unwrap());
                let extents = leaf.extents(number, from).unwrap();
                assert_eq!(extents.from, from);
                assert!(leaf.extents(number, from + 1).unwrap() == extents);
                found.extend_from_slice(extents.extents);
                from += bytes(extents.extents);
            }
            assert_eq!(found[..], expected[..]);
        }
        for (number, part) in (0..).zip(&tree.parts).step_by(7) {
            let leaf = index.leaf_of_part(number).unwrap();
            let found = parts(cut(index.range_of_parts(leaf)), &index, leaf).unwrap();
            let first = index.numbers_of_parts(leaf).start;
            assert_eq!(&found[(number - first) as usize], part);
        }
        assert!(index.leaf_of_entry(tree.entries().len() as u32, 0).is_none());
        assert!(index.leaf_of_part(1000).is_none());
    }

    #[test]
    fn an_index_that_is_not_of_its_lines_is_refused() {
        let text = String::from_utf8(to_text(&large())).unwrap();
        let (lines, index) = text.split_at(text.find("{\"parts\"").unwrap());
        let numbers = [
            "\"first\":",
            "\"at\":",
            "\"parts\":",
            "\"entries\":",
            "\"from\":",
            "\"index_at\":",
        ];
        for name in numbers {
            for (place, _) in index.match_indices(name).filter(|(place, _)| {
                index[place + name.len()..].starts_with(|digit: char| digit.is_ascii_digit())
            }) {
                let (before, number) = index.split_at(place + name.len());
                let behind = number.trim_start_matches(|digit: char| digit.is_ascii_digit());
                let number: u64 = number[..number.len() - behind.len()].parse().unwrap();
                for other in [
                    number + 1,
                    number.wrapping_sub(1),
                    u64::MAX,
                    u64::from(u32::MAX),
                    0,
                ] {
                    let text = format!("{lines}{before}{other}{behind}");
                    assert!(
                        other == number || parse(text.as_bytes()).is_err(),
                        "{name}{other} at {place}"
                    );
                }
            }
        }
    }
}
