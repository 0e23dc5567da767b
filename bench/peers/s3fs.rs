//! s3fs: a bucket as a directory, file for file.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::WalGround;
use crate::common::postgres::send;
use crate::common::user::{User, is_root};
use crate::common::wait;
use crate::common::world::{detach, mounts_beneath};
use crate::contender::{Failure, WalTool};
use crate::local::{cp, refused};
use crate::scene::site::{S3, owned, private};

/// A mount, and the process that serves it.
#[derive(Debug)]
pub struct S3fs {
    mountpoint: PathBuf,
    arguments: Vec<String>,
    process: Child,
}

impl S3fs {
    /// Mounts the bucket for postgres.
    pub fn set_up(ground: &WalGround<'_>) -> Result<Box<dyn WalTool>, Failure> {
        let s3 = ground.site.s3.as_ref().expect("s3fs is for S3");
        let mountpoint = owned(ground.site, "mnt");
        let keys = ground.site.dir.join("s3fs-keys");
        let (id, secret) = s3.access_key();
        private(&keys, &format!("{id}:{secret}\n"));
        let arguments = arguments(s3, &mountpoint, &keys);
        let process = mount(&mountpoint, &arguments);
        Ok(Box::new(S3fs {
            mountpoint,
            arguments,
            process,
        }))
    }

    fn unmount(&mut self) {
        send(self.process.id(), libc::SIGTERM);
        if wait::within(wait::LONG, || self.process.try_wait().expect("wait for s3fs")).is_none() {
            let _ = self.process.kill();
        }
        mounts_beneath(&self.mountpoint)
            .iter()
            .for_each(|left| detach(left));
    }
}

fn arguments(s3: &S3, mountpoint: &Path, keys: &Path) -> Vec<String> {
    let user = User::postgres();
    let mut options = vec![
        format!("url={}", s3.endpoint()),
        format!("endpoint={}", s3.region()),
        format!("passwd_file={}", keys.display()),
        "use_path_request_style".into(),
        format!("uid={},gid={},umask=0077", user.uid, user.gid),
    ];
    if is_root() {
        options.push("allow_other".into());
    }
    vec![
        s3.bucket().into(),
        mountpoint.display().to_string(),
        "-f".into(),
        "-o".into(),
        options.join(","),
    ]
}

fn mount(mountpoint: &Path, arguments: &[String]) -> Child {
    let mut command = Command::new("s3fs");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = command.spawn().expect("run s3fs");
    wait::until("s3fs to mount", || {
        (!mounts_beneath(mountpoint).is_empty()).then_some(())
    });
    process
}

impl WalTool for S3fs {
    fn workers(&self) -> Vec<u32> {
        vec![self.process.id()]
    }

    fn push(&mut self, wal: &Path) -> Result<(), Failure> {
        cp(wal, &self.mountpoint)
    }

    fn fetch(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        cp(&self.mountpoint.join(name), to)
    }

    fn fetch_missing(&mut self, name: &str, to: &Path) -> Result<(), Failure> {
        refused(cp(&self.mountpoint.join(name), to))
    }

    fn restart(&mut self) {
        self.unmount();
        self.process = mount(&self.mountpoint, &self.arguments);
    }
}

impl Drop for S3fs {
    fn drop(&mut self) {
        self.unmount();
    }
}
