//! The control file, `global/pg_control`: which cluster this is, how it was built, where its last checkpoint is
//! (`pg_control.h`, `controldata_utils.c`).
//!
//! A file of 8192 bytes, of which the first 292 or so are used: `ControlFileData` as it lies in the memory of a 64-bit
//! machine, ending in its CRC-32C. What is read here lies in the same places since PostgreSQL 13:
//!
//! ```text
//!   0  u64  system identifier
//!   8  u32  version of this format   1300 (13 to 16), 1700 (17), 1800 (18)
//!  12  u32  version of the catalogs  tells 13, 14, 15 and 16 apart
//!  16  u32  state of the cluster
//!  24  i64  when this was written, in seconds since 1970
//!  32  u64  position of the last checkpoint's record
//!  40  u64  its redo position
//!  48  u32  its timeline
//! 104  i64  when it began, by the clock of the server that wrote the WAL
//! 136  u64  minimum recovery point   0 outside of recovery
//! 144  u32  its timeline
//! 180  u32  max_connections, and four more that recovery needs (`Limits`)
//! 208  f64  1234567.0, to know other layouts by
//! 216  u32  block size, in bytes
//! 220  u32  blocks in each file of a relation, but the last
//! 224  u32  block size of the WAL, in bytes
//! 228  u32  segment size of the WAL, in bytes
//! 252  u32  version of the data checksums: 0 none, 1 all pages, 2 and 3 (PostgreSQL 19) being switched on and off
//! 288  u32  CRC-32C of all before; at 292 in format 1800
//! ```
//! Only little-endian files are read. PostgreSQL rewrites the file whole at every checkpoint, so a copy of a running
//! cluster's can be torn: whoever sees [`ControlError::Checksum`] there reads it again.

mod limits;
mod poison;

use std::ops::Range;

pub use limits::Limits;
pub use poison::{cure, is_poisoned, poison};

use jiff::Timestamp;

use super::{Lsn, SegmentSize, SystemId, Timeline};

/// Version of the checksums of data pages where all of them have one.
pub const CHECKSUMS_ON: u32 = 1;

/// Length of the file, in bytes (`PG_CONTROL_FILE_SIZE`).
pub const CONTROL_FILE_BYTES: usize = 8192;

/// Formats, and where each has its CRC.
const FORMATS: [(u32, usize); 3] = [(1300, 288), (1700, 288), (1800, 292)];

/// Formats of PostgreSQL 9.0 (903) to 12 (1201).
const OLDER: Range<u32> = 900..1300;

/// `CATALOG_VERSION_NO` of the released versions.
const CATALOGS: [(u32, u32); 6] = [
    (202_007_201, 13),
    (202_107_181, 14),
    (202_209_061, 15),
    (202_307_071, 16),
    (202_406_281, 17),
    (202_506_291, 18),
];

/// `FLOATFORMAT_VALUE`.
const FLOAT: f64 = 1_234_567.0;

/// Why bytes are not a control file that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Too few bytes, or too many.
    #[error("pg_control has {found_bytes} bytes, expected 8192")]
    Length {
        /// How many there were.
        found_bytes: usize,
    },
    /// Of a machine with the other byte order.
    #[error(
        "pg_control was written by a machine of the other byte order: walfs reads little-endian ones only"
    )]
    ByteOrder,
    /// Older than PostgreSQL 13.
    #[error(
        "pg_control is of format {found}, of PostgreSQL 12 or before; walfs knows 13 and later\n\
         HINT: PostgreSQL 12 and before are no longer maintained; pg_upgrade leads to a newer one"
    )]
    TooOld {
        /// The stated format.
        found: u32,
    },
    /// Newer than PostgreSQL 18, or none.
    #[error(
        "pg_control is of format {found}, expected 1300 (PostgreSQL 13 to 16), 1700 (17) or 1800 (18)\n\
         HINT: another version of PostgreSQL needs another version of walfs"
    )]
    Format {
        /// The stated format.
        found: u32,
    },
    /// Torn or damaged.
    #[error("pg_control is damaged: its CRC is {found:08X} hexadecimal, it states {expected:08X}")]
    Checksum {
        /// What it states.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A platform that aligns or counts otherwise.
    #[error(
        "pg_control has another layout than PostgreSQL's on 64-bit machines: the number at 208 is not 1234567"
    )]
    Layout,
    /// A field with a value that cannot be.
    #[error("pg_control states {found} for {field}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it could be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
}

/// What a cluster was doing when it last wrote its control file (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up.
    Startup,
    /// Shut down cleanly: it can be copied as it is.
    ShutDown,
    /// Shut down cleanly while a standby.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering after a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a standby.
    InArchiveRecovery,
    /// Running; or it crashed.
    InProduction,
}

impl ClusterState {
    const ALL: [Self; 7] = [
        Self::Startup,
        Self::ShutDown,
        Self::ShutDownInRecovery,
        Self::ShuttingDown,
        Self::InCrashRecovery,
        Self::InArchiveRecovery,
        Self::InProduction,
    ];
}

/// What a control file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFile {
    /// Which cluster.
    pub system_id: SystemId,
    /// `PG_CONTROL_VERSION`, one of those known here.
    pub format: u32,
    /// `CATALOG_VERSION_NO`, usually the day it was last changed and a digit.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// When the file was last written, to the second.
    pub written: Timestamp,
    /// When the last checkpoint began, to the second, on the server that wrote the WAL: on a standby, its primary.
    pub checkpoint_time: Timestamp,
    /// Where the last checkpoint's record is.
    pub checkpoint_lsn: Lsn,
    /// From where recovery after a crash would replay.
    pub redo_lsn: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// How far recovery has to go at least, if the cluster is in recovery; else 0/0. A backup of a standby is
    /// consistent from here on.
    pub minimum_recovery_lsn: Lsn,
    /// The timeline of that position; 0 outside of recovery.
    pub minimum_recovery_timeline: Timeline,
    /// What recovery needs at least.
    pub limits: Limits,
    /// Size of a data page, usually 8192 bytes.
    pub block_bytes: u32,
    /// How many blocks each file of a relation has but its last, usually 131072: 1 GiB.
    pub segment_blocks: u32,
    /// Size of a WAL page, usually 8192 bytes.
    pub wal_block_bytes: u32,
    /// Size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Version of the checksums on data pages; 0: there are none. Above [`CHECKSUMS_ON`]: PostgreSQL 19 is switching them on
    /// or off.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads the file, [`CONTROL_FILE_BYTES`] of them.
    ///
    /// # Errors
    /// All of [`ControlError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let crc_at = check_format(bytes)?;
        check_crc(bytes, crc_at)?;
        if f64::from_bits(u64_at(bytes, 208)) != FLOAT {
            return Err(ControlError::Layout);
        }
        Ok(Self {
            system_id: SystemId(u64_at(bytes, 0)),
            format: u32_at(bytes, 8),
            catalog_version: u32_at(bytes, 12),
            state: state(u32_at(bytes, 16))?,
            written: time("the time of the file", u64_at(bytes, 24))?,
            checkpoint_time: time("the time of the last checkpoint", u64_at(bytes, 104))?,
            checkpoint_lsn: Lsn(u64_at(bytes, CHECKPOINT_AT)),
            redo_lsn: Lsn(u64_at(bytes, 40)),
            timeline: Timeline(u32_at(bytes, 48)),
            minimum_recovery_lsn: Lsn(u64_at(bytes, 136)),
            minimum_recovery_timeline: Timeline(u32_at(bytes, 144)),
            limits: limits(bytes),
            block_bytes: block_bytes("the block size", u32_at(bytes, 216), 32768)?,
            segment_blocks: segment_blocks(u32_at(bytes, 220))?,
            wal_block_bytes: block_bytes("the block size of the WAL", u32_at(bytes, 224), 65536)?,
            segment_size: segment_size(u32_at(bytes, 228))?,
            data_checksum_version: u32_at(bytes, 252),
        })
    }

    /// The major version of PostgreSQL, 13 to 18; `None` for development versions and forks, where `PG_VERSION` in
    /// the data directory tells.
    pub fn major_version(&self) -> Option<u32> {
        let known = CATALOGS
            .iter()
            .find(|(catalog, _)| *catalog == self.catalog_version);
        known.map(|(_, major)| *major)
    }

    /// The position behind the last checkpoint's record, where the WAL of a server ends that was shut down: the record has
    /// 114 bytes, positions are multiples of 8, and a record that crosses into another page begins behind its header.
    pub fn end_of_checkpoint(&self) -> Lsn {
        const RECORD_BYTES: u64 = 114;
        const PAGE_HEADER_BYTES: u64 = 24;
        const SEGMENT_HEADER_BYTES: u64 = 40;
        let page = u64::from(self.wal_block_bytes);
        let end = self.checkpoint_lsn.0 + RECORD_BYTES;
        let header = match end / page * page {
            boundary if boundary <= self.checkpoint_lsn.0 || boundary == end => 0,
            boundary if boundary % self.segment_size.bytes() == 0 => SEGMENT_HEADER_BYTES,
            _ => PAGE_HEADER_BYTES,
        };
        Lsn((end + header).next_multiple_of(8))
    }

    /// The one directory in each tablespace that is this cluster's, such as `PG_15_202209061`
    /// (`TABLESPACE_VERSION_DIRECTORY`).
    pub fn tablespace_directory(&self, major_version: u32) -> String {
        format!("PG_{major_version}_{}", self.catalog_version)
    }

    /// Have all data pages checksums?
    pub fn has_data_checksums(&self) -> bool {
        self.data_checksum_version == CHECKSUMS_ON
    }
}

/// Where the position of the last checkpoint's record is.
const CHECKPOINT_AT: usize = 32;

/// Where the CRC is. PostgreSQL, too, looks at the format before it looks at the CRC.
fn check_format(bytes: &[u8]) -> Result<usize, ControlError> {
    if bytes.len() != CONTROL_FILE_BYTES {
        let found_bytes = bytes.len();
        return Err(ControlError::Length { found_bytes });
    }
    let found = u32_at(bytes, 8);
    let crc_at = |format: u32| {
        FORMATS
            .iter()
            .find(|(known, _)| *known == format)
            .map(|(_, at)| *at)
    };
    match (crc_at(found), crc_at(found.swap_bytes())) {
        (Some(at), _) => Ok(at),
        (None, Some(_)) => Err(ControlError::ByteOrder),
        (None, None) if OLDER.contains(&found) => Err(ControlError::TooOld { found }),
        (None, None) => Err(ControlError::Format { found }),
    }
}

fn check_crc(bytes: &[u8], at: usize) -> Result<(), ControlError> {
    let (expected, found) = (u32_at(bytes, at), crc32c::crc32c(&bytes[..at]));
    if expected == found {
        return Ok(());
    }
    Err(ControlError::Checksum { expected, found })
}

fn limits(bytes: &[u8]) -> Limits {
    Limits::read(|number| Some(u32_at(bytes, 180 + 4 * number))).unwrap_or_default()
}

fn state(number: u32) -> Result<ClusterState, ControlError> {
    let known = ClusterState::ALL.get(number as usize).copied();
    known.ok_or_else(|| refused("the cluster's state", "0 to 6", number))
}

fn time(field: &'static str, seconds: u64) -> Result<Timestamp, ControlError> {
    let time = i64::try_from(seconds).ok();
    time.and_then(|seconds| Timestamp::from_second(seconds).ok())
        .ok_or(ControlError::Field {
            field,
            expected: "seconds since 1970",
            found: seconds,
        })
}

fn block_bytes(field: &'static str, number: u32, most: u32) -> Result<u32, ControlError> {
    let known = number.is_power_of_two() && (1024..=most).contains(&number);
    known
        .then_some(number)
        .ok_or_else(|| refused(field, "a power of two from 1024", number))
}

fn segment_blocks(number: u32) -> Result<u32, ControlError> {
    Some(number)
        .filter(|number| *number > 0)
        .ok_or_else(|| refused("the blocks of a relation's file", "1 or more", number))
}

fn segment_size(number: u32) -> Result<SegmentSize, ControlError> {
    SegmentSize::new(number.into()).map_err(|_| {
        refused(
            "the WAL segment size",
            "a power of two from 1 MiB to 1 GiB",
            number,
        )
    })
}

fn refused(field: &'static str, expected: &'static str, found: u32) -> ControlError {
    ControlError::Field {
        field,
        expected,
        found: found.into(),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..].first_chunk().expect("the length was checked");
    u32::from_le_bytes(*field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes[at..].first_chunk().expect("the length was checked");
    u64::from_le_bytes(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a file that PostgreSQL 15 wrote for a base backup; behind it are zeros.
    const REAL: &str = "\
c3dff12b5092016b1405000025770d0c06000000000000005192016b0000000060000004000000002800000400000000\
01000000010000000100000000000000d702000000000000006000000100000000000000cc0200000100000001000000\
01000000000000005192016b000000000000000000000000d702000000000000e8030000000000000000000000000000\
00000000000000000000000000000000000000000000000000000000010000000000000064000000080000000a000000\
000000004000000000000000080000000000000087d63241002000000000020000200000000000014000000020000000\
cc070000000800000100000001000000d90a380a7b3f4cda8f39662afd01a837777186f42d67470654cba98d52671051\
dd75be35";

    pub(super) fn real() -> Vec<u8> {
        let digits = |at: usize| u8::from_str_radix(&REAL[at..at + 2], 16).unwrap();
        let mut bytes: Vec<u8> = (0..REAL.len()).step_by(2).map(digits).collect();
        bytes.resize(CONTROL_FILE_BYTES, 0);
        bytes
    }

    /// The real file with some bytes changed, and the CRC that belongs to it.
    fn changed(at: usize, field: &[u8]) -> Vec<u8> {
        let mut bytes = real();
        bytes[at..at + field.len()].copy_from_slice(field);
        seal(&mut bytes, 288);
        bytes
    }

    fn seal(bytes: &mut [u8], crc_at: usize) {
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// As `pg_controldata` prints it.
    fn expected() -> ControlFile {
        ControlFile {
            system_id: SystemId(7_710_604_910_067_310_531),
            format: 1300,
            catalog_version: 202_209_061,
            state: ClusterState::InProduction,
            written: Timestamp::from_second(1795265105).unwrap(),
            checkpoint_time: Timestamp::from_second(1795265105).unwrap(),
            checkpoint_lsn: Lsn(0x400_0060),
            redo_lsn: Lsn(0x400_0028),
            timeline: Timeline(1),
            minimum_recovery_lsn: Lsn(0),
            minimum_recovery_timeline: Timeline(0),
            limits: Limits::read(|number| [100, 8, 10, 0, 64].get(number).copied()).unwrap(),
            block_bytes: 8192,
            segment_blocks: 131_072,
            wal_block_bytes: 8192,
            segment_size: SegmentSize::new(16 << 20).unwrap(),
            data_checksum_version: 1,
        }
    }

    #[test]
    fn as_postgresql_15_wrote_it() {
        let file = ControlFile::parse(&real()).unwrap();
        assert_eq!(file, expected());
        assert_eq!(file.major_version(), Some(15));
        assert_eq!(file.tablespace_directory(15), "PG_15_202209061");
        assert!(file.has_data_checksums());
        for (version, all) in [(0, false), (1, true), (2, false), (3, false)] {
            let file = ControlFile {
                data_checksum_version: version,
                ..file
            };
            assert_eq!(file.has_data_checksums(), all, "{version}");
        }
    }

    #[test]
    fn where_the_wal_of_a_stopped_server_ends() {
        for (checkpoint_lsn, end) in [
            (0x400_0028, 0x400_00A0),
            (0x400_1F88, 0x400_2000),
            (0x400_1FA0, 0x400_2030),
            (0x4FF_FFA0, 0x500_0040),
        ] {
            let file = ControlFile {
                checkpoint_lsn: Lsn(checkpoint_lsn),
                ..expected()
            };
            assert_eq!(file.end_of_checkpoint(), Lsn(end), "{checkpoint_lsn:X}");
        }
    }

    #[test]
    fn other_versions() {
        for (format, catalog_version, crc_at, major) in [
            (1300, 202_007_201, 288, Some(13)),
            (1300, 202_107_181, 288, Some(14)),
            (1300, 202_307_071, 288, Some(16)),
            (1300, 202_307_072, 288, None),
            (1700, 202_406_281, 288, Some(17)),
            (1800, 202_506_291, 292, Some(18)),
        ] {
            let mut bytes = real();
            bytes[8..12].copy_from_slice(&u32::to_le_bytes(format));
            bytes[12..16].copy_from_slice(&u32::to_le_bytes(catalog_version));
            seal(&mut bytes, crc_at);
            let file = ControlFile::parse(&bytes).unwrap();
            let stated = ControlFile {
                format,
                catalog_version,
                ..expected()
            };
            assert_eq!((file, file.major_version()), (stated, major));
        }
    }

    #[test]
    fn what_a_standby_has_reached() {
        let bytes = changed(136, &[0x28, 0, 0, 5, 1, 0, 0, 0, 2]);
        let file = ControlFile::parse(&bytes).unwrap();
        let reached = (file.minimum_recovery_lsn, file.minimum_recovery_timeline);
        assert_eq!(reached, (Lsn(0x1_0500_0028), Timeline(2)));
    }

    #[test]
    fn damage_is_found() {
        for at in 12..292 {
            let mut bytes = real();
            bytes[at] ^= 1;
            let error = ControlFile::parse(&bytes).unwrap_err();
            assert!(matches!(error, ControlError::Checksum { .. }), "{at}: {error}");
        }
        for found_bytes in [0, 292, 8191, 8193] {
            let mut bytes = real();
            bytes.resize(found_bytes, 0);
            assert_eq!(
                ControlFile::parse(&bytes),
                Err(ControlError::Length { found_bytes })
            );
        }
    }

    #[test]
    fn other_formats_are_refused() {
        for found in [0_u32, 1301, 1900] {
            let error = ControlFile::parse(&changed(8, &found.to_le_bytes()));
            assert_eq!(error, Err(ControlError::Format { found }));
        }
        for found in [903_u32, 1201] {
            let error = ControlFile::parse(&changed(8, &found.to_le_bytes()));
            assert_eq!(error, Err(ControlError::TooOld { found }));
        }
        let error = ControlFile::parse(&changed(8, &1300_u32.to_be_bytes()));
        assert_eq!(error, Err(ControlError::ByteOrder));
        // The number that other layouts have elsewhere.
        assert_eq!(
            ControlFile::parse(&changed(208, &[0; 8])),
            Err(ControlError::Layout)
        );
    }

    #[test]
    fn fields_refused() {
        for (at, number, name) in [
            (16, 7_u32, "state"),
            (216, 0, "block size"),
            (216, 8191, "block size"),
            (216, 65536, "block size"),
            (220, 0, "blocks of a relation"),
            (224, 512, "block size of the WAL"),
            (228, 16 << 10, "WAL segment size"),
        ] {
            let error = ControlFile::parse(&changed(at, &number.to_le_bytes())).unwrap_err();
            assert!(error.to_string().contains(name), "{at}: {error}");
        }
    }
}
