//! What PostgreSQL 13 and later says about its files. Of the WAL: names, first pages, timeline history, backup
//! history. Of base backups: manifest, label, tablespace map, control file, what is left out, data pages.
//!
//! Everything that changes with a version of PostgreSQL is here and nowhere else. It works on byte slices and
//! strings and does no I/O, so that each rule is a table test. Names of PostgreSQL's sources are given where
//! a rule comes from one (`xlog_internal.h`, `timeline.c`, `basebackup.c`).
//!
//! This file holds the words the others share: [`Timeline`], [`Lsn`], [`SystemId`] and [`SegmentSize`].

use std::fmt;
use std::str::FromStr;

pub mod backup_history;
pub mod backup_manifest;
pub mod checksum;
pub mod control;
pub mod data_page;
pub mod directories;
pub mod exclude;
pub mod extent;
pub mod history;
pub mod label;
pub mod landmark;
mod lines;
mod name;
mod page;
pub mod record;
pub mod relation;
mod segments;
pub mod setting;
pub mod slru;
mod switch;
pub mod tablespace_map;
mod tar_packing;
mod temporary;
pub mod wal_index;
pub mod written;

pub use name::{NameError, SegmentName, WalName};
pub use page::{HeaderError, PageHeader, TimelineMatch};
pub use segments::segments;
pub use switch::{Searched, SwitchSearch, WalEnd};
pub use tar_packing::TarPacking;
pub use temporary::staging_target;

const MIB: u64 = 1 << 20;

/// A branch of a cluster's history, 1 for a cluster that never was promoted. Displayed in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A position in the WAL, in bytes since its beginning. Displayed as PostgreSQL does: `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Takes what `pg_lsn` takes: two hexadecimal numbers of one to eight digits, in either case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(high, low)| Some(Self((lsn_half(high)? << 32) | lsn_half(low)?)))
            .ok_or_else(|| ParseLsnError {
                found: text.to_owned(),
            })
    }
}

fn lsn_half(digits: &str) -> Option<u64> {
    // from_str_radix alone would take a sign.
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// A text that is no position in the WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no WAL position: expected two hexadecimal numbers with a slash, such as 16/B374D848")]
pub struct ParseLsnError {
    /// The text.
    pub found: String,
}

/// The number that `initdb` gives a cluster and that every WAL segment carries. Displayed in decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Length of every segment of a cluster: a power of two from 1 MiB to 1 GiB, usually 16 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The smallest, `initdb --wal-segsize=1`.
    pub const MIN: Self = Self(MIB);
    /// The largest, `initdb --wal-segsize=1024`.
    pub const MAX: Self = Self(1024 * MIB);

    /// A size in bytes.
    ///
    /// # Errors
    /// [`SegmentSizeError`] for a size that `initdb` does not make.
    pub fn new(bytes: u64) -> Result<Self, SegmentSizeError> {
        let known = bytes.is_power_of_two() && (Self::MIN.0..=Self::MAX.0).contains(&bytes);
        known
            .then_some(Self(bytes))
            .ok_or(SegmentSizeError { found: bytes })
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// How many segments share the middle eight digits of their names: 256 of 16 MiB, 4 of 1 GiB.
    fn per_log(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} MiB", self.0 / MIB)
    }
}

/// A number that is no segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} bytes is no WAL segment size: expected a power of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError {
    /// The number, in bytes.
    pub found: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lsn_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!(Lsn(0x0100_0000).to_string(), "0/1000000");
        assert_eq!("0/1000000".parse(), Ok(Lsn(0x0100_0000)));
        // PostgreSQL 19 pads the second half; pg_lsn takes lower case.
        assert_eq!("0/01000000".parse(), Ok(Lsn(0x0100_0000)));
        assert_eq!("ffffffff/ffffffff".parse(), Ok(Lsn(u64::MAX)));
    }

    #[test]
    fn lsn_refused() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "0/0/0",
            "+1/0",
            "0/-1",
            " 0/0",
            "0/0 ",
            "123456789/0",
            "0/G",
        ] {
            let found = text.to_owned();
            assert_eq!(text.parse::<Lsn>(), Err(ParseLsnError { found }));
        }
    }

    #[test]
    fn segment_sizes_are_those_of_initdb() {
        for mib in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            let size = SegmentSize::new(mib * MIB).unwrap();
            assert_eq!(
                (size.bytes(), size.to_string()),
                (mib * MIB, format!("{mib} MiB"))
            );
        }
        for found in [
            0,
            1,
            MIB - 1,
            MIB / 2,
            3 * MIB,
            16 * MIB + 1,
            2048 * MIB,
            1 << 32,
            u64::MAX,
        ] {
            assert_eq!(SegmentSize::new(found), Err(SegmentSizeError { found }));
        }
    }

    proptest! {
        #[test]
        fn lsn_round_trip(bytes: u64) {
            prop_assert_eq!(Lsn(bytes).to_string().parse(), Ok(Lsn(bytes)));
        }
    }
}
