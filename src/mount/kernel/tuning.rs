//! Two settings of the kernel that matter to a mount: how far it reads ahead, and how long it waits for an answer.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::Mounted;

/// How many KiB the kernel asks for ahead of a sequential reader. FUSE begins with 128, and the protocol cannot raise
/// it; root can. Seen at once by every later read. Usually 1024.
///
/// # Errors
/// `Unsupported` if somebody else mounted; else what the kernel said, `PermissionDenied` for all but root.
pub fn set_read_ahead_kb(mounted: &Mounted, kb: u32) -> io::Result<()> {
    let device = mounted.device().ok_or(io::ErrorKind::Unsupported)?;
    fs::write(
        format!("/sys/class/bdi/{}:{}/read_ahead_kb", device.major, device.minor),
        kb.to_string(),
    )
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
