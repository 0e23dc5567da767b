//! What can be seen of a process that closes a file, within a moment.
//!
//! A process that begins another program has its descriptors closed for it while the kernel keeps everybody else from
//! looking at it: `/proc/PID` waits for the end of that, and that waits for our answer. So the look has a time, on a
//! thread of its own; a look that does not come back says that the process begins a program, which is no statement about
//! its files. A busy machine may take as long for a look at an ordinary process: where that may be the writer, which will
//! believe what it hears, it is waited for much longer, and then nothing is known.

use std::time::Duration;

use super::Asker;

/// Longer than a look at `/proc` takes; the process waits for it.
const MOMENT: Duration = Duration::from_millis(500);

/// Far longer than it takes on the busiest machine.
const LONG_MOMENT: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which process it is.
    pub process: Option<u32>,
    /// Is it being killed, or failing?
    pub is_dying: Option<bool>,
    /// It is known to be another one than the opener of the file,
    pub is_not_the_opener: bool,
    /// ... which lives.
    pub opener_lives: bool,
    /// Has it another descriptor by which it can write to the file?
    pub can_write_more: bool,
    /// It did not show itself: it begins another program at this moment, or the machine is very busy.
    pub is_hidden: bool,
}

impl Seen {
    /// Looks at who closes the file with that inode number, and at the process that opened it (0: not known). For long, if
    /// it may be the writer.
    pub async fn of(asker: Option<&Asker>, ino: u64, opener: u32, may_be_writer: bool) -> Self {
        let Some(asker) = asker.cloned() else {
            return Self::default();
        };
        let look = tokio::task::spawn_blocking(move || Self::look(&asker, ino, opener));
        let moment = if may_be_writer { LONG_MOMENT } else { MOMENT };
        match tokio::time::timeout(moment, look).await {
            Ok(seen) => seen.unwrap_or_default(),
            Err(_) => Self {
                is_hidden: true,
                ..Self::default()
            },
        }
    }

    /// Is the process known to live, and not to fail? One that begins another program does.
    pub async fn lives(asker: Option<&Asker>) -> bool {
        let Some(asker) = asker.cloned() else {
            return false;
        };
        let look = tokio::task::spawn_blocking(move || asker.is_dying());
        match tokio::time::timeout(MOMENT, look).await {
            Ok(seen) => seen.ok().flatten() == Some(false),
            Err(_) => true,
        }
    }

    fn look(asker: &Asker, ino: u64, opener: u32) -> Self {
        let process = asker.tgid();
        let is_not_the_opener = opener != 0 && process.is_some_and(|process| process != opener);
        Self {
            process,
            is_dying: asker.is_dying(),
            is_not_the_opener,
            opener_lives: is_not_the_opener && Asker::of(opener).is_some_and(|opener| !opener.doomed()),
            can_write_more: asker.can_write(ino),
            is_hidden: false,
        }
    }
}
