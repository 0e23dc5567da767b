//! The lines of a manifest as they are written, and what they mean.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::overlay::{self, Overlay};
use crate::archive::tree::entry::{Attributes, Content, Entry, Extent, Part};
use crate::store::Key;

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Line {
    Part(PartLine),
    Directory(EntryLine),
    Link(LinkLine),
    File(FileLine),
    More(MoreLine),
    Parts(PartsLine),
    Entries(EntriesLine),
    Tree(TreeLine),
}

#[derive(Serialize, Deserialize)]
pub(super) struct PartLine {
    key: String,
    plain_bytes: u64,
    stored_bytes: u64,
    hash: String,
    used_bytes: u64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EntryLine {
    path: Text,
    mode: String,
    uid: u32,
    gid: u32,
    modified: Timestamp,
}

#[derive(Serialize, Deserialize)]
pub(super) struct LinkLine {
    #[serde(flatten)]
    entry: EntryLine,
    to: Text,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FileLine {
    #[serde(flatten)]
    entry: EntryLine,
    bytes: u64,
    #[serde(flatten)]
    places: Overlay,
}

/// Further extents of the file above, from `from` on.
#[derive(Serialize, Deserialize)]
pub(super) struct MoreLine {
    from: u64,
    #[serde(flatten)]
    places: Overlay,
}

/// A leaf of part lines: its offset, and the number of the first one.
#[derive(Serialize, Deserialize)]
pub(super) struct PartsLine {
    pub(super) at: u64,
    pub(super) first: u32,
}

/// A leaf of entries: its offset, and the number and path of the first one. With `from` it begins within that file.
#[derive(Serialize, Deserialize)]
pub(super) struct EntriesLine {
    pub(super) at: u64,
    pub(super) first: u32,
    pub(super) path: Text,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) from: u64,
}

/// The last line.
#[derive(Serialize, Deserialize)]
pub(super) struct TreeLine {
    pub(super) manifest_version: u32,
    pub(super) id: String,
    pub(super) parts: u32,
    pub(super) entries: u32,
    pub(super) index_at: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Bytes that usually are text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Plain(String),
    Hex { hex: String },
}

impl Text {
    pub(super) fn of(bytes: &[u8]) -> Self {
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

    /// A path, none of which leads out of the directory that it is restored to.
    pub(super) fn path(self) -> Result<Box<[u8]>, String> {
        let path = self.bytes()?;
        let component = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        let is_sane = path.is_empty() || path.split(|&byte| byte == b'/').all(component);
        is_sane
            .then_some(path)
            .ok_or_else(|| "a path leads out of the tree".into())
    }
}

/// Appends a line.
pub(super) fn push(text: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *text, line).expect("plain data becomes JSON");
    text.push(b'\n');
}

pub(super) fn of_part(part: &Part) -> Line {
    Line::Part(PartLine {
        key: part.key.as_str().to_owned(),
        plain_bytes: part.plain_bytes,
        stored_bytes: part.stored_bytes,
        hash: part.hash.to_string(),
        used_bytes: part.used_bytes,
    })
}

/// An entry; of a file with the first of its extents.
pub(super) fn of_entry(entry: &Entry, extents: &[Extent]) -> Line {
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
        Content::File { bytes, .. } => Line::File(FileLine {
            entry: line,
            bytes: *bytes,
            places: overlay::of(0, extents),
        }),
    }
}

/// Further extents of a file, which begin at `from`.
pub(super) fn of_more(from: u64, extents: &[Extent]) -> Line {
    Line::More(MoreLine {
        from,
        places: overlay::of(from, extents),
    })
}

/// What a line of a leaf says.
#[derive(Debug)]
pub(super) enum Said {
    Part(Part),
    /// A file has the extents of its own line only.
    Entry(Entry),
    More {
        from: u64,
        extents: Vec<Extent>,
    },
}

impl Line {
    /// Reads one, with its line feed.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        if !line.ends_with(b"\n") {
            return Err("it does not end".into());
        }
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }

    /// A line of a leaf.
    ///
    /// # Errors
    /// What is wrong, as text.
    pub(super) fn said(self) -> Result<Said, String> {
        let (line, content) = match self {
            Self::Part(line) => return read_part(line).map(Said::Part),
            Self::More(line) => {
                let (from, extents) = (line.from, line.places.extents(line.from)?);
                return Ok(Said::More { from, extents });
            }
            Self::Directory(line) => (line, Content::Directory),
            Self::Link(line) => (line.entry, Content::Symlink(line.to.bytes()?)),
            Self::File(line) => {
                let extents = line.places.extents(0)?.into();
                let bytes = line.bytes;
                (line.entry, Content::File { bytes, extents })
            }
            Self::Parts(_) | Self::Entries(_) | Self::Tree(_) => return Err("it belongs to the index".into()),
        };
        read_entry(line, content).map(Said::Entry)
    }
}

fn read_part(line: PartLine) -> Result<Part, String> {
    Ok(Part {
        key: Key::parse(&line.key).ok_or_else(|| format!("{:?} is no key", line.key))?,
        plain_bytes: line.plain_bytes,
        stored_bytes: line.stored_bytes,
        hash: line.hash.parse().map_err(|error| format!("{error}"))?,
        used_bytes: line.used_bytes,
    })
}

fn read_entry(line: EntryLine, content: Content) -> Result<Entry, String> {
    let mode = u32::from_str_radix(&line.mode, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777);
    Ok(Entry {
        attributes: Attributes {
            mode: mode.ok_or_else(|| format!("{:?} is no mode", line.mode))?,
            uid: line.uid,
            gid: line.gid,
            modified: line.modified,
        },
        path: line.path.path()?,
        content,
    })
}
