//! What the control group of this process allows: a container, a systemd unit or a batch job has one.

use std::fs;
use std::path::Path;

/// Bytes of memory that the control groups of this process allow: the smallest limit on the way up the tree. `None` where
/// none of them has a limit, or none can be read. `root` is `/`.
pub fn memory_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = root.join("sys/fs/cgroup");
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            return smallest(&mounts, group, &["memory.max", "memory.high"]);
        }
        let of_memory = controllers.split(',').any(|controller| controller == "memory");
        of_memory.then(|| smallest(&mounts.join("memory"), group, &["memory.limit_in_bytes"]))?
    });
    limits.min()
}

/// The smallest number in these files of a group and of those above it. A container may see only the uppermost.
fn smallest(mount: &Path, group: &str, files: &[&str]) -> Option<u64> {
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    let files = groups.flat_map(|group| files.iter().map(move |file| mount.join(group).join(file)));
    files
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        // The first version says "no limit" with a number of this size.
        .filter(|bytes| *bytes < 1 << 60)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit in a tree of these files.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = root.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        memory_limit(root.path())
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let own = ("proc/self/cgroup", "0::/system.slice/walfs.service\n");
        let none = ("sys/fs/cgroup/system.slice/walfs.service/memory.max", "max\n");
        let above = ("sys/fs/cgroup/system.slice/memory.max", "536870912\n");
        let soft = (
            "sys/fs/cgroup/system.slice/walfs.service/memory.high",
            "268435456\n",
        );
        let other = ("sys/fs/cgroup/user.slice/memory.max", "1024\n");
        assert_eq!(limit(&[own, none, other]), None);
        assert_eq!(limit(&[own, none, above, other]), Some(512 << 20));
        assert_eq!(limit(&[own, soft, above]), Some(256 << 20));
        assert_eq!(limit(&[none, above]), None);
    }

    #[test]
    fn the_first_version_and_a_container_that_sees_only_its_own_group() {
        let own = (
            "proc/self/cgroup",
            "12:cpu,cpuacct:/a\n9:hugetlb,memory:/docker/0123\n0::/docker/0123\n",
        );
        let root = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "134217728\n");
        let unlimited = (
            "sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(limit(&[own, root, unlimited]), Some(128 << 20));
        assert_eq!(limit(&[own, unlimited]), None);
        let unified = ("sys/fs/cgroup/memory.max", "100000000\n");
        assert_eq!(limit(&[own, unified]), Some(100_000_000));
    }
}
