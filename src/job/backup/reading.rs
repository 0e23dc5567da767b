//! Reads the files of a running server without making it slower afterwards.
//!
//! A plain read of a whole database pushes the pages that the server works with out of the page cache. Since Linux 6.14
//! a read may say that what it brings in need not stay (`RWF_DONTCACHE`, preadv2(2)): pages that were there before stay,
//! others go again. Where kernel or file system do not know that, it is a plain read: `POSIX_FADV_DONTNEED` would throw
//! out the server's pages too.
//!
//! Nor may the kernel read ahead of us. Threads that are in different slices of one open file mislead it, and what it
//! brings in behind the slice of one thread, which another one has read before, nobody asks for again: it stays. That
//! was almost a third of 1.5 GB where `read_ahead_kb` was 8192.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Reads as many bytes as there are, at most the buffer's length.
pub(super) fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let wanted = buffer.len();
    while !buffer.is_empty() {
        match read_once(file, buffer, offset) {
            Ok(0) => break,
            Ok(bytes) => {
                buffer = &mut buffer[bytes..];
                offset += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(wanted - buffer.len())
}

/// Has the kernel read what is asked for, and nothing else.
///
/// Advice only: where it is not taken the bytes are the same.
pub(super) fn as_asked(file: &File) {
    // SAFETY: a system call on an open descriptor, without pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

fn read_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match read_in_passing(file, buffer, offset) {
        // An old kernel does not know the flag, some file systems do not do it.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
            ) =>
        {
            file.read_at(buffer, offset)
        }
        done => done,
    }
}

/// Leaves in the page cache what was there, and nothing else.
fn read_in_passing(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let offset = i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the one vector describes a buffer that is borrowed for the call; the descriptor is open.
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const vector,
            1,
            offset,
            libc::RWF_DONTCACHE,
        )
    };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BYTES: usize = 8 << 20;

    /// Pages of a file that are in the page cache, and all of them.
    fn resident(file: &File) -> (usize, usize) {
        let page = 4096;
        let mut pages = vec![0u8; BYTES / page];
        // SAFETY: a mapping of a file of this length, unmapped below; `pages` has a byte for each of its pages.
        unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mincore(map, BYTES, pages.as_mut_ptr()), 0);
            libc::munmap(map, BYTES);
        }
        (pages.iter().filter(|page| **page & 1 == 1).count(), pages.len())
    }

    fn file() -> (File, Vec<u8>) {
        // Beside the build, on a disk: /tmp may be in memory.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> = (0..BYTES).map(|at| (at / 1000) as u8).collect();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        (file, content)
    }

    fn forget(file: &File) {
        // SAFETY: a system call on an open descriptor, without pointers.
        let status = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        assert_eq!(status, 0);
    }

    fn read_all(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; BYTES + 1];
        for at in (0..BYTES).step_by(256 << 10) {
            let read = read_at(file, &mut bytes[at..at + (256 << 10)], at as u64).unwrap();
            assert_eq!(read, 256 << 10);
        }
        assert_eq!(read_at(file, &mut bytes[BYTES..], BYTES as u64).unwrap(), 0);
        bytes.truncate(BYTES);
        bytes
    }

    #[test]
    fn what_nobody_asked_for_is_not_read() {
        let (file, content) = file();
        forget(&file);
        let (cold, all) = resident(&file);
        as_asked(&file);
        let mut bytes = vec![0; 256 << 10];
        // Two by turns, as threads in two slices are.
        for at in (0..BYTES / 4).step_by(bytes.len()) {
            for at in [at, at + BYTES / 2] {
                assert_eq!(read_at(&file, &mut bytes, at as u64).unwrap(), bytes.len());
                assert!(bytes == content[at..][..bytes.len()]);
            }
        }
        let (here, _) = resident(&file);
        // Where what is read stays, too, that is half of all.
        let stays = read_in_passing(&file, &mut [0; 1], 0).is_err();
        let asked = if stays { all / 2 } else { 0 };
        assert!(
            here <= cold + asked,
            "{cold}, then {here} of {all} pages are there"
        );
    }

    #[test]
    fn what_is_read_is_right_and_the_page_cache_stays_as_it_was() {
        let (file, content) = file();
        assert!(read_all(&file) == content);
        let (here, all) = resident(&file);
        assert!(
            here * 10 > all * 9,
            "{here} of {all} pages stayed of a file that was all there"
        );
        forget(&file);
        let (cold, _) = resident(&file);
        assert!(read_all(&file) == content);
        let (here, all) = resident(&file);
        match read_in_passing(&file, &mut [0; 1], 0) {
            Ok(_) => assert!(
                here <= cold + all / 10,
                "{cold}, then {here} of {all} pages are there"
            ),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}"),
        }
    }
}
