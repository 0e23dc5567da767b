//! By what a dump is known to be the same as an earlier one: the BLAKE3 of its bytes, but for those that each run makes anew.
//!
//! - An archive of `pg_dump -Fc` has the time in its header (`WriteHead` of `pg_backup_archiver.c`). Its bytes count as zeros.
//! - A script of `pg_dumpall` may begin with `\restrict KEY` and end with `\unrestrict KEY`, with a random key. These lines are
//!   left out: the key of the first one, and no other, so that a line of the script's content is never left out.
//!
//! In what has another form all bytes count, and so they do in a plain file that somebody writes through the mount: it must read as
//! it was written.

use std::ops::Range;

use blake3::Hasher;

use crate::codec::ContentHash;

/// A line that is longer is none of those that are left out.
const MOST_LINE: usize = 1024;

/// Before these lines comments only.
const RESTRICT: &[u8] = b"\\restrict ";
const UNRESTRICT: &[u8] = b"\\unrestrict ";

/// Takes a dump as it arrives.
#[derive(Debug)]
pub(in crate::job) struct Identity {
    hasher: Hasher,
    form: Form,
}

#[derive(Debug)]
enum Form {
    NotSeen,
    /// From now on all bytes count.
    Whole,
    Script(Lines),
}

/// The lines of a script.
#[derive(Debug, Default)]
struct Lines {
    /// What is there of the line that is not whole yet.
    line: Vec<u8>,
    /// Has the beginning of this line been taken already?
    is_rest: bool,
    key: Option<Vec<u8>>,
    /// Has there been anything but comments?
    has_begun: bool,
}

impl Identity {
    /// Of a dump of which nothing has come.
    pub(super) fn of_dump() -> Self {
        Self {
            hasher: Hasher::new(),
            form: Form::NotSeen,
        }
    }

    /// Of a plain file of which nothing has come.
    pub(in crate::job) fn of_file() -> Self {
        Self {
            form: Form::Whole,
            ..Self::of_dump()
        }
    }

    /// Takes the next bytes. The first ones are at hand with the whole header.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.form {
            Form::NotSeen => self.begin(bytes),
            Form::Whole => _ = self.hasher.update(bytes),
            Form::Script(lines) => lines.update(bytes, &mut self.hasher),
        }
    }

    fn begin(&mut self, bytes: &[u8]) {
        if !bytes.starts_with(MAGIC) {
            self.form = Form::Script(Lines::default());
            return self.update(bytes);
        }
        self.form = Form::Whole;
        let date = date(bytes).unwrap_or(0..0);
        self.hasher.update(&bytes[..date.start]);
        self.hasher.update(&vec![0; date.len()]);
        self.hasher.update(&bytes[date.end..]);
    }

    /// Of all that has come.
    pub(super) fn hash(mut self) -> ContentHash {
        if let Form::Script(lines) = &mut self.form {
            lines.end_line(&mut self.hasher);
        }
        ContentHash::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

impl Lines {
    fn update(&mut self, bytes: &[u8], hasher: &mut Hasher) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.end_line(hasher);
            } else if self.line.len() > MOST_LINE {
                hasher.update(&self.line);
                self.line.clear();
                self.is_rest = true;
            }
        }
    }

    fn end_line(&mut self, hasher: &mut Hasher) {
        if self.is_rest || !self.is_left_out() {
            hasher.update(&self.line);
        }
        self.has_begun |= self.is_rest || !(self.line.starts_with(b"--") || self.line == b"\n");
        self.line.clear();
        self.is_rest = false;
    }

    fn is_left_out(&mut self) -> bool {
        match (&self.key, self.line.strip_prefix(RESTRICT)) {
            (None, Some(key)) if !self.has_begun => {
                self.key = Some(key.to_vec());
                true
            }
            (Some(key), _) => self.line.strip_prefix(UNRESTRICT) == Some(key),
            _ => false,
        }
    }
}

/// What an archive begins with.
const MAGIC: &[u8] = b"PGDMP";

/// Since this minor version of the format, compression is named by one byte and not by a number.
const COMPRESSION_IN_A_BYTE: u8 = 15;

/// Second, minute, hour, day, month, year, and whether it is summer time.
const DATE_NUMBERS: usize = 7;

/// Where in the header the date is: behind magic, version (3 bytes), sizes of a number and of an offset, format, compression.
/// A number has a byte for its sign. `None`: what begins so is not understood.
fn date(header: &[u8]) -> Option<Range<usize>> {
    let [major, minor, _, number_bytes, _, _format] = *header.get(MAGIC.len()..)?.first_chunk()?;
    let number = 1 + usize::from(number_bytes);
    let compression = match minor >= COMPRESSION_IN_A_BYTE {
        true => 1,
        false => number,
    };
    let start = MAGIC.len() + 6 + compression;
    let end = start + DATE_NUMBERS * number;
    (major == 1 && number_bytes <= 8 && end <= header.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pieces: &[&[u8]]) -> ContentHash {
        let mut identity = Identity::of_dump();
        pieces.iter().for_each(|piece| identity.update(piece));
        identity.hash()
    }

    #[test]
    fn the_date_of_an_archive_does_not_count_and_all_else_does() {
        for (minor, compression) in [(14, &[0, 0, 0, 0, 0][..]), (16, &[0][..])] {
            let head = [&b"PGDMP\x01"[..], &[minor, 0, 4, 8, 1], compression].concat();
            let dump = |date: u8, rest: &[u8]| [&head[..], &[date; 35], rest].concat();
            let one = of(&[&dump(1, b"rest"), b"more"]);
            assert_eq!(one, of(&[&dump(2, b"rest"), b"more"]), "1.{minor}");
            assert_ne!(one, of(&[&dump(1, b"resT"), b"more"]), "1.{minor}");
            assert_ne!(one, of(&[&dump(1, b"rest"), b"morE"]), "1.{minor}");
            let mut other = dump(1, b"rest");
            other[head.len() - 1] ^= 1;
            assert_ne!(one, of(&[&other, b"more"]), "1.{minor}");
        }
        // Too short, or of another version: all counts.
        assert_ne!(
            of(&[b"PGDMP\x01\x10\0\x04\x08\x01\x00abc"]),
            of(&[b"PGDMP\x01\x10\0\x04\x08\x01\x00abd"])
        );
    }

    #[test]
    fn the_key_of_a_script_does_not_count_and_no_other_line_is_left_out() {
        let script = |key: &str, line: &str| {
            format!("--\n-- Dump\n--\n\n\\restrict {key}\n\nCREATE ROLE a;\n{line}\n\\unrestrict {key}\n\n")
        };
        let (one, two) = (script("aaa", "x"), script("bbb", "x"));
        let same = of(&[one.as_bytes()]);
        assert_eq!(same, of(&[two.as_bytes()]));
        for cut in 0..two.len() {
            assert_eq!(
                same,
                of(&[&two.as_bytes()[..cut], &two.as_bytes()[cut..]]),
                "{cut}"
            );
        }
        for line in ["y", "\\restrict aaa", "\\unrestrict aab", &"x".repeat(5000)] {
            assert_ne!(same, of(&[script("aaa", line).as_bytes()]), "{line:.20}");
        }
        // Behind anything but comments it is content.
        assert_ne!(of(&[b"SET x;\n\\restrict a\n"]), of(&[b"SET x;\n\\restrict b\n"]));
    }
}
