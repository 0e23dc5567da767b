//! FUSE's protocol: the only file that knows `fuser`.
//!
//! An event loop takes a request apart and begins with it. What needs no wait (a write into memory, a read of what is
//! cached) is answered there and then, because handing it to another thread would cost more than doing it; at its first
//! wait the rest goes to the runtime, and the reply goes out from there. So no request ever waits for another (promise
//! S4). A handler must not panic in an event loop (fuser would lose the
//! thread, and with the last one the mount): the process ends on any panic instead, and callers get ENOTCONN.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use crate::staging::tree::Change;

use super::fs::Opening;
use super::room::AT_END;

mod asked;
mod reply;
mod served;

use asked::{making, timestamp};
use reply::{
    BLOCK_BYTES, GENERATION, entry_ttl, errno, file_attr, file_type, open_flags, reply_attr, reply_created,
    reply_data, reply_empty, reply_entry,
};
pub use served::{Served, start};

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ];
        for flag in wanted {
            // Each is an improvement, none a need: without ATOMIC_O_TRUNC a second `cp` fails instead of comparing.
            if config.add_capabilities(flag).is_err() {
                tracing::warn!("this kernel's FUSE lacks {flag:?}");
            }
        }
        // Linux 6.6 and later: what is read past the page cache can be mapped for several processes all the same.
        let _ = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        let _ = config.set_max_write(BLOCK_BYTES);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, owner, asker, name) = (self.fs.clone(), self.owner, Self::asker(request), name.to_owned());
        self.answer(async move {
            match fs.lookup(parent.0, &name, asker.as_ref()).await {
                Ok(found) => reply_entry(reply, &found, owner),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn getattr(&self, request: &Request, ino: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let (fs, owner, asker) = (self.fs.clone(), self.owner, Self::asker(request));
        let _ = handle;
        self.answer(async move { reply_attr(reply, fs.getattr(ino.0, asker.as_ref()).await, owner) });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (fs, owner, asker) = (self.fs.clone(), self.owner, Self::asker(request));
        let change = Change {
            mode,
            uid,
            gid,
            modified: mtime.and_then(timestamp),
        };
        self.answer(async move {
            let truncated = match (size, handle) {
                (Some(bytes), Some(handle)) => fs.truncate(handle.0, bytes, asker.as_ref()).await,
                (Some(bytes), None) => fs.truncate_inode(ino.0, bytes, asker.as_ref()).await,
                (None, _) => Ok(()),
            };
            let changed = match truncated {
                // A new length alone brings the time of now with it.
                Ok(()) if size.is_none() || change != Change::default() => {
                    fs.set_attributes(ino.0, change).await
                }
                truncated => truncated,
            };
            let outcome = match changed {
                Ok(()) => fs.getattr(ino.0, asker.as_ref()).await,
                Err(error) => Err(error),
            };
            reply_attr(reply, outcome, owner);
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        let opening = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => Opening::Read,
            _ if flags.0 & libc::O_TRUNC != 0 => Opening::Replace,
            _ => Opening::Write,
        };
        self.answer(async move {
            match fs.open_for(ino.0, opening, asker.as_ref()).await {
                Ok(opened) => reply.opened(FileHandle(opened), open_flags(&fs, opened)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, owner, asker, name) = (self.fs.clone(), self.owner, Self::asker(request), name.to_owned());
        let making = making(request, mode);
        self.answer(async move {
            match fs.create(parent.0, &name, making, asker.as_ref()).await {
                Ok((created, handle)) => reply_created(&fs, reply, &created, handle, owner),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        self.answer(async move {
            let outcome = fs.read(handle.0, offset, size as usize, asker.as_ref()).await;
            reply_data(reply, outcome);
        });
    }

    fn write(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // The one copy of the data before it is compressed: the event loop needs its buffer back.
        let (fs, asker, data) = (self.fs.clone(), Self::asker(request), self.blocks.copy_of(data));
        let files = lock_owner.map(|owner| owner.0);
        let appends = flags.0 & libc::O_APPEND != 0;
        let offset = if appends && fs.is_stream(handle.0) {
            AT_END
        } else {
            offset
        };
        self.answer(async move {
            match fs.write(handle.0, offset, &data, files, asker.as_ref()).await {
                Ok(bytes) => reply.written(bytes as u32),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn flush(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        self.answer(
            async move { reply_empty(reply, fs.flush(handle.0, Some(owner.0), asker.as_ref()).await) },
        );
    }

    fn fsync(
        &self,
        request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        self.answer(async move { reply_empty(reply, fs.fsync(handle.0, asker.as_ref()).await) });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.answer(async move {
            fs.release(handle.0).await;
            reply.ok();
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.intersects(!RenameFlags::RENAME_NOREPLACE) {
            return reply.error(Errno::EINVAL);
        }
        let (fs, asker, name, new_name) = (
            self.fs.clone(),
            Self::asker(request),
            name.to_owned(),
            new_name.to_owned(),
        );
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        self.answer(async move {
            let renamed = fs.rename(parent.0, &name, new_parent.0, &new_name, replace, asker.as_ref());
            reply_empty(reply, renamed.await);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.to_owned());
        self.answer(async move { reply_empty(reply, fs.unlink(parent.0, &name).await) });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs.clone(), name.to_owned());
        self.answer(async move { reply_empty(reply, fs.remove_directory(parent.0, &name).await) });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, owner, asker, name) = (self.fs.clone(), self.owner, Self::asker(request), name.to_owned());
        let making = making(request, mode);
        self.answer(async move {
            match fs.make_directory(parent.0, &name, making, asker.as_ref()).await {
                Ok(made) => reply_entry(reply, &made, owner),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn mknod(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), name.to_owned());
        self.answer(async move { reply.error(errno(&fs.refuse_change(parent.0, &name).await)) });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, owner, name, target) = (self.fs.clone(), self.owner, name.to_owned(), target.to_owned());
        let making = making(request, 0o777);
        self.answer(async move {
            match fs.make_link(parent.0, &name, target.as_os_str(), making).await {
                Ok(made) => reply_entry(reply, &made, owner),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn link(
        &self,
        _request: &Request,
        _ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (self.fs.clone(), new_name.to_owned());
        self.answer(async move { reply.error(errno(&fs.refuse_change(new_parent.0, &name).await)) });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        self.answer(async move { reply_data(reply, fs.read_link(ino.0, asker.as_ref()).await) });
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (fs, asker) = (self.fs.clone(), Self::asker(request));
        self.answer(async move {
            match fs.open_directory_for(ino.0, asker.as_ref()).await {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let fs = self.fs.clone();
        self.answer(async move {
            let entries = match fs.read_directory(handle.0, offset).await {
                Ok(entries) => entries,
                Err(error) => return reply.error(errno(&error)),
            };
            for entry in entries {
                let (ino, kind) = (INodeNo(entry.attributes.ino), file_type(entry.attributes.kind));
                if reply.add(ino, entry.next_offset, kind, &entry.name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (fs, owner) = (self.fs.clone(), self.owner);
        self.answer(async move {
            let entries = match fs.read_directory(handle.0, offset).await {
                Ok(entries) => entries,
                Err(error) => return reply.error(errno(&error)),
            };
            for entry in entries {
                let (attr, ttl) = (file_attr(&entry.attributes, owner), entry_ttl(&entry.attributes));
                if reply.add(attr.ino, entry.next_offset, &entry.name, &ttl, &attr, GENERATION) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.answer(async move {
            fs.release(handle.0).await;
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.answer(async move { reply_empty(reply, fs.sync_directory(ino.0).await) });
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A store has no end that could be told; enough that no tool worries.
        let blocks = 1 << 30;
        reply.statfs(
            blocks,
            blocks,
            blocks,
            1 << 30,
            1 << 30,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs.clone();
        self.answer(async move { reply_empty(reply, fs.forget_extended_attribute(ino.0).await) });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.answer(async move { reply_empty(reply, fs.forget_extended_attribute(ino.0).await) });
    }

    fn getxattr(&self, _request: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        // Said once, the kernel never asks again; otherwise it asks before every write.
        reply.error(Errno::ENOSYS);
    }
}
