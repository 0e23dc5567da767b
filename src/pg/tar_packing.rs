//! How `pg_basebackup` compresses tar files, told by their names.

use std::io::{self, Read};

/// Bytes that Zstandard may look back, as a power of two: at the most, and up to level 19.
const LARGEST_WINDOW: u32 = 27;

const USUAL_WINDOW: u32 = 23;

/// How a tar file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarPacking {
    /// `.tar`
    Plain,
    /// `.tar.gz`
    Gzip,
    /// `.tar.lz4`
    Lz4,
    /// `.tar.zst`
    Zstd,
}

impl TarPacking {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Gzip, Self::Lz4, Self::Zstd];

    /// What the names of such files end in.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => ".tar",
            Self::Gzip => ".tar.gz",
            Self::Lz4 => ".tar.lz4",
            Self::Zstd => ".tar.zst",
        }
    }

    /// The tar stream in a file.
    ///
    /// # Errors
    /// If the unpacker cannot be made.
    pub fn unpacking<'a>(self, stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        self.within(stream, LARGEST_WINDOW)
    }

    fn within<'a>(self, stream: impl Read + 'a, window: u32) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Plain => Box::new(stream),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
            Self::Lz4 => Box::new(lzzzz::lz4f::ReadDecompressor::new(stream).map_err(io::Error::other)?),
            Self::Zstd => {
                let mut unpacker = zstd::Decoder::new(stream)?;
                unpacker.window_log_max(window)?;
                Box::new(unpacker)
            }
        })
    }

    /// The first bytes of the tar stream in a file, as far as the first bytes of that file tell them.
    pub fn unpack_head(self, head: &[u8], most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if let Ok(stream) = self.within(head, USUAL_WINDOW) {
            // Ends with an error where the file goes on; what was read by then is right.
            let _ = stream.take(most as u64).read_to_end(&mut out);
        }
        out
    }
}
