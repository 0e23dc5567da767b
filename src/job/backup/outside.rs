//! Settings that are not in the data directory: `/etc/postgresql` of Debian, or wherever `config_file`, `hba_file` and
//! `ident_file` and what they include are (promise B10).
//!
//! They are in the backup below [`SETTINGS_FOLDER`], under the path that they have on the server's machine. There they do nothing:
//! whoever restores the backup takes from them what the new machine needs. Keys and certificates outside of the data
//! directory are not brought along, but named.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::walk::{self, Source, Walked};
use crate::archive::tree::backup::Outside;
use crate::pg::exclude::SETTINGS_FOLDER;
use crate::server::SettingsFile;

/// A settings file that is longer is none.
const MOST_BYTES: u64 = 16 << 20;

/// Adds the settings files of the server whose data directory is `root`, if they are not in it, to what is to be copied.
pub(super) fn add(walked: &mut Walked, root: &Path, files: &[SettingsFile]) -> Vec<Outside> {
    let mut found = Vec::new();
    for file in files {
        if is_inside(walked, root, &file.path) {
            continue;
        }
        let stored = file.has_settings().then(|| bring(walked, root, &file.path));
        if let Some(Err(error)) = &stored {
            tracing::warn!(
                "the settings of {} ({}) are not in the backup: {error}. HINT: keep a copy of it elsewhere",
                file.path.display(),
                file.setting
            );
        }
        found.push(Outside {
            setting: file.setting.clone(),
            path: file.path.display().to_string(),
            stored: stored.and_then(Result::ok),
        });
    }
    walk::in_order(&mut walked.sources);
    found
}

/// Is it copied with the data directory?
fn is_inside(walked: &Walked, root: &Path, file: &Path) -> bool {
    let inside = file
        .strip_prefix(root)
        .map(|inside| inside.as_os_str().as_bytes());
    inside.is_ok_and(|inside| walked.sources.iter().any(|source| *source.path == *inside))
}

/// Adds one file; returns its path in the tree.
fn bring(walked: &mut Walked, root: &Path, file: &Path) -> io::Result<String> {
    let target = file.canonicalize()?;
    let metadata = fs::metadata(&target)?;
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(io::Error::other("it is no settings file"));
    }
    if !walked.places.may_follow(&target, &metadata) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    super::places::open_target(&target)?;
    // As the server names it, so that its own includes name it too.
    let is_plain = |component: Component<'_>| matches!(component, Component::RootDir | Component::Normal(_));
    let named = if file.components().all(is_plain) {
        file
    } else {
        &target
    };
    let path = Path::new(SETTINGS_FOLDER).join(named.strip_prefix("/").unwrap_or(named));
    let above = fs::metadata(root)?;
    for directory in ancestors(&path) {
        add_once(walked, directory, &above, None);
    }
    add_once(walked, &path, &metadata, Some(metadata.len()));
    walked.places.follow_file(path.as_os_str().as_bytes(), target);
    Ok(path.display().to_string())
}

fn ancestors(path: &Path) -> impl Iterator<Item = &Path> {
    path.ancestors()
        .skip(1)
        .filter(|above| above.as_os_str() != OsStr::new(""))
}

fn add_once(walked: &mut Walked, path: &Path, metadata: &Metadata, bytes: Option<u64>) {
    let path: PathBuf = path.components().collect();
    let path = path.into_os_string().into_encoded_bytes();
    let is_there = |source: &Source| *source.path == *path;
    if !walked.sources.iter().any(is_there) {
        walked.sources.push(walk::source(path, metadata, bytes));
    }
}
