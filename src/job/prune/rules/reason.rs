//! Why a backup stays, in words.

use std::fmt;

use jiff::Timestamp;

use crate::archive::tree::TreeName;
use crate::pg::Timeline;

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the newest complete one.
    Newest,
    /// Those behind it have damaged pages.
    Undamaged,
    /// No backup is complete.
    NothingComplete,
    /// It is the newest one from which the end of this timeline can be reached.
    End(Timeline),
    /// One of the last so many.
    Last(u32),
    /// It ended in the last so many days.
    Days(u32),
    /// Perhaps: it is not known to have ended before.
    PerhapsDays(u32),
    /// It is a version, of files or a dump, and no rule is about those.
    NoRule,
    /// Recovery to the beginning of the last so many days starts from it.
    Begins(u32),
    /// The newest of a day, a week, a month or a year.
    Of(String),
    /// Perhaps: its day is not sure.
    PerhapsOf(String),
    /// It ended then, by a clock that was ahead.
    Ahead(Timestamp),
    /// It is the one of this name, or newer.
    From(TreeName),
    /// Somebody has pinned it: why.
    Pinned(String),
    /// The store keeps it: until when, if that ends by itself.
    Locked(Option<Timestamp>),
    /// This one is being made, or was left unfinished, and points to it.
    BaseOf(TreeName),
    /// This one is being made, and may be an incremental one that is to be combined with it.
    MayBeBaseOf(TreeName),
    /// This one, which stays, is to be combined with it.
    CombinedWith(TreeName),
    /// It is not complete, and newer than what was asked for.
    NotComplete,
    /// A first look wanted it, only the second did not: the next run removes it.
    NewlyUnwanted,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => out.write_str("the newest complete one"),
            Self::Undamaged => out.write_str("the newest complete one without damaged pages"),
            Self::NothingComplete => out.write_str("no backup is complete"),
            Self::End(timeline) => write!(out, "the newest that reaches the end of timeline {timeline}"),
            Self::Last(count) => write!(out, "one of the last {count}"),
            Self::Days(days) => write!(out, "of the last {days} days"),
            Self::PerhapsDays(days) => write!(out, "perhaps of the last {days} days"),
            Self::NoRule => out.write_str("a version of files or a dump, of which no rule says anything"),
            Self::Begins(days) => write!(out, "the last {days} days begin with it"),
            Self::Of(bucket) => write!(out, "the newest of {bucket}"),
            Self::PerhapsOf(bucket) => write!(out, "perhaps the newest of {bucket}"),
            Self::Ahead(ended) => write!(out, "its clock was ahead: {ended:.0} is yet to come"),
            Self::From(name) => write!(out, "{name} or newer"),
            Self::Pinned(reason) => write!(out, "pinned: {reason}"),
            Self::Locked(Some(until)) => write!(out, "the store has it locked until {until:.0}"),
            Self::Locked(None) => out.write_str("the store has it locked, by a legal hold"),
            Self::BaseOf(name) => write!(out, "{name}, which is unfinished, builds on it"),
            Self::MayBeBaseOf(name) => write!(out, "{name}, which is unfinished, may be incremental from it"),
            Self::CombinedWith(name) => write!(out, "{name} is to be combined with it"),
            Self::NotComplete => out.write_str("not complete, and newer than the oldest that is asked for"),
            Self::NewlyUnwanted => out.write_str("it was wanted a moment ago: the next run removes it"),
        }
    }
}
