//! Base backups: taken, written through the mount, browsed, restored (contract B1 to B4, B6, B7).

// Which trees there are, whatever happens to those who make them.
mod catalogue;
// Complete backups read in the mount, by every tool that reads files.
mod browsing;
// Reading of complete backups, without the kernel: requests and damage.
mod reading;
// Taken by `walfs backup`, brought back by stock tools, started.
mod taking;
// Brought back by `walfs restore`, recovered, resumed, refused.
mod restoring;
