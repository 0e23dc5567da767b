//! What is Linux's own.

pub mod cgroup;
