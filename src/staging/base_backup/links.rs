//! Links in a backup: what the server would read through one is not in the backup.

use crate::staging::tree::names::{Kind, Names};

use super::{Candidate, Error};

impl Candidate<'_> {
    /// What the server would read through a link is not in the backup (promise B10). Links to tablespaces are known by now to
    /// lead into the tree, and so may others.
    pub(super) fn check_links(&self) -> Result<(), Error> {
        let names = self.0.names();
        let mut links = names.all().filter_map(|(number, kind)| match kind {
            Kind::Symlink(target) => Some((names.path(number)?, target)),
            _ => None,
        });
        let outside =
            links.find(|(path, target)| !is_tablespace(path) && !leads_inside(&names, path, target));
        let Some((path, target)) = outside else {
            return Ok(());
        };
        let (path, target) = (String::from_utf8_lossy(&path), String::from_utf8_lossy(target));
        Err(Error::no_backup(match &*path {
            "pg_wal" => "pg_wal is a link: the copy has no WAL directory\n\
                         HINT: put an empty one into its place (rm, mkdir -m 700), and fsync the backup's directory"
                .to_owned(),
            _ => format!(
                "{path} is a link to {target}: what it leads to is not in the backup\n\
                 HINT: put that where the link is (rm, cp -a), and fsync the backup's directory"
            ),
        }))
    }
}

fn is_tablespace(path: &[u8]) -> bool {
    let oid = path.strip_prefix(b"pg_tblspc/");
    oid.is_some_and(|oid| !oid.contains(&b'/'))
}

/// Does a link of the tree lead to something else in it, wherever the tree is put?
fn leads_inside<F>(names: &Names<F>, path: &[u8], target: &[u8]) -> bool {
    if path == b"pg_wal" {
        return false;
    }
    let mut at: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    at.pop();
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"." => {}
            b".." if at.pop().is_some() => {}
            // An absolute path begins with nothing.
            b"" | b".." => return false,
            part => at.push(part),
        }
    }
    let found = names.find(&at.join(&b'/'));
    found.is_some_and(|number| !matches!(names.kind(number), Ok(Kind::Symlink(_)) | Err(_)))
}
