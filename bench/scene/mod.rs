//! What the benchmarks are played on: clusters, the WAL of a busy one, a place for an archive near or far.

// A benchmark need not use every scene, and `pub` here means: for every benchmark.
#![allow(dead_code, unreachable_pub)]

pub mod cluster;
pub mod segments;
pub mod site;
