//! How files become a tar stream, and how the stream is cut into parts. Pure.
//!
//! A *volume* is a piece of tar stream that ends with two blocks of zeros, as a tar file does; `tar -i` reads one behind
//! the other. There are two kinds:
//!
//! - a *bundle* of small files: one part, `<volume>.00000`;
//! - one *large* file, behind [`HEADER_BYTES`] of headers, and cut every [`SLICE_BYTES`]: parts `<volume>.00000`,
//!   `<volume>.00001` and so on, which can be made, stored and fetched side by side and in any order. The headers have a
//!   fixed size so that a file can be sent on its way before its name and length are final: only the first slice has to
//!   wait for them.
//!
//! Headers are POSIX (`ustar`, with pax records where a name or number does not fit).

use super::entry::{Attributes, Content, Entry};

/// Bytes of headers in front of a large file: one data page, so that all later cuts lie between pages.
pub const HEADER_BYTES: u64 = 8192;

/// Plain bytes of a slice of a large file's volume, the headers counted with the first: 32 MiB.
///
/// Large enough that a request's round trip is small beside its transfer, small enough that a few fit into memory and
/// that one file of 1 GiB keeps all cores and connections busy.
pub const SLICE_BYTES: u64 = 32 << 20;

/// Plain bytes after which a bundle is closed.
pub const BUNDLE_BYTES: u64 = 16 << 20;

/// Files longer than this have a volume of their own, where the length is known in time.
pub const LARGE_BYTES: u64 = SLICE_BYTES - HEADER_BYTES;

/// Longest file: a slice's number has five digits in its key.
pub const MAX_FILE_BYTES: u64 = 100_000 * SLICE_BYTES - HEADER_BYTES - END_BYTES - BLOCK_BYTES;

/// A tar block.
pub const BLOCK_BYTES: u64 = 512;

/// What ends a volume.
pub const END_BYTES: u64 = 2 * BLOCK_BYTES;

/// Zeros that fill a file's last block.
pub const fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}

/// Plain bytes of a large file's volume.
pub const fn volume_bytes(file_bytes: u64) -> u64 {
    HEADER_BYTES + file_bytes + padding(file_bytes) + END_BYTES
}

/// Number of slices of a large file's volume.
pub const fn slices(file_bytes: u64) -> u64 {
    volume_bytes(file_bytes).div_ceil(SLICE_BYTES)
}

/// Plain bytes of slice `index` of a large file's volume, whose last one is shorter.
pub const fn slice_bytes(index: u64, file_bytes: u64) -> u64 {
    let rest = volume_bytes(file_bytes) - index * SLICE_BYTES;
    if rest < SLICE_BYTES { rest } else { SLICE_BYTES }
}

/// Which bytes of a file of `file_bytes` lie in slice `index` of its own volume, and where in the slice they begin.
pub fn slice_content(index: u64, file_bytes: u64) -> (std::ops::Range<u64>, u64) {
    let start = (index * SLICE_BYTES).saturating_sub(HEADER_BYTES);
    let end = ((index + 1) * SLICE_BYTES - HEADER_BYTES).min(file_bytes);
    (start.min(end)..end, if index == 0 { HEADER_BYTES } else { 0 })
}

/// The headers of a member of a bundle: a multiple of [`BLOCK_BYTES`]. A file's content and [`padding`] follow.
pub fn member_header(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let header = header(entry, &mut records);
    let mut bytes = Vec::new();
    if !records.is_empty() {
        bytes.extend_from_slice(pax_header(records.len()).as_bytes());
        bytes.extend_from_slice(&records);
        bytes.resize(bytes.len() + padding(records.len() as u64) as usize, 0);
    }
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

/// The headers of a large file: exactly [`HEADER_BYTES`]. `None` if its path is too long for that.
pub fn large_header(entry: &Entry) -> Option<Vec<u8>> {
    let room = (HEADER_BYTES - 2 * BLOCK_BYTES) as usize;
    let mut records = Vec::new();
    let header = header(entry, &mut records);
    fill(&mut records, room)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
    bytes.extend_from_slice(pax_header(room).as_bytes());
    bytes.extend_from_slice(&records);
    bytes.extend_from_slice(header.as_bytes());
    Some(bytes)
}

/// The header proper; what does not fit into it becomes a pax record.
fn header(entry: &Entry, records: &mut Vec<u8>) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let Attributes {
        mode,
        uid,
        gid,
        modified,
    } = entry.attributes;
    header.set_mode(mode);
    set_number(&mut header, records, "uid", u64::from(uid));
    set_number(&mut header, records, "gid", u64::from(gid));
    header.set_mtime(u64::try_from(modified.as_second()).unwrap_or(0));
    header.set_size(0);
    let path = member_path(entry);
    set_path(&mut header, records, &path);
    match &entry.content {
        Content::Directory => header.set_entry_type(tar::EntryType::Directory),
        Content::Symlink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            set_link(&mut header, records, target);
        }
        Content::File { bytes, .. } => {
            header.set_entry_type(tar::EntryType::Regular);
            set_number(&mut header, records, "size", *bytes);
        }
    }
    header.set_cksum();
    header
}

/// As `tar -C directory -c .` names it.
fn member_path(entry: &Entry) -> Vec<u8> {
    let mut path = b"./".to_vec();
    path.extend_from_slice(&entry.path);
    if entry.content == Content::Directory && !entry.path.is_empty() {
        path.push(b'/');
    }
    path
}

/// Eleven octal digits hold less than 8 GiB, seven an owner below 2097152.
fn set_number(header: &mut tar::Header, records: &mut Vec<u8>, key: &str, number: u64) {
    let digits = if key == "size" { 11 } else { 7 };
    let fits = number < 1 << (3 * digits);
    let shown = if fits { number } else { 0 };
    match key {
        "size" => header.set_size(shown),
        "uid" => header.set_uid(shown),
        _ => header.set_gid(shown),
    }
    if !fits {
        record(records, key, number.to_string().as_bytes());
    }
}

fn set_path(header: &mut tar::Header, records: &mut Vec<u8>, path: &[u8]) {
    let field = &mut header.as_ustar_mut().expect("made as ustar").name;
    let fitting = path.len().min(field.len());
    field[..fitting].copy_from_slice(&path[..fitting]);
    if fitting < path.len() {
        record(records, "path", path);
    }
}

fn set_link(header: &mut tar::Header, records: &mut Vec<u8>, target: &[u8]) {
    let field = &mut header.as_ustar_mut().expect("made as ustar").linkname;
    let fitting = target.len().min(field.len());
    field[..fitting].copy_from_slice(&target[..fitting]);
    if fitting < target.len() {
        record(records, "linkpath", target);
    }
}

/// The header of a block of pax records of that length.
fn pax_header(records_bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let name = b"././@PaxHeader";
    header.as_ustar_mut().expect("made as ustar").name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(records_bytes as u64);
    header.set_cksum();
    header
}

/// One pax record: its own length in decimal, a space, `key=value`, a line feed.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + decimal_digits(length) {
        length = rest + decimal_digits(length);
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.to_string().len()
}

/// Fills up to exactly `room` bytes with a comment. `None` if there is no room for one.
fn fill(records: &mut Vec<u8>, room: usize) -> Option<()> {
    let left = room.checked_sub(records.len())?;
    let frame = format!("{left} comment=\n").len();
    records.extend_from_slice(format!("{left} comment=").as_bytes());
    let blanks = left.checked_sub(frame)?;
    records.resize(records.len() + blanks, b' ');
    records.push(b'\n');
    Some(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use jiff::Timestamp;

    use super::*;

    fn file(path: &[u8], bytes: u64) -> Entry {
        Entry {
            path: path.into(),
            attributes: Attributes {
                mode: 0o640,
                uid: 26,
                gid: 3_000_000,
                modified: Timestamp::from_second(1_700_000_000).unwrap(),
            },
            content: Content::File {
                bytes,
                extents: [].into(),
            },
        }
    }

    /// The path and size that a tar reader finds in a stream of headers and zeros.
    fn read_back(mut stream: Vec<u8>, bytes: u64) -> (Vec<u8>, u64, u64) {
        stream.resize(stream.len() + (bytes + padding(bytes) + END_BYTES) as usize, 0);
        let mut archive = tar::Archive::new(&stream[..]);
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        let found = (
            entry.path_bytes().into_owned(),
            entry.size(),
            entry.header().mtime().unwrap(),
        );
        assert_eq!(entry.read_to_end(&mut Vec::new()).unwrap() as u64, bytes);
        drop(entry);
        assert!(entries.next().is_none());
        found
    }

    #[test]
    fn headers_are_read_by_tar() {
        let long = [b"base/".to_vec(), vec![b'x'; 300], b"/\xff\xfe".to_vec()].concat();
        for path in [&b"base/5/1249"[..], &long] {
            let entry = file(path, 1000);
            let expected = [b"./", path].concat();
            let large = large_header(&entry).unwrap();
            assert_eq!(large.len() as u64, HEADER_BYTES);
            for header in [member_header(&entry), large] {
                assert_eq!(header.len() % 512, 0);
                assert_eq!(read_back(header, 1000), (expected.clone(), 1000, 1_700_000_000));
            }
        }
    }

    #[test]
    fn every_padding_of_a_large_header_is_possible() {
        for length in 90..300 {
            let entry = file(&vec![b'p'; length], 10);
            assert_eq!(
                large_header(&entry).unwrap().len() as u64,
                HEADER_BYTES,
                "path of {length}"
            );
        }
        assert_eq!(large_header(&file(&[b'p'; 8000], 10)), None);
    }

    #[test]
    fn links_and_directories_are_members_too() {
        let mut link = file(b"pg_tblspc/16400", 0);
        link.content = Content::Symlink([b"/very".to_vec(), vec![b'/'; 200]].concat().into());
        let mut directory = file(b"", 0);
        directory.content = Content::Directory;
        let stream = [member_header(&link), member_header(&directory), vec![0; 1024]].concat();
        let mut archive = tar::Archive::new(&stream[..]);
        let mut entries = archive.entries().unwrap();
        let found = entries.next().unwrap().unwrap();
        assert_eq!(found.link_name_bytes().unwrap().len(), 205);
        assert!(found.header().entry_type().is_symlink());
        let found = entries.next().unwrap().unwrap();
        assert_eq!(&*found.path_bytes(), b"./");
        assert!(found.header().entry_type().is_dir());
    }

    #[test]
    fn slices_cover_the_file() {
        for bytes in [
            1,
            LARGE_BYTES - 1536,
            LARGE_BYTES,
            LARGE_BYTES + 1,
            3 * SLICE_BYTES,
            1 << 30,
        ] {
            let mut at = 0;
            for index in 0..slices(bytes) {
                let (content, offset) = slice_content(index, bytes);
                assert_eq!(content.start, at, "slice {index} of {bytes}");
                assert_eq!(offset, if index == 0 { HEADER_BYTES } else { 0 });
                at = content.end;
            }
            assert_eq!(at, bytes);
        }
    }
}
