//! Metrics as a file, for the textfile collector of node_exporter: always whole, for all to read, never through a link.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use crate::beneath::Root;

/// How a text of ours begins.
const BEGINNING: &[u8] = b"# HELP walfs_";

/// Puts the text in place of the one before.
///
/// # Errors
/// `InvalidInput` for a path without a name; `AlreadyExists` if something else stands there, a link, a directory or a file
/// that is not of metrics of walfs; what opening the directory, writing and renaming say.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
    let name = Path::new(path.file_name().ok_or_else(no_name)?);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = Root::open(parent.unwrap_or(Path::new(".")))?;
    if directory.kind(name)?.is_some() && !is_ours(&directory, name) {
        let reason =
            "what stands there is no file of metrics of walfs. HINT: remove it, or name another file";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    // The collector reads what ends with .prom.
    let mut made = OsString::from(".");
    made.push(name);
    made.push(format!(".{}", std::process::id()));
    let made = Path::new(&made);
    let written = directory
        .write(made, text.as_bytes(), 0o644)
        .and_then(|()| directory.rename(made, name));
    if written.is_err() {
        let _ = directory.remove_file(made);
    }
    written
}

/// A file that is empty was made for this.
fn is_ours(directory: &Root, name: &Path) -> bool {
    let mut beginning = Vec::new();
    let read = directory
        .open_file(name)
        .and_then(|file| file.take(BEGINNING.len() as u64).read_to_end(&mut beginning));
    read.is_ok() && (beginning.is_empty() || beginning == BEGINNING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn nothing_else_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = "# HELP walfs_x X.\n";
        for _ in 0..2 {
            write(&path("walfs.prom"), text).unwrap();
            assert_eq!(fs::read_to_string(path("walfs.prom")).unwrap(), text);
            let mode = fs::metadata(path("walfs.prom")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o644);
        }
        fs::write(path("kept"), "kept").unwrap();
        symlink(path("walfs.prom"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        for name in ["kept", "link", "dangling", "directory"] {
            let refused = write(&path(name), text).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(fs::read_to_string(path("kept")).unwrap(), "kept");
        assert!(!path("nowhere").exists());
        assert!(write(Path::new("/"), text).is_err());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            5,
            "nothing is left over"
        );
    }
}
