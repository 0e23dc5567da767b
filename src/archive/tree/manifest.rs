//! The manifest of a tree: one JSON value a line, so that `lz4 -d` and any JSON reader show it.
//!
//! ```text
//! {"tree":{"manifest_version":1,"id":"monday.0123456789abcdef"}}
//! {"part":{"key":"trees/monday.0123456789abcdef/000000.00000.tar.lz4","plain_bytes":...,"stored_bytes":...,"hash":"..."}}
//! {"directory":{"path":"","mode":"0700","uid":26,"gid":26,"modified":"2026-11-21T03:00:00Z"}}
//! {"file":{"path":"PG_VERSION","mode":"0600",...,"bytes":3,"extents":[[0,512,3]]}}
//! {"link":{"path":"pg_tblspc/16400","mode":"0777",...,"to":"/srv/fast"}}
//! ```
//! An extent is `[part, offset, bytes]`: the place of the part among the `part` lines, from 0. Paths and targets that are
//! not UTF-8 are `{"hex":"..."}`. A hundred thousand files take some 20 MB of text, a tenth of that compressed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::TreeId;
use super::entry::{Attributes, Content, Entry, Extent, Part, Tree, TreeError};
use crate::store::Key;

/// The version of the manifest that this program writes and reads.
pub const MANIFEST_VERSION: u32 = 1;

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A line is not what it should be.
    #[error("line {line} of the manifest cannot be read: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
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
    /// The first line is missing.
    #[error("the manifest is empty")]
    Empty,
    /// The lines do not make a tree.
    #[error("the manifest is no tree: {0}")]
    Tree(#[from] TreeError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Tree(TreeLine),
    Part(PartLine),
    Directory(EntryLine),
    Link(LinkLine),
    File(FileLine),
}

#[derive(Serialize, Deserialize)]
struct TreeLine {
    manifest_version: u32,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct PartLine {
    key: String,
    plain_bytes: u64,
    stored_bytes: u64,
    hash: String,
}

#[derive(Serialize, Deserialize)]
struct EntryLine {
    path: Text,
    mode: String,
    uid: u32,
    gid: u32,
    modified: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct LinkLine {
    #[serde(flatten)]
    entry: EntryLine,
    to: Text,
}

#[derive(Serialize, Deserialize)]
struct FileLine {
    #[serde(flatten)]
    entry: EntryLine,
    bytes: u64,
    extents: Vec<(u32, u64, u64)>,
}

/// Bytes that usually are text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Hex { hex: String },
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Plain(text.to_owned()),
            Err(_) => Self::Hex {
                hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            },
        }
    }

    fn bytes(self) -> Result<Box<[u8]>, String> {
        let hex = match self {
            Self::Plain(text) => return Ok(text.into_bytes().into()),
            Self::Hex { hex } => hex,
        };
        let wrong = || format!("{hex:?} is not hexadecimal");
        let digits: Option<Vec<u32>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
        let (pairs, rest) = digits.as_deref().ok_or_else(wrong)?.as_chunks();
        if !rest.is_empty() {
            return Err(wrong());
        }
        Ok(pairs.iter().map(|[high, low]| (high * 16 + low) as u8).collect())
    }
}

/// The manifest's text.
pub fn to_text(tree: &Tree) -> Vec<u8> {
    let mut text = Vec::new();
    push(
        &mut text,
        &Line::Tree(TreeLine {
            manifest_version: MANIFEST_VERSION,
            id: tree.id.to_string(),
        }),
    );
    for part in &tree.parts {
        push(&mut text, &part_line(part));
    }
    for entry in tree.entries() {
        push(&mut text, &entry_line(entry));
    }
    text
}

fn push(text: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *text, line).expect("plain data becomes JSON");
    text.push(b'\n');
}

fn part_line(part: &Part) -> Line {
    Line::Part(PartLine {
        key: part.key.as_str().to_owned(),
        plain_bytes: part.plain_bytes,
        stored_bytes: part.stored_bytes,
        hash: part.hash.to_string(),
    })
}

fn entry_line(entry: &Entry) -> Line {
    let Attributes {
        mode,
        uid,
        gid,
        modified,
    } = entry.attributes;
    let line = EntryLine {
        path: Text::of(&entry.path),
        mode: format!("{mode:04o}"),
        uid,
        gid,
        modified,
    };
    match &entry.content {
        Content::Directory => Line::Directory(line),
        Content::Symlink(target) => Line::Link(LinkLine {
            entry: line,
            to: Text::of(target),
        }),
        Content::File { bytes, extents } => Line::File(FileLine {
            entry: line,
            bytes: *bytes,
            extents: extents
                .iter()
                .map(|extent| (extent.part, extent.offset, extent.bytes))
                .collect(),
        }),
    }
}

/// Reads a manifest.
///
/// # Errors
/// Any [`ManifestError`]; never a tree that is not whole in itself.
pub fn parse(text: &[u8]) -> Result<Tree, ManifestError> {
    let mut id = None;
    let (mut parts, mut entries) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.split_inclusive(|&byte| byte == b'\n')) {
        let wrong = |reason: String| ManifestError::Line { line: number, reason };
        if !line.ends_with(b"\n") {
            return Err(wrong("it does not end".into()));
        }
        let line = serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        match line {
            Line::Tree(tree) if tree.manifest_version != MANIFEST_VERSION => {
                return Err(ManifestError::Version {
                    found: tree.manifest_version,
                });
            }
            Line::Tree(tree) => {
                id = Some(TreeId::parse(&tree.id).ok_or_else(|| wrong(format!("no id: {:?}", tree.id)))?)
            }
            Line::Part(part) => parts.push(read_part(part).map_err(wrong)?),
            line => entries.push(read_entry(line).map_err(wrong)?),
        }
    }
    Ok(Tree::new(id.ok_or(ManifestError::Empty)?, parts, entries)?)
}

fn read_part(line: PartLine) -> Result<Part, String> {
    Ok(Part {
        key: Key::parse(&line.key).ok_or_else(|| format!("{:?} is no key", line.key))?,
        plain_bytes: line.plain_bytes,
        stored_bytes: line.stored_bytes,
        hash: line.hash.parse().map_err(|error| format!("{error}"))?,
    })
}

fn read_entry(line: Line) -> Result<Entry, String> {
    let (line, content) = match line {
        Line::Directory(line) => (line, Content::Directory),
        Line::Link(line) => (line.entry, Content::Symlink(line.to.bytes()?)),
        Line::File(line) => {
            let extents = line.extents.into_iter();
            let extents = extents
                .map(|(part, offset, bytes)| Extent { part, offset, bytes })
                .collect();
            (
                line.entry,
                Content::File {
                    bytes: line.bytes,
                    extents,
                },
            )
        }
        Line::Tree(_) | Line::Part(_) => unreachable!("taken by the caller"),
    };
    let mode = u32::from_str_radix(&line.mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777);
    let path = line.path.bytes()?;
    Ok(Entry {
        attributes: Attributes {
            mode: mode.ok_or_else(|| format!("{:?} is no mode", line.mode))?,
            uid: line.uid,
            gid: line.gid,
            modified: line.modified,
        },
        path: is_sane(&path)
            .then_some(path)
            .ok_or("a path leads out of the tree")?,
        content,
    })
}

/// No path may lead out of the directory that it is restored to.
fn is_sane(path: &[u8]) -> bool {
    let component = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    path.is_empty() || path.split(|&byte| byte == b'/').all(component)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for path in ["../x", "/x", "a//b", "a/", "."] {
            let evil = text.replace("\"link\",\"mode\"", &format!("\"{path}\",\"mode\""));
            let error = parse(evil.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{path}: {error}");
        }
    }

    #[test]
    fn damage_is_told_by_line() {
        let text = to_text(&sample());
        let cut = parse(&text[..text.len() - 5]).unwrap_err();
        assert!(matches!(cut, ManifestError::Line { line: 5, .. }), "{cut}");
        assert!(matches!(parse(b"").unwrap_err(), ManifestError::Empty));
        let newer = String::from_utf8(text)
            .unwrap()
            .replace("_version\":1", "_version\":2");
        assert!(matches!(
            parse(newer.as_bytes()).unwrap_err(),
            ManifestError::Version { found: 2 }
        ));
    }
}
