//! Directories with files, version by version: each reads whole, and what has not changed costs nothing (promise A5).

// In the mount.
mod browsing;
// Signals, races, what cannot be read, what was lost.
mod failing;
// `kill -9` at random moments.
mod killed;
// Prune, verify and copy, beside backups.
mod keeping;
// Versions that stand alone, and whom they belong to.
mod standing;
// Files and directories that are written through the mount.
mod plain;
// What is kept, what is left out and named, what is refused.
mod taking;
// A directory to store, an archive, and the commands between them.
mod rig;
