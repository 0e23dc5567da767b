//! Headers of a tree's tar stream: POSIX (`ustar`, with pax records where a name or number does not fit). Pure.

use super::entry::{Attributes, Content, Entry};
use super::layout::{BLOCK_BYTES, HEADER_BYTES, padding};

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
    use crate::archive::tree::layout::END_BYTES;

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
}
