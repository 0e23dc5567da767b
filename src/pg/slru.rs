//! Files of transaction states: pages without headers, in files of 32 (`slru.c`).
//!
//! ```text
//! pg_xact/0000                              the states of 1,048,576 transactions
//! pg_multixact/members/0000, offsets/0000   who shares row locks
//! pg_commit_ts/0000                         when transactions were committed, where that is kept
//! ```
//! What a page of them holds nobody can prove; that the file is a whole number of pages anybody can.

/// Pages in each file but the last (`SLRU_PAGES_PER_SEGMENT`).
pub const FILE_PAGES: u32 = 32;

const DIRECTORIES: [&[u8]; 4] = [
    b"pg_xact",
    b"pg_commit_ts",
    b"pg_multixact/members",
    b"pg_multixact/offsets",
];

/// Is this path, relative to the data directory, that of such a file?
pub fn is_slru_file(path: &[u8]) -> bool {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    slash.is_some_and(|slash| {
        let (directory, name) = (&path[..slash], &path[slash + 1..]);
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(byte);
        DIRECTORIES.contains(&directory) && (4..=15).contains(&name.len()) && name.iter().all(is_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for path in [
            "pg_xact/0000",
            "pg_xact/0A1F",
            "pg_multixact/members/14078",
            "pg_commit_ts/000000000001ABC",
        ] {
            assert!(is_slru_file(path.as_bytes()), "{path}");
        }
        for path in [
            "pg_xact",
            "pg_xact/000",
            "pg_xact/abcd",
            "pg_multixact/0000",
            "base/5/1249",
            "0000",
        ] {
            assert!(!is_slru_file(path.as_bytes()), "{path}");
        }
    }
}
