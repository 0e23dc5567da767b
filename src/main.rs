//! The `walfs` command.
fn main() {}
