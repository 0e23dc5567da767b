//! The promises of walfs (docs/promises.md), each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers
//! 503. A test that keeps one has its name in front: `w4_...` keeps promise W4.

// What a test says goes to whoever reads its failure.
#![allow(clippy::print_stderr)]

// Servers to talk to and ways to hurt them.
mod common;

// What is done by a schedule, on one host and on several.
mod agent;
// Archiving through the kernel: what `cp` calls success is in the store, and what fails leaves nothing.
mod archiving;
// Base backups: taken, written through the mount, browsed, restored.
mod basebackups;
// A new archive is made when asked for.
mod creating;
// Death after every single call to the store.
mod crash;
// Objects cut, changed, exchanged and gone: an error, never wrong bytes.
mod damage;
// Objects, read by stock lz4 and zstd; docs/format.md, byte by byte.
mod format;
// Whoever comes from another system finds its words.
mod forerunners;
// Archives that somebody else has filled: named, bounded, and passed over.
mod hostile;
// Directories with files, version by version.
mod files;
// Dumps of databases, version by version.
mod dumps;
// Many archives at one place.
mod fleet;
// A million segments: requests, not memory; and what an operation may ask of the store.
mod growth;
// A local archive whose folders are disks of their own.
mod disks;
// A local archive that has lost something.
mod lost;
// What lies in the place of one object and is none is that object's damage, and nothing else's.
mod odd;
// The harness on its own, without walfs.
mod harness;
// From nothing to a configuration that was tried.
mod init;
// Directories as the kernel reads them, without the kernel.
mod listing;
// mount(8), fstab, systemd and --daemon: what brings a mount up at boot.
mod mount_helpers;
// Mounting and unmounting through the real kernel, with a file system that holds nothing.
mod mounting;
// What a package has beside the binary: manual pages, completions.
mod packages;
// A real PostgreSQL archives through the mount, is lost, and comes back; with outages, kills and damage on the way.
mod postgres;
// What `pg_receivewal` does to a `.partial`, and what must be kept of it.
mod receiving;
// The directory below FUSE, against a small reference: operations, kills, faults of the store.
mod reference;
// What is printed and logged: a pipe, terminal or disk that does not take it ends nothing.
mod printing;
// The commands of the documentation, as they stand there.
mod recipes;
// What is read is what was archived, or an error that names the damaged object.
mod restoring;
// What is set by a file, by the environment, by flags.
mod settings;
// The S3 server of the tests keeps to S3, and its faults are those they are called.
mod s3_server;
// WAL and backups by HTTP.
mod sidecar;
// Every promise of a store, asked of every kind of store.
mod store;
// What a real PostgreSQL writes is what `walfs::pg` reads.
mod wal_files;
// Metrics, and who reads them: Prometheus, its rules, node_exporter, Grafana.
mod watching;
// Archives of years: what looks at all of one holds little of it, and asks for little.
mod years;
