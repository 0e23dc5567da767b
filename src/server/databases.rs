//! The databases of a cluster, and how another program of PostgreSQL connects to one of them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::{Error, Resolved, Session, column};

/// What a program of PostgreSQL is told, so that it connects as walfs does.
#[derive(Debug, Clone)]
pub struct Connection {
    /// A connection string without a password, for its command line.
    pub conninfo: OsString,
    /// A password that it would not find by itself, for its environment.
    pub password: Option<OsString>,
}

impl Session {
    /// Major version of the server.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Databases that let somebody in, by name, byte for byte.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Lost`].
    pub async fn databases(&self) -> Result<Vec<OsString>, Error> {
        const WHAT: &str = "to name its databases";
        // Bytes, not text: a name is in the encoding of whoever gave it. -2 is a database that was half dropped.
        let rows = self
            .rows(
                WHAT,
                "SELECT pg_catalog.convert_to(datname::text, pg_catalog.getdatabaseencoding()) \
                 FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname",
            )
            .await?;
        let names = rows.iter().map(|row| column::<Vec<u8>>(WHAT, row, 0));
        names.map(|name| Ok(OsString::from_vec(name?))).collect()
    }
}

impl Resolved {
    /// The database that it leads to.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// How another program connects to a database there. What the environment says, it reads itself.
    pub fn connection(&self, database: &OsStr) -> Connection {
        let mut conninfo = b"dbname=".to_vec();
        quote(&mut conninfo, database.as_bytes());
        for (name, value) in &self.stated {
            conninfo.push(b' ');
            conninfo.extend_from_slice(name.as_bytes());
            conninfo.push(b'=');
            quote(&mut conninfo, value.as_bytes());
        }
        let password = self.config.get_password().filter(|_| self.has_own_password);
        Connection {
            conninfo: OsString::from_vec(conninfo),
            password: password.map(|password| OsString::from_vec(password.to_vec())),
        }
    }
}

/// A value of a connection string.
fn quote(to: &mut Vec<u8>, value: &[u8]) {
    to.push(b'\'');
    for byte in value {
        if matches!(byte, b'\'' | b'\\') {
            to.push(b'\\');
        }
        to.push(*byte);
    }
    to.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Target;

    #[test]
    fn another_program_connects_to_the_same_place_and_no_password_is_seen() {
        let target = Target {
            database: Some("host=/a'b port=7 password=secret".into()),
            secret: true,
            ..Target::default()
        };
        let resolved = target
            .resolve(|name| (name == "PGUSER").then(|| "role".into()))
            .unwrap();
        let connection = resolved.connection(OsStr::new("it's \\ odd"));
        assert_eq!(
            connection.conninfo.to_str().unwrap(),
            r"dbname='it\'s \\ odd' host='/a\'b' port='7'"
        );
        assert_eq!(connection.password, Some("secret".into()));
        assert!(!format!("{resolved:?}").contains("secret"));
    }

    #[test]
    fn without_a_word_the_socket_that_was_found_is_named() {
        let resolved = Target::default().resolve(|_| None).unwrap();
        let connection = resolved.connection(OsStr::new("postgres"));
        let conninfo = connection.conninfo.to_str().unwrap();
        assert!(conninfo.starts_with("dbname='postgres' host='/"), "{conninfo}");
        assert_eq!(connection.password, None);
    }
}
