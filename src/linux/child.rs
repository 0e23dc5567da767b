//! Processes that walfs starts: they end with it, and the last of what they say is kept.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use tokio::process::{Child, Command};

/// Bytes of what a process says in the end that are kept.
pub(crate) const MOST_WORDS_BYTES: usize = 8 << 10;

/// Whoever waits for it is gone when walfs has died: it ends, too.
pub(crate) fn ends_with_us(command: &mut Command) {
    // SAFETY: the call is one that is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        })
    };
}

/// Tells a process to end, and waits for that; after a while ends it.
pub(crate) async fn end(child: &mut Child, within: Duration) -> io::Result<ExitStatus> {
    if let Some(number) = child.id().and_then(|number| i32::try_from(number).ok()) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(number, libc::SIGTERM) };
    }
    match tokio::time::timeout(within, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            child.start_kill()?;
            child.wait().await
        }
    }
}

/// Hands on what a process says to our own log, and keeps the end of it.
pub(crate) async fn last_words(name: &'static str, mut lines: impl AsyncBufRead + Unpin) -> String {
    let mut kept = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut one = (&mut lines).take(MOST_WORDS_BYTES as u64);
        match one.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return kept.trim_end().to_owned(),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        tracing::info!("{name}: {}", text.strip_prefix("walfs: ").unwrap_or(text));
        kept.push_str(text);
        kept.push('\n');
        cut_front(&mut kept, MOST_WORDS_BYTES);
    }
}

/// Leaves so many bytes of the end, in whole characters.
pub(crate) fn cut_front(text: &mut String, bytes: usize) {
    let over = text.len().saturating_sub(bytes);
    let cut = (over..=text.len()).find(|at| text.is_char_boundary(*at));
    text.drain(..cut.unwrap_or(0));
}
