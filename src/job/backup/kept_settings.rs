//! A directory of settings that the operator has kept with each backup, whether the server reads it or not: what a container's
//! entrypoint puts into place, say.

use std::io;
use std::path::{Path, PathBuf};

use crate::beneath::{Kind, Root};
use crate::server::SettingsFile;

/// Files that are kept; no directory of settings has more.
const MOST_FILES: usize = 1000;

/// How deep directories are looked into.
const MOST_DEPTH: usize = 8;

/// The files below a directory. A link counts if it leads to a file in there, as those of Kubernetes's volumes do; what begins
/// with two dots is where these lead. What cannot be kept is named in the log.
pub(super) fn files(directory: &Path) -> Vec<SettingsFile> {
    let mut found = Vec::new();
    let looked = Root::open(directory).and_then(|root| {
        let real = root.real()?;
        look(&root, &real, Path::new(""), MOST_DEPTH, &mut found)
    });
    if let Err(error) = looked {
        tracing::warn!(
            "the settings in {} are not all in the backup: {error}. HINT: settings-dir names a directory that this user may read",
            directory.display()
        );
    }
    let files = found.into_iter().map(|inside| SettingsFile {
        setting: SettingsFile::KEPT.to_owned(),
        path: directory.join(inside),
    });
    files.collect()
}

fn look(root: &Root, real: &Path, inside: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!("{inside:?} lies too deep")));
    }
    for (name, kind) in root.list(inside)? {
        let path = inside.join(&name);
        match kind {
            _ if name.as_encoded_bytes().starts_with(b"..") => {}
            Kind::Directory => look(root, real, &path, depth - 1, found)?,
            Kind::File => found.push(path),
            Kind::Link if leads_inside(real, &path) => found.push(path),
            Kind::Link | Kind::Special => {
                tracing::warn!(
                    "{} is not in the backup: it is no file in this directory, nor a link to one",
                    real.join(&path).display()
                );
            }
        }
        if found.len() > MOST_FILES {
            found.pop();
            return Err(io::Error::other(format!("there are more than {MOST_FILES}")));
        }
    }
    Ok(())
}

/// Does the link lead to a file in the same directory?
fn leads_inside(real: &Path, link: &Path) -> bool {
    let target = real.join(link).canonicalize();
    target.is_ok_and(|target| target.starts_with(real) && target.is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn s6_links_out_of_the_directory_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("conf");
        // As Kubernetes mounts a ConfigMap.
        fs::create_dir_all(directory.join("..2026")).unwrap();
        fs::create_dir_all(directory.join("conf.d")).unwrap();
        fs::write(directory.join("..2026/a.conf"), "a").unwrap();
        symlink("..2026", directory.join("..data")).unwrap();
        symlink("..data/a.conf", directory.join("a.conf")).unwrap();
        fs::write(directory.join("conf.d/b.conf"), "b").unwrap();
        fs::write(place.path().join("key"), "secret").unwrap();
        symlink("../key", directory.join("key")).unwrap();
        symlink("/etc", directory.join("etc")).unwrap();
        let found = files(&directory);
        let paths: Vec<_> = found.iter().map(|file| file.path.as_path()).collect();
        assert_eq!(paths, [directory.join("a.conf"), directory.join("conf.d/b.conf")]);
        assert!(found[0].has_settings());
        assert!(files(&place.path().join("absent")).is_empty());
    }
}
