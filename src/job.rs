//! What walfs does on its own account, without a mount: each job is a library call, and prints nothing.

pub mod finish;
