//! The file that a copier has open.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::staging::wal::CopySource;

/// A regular file that another process reads, opened anew: its position is not moved.
#[derive(Debug)]
pub struct CopiedFile {
    file: File,
    bytes: u64,
}

impl CopiedFile {
    /// Opens what a link in `/proc/PID/fd` leads to, if it is a regular file that we may read.
    pub(super) fn open(link: &Path) -> Option<Self> {
        // A pipe or a device must not even be opened: that could wait.
        if !std::fs::metadata(link).ok()?.is_file() {
            return None;
        }
        let file = File::open(link).ok()?;
        let meta = file.metadata().ok()?;
        meta.is_file().then_some(Self {
            file,
            bytes: meta.len(),
        })
    }

    /// The next byte from `offset` on that is not in a hole.
    fn data_from(&self, offset: u64) -> Option<u64> {
        let offset = libc::off_t::try_from(offset).ok()?;
        // SAFETY: an open descriptor and plain numbers.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, libc::SEEK_DATA) };
        u64::try_from(found).ok()
    }
}

impl CopySource for CopiedFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_zero(&self, range: Range<u64>) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let mut at = range.start;
        loop {
            // No data from here on (or a file system that cannot tell, which then says that all is data).
            let Some(data) = self.data_from(at).filter(|&data| data < range.end) else {
                return range.end <= self.bytes;
            };
            let wanted = (range.end - data).min(buffer.len() as u64) as usize;
            match self.file.read_at(&mut buffer[..wanted], data) {
                Ok(0) => return false,
                Ok(read) if buffer[..read].iter().all(|&byte| byte == 0) => at = data + read as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(content: &[(u64, &[u8])], bytes: u64) -> CopiedFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        for (offset, data) in content {
            file.as_file().write_all_at(data, *offset).unwrap();
        }
        CopiedFile::open(file.path()).unwrap()
    }

    #[test]
    fn holes_and_written_zeros_are_zero_and_nothing_else_is() {
        let file = copied(
            &[(0, b"head"), (1 << 20, &[0; 8192]), ((2 << 20) - 1, b"x")],
            2 << 20,
        );
        assert_eq!(file.bytes(), 2 << 20);
        assert!(file.is_zero(4..(2 << 20) - 1));
        assert!(!file.is_zero(3..100) && !file.is_zero(1 << 20..2 << 20));
    }

    #[test]
    fn bytes_past_the_end_are_not_zero() {
        let file = copied(&[], 1000);
        assert!(file.is_zero(0..1000) && !file.is_zero(0..1001));
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        assert!(CopiedFile::open(Path::new("/dev/zero")).is_none());
        assert!(CopiedFile::open(Path::new("/")).is_none());
    }
}
