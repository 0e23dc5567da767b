//! CRC32C as S3 spells it: four bytes, big endian, base64.
//!
//! Computed here and sent with its algorithm, because a value without the algorithm is not compared by some servers;
//! what comes back is compared with it, because some servers compare nothing. CRC32C and not the newer CRC64NVME: every
//! server of the last years knows it, processors have an instruction for it, and the CRC of a whole follows from those
//! of its parts.

use super::Part;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `AAAAAA==` for 0.
pub(super) fn spell(crc32c: u32) -> String {
    // 32 bits in six digits of six bits: the last has four bits of padding.
    let bits = u64::from(crc32c) << 4;
    let digit = |index: u32| ALPHABET[(bits >> (30 - 6 * index)) as usize & 63] as char;
    (0..6).map(digit).chain("==".chars()).collect()
}

/// Does what a server answered fit? A server that answers nothing has not disagreed.
pub(super) fn agrees(answered: Option<&str>, crc32c: u32) -> bool {
    answered.is_none_or(|text| text == spell(crc32c))
}

/// The same for an object of parts: either the CRC of the whole, or that of the parts' CRCs with a dash and their
/// number, as the server prefers.
pub(super) fn agrees_with_parts(answered: Option<&str>, parts: &[Part]) -> bool {
    let Some(text) = answered else { return true };
    match text.split_once('-') {
        Some((text, _)) => text == spell(of_crcs(parts)),
        None => text == spell(of_whole(parts)),
    }
}

fn of_crcs(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |crc, part| {
        crc32c::crc32c_append(crc, &part.crc32c.to_be_bytes())
    })
}

/// The CRC of the parts' bytes one after the other.
pub(super) fn of_whole(parts: &[Part]) -> u32 {
    parts.iter().fold(0, |crc, part| {
        crc32c::crc32c_combine(crc, part.crc32c, part.bytes as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(number: u32, bytes: &[u8]) -> Part {
        let crc32c = crc32c::crc32c(bytes);
        Part {
            number,
            tag: String::new(),
            bytes: bytes.len() as u64,
            crc32c,
        }
    }

    #[test]
    fn spelled_as_in_the_standard_example() {
        // "123456789" has the CRC32C e3069283 (RFC 3720 test of the polynomial); base64 of these four bytes.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(spell(0xe306_9283), "4waSgw==");
        assert_eq!(spell(0), "AAAAAA==");
        assert_eq!(spell(u32::MAX), "/////w==");
    }

    #[test]
    fn the_whole_follows_from_the_parts() {
        let parts = [part(1, b"1234"), part(2, b"56789")];
        assert_eq!(of_whole(&parts), 0xe306_9283);
        assert!(agrees_with_parts(Some("4waSgw=="), &parts));
        assert!(agrees_with_parts(None, &parts));
        assert!(!agrees_with_parts(Some("4waSgg=="), &parts));
    }

    #[test]
    fn a_composite_answer_is_compared_as_one() {
        let parts = [part(1, b"1234"), part(2, b"56789")];
        let crcs = [parts[0].crc32c.to_be_bytes(), parts[1].crc32c.to_be_bytes()].concat();
        let composite = format!("{}-2", spell(crc32c::crc32c(&crcs)));
        assert!(agrees_with_parts(Some(&composite), &parts));
        assert!(!agrees_with_parts(Some("4waSgw==-2"), &parts));
    }
}
