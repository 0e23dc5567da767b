//! Writing much to a file of a disk, a MiB at a time.
//!
//! A longer write is slower. The kernel takes it in folios as large as itself where the file system allows that (ext4 since
//! Linux 6.16); those of 2 MiB and more are whole free blocks of memory, which a virtual machine may have given back to its
//! host and must first get again, while what a folio of 1 MiB needs has mostly been in use just before. On such a machine
//! (Linux 6.18) a file of 1 GiB took 1.0 to 3.4 s in writes of 4 MiB, and 0.2 s in writes of 1 MiB. And a file is locked
//! during a write: who writes elsewhere in it waits, on a core of its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// The longest write, in bytes.
const STEP_BYTES: usize = 1 << 20;

/// Writes all bytes, from where the file is.
///
/// # Errors
/// As [`Write::write_all`].
pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(STEP_BYTES).try_for_each(|step| file.write_all(step))
}

/// Writes all bytes from `offset` on.
///
/// # Errors
/// As [`FileExt::write_all_at`].
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let steps = (offset..).step_by(STEP_BYTES).zip(bytes.chunks(STEP_BYTES));
    for (at, step) in steps {
        file.write_all_at(step, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn every_byte_gets_where_it_belongs() {
        let bytes: Vec<u8> = (0..2 * STEP_BYTES + 77).map(|at| (at / 1000) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        write_all(&file, b"in front").unwrap();
        write_all(&file, &bytes).unwrap();
        write_all_at(&file, &bytes[5..], 3).unwrap();
        write_all_at(&file, b"", 1).unwrap();
        let mut found = Vec::new();
        io::Seek::rewind(&mut file).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert_eq!(found.len(), 8 + bytes.len());
        assert!(found[..3] == b"in front"[..3]);
        assert!(found[3..][..bytes.len() - 5] == bytes[5..]);
        assert!(found[bytes.len() - 2..] == bytes[bytes.len() - 10..]);
    }
}
