//! `file:/run/secrets/x`: a value that is in a file of its own, as secrets are.

use std::fs;
use std::path::Path;

use super::Error;

/// More is no setting.
const MOST_BYTES: usize = 64 << 10;

/// The value in the file that `value` names, without the line feed at its end; `None` if it names none.
///
/// `file:///directory` is an archive, not a reference.
///
/// # Errors
/// [`Error::Reference`].
pub(super) fn resolve(name: &str, value: &str) -> Result<Option<String>, Error> {
    let Some(path) = value.strip_prefix("file:").filter(|path| !path.starts_with("//")) else {
        return Ok(None);
    };
    let path = Path::new(path);
    let wrong = |reason: String| Error::Reference {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    if !path.is_absolute() {
        return Err(wrong(
            "it is no absolute path. HINT: file:/run/secrets/NAME".into(),
        ));
    }
    let content = read(path).map_err(|error| wrong(error.to_string()))?;
    let value = content.strip_suffix('\n').unwrap_or(&content);
    let value = value.strip_suffix('\r').unwrap_or(value);
    match value.contains(['\0', '\n']) {
        true => Err(wrong("it has more than one line".into())),
        false => Ok(Some(value.to_owned())),
    }
}

/// A small regular file of text.
pub(super) fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    use std::os::unix::fs::OpenOptionsExt;

    // Of a pipe whose writer is away, opening would wait.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(Error::from(ErrorKind::IsADirectory));
    }
    if !metadata.is_file() {
        return Err(Error::other("it is no regular file"));
    }
    let mut content = String::new();
    file.take(MOST_BYTES as u64 + 1).read_to_string(&mut content)?;
    match content.len() > MOST_BYTES {
        true => Err(Error::other(format!("it is larger than {MOST_BYTES} bytes"))),
        false => Ok(content),
    }
}
