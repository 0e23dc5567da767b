//! What walfs prints: the only place that writes to standard output and standard error.
//!
//! A terminal, pipe or disk that does not take it ends nothing. A listing that its reader cuts short is done; one that
//! could not be written for another reason has failed, because it was all there was to do. What is printed about a deed
//! changes nothing about the deed, and so not the exit code either.

use std::fmt::Display;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileTypeExt;

use crate::printable::printable_lines;

/// Bytes that are gathered before they are written.
const GATHERED_BYTES: usize = 64 << 10;

/// Says what went wrong, for a person.
pub(super) fn complain(error: &dyn Display) {
    let text = format!("walfs: {error}\n");
    let _ = io::stderr().lock().write_all(printable_lines(&text).as_bytes());
}

/// Tells of a deed.
pub(super) fn report(text: &dyn Display) {
    // Which never fails.
    let _ = writeln!(Out::new(), "{text}");
}

/// Standard output. Writing never fails: [`Out::end`] says what became of it.
///
/// Whoever has done something and only tells of it drops it instead.
#[derive(Debug, Default)]
pub(super) struct Out {
    pending: Vec<u8>,
    failed: Option<io::Error>,
}

impl Out {
    /// Nothing is written yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Has nobody any use for more?
    pub(super) fn is_closed(&self) -> bool {
        self.failed.is_some()
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// Why the reader has not got all, unless it went away by itself.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.write_out();
        match self.failed.take() {
            Some(error) if !is_gone(&error) => {
                let text = format!("cannot write standard output: {error}");
                Err(io::Error::new(error.kind(), text))
            }
            _ => Ok(()),
        }
    }

    fn write_out(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.failed.is_some() || pending.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&pending);
        let mut out = io::stdout().lock();
        let written = out.write_all(printable_lines(&text).as_bytes());
        self.failed = written.and_then(|()| out.flush()).err();
    }
}

/// Gathers whole lines, so that no character is cut in two.
impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= GATHERED_BYTES && self.pending.ends_with(b"\n") {
            self.write_out();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.write_out();
        if let Some(error) = self.failed.as_ref().filter(|error| !is_gone(error)) {
            complain(&format_args!("warning: cannot write standard output: {error}"));
        }
    }
}

/// Has the reader of our pipe seen enough, or the terminal been closed?
fn is_gone(error: &io::Error) -> bool {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => true,
        // A disk says the same of itself; a closed terminal no longer says that it is one.
        _ => error.raw_os_error() == Some(libc::EIO) && is_device(),
    }
}

fn is_device() -> bool {
    fs::metadata("/proc/self/fd/1").is_ok_and(|out| out.file_type().is_char_device())
}
