//! The password file: `host:port:database:user:password`, as libpq reads it (`passwordFromFile` of `fe-connect.c`).
//!
//! A field `*` is any; `\:` and `\\` stand for the character; lines that begin with `#` are comments. The first line
//! that fits counts. A file that others can read is not used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Which password is wanted.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Host, address or socket directory.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password for a server, if the file is there, may be used, and has one.
pub(super) fn password(file: &Path, wanted: &Wanted<'_>) -> Option<Vec<u8>> {
    let metadata = fs::metadata(file).ok()?;
    let shown = file.display();
    if !metadata.is_file() {
        tracing::warn!("password file {shown} is not used: it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!("password file {shown} is not used: others can read it. HINT: chmod 0600 {shown}");
        return None;
    }
    find(&fs::read(file).ok()?, wanted)
}

fn find(text: &[u8], wanted: &Wanted<'_>) -> Option<Vec<u8>> {
    // The socket in the usual place is called localhost.
    let host = match wanted.host {
        "/var/run/postgresql" | "/tmp" | "" => "localhost",
        host => host,
    };
    let port = wanted.port.to_string();
    let expected = [host, &port, wanted.database, wanted.user];
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let fields = fields(line)?;
        let fits = |(field, expected): (&Field, &str)| field.any || field.text == expected.as_bytes();
        let (password, others) = fields.split_last()?;
        others
            .iter()
            .zip(expected)
            .all(fits)
            .then(|| password.text.clone())
    })
}

#[derive(Debug, Default)]
struct Field {
    text: Vec<u8>,
    /// Is it a bare `*`?
    any: bool,
}

/// The five fields of a line; the last one goes to its end. `None` if it has not as many, or is a comment.
fn fields(line: &[u8]) -> Option<Vec<Field>> {
    if line.starts_with(b"#") {
        return None;
    }
    let mut fields = vec![Field::default()];
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        let last = fields.len() == 5;
        let field = fields.last_mut().expect("never empty");
        match byte {
            b'\\' => field.text.extend(bytes.next()),
            b':' if !last => fields.push(Field::default()),
            b'*' if field.text.is_empty() && matches!(bytes.as_slice().first(), Some(b':')) => {
                field.any = true
            }
            byte => field.text.push(*byte),
        }
    }
    (fields.len() == 5).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted<'static> {
        Wanted {
            host: "/var/run/postgresql",
            port: 5432,
            database: "postgres",
            user: "backup",
        }
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        for (text, expected) in [
            ("localhost:5432:postgres:backup:secret\n", Some("secret")),
            ("other:*:*:*:no\n*:*:*:*:yes\n*:*:*:*:late", Some("yes")),
            ("#*:*:*:*:comment\n*:5432:*:backup:a\\:b\\\\c", Some("a:b\\c")),
            ("*:*:*:backup:with:colons", Some("with:colons")),
            ("localhost:5432:postgres:backup\n", None),
            ("localhost:5433:postgres:backup:x\n", None),
            ("*:*:*:\\*:x\n", None),
            ("", None),
        ] {
            let found = find(text.as_bytes(), &wanted());
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "*:*:*:*:secret").unwrap();
        for (mode, used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(password(file.path(), &wanted()).is_some(), used, "{mode:o}");
        }
        assert_eq!(password(Path::new("/nonexistent/pgpass"), &wanted()), None);
    }
}
