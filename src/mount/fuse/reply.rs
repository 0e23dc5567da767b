//! Answers in the protocol's own types: attributes, and how long they hold.

use std::time::Duration;

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyEmpty, ReplyEntry,
};

use super::super::error::Error;
use super::super::fs::Fs;
use super::super::node::{Attributes, Kept, Kind};
use crate::linux::kernel::Owner;

/// How long the kernel may take a name for granted. Names appear through other mounts; absence is never cached.
const ENTRY_TTL: Duration = Duration::from_secs(1);

/// How long the kernel may keep the attributes of what never changes.
const ATTRIBUTE_TTL: Duration = Duration::from_secs(10);

/// How long the kernel may keep what never changes. An hour is as good as for ever, and lets a backup that was pruned
/// be forgotten.
const LASTING_TTL: Duration = Duration::from_secs(3600);

/// What copiers are told to read and write at once; the kernel's own limit for a request.
pub(super) const BLOCK_BYTES: u32 = 1 << 20;

pub(super) const GENERATION: Generation = Generation(0);

pub(super) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}

/// `stat` of a node. `blocks` counts plain bytes: fewer would make copiers look for holes.
pub(super) fn file_attr(attributes: &Attributes, owner: Owner) -> FileAttr {
    let shown = shown_owner(attributes, owner);
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.bytes,
        blocks: attributes.bytes.div_ceil(512),
        atime: attributes.modified,
        mtime: attributes.modified,
        ctime: attributes.modified,
        crtime: attributes.modified,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        // Of a directory 1, as on btrfs: it does not count the directories in it.
        nlink: 1,
        uid: shown.uid,
        gid: shown.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Only root's mount shows who owned what: any other user could not read what is shown as somebody else's.
fn shown_owner(attributes: &Attributes, mounted_by: Owner) -> Owner {
    match attributes.owner {
        Some(owner) if mounted_by.uid == 0 => owner,
        _ => mounted_by,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
    }
}

pub(super) fn entry_ttl(attributes: &Attributes) -> Duration {
    match attributes.kept {
        Kept::Never | Kept::Attributes => Duration::ZERO,
        Kept::AWhile => ENTRY_TTL,
        Kept::Always => LASTING_TTL,
    }
}

fn attribute_ttl(attributes: &Attributes) -> Duration {
    match attributes.kept {
        Kept::Never => Duration::ZERO,
        Kept::AWhile => ATTRIBUTE_TTL,
        Kept::Attributes | Kept::Always => LASTING_TTL,
    }
}

pub(super) fn reply_entry(reply: ReplyEntry, found: &Attributes, owner: Owner) {
    let attr = file_attr(found, owner);
    reply.entry_with_ttls(&attribute_ttl(found), &entry_ttl(found), &attr, GENERATION);
}

/// Of a file that is being written: nothing of it is for the page cache.
pub(super) fn reply_created(fs: &Fs, reply: ReplyCreate, created: &Attributes, handle: u64, owner: Owner) {
    let flags = FopenFlags::FOPEN_DIRECT_IO | seeking(fs, handle);
    let (attr, handle) = (file_attr(created, owner), FileHandle(handle));
    reply.created(&entry_ttl(created), &attr, GENERATION, handle, flags);
}

/// May a process go back in it?
fn seeking(fs: &Fs, handle: u64) -> FopenFlags {
    match fs.is_stream(handle) {
        true => FopenFlags::FOPEN_NONSEEKABLE,
        false => FopenFlags::empty(),
    }
}

/// How the kernel shall treat an open file.
pub(super) fn open_flags(fs: &Fs, handle: u64) -> FopenFlags {
    // The page cache is for what never changes; elsewhere it only costs (and hides a second version).
    let pages = match fs.may_be_kept(handle) {
        true => FopenFlags::FOPEN_KEEP_CACHE,
        false => FopenFlags::FOPEN_DIRECT_IO,
    };
    // Linux 5.16 and later; older ones tell of each close.
    let closing = match fs.is_close_a_statement(handle) {
        true => FopenFlags::empty(),
        false => FopenFlags::FOPEN_NOFLUSH,
    };
    pages | closing | seeking(fs, handle)
}

pub(super) fn reply_attr(reply: ReplyAttr, outcome: Result<Attributes, Error>, owner: Owner) {
    match outcome {
        Ok(attributes) => reply.attr(&attribute_ttl(&attributes), &file_attr(&attributes, owner)),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, outcome: Result<(), Error>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn reply_data(reply: ReplyData, outcome: Result<Bytes, Error>) {
    match outcome {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}
