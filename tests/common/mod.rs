//! What the tests share: servers to talk to and ways to hurt them.

pub(crate) mod s3;
