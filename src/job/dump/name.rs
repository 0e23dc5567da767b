//! The name under which the dumps of a database are kept: its own where that can name versions, and else `db=` and what is left
//! of it, with each byte that cannot be in a name as `=` and two digits: `db=a=2Fb`. So two databases never share a name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::archive::tree::version::SetName;
use crate::codec::ContentHash;

/// The name of what a cluster has beside its databases.
pub const GLOBALS: &str = "globals";

/// Bytes that stay of a name that is too long; its hash follows.
const STAY: usize = 48;

/// The name for the dumps of a database.
///
/// # Panics
/// Never: what is made is a name.
pub fn of_database(database: &OsStr) -> SetName {
    let own = database
        .to_str()
        .filter(|name| *name != GLOBALS && !name.contains('='));
    if let Some(name) = own.and_then(|name| name.parse().ok()) {
        return name;
    }
    let text = format!("db={}", escaped(database.as_bytes()));
    text.parse().unwrap_or_else(|_| {
        let stay = (0..=STAY)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        let hash = ContentHash::of(database.as_bytes()).to_string();
        let short = format!("{}=={}", &text[..stay], &hash[..16]);
        short.parse().expect("plain characters that begin with a letter")
    })
}

fn escaped(name: &[u8]) -> String {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("={byte:02X}")).collect() };
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            let one = character.to_string();
            match character != '=' && format!("x{one}").parse::<SetName>().is_ok() {
                true => text.push(character),
                false => text.push_str(&hex(one.as_bytes())),
            }
        }
        text.push_str(&hex(chunk.invalid()));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_database_has_a_name_of_its_own() {
        let long = "x".repeat(63);
        let wild: Vec<String> = (0..3).map(|last| format!("{}{last}", "/".repeat(62))).collect();
        let names = [
            (&b"app"[..], "app"),
            ("höst-1.x".as_bytes(), "höst-1.x"),
            (long.as_bytes(), &long),
            (b"globals", "db=globals"),
            (b"latest", "db=latest"),
            (b"..", "db=.."),
            (b"_x", "db=_x"),
            (b"a/b", "db=a=2Fb"),
            (b"a@b", "db=a=40b"),
            (b"a=2Fb", "db=a=3D2Fb"),
            (b"\"q'\n", "db==22q=27=0A"),
            (b"\xff", "db==FF"),
        ];
        let mut seen = HashSet::new();
        for (database, expected) in names {
            let name = of_database(OsStr::from_bytes(database));
            assert_eq!(name.as_str(), expected);
            assert!(seen.insert(name));
        }
        for database in wild {
            let name = of_database(OsStr::new(&database));
            assert!(name.as_str().starts_with("db==2F=2F"), "{name}");
            assert!(seen.insert(name));
        }
    }
}
