//! What was seen last, for the day on which the store is away. Nothing rests on it: it may be lost, or not be written.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use crate::codec::ContentHash;
use crate::job::status::Status;

/// The longest text that is read back.
const MOST_BYTES: u64 = 64 << 20;

fn directory() -> Option<PathBuf> {
    let absolute = |name| Some(PathBuf::from(std::env::var_os(name)?)).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("walfs"))
}

fn file(archive: &str) -> String {
    let hash = ContentHash::of(archive.as_bytes()).to_string();
    format!("status-{}.json", &hash[..16])
}

/// Remembers it, if that can be.
pub(super) fn remember(archive: &str, status: &Status) {
    let write = || -> std::io::Result<()> {
        let Some(directory) = directory() else {
            return Ok(());
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let made = directory.join(format!(".{}.{}", file(archive), std::process::id()));
        let text = serde_json::to_vec(status)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options.open(&made).and_then(|mut made| made.write_all(&text));
        let renamed = written.and_then(|()| fs::rename(&made, directory.join(file(archive))));
        if renamed.is_err() {
            let _ = fs::remove_file(&made);
        }
        renamed
    };
    if let Err(error) = write() {
        tracing::debug!("this status is not remembered: {error}");
    }
}

/// What was seen last of this archive.
pub(super) fn last(archive: &str) -> Option<Status> {
    let mut text = Vec::new();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(directory()?.join(file(archive)))
        .ok()?;
    file.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
