//! A control file without which recovery can do, but nothing else.
//!
//! A backup holds a control file that says "running, last checkpoint there". If somebody removes `backup_label` from
//! a restored backup, PostgreSQL takes that for a crash, recovers from a checkpoint later than the one the backup
//! began with, and runs on damaged data without a word. So the checkpoint's position is put where no WAL ever is. With
//! the label PostgreSQL does not look at it, and replaces it as soon as recovery has begun; without the label it
//! stops: "could not locate a valid checkpoint record".
//!
//! The position is 0/DEAD: in segment 0, which no cluster has, and past the header of a page of any size, because
//! `StartupXLOG` refuses one inside a header even with a label. The CRC is made right again. The true position is
//! kept in the file's last 16 bytes, which PostgreSQL fills with zeros and does not read; when it writes the file
//! itself, they are gone.
//!
//! This does not mark an unfinished restore: for that, bring `global/pg_control` last, by a rename. No server starts
//! without one.

use super::{CHECKPOINT_AT, CONTROL_FILE_BYTES, ControlError, ControlFile, check_format, u64_at};

const NOWHERE: u64 = 0xDEAD;

/// Before it, the true position.
const MARK: &[u8; 8] = b"WALFSLSN";
const MARK_AT: usize = CONTROL_FILE_BYTES - MARK.len();
const KEPT_AT: usize = MARK_AT - 8;

/// Makes a control file that PostgreSQL starts from only with a `backup_label`. One that is poisoned stays as it is.
///
/// # Errors
/// Those of [`ControlFile::parse`]; the bytes are then as they were.
pub fn poison(bytes: &mut [u8]) -> Result<(), ControlError> {
    let file = ControlFile::parse(bytes)?;
    if is_poisoned(bytes) {
        return Ok(());
    }
    bytes[KEPT_AT..MARK_AT].copy_from_slice(&file.checkpoint_lsn.0.to_le_bytes());
    bytes[MARK_AT..].copy_from_slice(MARK);
    set_checkpoint(bytes, NOWHERE)
}

/// Is it as [`poison`] left it? Not after PostgreSQL has written it again.
pub fn is_poisoned(bytes: &[u8]) -> bool {
    bytes.len() == CONTROL_FILE_BYTES && bytes.ends_with(MARK) && u64_at(bytes, CHECKPOINT_AT) == NOWHERE
}

/// Undoes [`poison`], to the byte. One that is not poisoned stays as it is.
///
/// # Errors
/// Those of [`ControlFile::parse`]; the bytes are then as they were.
pub fn cure(bytes: &mut [u8]) -> Result<(), ControlError> {
    ControlFile::parse(bytes)?;
    if !is_poisoned(bytes) {
        return Ok(());
    }
    let checkpoint = u64_at(bytes, KEPT_AT);
    bytes[KEPT_AT..].fill(0);
    set_checkpoint(bytes, checkpoint)
}

fn set_checkpoint(bytes: &mut [u8], position: u64) -> Result<(), ControlError> {
    let crc_at = check_format(bytes)?;
    bytes[CHECKPOINT_AT..CHECKPOINT_AT + 8].copy_from_slice(&position.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::real;
    use super::*;
    use crate::pg::Lsn;

    #[test]
    fn poisoned_and_cured() {
        let mut bytes = real();
        assert!(!is_poisoned(&bytes));
        poison(&mut bytes).unwrap();
        assert!(is_poisoned(&bytes));
        let file = ControlFile::parse(&bytes).unwrap();
        assert_eq!(file.checkpoint_lsn, Lsn(NOWHERE));
        let before = ControlFile::parse(&real()).unwrap();
        let checkpoint_lsn = before.checkpoint_lsn;
        assert_eq!(
            ControlFile {
                checkpoint_lsn,
                ..file
            },
            before
        );
        cure(&mut bytes).unwrap();
        assert_eq!(bytes, real());
    }

    #[test]
    fn twice_is_once() {
        let mut once = real();
        poison(&mut once).unwrap();
        let mut twice = once.clone();
        poison(&mut twice).unwrap();
        assert_eq!(once, twice);
        let mut healthy = real();
        cure(&mut healthy).unwrap();
        assert_eq!(healthy, real());
    }

    #[test]
    fn gone_when_postgresql_writes_the_file() {
        let mut bytes = real();
        poison(&mut bytes).unwrap();
        // It fills the rest with zeros.
        bytes[292..].fill(0);
        assert!(!is_poisoned(&bytes));
        assert!(!is_poisoned(&[]));
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_is() {
        let mut damaged = real();
        damaged[100] ^= 1;
        let before = damaged.clone();
        assert!(matches!(poison(&mut damaged), Err(ControlError::Checksum { .. })));
        assert!(matches!(cure(&mut damaged), Err(ControlError::Checksum { .. })));
        assert_eq!(damaged, before);
    }

    #[test]
    fn nowhere_is_in_no_segment_and_in_no_page_header() {
        assert!(NOWHERE < crate::pg::SegmentSize::MIN.bytes());
        for power in 10..=16 {
            assert!(NOWHERE % (1 << power) >= 40, "{power}");
        }
    }
}
