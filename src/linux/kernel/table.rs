//! What is mounted where: `/proc/self/mountinfo`, and which of its lines a path leads to.
//!
//! Nothing here asks the server of a FUSE mount anything: a dead one would answer ENOTCONN and a hung one never. Paths
//! are opened with `O_PATH`, which stops at the kernel's own knowledge.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file system type every mount of walfs carries.
pub const FS_TYPE: &str = "fuse.walfs";

/// Device number of a mounted file system: unique among the living, reused after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// 0 for every file system without a block device.
    pub major: u32,
    /// Counts the file systems without a block device.
    pub minor: u32,
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount; reused after its end.
    pub id: u64,
    /// Number of the mount this one is mounted on.
    pub parent: u64,
    /// The file system that is mounted.
    pub device: Device,
    /// Where, seen from this process's root.
    pub mountpoint: PathBuf,
    /// `ext4`, `tmpfs`, `fuse.walfs`, ...
    pub fs_type: String,
    /// What was given as the source; shown by `mount` and `df`.
    pub source: OsString,
    /// Options of the file system, comma-separated: a FUSE mount has `user_id=` and `group_id=` here.
    pub options: String,
}

impl Mount {
    /// Is it one of walfs?
    pub fn is_walfs(&self) -> bool {
        self.fs_type == FS_TYPE
    }

    /// The user and group a FUSE mount was made for.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        let number = |key: &str| {
            let value = self
                .options
                .split(',')
                .find_map(|option| option.strip_prefix(key))?;
            value.parse().ok()
        };
        Some((number("user_id=")?, number("group_id=")?))
    }
}

/// All mounts of this process's namespace.
pub fn mounts() -> io::Result<Vec<Mount>> {
    read(Path::new("/proc/self/mountinfo"))
}

/// All mounts of the namespace whose `mountinfo` file this is.
pub(crate) fn read(mountinfo: &Path) -> io::Result<Vec<Mount>> {
    Ok(fs::read(mountinfo)?
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect())
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue`; the fields before `-` vary.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| std::str::from_utf8(fields.get(index)?).ok();
    let (major, minor) = text(2)?.split_once(':')?;
    Some(Mount {
        id: text(0)?.parse().ok()?,
        parent: text(1)?.parse().ok()?,
        device: Device {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        },
        mountpoint: PathBuf::from(unescape(fields.get(4)?)),
        fs_type: text(dash + 1)?.to_owned(),
        source: unescape(fields.get(dash + 2)?),
        options: String::from_utf8_lossy(fields.get(dash + 3)?).into_owned(),
    })
}

/// The kernel writes blank, tab, newline, backslash and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        match octal(after).filter(|_| first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// Where a path leads: the mount that is visible there, and the path without symbolic links.
#[derive(Debug)]
pub(super) struct Spot {
    /// Opened with `O_PATH`. Holds the mount busy for as long as it lives.
    pub(super) handle: OwnedFd,
    /// Absolute and without symbolic links.
    pub(super) path: PathBuf,
    /// The topmost mount of those on this path.
    pub(super) mount: Mount,
}

impl Spot {
    /// Is something mounted exactly here (and not above)?
    pub(super) fn is_mount_point(&self) -> bool {
        self.mount.mountpoint == self.path
    }
}

/// Looks at a directory without asking the file system that is mounted there.
pub(super) fn look(path: &Path) -> io::Result<Spot> {
    let handle: OwnedFd = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)?
        .into();
    let id = mount_id(&handle)?;
    let path = fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    let mount = mounts()?.into_iter().find(|mount| mount.id == id);
    let mount =
        mount.ok_or_else(|| io::Error::other(format!("mount {id} is not in /proc/self/mountinfo")))?;
    Ok(Spot { handle, path, mount })
}

/// What is mounted exactly at this directory. Does not ask the file system that is there.
///
/// # Errors
/// The directory is not there, or may not be looked at.
pub fn mount_at(directory: &Path) -> io::Result<Option<Mount>> {
    let spot = look(directory)?;
    Ok(spot.is_mount_point().then_some(spot.mount))
}

/// Does the path lead into a mount of walfs? It need not exist; then its nearest parent that does tells it. Does not ask
/// the file system that is there.
pub fn is_in_walfs(path: &Path) -> bool {
    let there = path.ancestors().find_map(|path| look(path).ok());
    there.is_some_and(|spot| spot.mount.is_walfs())
}

/// `statx` tells it since Linux 5.8. Before that `fdinfo` has to, which a process that changed its user may not read.
fn mount_id(handle: &OwnedFd) -> io::Result<u64> {
    match statx(handle, libc::AT_STATX_DONT_SYNC, 0) {
        Ok(stat) if stat.stx_mask & libc::STATX_MNT_ID != 0 => Ok(stat.stx_mnt_id),
        _ => {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd()))?;
            let id = field(&info, "mnt_id:").and_then(|id| id.parse().ok());
            id.ok_or_else(|| io::Error::other("the kernel does not tell the mount of an open file"))
        }
    }
}

/// The rest of the line that starts with `key`, trimmed.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map(str::trim)
}

/// `statx(2)` of an open file. `sync` is one of the `AT_STATX_` flags: may, or must, the file system be asked?
pub(super) fn statx(handle: &OwnedFd, sync: libc::c_int, mask: libc::c_uint) -> io::Result<libc::statx> {
    let mut stat = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | sync;
    // SAFETY: the path is a terminated empty string, `stat` has room for one `statx`, the descriptor is open.
    let status = unsafe { libc::statx(handle.as_raw_fd(), c"".as_ptr(), flags, mask, stat.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero bytes are a valid `statx`, and the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// The descriptor's number, where the mount point is `/dev/fd/N`: somebody has mounted for us already.
pub(super) fn passed_descriptor(mountpoint: &Path) -> Option<i32> {
    let number = mountpoint.as_os_str().as_bytes().strip_prefix(b"/dev/fd/")?;
    OsStr::from_bytes(number).to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_with_optional_fields_and_escapes() {
        let line = br"103 28 0:52 / /mnt/a\040b\134c\012d rw,nosuid shared:7 master:1 - fuse.walfs s3://b\054,x\043 rw,user_id=26,group_id=27";
        let mount = parse_line(line).unwrap();
        assert_eq!((mount.id, mount.parent), (103, 28));
        assert_eq!(mount.device, Device { major: 0, minor: 52 });
        assert_eq!(mount.mountpoint, Path::new("/mnt/a b\\c\nd"));
        assert_eq!(mount.source, "s3://b,,x#");
        assert_eq!(mount.owner(), Some((26, 27)));
        assert!(mount.is_walfs());
    }

    #[test]
    fn line_without_optional_fields() {
        let mount = parse_line(b"21 1 8:1 / / rw - ext4 /dev/sda1 rw").unwrap();
        assert_eq!(mount.fs_type, "ext4");
        assert_eq!(mount.owner(), None);
    }

    #[test]
    fn torn_lines_are_no_mounts() {
        assert_eq!(parse_line(b""), None);
        assert_eq!(parse_line(b"21 1 8:1 / / rw ext4"), None);
        assert_eq!(parse_line(b"21 1 8:1 / / rw - ext4"), None);
    }

    #[test]
    fn backslash_without_octal_stays() {
        assert_eq!(unescape(br"a\9b\"), OsString::from(r"a\9b\"));
        assert_eq!(unescape(br"\777"), OsString::from(r"\777"));
    }

    #[test]
    fn proc_is_a_mount_point_and_a_directory_in_it_is_not() {
        let proc = look(Path::new("/proc")).unwrap();
        assert!(proc.is_mount_point());
        assert_eq!(proc.mount.fs_type, "proc");
        let below = look(Path::new("/proc/self")).unwrap();
        assert!(!below.is_mount_point());
        assert_eq!(
            below.path,
            Path::new("/proc").join(std::process::id().to_string())
        );
    }

    #[test]
    fn passed_descriptors_are_numbers_in_dev_fd() {
        assert_eq!(passed_descriptor(Path::new("/dev/fd/7")), Some(7));
        assert_eq!(passed_descriptor(Path::new("/dev/fd/")), None);
        assert_eq!(passed_descriptor(Path::new("/mnt/dev/fd/7")), None);
    }
}
