//! What can be wrong with a manifest.

/// Why bytes are not a whole, unchanged backup manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("the backup manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Newer than PostgreSQL 18.
    #[error(
        "the backup manifest is of version {found}, expected 1 (PostgreSQL 13 to 16) or 2 (17 and later)"
    )]
    Version {
        /// The stated version.
        found: u64,
    },
    /// Version 2 has one.
    #[error("the backup manifest is of version 2, but has no \"System-Identifier\"")]
    NoSystemId,
    /// Cut short, or somebody joined its lines.
    #[error("the backup manifest should end in a line that begins with \"Manifest-Checksum\" and a newline")]
    LastLine,
    /// Changed since it was written.
    #[error(
        "the backup manifest is damaged or was changed: its SHA-256 is {found}, its last line states {expected}"
    )]
    Checksum {
        /// What its last line states.
        expected: String,
        /// The SHA-256 of the lines before.
        found: String,
    },
    /// A file whose path could lead anywhere.
    #[error(
        "the backup manifest names a file {path:?}, expected a path below the data directory without \".\" and \"..\""
    )]
    Path {
        /// The path, or the hexadecimal digits that are none.
        path: String,
    },
    /// A path twice.
    #[error("the backup manifest names {path:?} twice")]
    Twice {
        /// The path.
        path: String,
    },
    /// A checksum of unknown making, or of wrong length.
    #[error(
        "the backup manifest states a checksum of {path:?} that cannot be: algorithm {algorithm:?}, digits {digits:?}"
    )]
    FileChecksum {
        /// The file.
        path: String,
        /// The stated algorithm.
        algorithm: String,
        /// The stated checksum.
        digits: String,
    },
    /// A range of the WAL that is none.
    #[error(
        "the backup manifest states WAL of timeline {timeline} from {start:?} to {end:?}, expected a timeline of 1 \
         or more and two positions, the second not before the first"
    )]
    WalRange {
        /// The stated timeline.
        timeline: u32,
        /// The stated start.
        start: String,
        /// The stated end.
        end: String,
    },
}
