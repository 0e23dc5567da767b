//! Whose close says that a plain file is whole.
//!
//! Its length is not known, so all rests on the process that closes it: it lives and is not failing, it is the one that has opened
//! the file, or has written to it last when that one is gone, and it cannot write more. Where the process cannot be seen, it may be one
//! that is being killed: then nothing is completed, and it is told so.

use crate::mount::asker::Seen;

/// Programs that write by a copy of their standard output, close that when they are done, and look at what comes of it. They write
/// nothing after that. (`SetOutput` and `RestoreOutput` of pg_backup_archiver.c.)
const CLOSE_A_COPY: [&str; 2] = ["pg_dump", "pg_restore"];

/// What a close says of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    /// It is whole.
    Complete,
    /// Nothing: more may come, or it is not this process's to say.
    None,
    /// It will never be whole.
    Failed,
    /// It cannot be known, and why not.
    Unknown(&'static str),
}

impl Statement {
    /// Of a file with bytes. `is_writer`: did the process write to it last?
    pub(super) fn of(seen: &Seen, opener: u32, is_writer: bool, program: Option<&str>) -> Self {
        let is_its_own = is_writer || !seen.is_not_the_opener;
        if seen.is_hidden {
            return match is_its_own {
                true => Self::Unknown("/proc has not shown in time whether the process that closes it is being killed"),
                false => Self::None,
            };
        }
        match (seen.process, seen.is_dying) {
            (None, _) => Self::Unknown("walfs cannot see the process that closes it, which may be being killed"),
            (_, Some(true)) if is_its_own => Self::Failed,
            (_, Some(true)) => Self::None,
            (_, None) => Self::Unknown("the process that closes it has gone"),
            _ if opener != 0 && seen.is_not_the_opener && (seen.opener_lives || !is_writer) => Self::None,
            _ if seen.can_write_more && !program.is_some_and(|program| CLOSE_A_COPY.contains(&program)) => Self::None,
            _ => Self::Complete,
        }
    }

    /// Of a file to which nothing was written: a shell closes its copy of the descriptor before the program writes. `shows_all`:
    /// would /proc show by which other descriptor the process can write?
    pub(super) fn of_nothing(seen: &Seen, opener: u32, shows_all: bool) -> Self {
        match Self::of(seen, opener, false, None) {
            Self::Complete if shows_all => Self::Complete,
            Self::Failed => Self::Failed,
            _ => Self::None,
        }
    }
}
