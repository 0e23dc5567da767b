//! Whose close says that a plain file is whole.
//!
//! Its length is not known, so all rests on the process that closes it: it lives and is not failing, it is the one that has opened
//! the file, or has written to it last when that one is gone, and it cannot write more. Where the process cannot be seen, it may be one
//! that is being killed: then nothing is completed, and it is told so.

use crate::mount::asker::{Asker, Seen};

/// Programs that write by a copy of their standard output, close that when they are done, and look at what comes of it. They write
/// nothing after that. (`SetOutput` and `RestoreOutput` of pg_backup_archiver.c.) A shell that has opened the file for them
/// never looks.
const CLOSE_A_COPY: [&str; 2] = ["pg_dump", "pg_restore"];

/// It has others write to the same file, one after the other.
const HAS_THEM_WRITE: &str = "pg_dumpall";

/// How far that may be from them: there is a shell between.
const ANCESTORS: usize = 3;

/// What a close says of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement {
    /// It is whole.
    Complete,
    /// This process has written what it had to, and its close tells it whether that is stored. More may come from others.
    SoFar,
    /// Nothing: more may come, or it is not this process's to say.
    None,
    /// It will never be whole.
    Failed,
    /// It cannot be known, and why not.
    Unknown(&'static str),
}

/// Who closes a file, besides what was [`Seen`] of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closer {
    /// The process that has opened the file; 0 when it is not known.
    pub(super) opener: u32,
    /// Is it the one that wrote last?
    pub(super) is_writer: bool,
    /// Is it one of those that are done when they close a copy?
    pub(super) closes_a_copy: bool,
}

impl Statement {
    /// Of a file with bytes.
    pub(super) fn of(seen: &Seen, closer: Closer) -> Self {
        let is_its_own = closer.is_writer || !seen.is_not_the_opener;
        if seen.is_hidden {
            return match is_its_own {
                true => Self::Unknown(
                    "/proc has not shown in time whether the process that closes it is being killed",
                ),
                false => Self::None,
            };
        }
        let is_anothers = seen.is_not_the_opener && (seen.opener_lives || !closer.is_writer);
        match (seen.process, seen.is_dying) {
            (None, _) => {
                Self::Unknown("walfs cannot see the process that closes it, which may be being killed")
            }
            (_, Some(true)) if is_its_own => Self::Failed,
            (_, Some(true)) => Self::None,
            (_, None) => Self::Unknown("the process that closes it has gone"),
            _ if closer.is_writer && closer.closes_a_copy => Self::Complete,
            _ if seen.can_write_more => Self::None,
            _ if closer.opener != 0 && is_anothers && closer.is_writer => Self::SoFar,
            _ if closer.opener != 0 && is_anothers => Self::None,
            _ => Self::Complete,
        }
    }

    /// Of a file to which nothing was written: a shell closes its copy of the descriptor before the program writes. `shows_all`:
    /// would /proc show by which other descriptor the process can write? `has_failed`: did a process that could write fail?
    pub(super) fn of_nothing(seen: &Seen, closer: Closer, shows_all: bool, has_failed: bool) -> Self {
        match Self::of(seen, closer) {
            Self::Complete if has_failed => Self::Failed,
            Self::Complete if shows_all => Self::Complete,
            Self::Failed => Self::Failed,
            _ => Self::None,
        }
    }
}

/// Is it a program that is done when it closes a copy?
pub(super) fn closes_a_copy(asker: Option<&Asker>) -> bool {
    let program = asker.and_then(Asker::program);
    let is_one = program.is_some_and(|program| CLOSE_A_COPY.contains(&program.as_str()));
    let ancestors = std::iter::successors(asker.cloned(), |asker| asker.parent().and_then(Asker::of));
    let mut programs = ancestors
        .skip(1)
        .take(ANCESTORS)
        .filter_map(|asker| asker.program());
    is_one && !programs.any(|program| program == HAS_THEM_WRITE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENER: u32 = 7;

    fn seen(process: u32, is_dying: bool) -> Seen {
        Seen {
            process: Some(process),
            is_dying: Some(is_dying),
            is_not_the_opener: process != OPENER,
            opener_lives: process != OPENER,
            ..Seen::default()
        }
    }

    fn closer(is_writer: bool, closes_a_copy: bool) -> Closer {
        Closer {
            opener: OPENER,
            is_writer,
            closes_a_copy,
        }
    }

    #[test]
    fn only_who_can_know_says_that_a_file_is_whole() {
        use Statement::{Complete, Failed, None, SoFar};
        let orphan = Seen {
            opener_lives: false,
            ..seen(8, false)
        };
        let shell = Seen {
            can_write_more: true,
            ..seen(OPENER, false)
        };
        let cases = [
            // The opener, who may have had others write; never one that is killed, or fails.
            (seen(OPENER, false), closer(true, false), Complete),
            (seen(OPENER, false), closer(false, false), Complete),
            (seen(OPENER, true), closer(false, false), Failed),
            // A shell goes from one command to the next.
            (shell, closer(true, false), None),
            (shell, closer(true, true), Complete),
            // A child's close says no more than that while the opener lives, but its death says that the file is half.
            (seen(8, false), closer(true, false), SoFar),
            (seen(8, false), closer(false, false), None),
            (seen(8, false), closer(true, true), Complete),
            (seen(8, true), closer(true, true), Failed),
            (seen(8, true), closer(false, false), None),
            // Its opener is gone.
            (orphan, closer(true, false), Complete),
            (orphan, closer(false, false), None),
        ];
        for (number, (seen, closer, expected)) in cases.into_iter().enumerate() {
            assert_eq!(Statement::of(&seen, closer), expected, "case {number}");
        }
        // Who cannot be seen may be dying.
        for (unseen, is_writer) in [
            (Seen::default(), true),
            (Seen::default(), false),
            (
                Seen {
                    is_hidden: true,
                    ..Seen::default()
                },
                true,
            ),
            (
                Seen {
                    is_dying: Option::None,
                    ..seen(OPENER, false)
                },
                true,
            ),
        ] {
            let said = Statement::of(&unseen, closer(is_writer, false));
            assert!(matches!(said, Statement::Unknown(_)), "{unseen:?}");
        }
    }

    #[test]
    fn an_empty_file_is_one_only_if_nothing_failed_and_all_is_seen() {
        let of = |shows_all, has_failed| {
            Statement::of_nothing(&seen(OPENER, false), closer(false, false), shows_all, has_failed)
        };
        assert_eq!(of(true, false), Statement::Complete);
        assert_eq!(of(false, false), Statement::None);
        assert_eq!(of(true, true), Statement::Failed);
        assert_eq!(
            Statement::of_nothing(&Seen::default(), closer(false, false), true, false),
            Statement::None
        );
    }
}
