//! Tablespace map: the `tablespace_map` from which recovery makes the links in `pg_tblspc` (`do_pg_backup_start` of
//! `xlog.c`, `read_tablespace_map` of `xlogrecovery.c`).
//!
//! ```text
//! 16397 /srv/fast
//! 16398 /srv/odd\\name\
//! in two lines
//! ```
//! Each line has the tablespace's oid, a space, and its location up to the newline. A newline, a carriage return and
//! a backslash in the location have a backslash before them. Recovery follows the map and then renames it, so
//! whoever restores to other places writes another map.

/// Where a tablespace lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// The directory; whatever bytes the file system takes.
    pub location: Vec<u8>,
}

/// Why bytes are not a tablespace map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// A line without its two parts.
    #[error("the tablespace map has the line {found:?}, expected an oid, a space and a directory")]
    Line {
        /// The line, without its backslashes.
        found: String,
    },
    /// The last line does not end.
    #[error("the tablespace map is cut short: its last line, {found:?}, does not end in a newline")]
    Truncated {
        /// The last line, without its backslashes.
        found: String,
    },
}

/// Reads a tablespace map; an empty one has no tablespaces.
///
/// # Errors
/// All of [`TablespaceMapError`].
pub fn parse(bytes: &[u8]) -> Result<Vec<Tablespace>, TablespaceMapError> {
    let mut tablespaces = Vec::new();
    let (mut line, mut escaped) = (Vec::new(), false);
    for byte in bytes {
        match byte {
            b'\\' if !escaped => escaped = true,
            // A file that went through Windows ends its lines in both.
            b'\n' | b'\r' if !escaped && line.is_empty() => {}
            b'\n' | b'\r' if !escaped => tablespaces.push(tablespace(&std::mem::take(&mut line))?),
            _ => {
                line.push(*byte);
                escaped = false;
            }
        }
    }
    if escaped || !line.is_empty() {
        let found = String::from_utf8_lossy(&line).into_owned();
        return Err(TablespaceMapError::Truncated { found });
    }
    Ok(tablespaces)
}

/// The file's content; empty without tablespaces, and then PostgreSQL writes no file.
pub fn write<'a>(tablespaces: impl IntoIterator<Item = &'a Tablespace>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Tablespace { oid, location } in tablespaces {
        bytes.extend(format!("{oid} ").bytes());
        for byte in location {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                bytes.push(b'\\');
            }
            bytes.push(*byte);
        }
        bytes.push(b'\n');
    }
    bytes
}

fn tablespace(line: &[u8]) -> Result<Tablespace, TablespaceMapError> {
    let parts = || {
        let space = line.iter().position(|byte| *byte == b' ')?;
        let (digits, location) = (str::from_utf8(&line[..space]).ok()?, &line[space + 1..]);
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        let oid = plain.then(|| digits.parse().ok()).flatten()?;
        let location = Some(location.to_owned()).filter(|path| !path.is_empty())?;
        (oid > 0).then_some(Tablespace { oid, location })
    };
    parts().ok_or_else(|| TablespaceMapError::Line {
        found: String::from_utf8_lossy(line).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(oid: u32, location: &[u8]) -> Tablespace {
        let location = location.to_owned();
        Tablespace { oid, location }
    }

    #[test]
    fn as_postgresql_15_wrote_it() {
        let bytes = b"16397 /srv/t\\\\a\\\nb\\\rc d\n16398 /srv/\xFF\n";
        let read = vec![at(16397, b"/srv/t\\a\nb\rc d"), at(16398, b"/srv/\xFF")];
        assert_eq!(parse(bytes), Ok(read.clone()));
        assert_eq!(write(&read), bytes);
        assert_eq!(parse(b""), Ok(vec![]));
        assert_eq!(parse(b"1 /a\r\n2 /b\r\n"), Ok(vec![at(1, b"/a"), at(2, b"/b")]));
    }

    #[test]
    fn lines_refused() {
        for found in [
            "16397",
            "16397 ",
            " /srv",
            "x /srv",
            "+1 /srv",
            "-1 /srv",
            "0 /srv",
            "4294967296 /srv",
        ] {
            let found = found.to_owned();
            assert_eq!(
                parse(format!("{found}\n").as_bytes()),
                Err(TablespaceMapError::Line { found })
            );
        }
    }

    #[test]
    fn a_line_that_does_not_end() {
        for bytes in ["1 /srv", "1 /srv\\", "1 /srv\\\n"] {
            let found = bytes.replace('\\', "");
            assert_eq!(
                parse(bytes.as_bytes()),
                Err(TablespaceMapError::Truncated { found })
            );
        }
    }

    proptest! {
        #[test]
        fn round_trip(
            tablespaces in prop::collection::vec((1..u32::MAX, prop::collection::vec(1..=255_u8, 1..20)), 0..5)
        ) {
            let read: Vec<_> = tablespaces.iter().map(|(oid, location)| at(*oid, location)).collect();
            prop_assert_eq!(parse(&write(&read)), Ok(read));
        }
    }
}
