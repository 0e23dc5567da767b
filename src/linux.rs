//! What is Linux's own: mounts, processes, control groups, going into the background. It knows no other room.

pub mod cgroup;
pub(crate) mod child;
pub mod daemon;
pub mod kernel;
pub(crate) mod process;
