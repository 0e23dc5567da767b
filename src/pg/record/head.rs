//! What a record says of itself in its first bytes, behind the header of 24 (`xlogrecord.h`, `xloginsert.c`):
//!
//! ```text
//! for each block:  u8 number (0 to 32)  u8 fork (low four bits) and flags  u16 length of its data
//!   flag 0x10, it has an image:  u16 length  u16 where its hole begins  u8 what is done with it
//!     compressed, with a hole:   u16 length of the hole
//!   unless flag 0x80, the relation of the block before:  u32 tablespace  u32 database  u32 file
//!   u32 block
//! then:  252 u32 transaction above   253 u16 origin   255 u8 or 254 u32 length of the main data
//! ```
//! Data and images of the blocks follow, then the main data, which is all that a record without blocks has, and which an image
//! alone (`XLOG_FPI`) has not. Only the bits that
//! say that an image is compressed have changed, with PostgreSQL 15.

use jiff::Timestamp;

use super::super::control::Limits;
use super::super::{Lsn, Timeline};
use super::{Checkpoint, u16_of, u32_of, u64_of};

pub(super) const HEADER_BYTES: usize = 24;

/// So many first bytes of a record have the headers of all its blocks, 33 at most, of 27 bytes at most; and of one without
/// blocks all that is read here of its main data.
pub const HEAD_BYTES: usize = 1024;

/// `RM_XLOG_ID`; below, `RM_XACT_ID`.
const XLOG: u8 = 0;

pub(super) const XACT: u8 = 1;

/// `XLOG_CHECKPOINT_SHUTDOWN`; below, `XLOG_CHECKPOINT_ONLINE`, `XLOG_BACKUP_END`, `XLOG_RESTORE_POINT`,
/// `XLOG_END_OF_RECOVERY`.
const SHUTDOWN: u8 = 0x00;

const ONLINE: u8 = 0x10;

const BACKUP_END: u8 = 0x50;

const RESTORE_POINT: u8 = 0x70;

const END_OF_RECOVERY: u8 = 0x90;

/// `XLOG_SWITCH`: the rest of its segment has no records.
const SWITCH: u8 = 0x40;

/// `XLOG_PARAMETER_CHANGE`.
const PARAMETER_CHANGE: u8 = 0x60;

/// `XLOG_XACT_COMMIT`, and below its kin.
const COMMIT: u8 = 0x00;

const ABORT: u8 = 0x20;

const COMMIT_PREPARED: u8 = 0x30;

const ABORT_PREPARED: u8 = 0x40;

/// `XLOG_XACT_HAS_INFO`: what follows the time says what else there is.
const HAS_INFO: u8 = 0x80;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// The first page magic of PostgreSQL 15, and of 18.
const MAGIC_15: u16 = 0xD110;

const MAGIC_18: u16 = 0xD118;

/// `MAXFNAMELEN`: room for the name of a restore point, its end mark included.
const NAME_BYTES: usize = 64;

/// The moment that a `TimestampTz` is: microseconds since 2000. `None` for one that no calendar has.
pub fn moment(since_2000: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(since_2000.checked_add(EPOCH)?).ok()
}

/// The reverse of [`moment`].
pub fn since_2000(moment: Timestamp) -> i64 {
    moment.as_microsecond().saturating_sub(EPOCH)
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// When it ended.
    pub time: Timestamp,
    /// Was it a commit? An abort otherwise.
    pub committed: bool,
    /// Had it been prepared? Then the record is of another one.
    pub prepared: bool,
}

/// What is read here of the record of an end of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfRecovery {
    /// When recovery ended.
    pub time: Timestamp,
    /// The timeline that begins.
    pub timeline: Timeline,
    /// The one before.
    pub previous: Timeline,
}

/// A file of a relation: one of its forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFork {
    /// Of its tablespace.
    pub tablespace: u32,
    /// Of its database; 0 for what all share.
    pub database: u32,
    /// The number in its file's name.
    pub relation: u32,
    /// 0 data, 1 free space map, 2 visibility map, 3 what an unlogged one begins with.
    pub fork: u8,
}

/// The first bytes of a record, from its header on: all of it, or as many as are at hand.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    /// `None` if there is not even the header.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= HEADER_BYTES).then_some(Self(bytes))
    }

    /// Length of the whole record.
    pub fn length(self) -> u32 {
        u32_of(self.0, 0).expect("the header is there")
    }

    /// The transaction that wrote it; 0 if none did.
    pub fn xid(self) -> u32 {
        u32_of(self.0, 4).expect("the header is there")
    }

    /// Where the record before begins.
    pub fn before(self) -> Lsn {
        u64_of(self.0, 8).map(Lsn).expect("the header is there")
    }

    /// The end of a transaction, if it is the record of that.
    pub fn ended(self) -> Option<Ended> {
        let kind = self.0[16] & 0x70;
        let ends = matches!(kind, COMMIT | ABORT | COMMIT_PREPARED | ABORT_PREPARED);
        let main = self.main().filter(|_| self.manager() == XACT && ends)?;
        Some(Ended {
            time: moment(u64_of(main, 0)? as i64)?,
            committed: matches!(kind, COMMIT | COMMIT_PREPARED),
            prepared: matches!(kind, COMMIT_PREPARED | ABORT_PREPARED),
        })
    }

    /// The transaction that ended (`ParseCommitRecord`, `ParseAbortRecord` of xactdesc.c), if it is the record of that. Of
    /// one that had been prepared the whole record must be at hand. `magic` is that of its page.
    pub fn ended_xid(self, magic: u16) -> Option<u32> {
        let ended = self.ended()?;
        match ended.prepared {
            false => Some(self.xid()),
            true => self.prepared_xid(magic, ended.committed),
        }
    }

    /// Is what is read of it behind its first bytes, and are these all that is at hand?
    pub fn needs_all(self) -> bool {
        self.0.len() < self.length() as usize && self.ended().is_some_and(|ended| ended.prepared)
    }

    fn prepared_xid(self, magic: u16, committed: bool) -> Option<u32> {
        let main = self.main()?;
        let info = u32_of(main, 8).filter(|_| self.0[16] & HAS_INFO != 0)?;
        let dropped_bytes = if magic >= MAGIC_18 { 16 } else { 12 };
        // Each: the bit that says that it is there, and how long one of those is whose number it begins with.
        let lists = [(1 << 1, 4), (1 << 2, 12), (1 << 8, dropped_bytes), (1 << 3, 16)];
        let mut at = 12 + if info & 1 != 0 { 8 } else { 0 };
        for (bit, one) in lists {
            // An abort has no messages.
            if info & bit != 0 && (committed || bit != 1 << 3) {
                let count = u32_of(main, at)? as usize;
                at = count.checked_mul(one)?.checked_add(at + 4)?;
            }
        }
        u32_of(main, at).filter(|_| info & (1 << 4) != 0)
    }

    /// The settings that a server in recovery needs from here on, if they change here.
    pub fn limits(self) -> Option<Limits> {
        let main = self.main_of_xlog(&[PARAMETER_CHANGE])?;
        Limits::read(|number| u32_of(main, 4 * number))
    }

    /// If it is that of a checkpoint.
    pub fn checkpoint(self) -> Option<Checkpoint> {
        let main = self.main_of_xlog(&[SHUTDOWN, ONLINE])?;
        Some(Checkpoint {
            redo: Lsn(u64_of(main, 0)?),
            timeline: Timeline(u32_of(main, 8)?),
            time: Timestamp::from_second(u64_of(main, 64)? as i64).ok()?,
        })
    }

    /// Is it that of the checkpoint of a server that was stopped?
    pub fn is_shutdown(self) -> bool {
        self.manager() == XLOG && self.kind() == SHUTDOWN
    }

    /// Time and name, if it is that of a restore point.
    pub fn restore_point(self) -> Option<(Timestamp, String)> {
        let main = self.main_of_xlog(&[RESTORE_POINT])?;
        let name = main.get(8..)?;
        let name = name
            .get(..name.len().min(NAME_BYTES))?
            .split(|byte| *byte == 0)
            .next()?;
        let time = moment(u64_of(main, 0)? as i64)?;
        Some((time, String::from_utf8_lossy(name).into_owned()))
    }

    /// If it is that of an end of recovery.
    pub fn end_of_recovery(self) -> Option<EndOfRecovery> {
        let main = self.main_of_xlog(&[END_OF_RECOVERY])?;
        Some(EndOfRecovery {
            time: moment(u64_of(main, 0)? as i64)?,
            timeline: Timeline(u32_of(main, 8)?),
            previous: Timeline(u32_of(main, 12)?),
        })
    }

    /// Where the backup began that ends here, if it is the record of that.
    pub fn backup_end(self) -> Option<Lsn> {
        u64_of(self.main_of_xlog(&[BACKUP_END])?, 0).map(Lsn)
    }

    /// Is it the switch to the next segment?
    pub fn is_switch(self) -> bool {
        self.manager() == XLOG && self.kind() == SWITCH
    }

    /// Tells of each block that it touches, as far as its bytes are at hand. False: there may be more than was told.
    pub fn blocks(self, magic: u16, mut tell: impl FnMut(RelationFork, u32)) -> bool {
        let (bytes, length) = (self.0, self.length() as usize);
        let (mut at, mut last, mut data_bytes) = (HEADER_BYTES, None, 0);
        // The headers end where all the rest is what they have announced (`DecodeXLogRecord`).
        while at + data_bytes < length {
            match bytes.get(at) {
                Some(252) => at += 5,
                Some(253) => at += 3,
                // The main data, which comes last.
                Some(254 | 255) => return true,
                None | Some(33..=251) => return false,
                Some(_) => match block(bytes, at, magic, last) {
                    Some(block) => {
                        tell(block.relation, block.number);
                        data_bytes += block.data_bytes;
                        (last, at) = (Some(block.relation), block.next);
                    }
                    None => return false,
                },
            }
        }
        true
    }

    fn main_of_xlog(self, kinds: &[u8]) -> Option<&'a [u8]> {
        let is_one = self.manager() == XLOG && kinds.contains(&self.kind());
        self.main().filter(|_| is_one)
    }

    fn kind(self) -> u8 {
        self.0[16] & 0xF0
    }

    fn manager(self) -> u8 {
        self.0[17]
    }

    /// What the record says of itself, behind the headers of its parts, as far as it is at hand; `None` if it has blocks of
    /// files, too.
    fn main(self) -> Option<&'a [u8]> {
        let mut at = HEADER_BYTES;
        loop {
            let (behind, length) = match *self.0.get(at)? {
                // XLR_BLOCK_ID_TOPLEVEL_XID, XLR_BLOCK_ID_ORIGIN
                252 => {
                    at += 5;
                    continue;
                }
                253 => {
                    at += 3;
                    continue;
                }
                254 => (at + 5, u32_of(self.0, at + 1)? as usize),
                255 => (at + 2, usize::from(*self.0.get(at + 1)?)),
                _ => return None,
            };
            let is_all = behind.checked_add(length)? == self.length() as usize;
            return self.0.get(behind..).filter(|_| is_all);
        }
    }
}

/// What a block's header says.
struct Block {
    relation: RelationFork,
    number: u32,
    /// Of its data and its image, which come behind all headers.
    data_bytes: usize,
    /// Where the next header begins.
    next: usize,
}

/// The block whose header begins there.
fn block(bytes: &[u8], begin: usize, magic: u16, last: Option<RelationFork>) -> Option<Block> {
    let flags = *bytes.get(begin + 1)?;
    let mut data_bytes = usize::from(u16_of(bytes, begin + 2)?);
    let mut at = begin + 4;
    if flags & 0x10 != 0 {
        data_bytes += usize::from(u16_of(bytes, at)?);
        let done = *bytes.get(at + 4)?;
        // BKPIMAGE_COMPRESSED: three ways since 15, one before.
        let compressed = match magic >= MAGIC_15 {
            true => done & 0x1C != 0,
            false => done & 0x02 != 0,
        };
        at += if done & 0x01 != 0 && compressed { 7 } else { 5 };
    }
    let mut relation = match flags & 0x80 {
        0 => {
            let field = |number: usize| u32_of(bytes, at + 4 * number);
            let relation = RelationFork {
                tablespace: field(0)?,
                database: field(1)?,
                relation: field(2)?,
                fork: 0,
            };
            at += 12;
            relation
        }
        _ => last?,
    };
    relation.fork = flags & 0x0F;
    Some(Block {
        relation,
        number: u32_of(bytes, at)?,
        data_bytes,
        next: at + 4,
    })
}
