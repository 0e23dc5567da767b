//! How frames are compressed, as a user writes it: `none`, `lz4`, `lz4:4`, `zstd`, `zstd:3`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::format::Container;

/// LZ4 accelerations worth having: beyond the last the library itself changes nothing.
const LZ4_ACCELERATIONS: RangeInclusive<i32> = 1..=65_537;

/// zstd levels. Above 19 a single frame wants hundreds of megabytes.
const ZSTD_LEVELS: RangeInclusive<i32> = 1..=19;

/// How the frames of an object are compressed. Only writers choose; a reader finds out from the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// LZ4 frames whose blocks are stored raw: the stored size is a pure function of the plain size and back
    /// ([`stored_bytes_uncompressed`](super::stored_bytes_uncompressed)).
    None,
    /// LZ4, the usual choice: several times faster than PostgreSQL writes WAL.
    Lz4 {
        /// 1 (best ratio, usual) to 65537 (fastest); values outside are taken as the nearest of these.
        acceleration: i32,
    },
    /// zstd: a quarter to two fifths fewer bytes than LZ4 for about one and a half times its CPU at level 1.
    Zstd {
        /// 1 (fastest, usual) to 19; values outside are taken as the nearest of these.
        level: i32,
    },
}

impl Compression {
    /// The last part of an object's name, so that people and stock tools know what it is: `lz4` or `zst`.
    pub const fn extension(self) -> &'static str {
        match self.container() {
            Container::Lz4 => "lz4",
            Container::Zstd => "zst",
        }
    }

    pub(super) const fn container(self) -> Container {
        match self {
            Self::None | Self::Lz4 { .. } => Container::Lz4,
            Self::Zstd { .. } => Container::Zstd,
        }
    }

    /// The same with its number inside the documented range.
    pub(super) fn clamped(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Lz4 { acceleration } => Self::Lz4 {
                acceleration: clamp(acceleration, &LZ4_ACCELERATIONS),
            },
            Self::Zstd { level } => Self::Zstd {
                level: clamp(level, &ZSTD_LEVELS),
            },
        }
    }
}

fn clamp(number: i32, range: &RangeInclusive<i32>) -> i32 {
    number.clamp(*range.start(), *range.end())
}

impl Default for Compression {
    fn default() -> Self {
        Self::Lz4 { acceleration: 1 }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Lz4 { acceleration: 1 } => out.write_str("lz4"),
            Self::Lz4 { acceleration } => write!(out, "lz4:{acceleration}"),
            Self::Zstd { level } => write!(out, "zstd:{level}"),
        }
    }
}

/// A text that names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The part before the colon is none of the known names, or `none` was given a number.
    #[error("compression \"{text}\" is not known; expected none, lz4, lz4:N, zstd or zstd:N")]
    UnknownName {
        /// What was written.
        text: String,
    },
    /// The part after the colon is no number or outside the range.
    #[error("compression \"{text}\" needs a number from {least} to {most} after the colon")]
    BadNumber {
        /// What was written.
        text: String,
        /// Smallest number allowed.
        least: i32,
        /// Largest number allowed.
        most: i32,
    },
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, Some(number)),
            None => (text, None),
        };
        let number_in = |range| number.map_or(Ok(1), |number| parse_number(text, number, range));
        match name {
            "none" if number.is_none() => Ok(Self::None),
            "lz4" => Ok(Self::Lz4 {
                acceleration: number_in(&LZ4_ACCELERATIONS)?,
            }),
            "zstd" => Ok(Self::Zstd {
                level: number_in(&ZSTD_LEVELS)?,
            }),
            _ => Err(CompressionError::UnknownName {
                text: text.to_owned(),
            }),
        }
    }
}

fn parse_number(text: &str, number: &str, range: &RangeInclusive<i32>) -> Result<i32, CompressionError> {
    number
        .parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| CompressionError::BadNumber {
            text: text.to_owned(),
            least: *range.start(),
            most: *range.end(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["none", "lz4", "lz4:4", "lz4:65537", "zstd:1", "zstd:19"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("lz4:1".parse(), Ok(Compression::default()));
        assert_eq!("zstd".parse(), Ok(Compression::Zstd { level: 1 }));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "gzip",
            "none:1",
            "LZ4",
            "lz4:",
            "lz4:0",
            "lz4:65538",
            "zstd:0",
            "zstd:20",
            "zstd:3:3",
        ] {
            assert!(text.parse::<Compression>().is_err(), "{text:?} was taken");
        }
        assert_eq!(
            "zstd:20".parse::<Compression>().unwrap_err().to_string(),
            "compression \"zstd:20\" needs a number from 1 to 19 after the colon"
        );
    }
}
