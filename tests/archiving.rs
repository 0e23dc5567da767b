//! Archiving through the kernel, as its users know it: the real binary, mounted, and whatever copies into it. What
//! `cp` calls success is in the store; what fails has left nothing; nobody waits for ever. Each test quotes the promise
//! that it keeps.
//!
//! Small segments (1 MiB) unless the size is the subject, so that the module is quick.

mod access;
mod ahead;
mod bounded;
mod commands;
mod copying;
mod crash;
mod holes;
mod killed;
mod lineage;
mod looking;
mod memory;
mod mounts;
mod names;
mod once;
mod racing;
mod refusing;
mod rig;
mod secured;
mod sparse;
mod through;
mod trips;
mod verifying;
mod ways;
