//! The `backup_manifest` of a base backup: every file with its checksum, and the WAL that the backup needs. What
//! `pg_verifybackup` reads (`backup_manifest.c`, `parse_manifest.c`).
//!
//! ```text
//! { "PostgreSQL-Backup-Manifest-Version": 2,
//! "System-Identifier": 7575046531466021317,
//! "Files": [
//! { "Path": "base/1/1259", "Size": 98304, "Last-Modified": "2026-11-21 12:45:05 GMT", "Checksum-Algorithm": ...
//! { "Encoded-Path": "696e76fffe", "Size": 3, "Last-Modified": "2026-11-21 12:45:05 GMT" }
//! ],
//! "WAL-Ranges": [
//! { "Timeline": 1, "Start-LSN": "0/4000028", "End-LSN": "0/4000100" }
//! ],
//! "Manifest-Checksum": "9968ed7b1e1ae41c27f20d66fdee4848b4735ff2ede3965b45d0f1460ea1189e"}
//! ```
//! It is JSON, but its lines matter: the last one carries the SHA-256 of all bytes before it. A path that is not
//! UTF-8 is given in hexadecimal digits. Paths are relative to the data directory, also those of tablespaces
//! (`pg_tblspc/16384/...`). A CRC-32C is written as its four bytes lie in memory, lowest first, unlike the digests.
//!
//! [`Writer`] writes byte for byte what PostgreSQL would; [`Manifest`] reads what any version from 13 to 18 wrote.

mod change;
mod error;
mod read;
mod sum;
mod write;

pub use change::describe;
pub use error::ManifestError;
pub use read::{File, Manifest};
pub use sum::Summer;
pub use write::{FileLine, Writer};

use super::{Lsn, SystemId, Timeline};

/// The versions of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ManifestVersion {
    /// PostgreSQL 13 to 16.
    V1,
    /// PostgreSQL 17 and later: with the cluster it is of.
    V2(SystemId),
}

impl ManifestVersion {
    /// What PostgreSQL of this major version writes.
    pub fn of_postgres(major: u32, system_id: SystemId) -> Self {
        if major < 17 { Self::V1 } else { Self::V2(system_id) }
    }

    fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2(_) => 2,
        }
    }
}

/// How a file's checksum is made (`checksum_helper.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// The default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    const ALL: [Self; 5] = [
        Self::Crc32c,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// As the manifest and `pg_basebackup --manifest-checksums` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Length of a checksum, in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// In either case, as PostgreSQL reads it.
    fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name))
    }
}

/// A file's checksum: always as many bytes as its algorithm makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    algorithm: ChecksumAlgorithm,
    bytes: Box<[u8]>,
}

impl Checksum {
    /// A CRC-32C, as a number.
    pub fn crc32c(value: u32) -> Self {
        Self {
            algorithm: ChecksumAlgorithm::Crc32c,
            bytes: value.to_le_bytes().into(),
        }
    }

    /// What an algorithm made, in the order of the manifest; `None` if that is not as long as it makes it.
    pub fn new(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Option<Self> {
        let bytes = (bytes.len() == algorithm.bytes()).then(|| bytes.into())?;
        Some(Self { algorithm, bytes })
    }

    /// How it was made.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Its bytes, in the order of the manifest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// As the manifest spells it, in hexadecimal digits.
    pub fn digits(&self) -> String {
        let mut digits = Vec::with_capacity(2 * self.bytes.len());
        push_hex(&mut digits, &self.bytes);
        String::from_utf8(digits).expect("digits are ASCII")
    }
}

/// WAL without which a backup is not consistent. A backup taken while a standby followed its primary to another
/// timeline needs several ranges, the newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline on which it was written.
    pub timeline: Timeline,
    /// Its first byte.
    pub start: Lsn,
    /// The byte after its last.
    pub end: Lsn,
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(
        bytes
            .iter()
            .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
    );
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}
