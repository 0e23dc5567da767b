//! Dumps of databases, version by version: each reads whole, and what the newest one has costs nothing (promise A5).

// In the mount.
mod browsing;
// Databases that cannot be dumped, programs that are too old, signals.
mod failing;
// Prune, verify, copy and status.
mod keeping;
// `kill -9` of walfs and of pg_dump at random moments.
mod killed;
// Databases of any name.
mod naming;
// A server that lets in by TLS only.
mod secured;
// Plain files that are written through the mount.
mod plain;
// What is stored, and what comes back.
mod taking;
// A server, an archive, and the commands between them.
mod rig;
