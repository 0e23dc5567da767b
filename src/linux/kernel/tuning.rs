//! Two settings of the kernel that matter to a mount: how far it reads ahead, and how long it waits for an answer.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use super::Mounted;

/// How many KiB the kernel asks for ahead of a sequential reader of what it may keep in its memory: files of backups.
/// (Archived WAL is read past that memory, and fetched ahead by walfs itself.) FUSE begins with 128, with which a reader
/// is held up by every answer; from 4096 on there is nothing left to gain where an answer takes 20 ms.
const READ_AHEAD_KB: u32 = 4096;

/// The kernel's setting for one mount: the protocol can only lower it, root can raise it. So it is opened before
/// privileges are dropped, and written when the kernel has been answered, because the answer may lower it again.
#[derive(Debug)]
pub struct ReadAhead(File);

impl ReadAhead {
    /// The setting of a mount of ours.
    ///
    /// # Errors
    /// `Unsupported` if somebody else mounted; else what the kernel said, `PermissionDenied` for all but root.
    pub fn of(mounted: &Mounted) -> io::Result<Self> {
        let device = mounted.device().ok_or(io::ErrorKind::Unsupported)?;
        let path = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor);
        OpenOptions::new().write(true).open(path).map(Self)
    }

    /// Raises it. Seen at once by every later read.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn raise(mut self) -> io::Result<()> {
        self.0.write_all(READ_AHEAD_KB.to_string().as_bytes())
    }
}

/// After how long without an answer the kernel breaks the whole connection off, if the administrator has set that:
/// any request's deadline must be shorter. `None`: it waits for ever, which is the kernel's default.
pub fn request_timeout() -> Option<Duration> {
    shorter_timeout(Path::new("/proc/sys/fs/fuse"))
}

/// The kernel takes the maximum as the default if there is no default, and never more than the maximum.
fn shorter_timeout(place: &Path) -> Option<Duration> {
    let seconds = |name| {
        fs::read_to_string(place.join(name))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let set = ["default_request_timeout", "max_request_timeout"]
        .into_iter()
        .filter_map(seconds);
    set.filter(|seconds| *seconds > 0).min().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_of_the_timeouts_that_are_set() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &str| fs::write(place.path().join(name), value).unwrap();
        assert_eq!(shorter_timeout(place.path()), None);
        write("default_request_timeout", "0\n");
        write("max_request_timeout", "0\n");
        assert_eq!(shorter_timeout(place.path()), None);
        write("max_request_timeout", "90\n");
        assert_eq!(shorter_timeout(place.path()), Some(Duration::from_secs(90)));
        write("default_request_timeout", "60\n");
        assert_eq!(shorter_timeout(place.path()), Some(Duration::from_secs(60)));
    }
}
