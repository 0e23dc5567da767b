//! Checksums of files whose bytes come piece by piece.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::{Checksum, ChecksumAlgorithm};

/// Sums up a file by one of the algorithms.
pub struct Summer {
    algorithm: ChecksumAlgorithm,
    state: Box<dyn State>,
}

/// What the algorithms have in common.
trait State: Send {
    fn update(&mut self, plain: &[u8]);
    fn finish(self: Box<Self>) -> Vec<u8>;
}

impl<D: Digest + Send> State for D {
    fn update(&mut self, plain: &[u8]) {
        Digest::update(self, plain);
    }

    fn finish(self: Box<Self>) -> Vec<u8> {
        self.finalize().to_vec()
    }
}

/// A CRC-32C on its way.
struct Crc32c(u32);

impl State for Crc32c {
    fn update(&mut self, plain: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, plain);
    }

    fn finish(self: Box<Self>) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
}

impl std::fmt::Debug for Summer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Summer({})", self.algorithm.name())
    }
}

impl Summer {
    /// Of an empty file, so far.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state: Box<dyn State> = match algorithm {
            ChecksumAlgorithm::Crc32c => Box::new(Crc32c(0)),
            ChecksumAlgorithm::Sha224 => Box::new(Sha224::new()),
            ChecksumAlgorithm::Sha256 => Box::new(Sha256::new()),
            ChecksumAlgorithm::Sha384 => Box::new(Sha384::new()),
            ChecksumAlgorithm::Sha512 => Box::new(Sha512::new()),
        };
        Self { algorithm, state }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, plain: &[u8]) {
        self.state.update(plain);
    }

    /// The checksum of all of them.
    pub fn finish(self) -> Checksum {
        Checksum::new(self.algorithm, &self.state.finish()).expect("as long as the algorithm makes it")
    }

    /// Of a content at hand whole.
    pub fn of(algorithm: ChecksumAlgorithm, content: &[u8]) -> Checksum {
        let mut summer = Self::new(algorithm);
        summer.update(content);
        summer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first digits of `printf abc | sha224sum` and so on; CRC-32C as `pg_basebackup` spells it.
    #[test]
    fn all_algorithms_piece_by_piece() {
        use ChecksumAlgorithm as Algorithm;
        for (algorithm, begin) in [
            (Algorithm::Crc32c, "b73f4b36"),
            (Algorithm::Sha224, "23097d22"),
            (Algorithm::Sha256, "ba7816bf"),
            (Algorithm::Sha384, "cb00753f"),
            (Algorithm::Sha512, "ddaf35a1"),
        ] {
            let mut summer = Summer::new(algorithm);
            summer.update(b"a");
            summer.update(b"bc");
            let sum = summer.finish();
            assert!(sum.digits().starts_with(begin), "{}", sum.digits());
            assert_eq!(sum.bytes().len(), algorithm.bytes());
            assert_eq!(sum, Summer::of(algorithm, b"abc"));
        }
    }
}
