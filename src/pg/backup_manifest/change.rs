//! One line of a manifest, made anew for another content.

use sha2::{Digest, Sha256};

use super::{ChecksumAlgorithm, Summer, push_hex};

/// The manifest, with the line of `path` (plain ASCII) describing `content`: its length, and its checksum by the same
/// algorithm. `None` if the manifest does not have that file or cannot be read.
pub fn describe(manifest: &[u8], path: &str, content: &[u8]) -> Option<Vec<u8>> {
    let text = str::from_utf8(manifest).ok()?;
    let begin = text.find(&format!("{{ \"Path\": \"{path}\", "))?;
    let (before, rest) = text.split_at(begin);
    let (line, after) = rest.split_at(rest.find('\n')?);
    let mut changed = replace(line, "\"Size\": ", ",", &content.len().to_string())?;
    if let Some((_, algorithm)) = line.split_once("\"Checksum-Algorithm\": \"") {
        let algorithm = ChecksumAlgorithm::from_name(algorithm.split('"').next()?)?;
        let digits = Summer::of(algorithm, content).digits();
        changed = replace(&changed, "\"Checksum\": \"", "\"", &digits)?;
    }
    let last = after.rfind("\"Manifest-Checksum\": \"")?;
    let mut whole = [before, &changed, &after[..last]].concat().into_bytes();
    let sum = Sha256::digest(&whole);
    whole.extend(b"\"Manifest-Checksum\": \"");
    push_hex(&mut whole, &sum);
    whole.extend(b"\"}\n");
    Some(whole)
}

/// Replaces what stands between the two.
fn replace(line: &str, before: &str, after: &str, with: &str) -> Option<String> {
    let start = line.find(before)? + before.len();
    let end = start + line[start..].find(after)?;
    Some([&line[..start], with, &line[end..]].concat())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::{FileLine, Manifest, ManifestVersion, Writer};
    use super::*;

    fn manifest(algorithm: Option<ChecksumAlgorithm>, control: &[u8]) -> Vec<u8> {
        let sum = algorithm.map(|algorithm| Summer::of(algorithm, control));
        let mut writer = Writer::new(ManifestVersion::V1);
        for (path, bytes) in [("PG_VERSION", 3), ("global/pg_control", control.len()), ("z", 5)] {
            writer.file(&FileLine {
                path: path.as_bytes(),
                bytes: bytes as u64,
                modified: SystemTime::UNIX_EPOCH,
                checksum: sum.as_ref(),
            });
        }
        let before = writer.take();
        [before, writer.finish(&[])].concat()
    }

    #[test]
    fn the_line_describes_the_new_content() {
        use ChecksumAlgorithm::{Crc32c, Sha224, Sha256, Sha384, Sha512};
        for algorithm in [
            None,
            Some(Crc32c),
            Some(Sha224),
            Some(Sha256),
            Some(Sha384),
            Some(Sha512),
        ] {
            let before = manifest(algorithm, b"old");
            let after = describe(&before, "global/pg_control", b"newer").unwrap();
            let read = Manifest::parse(&after).unwrap();
            assert_eq!(read.files[1].bytes, 5);
            assert_eq!(
                read.files[1].checksum,
                algorithm.map(|algorithm| Summer::of(algorithm, b"newer"))
            );
            let untouched = Manifest::parse(&before).unwrap();
            assert_eq!(
                (&read.files[0], &read.files[2]),
                (&untouched.files[0], &untouched.files[2])
            );
        }
    }

    #[test]
    fn a_file_that_is_not_there() {
        assert_eq!(describe(&manifest(None, b""), "tablespace_map", b"x"), None);
        assert_eq!(describe(b"", "z", b"x"), None);
    }
}
