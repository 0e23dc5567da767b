//! Reading a manifest whole.

use std::borrow::Cow;
use std::collections::HashSet;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Checksum, ChecksumAlgorithm, ManifestError, ManifestVersion, WalRange, from_hex};
use crate::pg::{Lsn, SystemId, Timeline};

/// One file of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the data directory; never absolute or leading out of it.
    pub path: Vec<u8>,
    /// Length, in bytes.
    pub bytes: u64,
    /// `None` if the backup was taken without.
    pub checksum: Option<Checksum>,
}

/// What a manifest says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Format, and from version 2 the cluster.
    pub version: ManifestVersion,
    /// When `backup_label` was made: while the backup was taken, if the server wrote this manifest.
    pub label_made: Option<Timestamp>,
    /// Every file but the manifest itself and those of `pg_wal`. No path twice.
    pub files: Vec<File>,
    /// The WAL that recovery needs at least, newest timeline first.
    pub wal_ranges: Vec<WalRange>,
}

impl Manifest {
    /// Reads a manifest and proves it with its own checksum.
    ///
    /// # Errors
    /// All of [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let document: Document<'_> = serde_json::from_slice(bytes)?;
        let version = document.known_version()?;
        check_whole(bytes, &document.checksum)?;
        Ok(Self {
            version,
            label_made: label_made(&document.files),
            files: files(document.files)?,
            wal_ranges: document
                .wal_ranges
                .into_iter()
                .map(wal_range)
                .collect::<Result<_, _>>()?,
        })
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    #[serde(rename = "Files", borrow)]
    files: Vec<FileObject<'a>>,
    #[serde(rename = "WAL-Ranges", borrow)]
    wal_ranges: Vec<RangeObject<'a>>,
    #[serde(rename = "Manifest-Checksum", borrow)]
    checksum: Cow<'a, str>,
}

#[derive(Deserialize)]
struct FileObject<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    #[serde(rename = "Size")]
    bytes: u64,
    #[serde(rename = "Last-Modified", borrow, default)]
    modified: Cow<'a, str>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum", borrow)]
    digits: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RangeObject<'a> {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN", borrow)]
    start: Cow<'a, str>,
    #[serde(rename = "End-LSN", borrow)]
    end: Cow<'a, str>,
}

impl Document<'_> {
    fn known_version(&self) -> Result<ManifestVersion, ManifestError> {
        match (self.version, self.system_id) {
            (1, _) => Ok(ManifestVersion::V1),
            (2, Some(number)) => Ok(ManifestVersion::V2(SystemId(number))),
            (2, None) => Err(ManifestError::NoSystemId),
            (found, _) => Err(ManifestError::Version { found }),
        }
    }
}

/// The last line's checksum is of all bytes before that line (`verify_manifest_checksum`).
fn check_whole(bytes: &[u8], stated: &str) -> Result<(), ManifestError> {
    let lines = bytes.strip_suffix(b"\n").ok_or(ManifestError::LastLine)?;
    let end = lines
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let (before, last) = lines.split_at(end);
    if !last.starts_with(b"\"Manifest-Checksum\"") {
        return Err(ManifestError::LastLine);
    }
    let found = Sha256::digest(before);
    if from_hex(stated).is_some_and(|expected| expected[..] == found[..]) {
        return Ok(());
    }
    let mut digits = Vec::new();
    super::push_hex(&mut digits, &found);
    Err(ManifestError::Checksum {
        expected: stated.to_owned(),
        found: String::from_utf8_lossy(&digits).into_owned(),
    })
}

/// `2026-11-21 12:45:05 GMT`: always in this zone.
fn label_made(files: &[FileObject<'_>]) -> Option<Timestamp> {
    let label = files
        .iter()
        .find(|file| file.path.as_deref() == Some("backup_label"))?;
    let time: DateTime = label.modified.strip_suffix(" GMT")?.parse().ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn files(objects: Vec<FileObject<'_>>) -> Result<Vec<File>, ManifestError> {
    let files: Vec<File> = objects.into_iter().map(file).collect::<Result<_, _>>()?;
    let mut seen = HashSet::with_capacity(files.len());
    match files.iter().find(|file| !seen.insert(&file.path)) {
        Some(File { path, .. }) => Err(ManifestError::Twice { path: shown(path) }),
        None => Ok(files),
    }
}

fn file(object: FileObject<'_>) -> Result<File, ManifestError> {
    let path = path(object.path, object.encoded_path)?;
    let checksum = match (object.algorithm, object.digits) {
        (None, None) => None,
        (algorithm, digits) => {
            let (algorithm, digits) = (algorithm.unwrap_or_default(), digits.unwrap_or_default());
            let known = checksum(&algorithm, &digits).ok_or_else(|| ManifestError::FileChecksum {
                path: shown(&path),
                algorithm: algorithm.into_owned(),
                digits: digits.into_owned(),
            })?;
            Some(known)
        }
    };
    Ok(File {
        path,
        bytes: object.bytes,
        checksum,
    })
}

/// Who restores writes where the manifest says, so it must not say "/etc/passwd" or "../x".
fn path(plain: Option<Cow<'_, str>>, encoded: Option<Cow<'_, str>>) -> Result<Vec<u8>, ManifestError> {
    match (plain, encoded) {
        (Some(text), None) if is_below(text.as_bytes()) => Ok(text.into_owned().into_bytes()),
        (None, Some(digits)) => {
            from_hex(&digits)
                .filter(|path| is_below(path))
                .ok_or_else(|| ManifestError::Path {
                    path: digits.into_owned(),
                })
        }
        (text, digits) => Err(ManifestError::Path {
            path: text.or(digits).unwrap_or_default().into_owned(),
        }),
    }
}

fn is_below(path: &[u8]) -> bool {
    let odd = |part: &[u8]| matches!(part, b"" | b"." | b"..");
    !path.contains(&0) && !path.split(|byte| *byte == b'/').any(odd)
}

fn checksum(algorithm: &str, digits: &str) -> Option<Checksum> {
    Checksum::new(ChecksumAlgorithm::from_name(algorithm)?, &from_hex(digits)?)
}

fn wal_range(object: RangeObject<'_>) -> Result<WalRange, ManifestError> {
    let range = || {
        let (start, end): (Lsn, Lsn) = (object.start.parse().ok()?, object.end.parse().ok()?);
        let timeline = Timeline(object.timeline);
        (timeline.0 > 0 && start <= end).then_some(WalRange { timeline, start, end })
    };
    range().ok_or_else(|| ManifestError::WalRange {
        timeline: object.timeline,
        start: object.start.clone().into_owned(),
        end: object.end.clone().into_owned(),
    })
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that PostgreSQL 15 wrote, fewer of them: `pg_verifybackup` takes it for a directory with these files.
    const V1: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-11-21 12:45:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "96b76d34" },
{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-21 12:45:04 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "8a744722" },
{ "Encoded-Path": "696e76fffe", "Size": 3, "Last-Modified": "2026-11-21 12:45:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "b633483c" },
{ "Path": "we\tird \"x\" \\ \u0001 ü", "Size": 3, "Last-Modified": "2026-11-21 12:45:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "2efc43d7" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/4000028", "End-LSN": "0/4000100" }
],
"Manifest-Checksum": "77947734f10006013ad7120087e859b007936aad3052c658f06e666d0cb326ea"}
"#;

    /// In the form of PostgreSQL 17 and 18: of a standby that followed to another timeline, without checksums.
    const V2_BODY: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 2,
"System-Identifier": 18446744073709551615,
"Files": [
{ "Path": "pg_tblspc/16384/PG_17_202406281/5/16385", "Size": 8192, "Last-Modified": "2026-11-21 12:45:05 GMT" }
],
"WAL-Ranges": [
{ "Timeline": 2, "Start-LSN": "0/5000000", "End-LSN": "0/6000100" },
{ "Timeline": 1, "Start-LSN": "0/4000028", "End-LSN": "0/5000000" }
],
"#;

    /// With a last line that is right for the body.
    fn sealed(body: &str) -> String {
        let mut digits = Vec::new();
        super::super::push_hex(&mut digits, &Sha256::digest(body));
        let digits = String::from_utf8(digits).unwrap();
        format!("{body}\"Manifest-Checksum\": \"{digits}\"}}\n")
    }

    fn message(text: &str) -> String {
        Manifest::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn version_1_as_postgresql_15_wrote_it() {
        let manifest = Manifest::parse(V1.as_bytes()).unwrap();
        assert_eq!(manifest.version, ManifestVersion::V1);
        assert_eq!(manifest.label_made, Some("2026-11-21T12:45:05Z".parse().unwrap()));
        let paths: Vec<_> = manifest.files.iter().map(|file| &file.path[..]).collect();
        let odd: &[u8] = b"we\tird \"x\" \\ \x01 \xC3\xBC";
        assert_eq!(paths, [b"backup_label", &b"PG_VERSION"[..], b"inv\xFF\xFE", odd]);
        assert_eq!(manifest.files[1].bytes, 3);
        let crc = crc32c::crc32c(b"15\n");
        assert_eq!(manifest.files[1].checksum, Some(Checksum::crc32c(crc)));
        let range = WalRange {
            timeline: Timeline(1),
            start: Lsn(0x400_0028),
            end: Lsn(0x400_0100),
        };
        assert_eq!(manifest.wal_ranges, [range]);
    }

    #[test]
    fn version_2_has_the_cluster_and_may_have_no_checksums() {
        let manifest = Manifest::parse(sealed(V2_BODY).as_bytes()).unwrap();
        assert_eq!(manifest.version, ManifestVersion::V2(SystemId(u64::MAX)));
        assert_eq!((manifest.label_made, &manifest.files[0].checksum), (None, &None));
        let timelines: Vec<_> = manifest.wal_ranges.iter().map(|range| range.timeline.0).collect();
        assert_eq!(timelines, [2, 1]);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let error = message(&V1.replace("\"Size\": 225", "\"Size\": 226"));
        assert!(error.contains("damaged or was changed"), "{error}");
        let error = message(&V1.replace("12:45:05 GMT", "12:45:06 GMT"));
        assert!(error.contains("damaged or was changed"), "{error}");
    }

    #[test]
    fn every_beginning_is_refused() {
        for length in 0..V1.len() {
            assert!(Manifest::parse(&V1.as_bytes()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn contents_refused() {
        let path = "pg_tblspc/16384/PG_17_202406281/5/16385";
        let line = &V2_BODY.lines().nth(3).unwrap();
        for (from, to, expected) in [
            ("Version\": 2", "Version\": 3", "is of version 3"),
            (
                "\"System-Identifier\": 18446744073709551615,\n",
                "",
                "no \"System-Identifier\"",
            ),
            (path, "/etc/passwd", "\"/etc/passwd\""),
            (path, "base/../../x", "\"base/../../x\""),
            (path, "", "names a file \"\""),
            (path, "base//1", "\"base//1\""),
            (path, "a\\u0000", "below the data directory"),
            ("Path\": \"pg", "Encoded-Path\": \"pg", "\"pg_tblspc"),
            ("\"Path\"", "\"Encoded-Path\": \"61\", \"Path\"", "names a file"),
            ("\"Path\"", "\"Other\"", "names a file \"\""),
            (line, &format!("{line},\n{line}"), "twice"),
            (
                "GMT\" }",
                "GMT\", \"Checksum\": \"00\" }",
                "algorithm \"\", digits \"00\"",
            ),
            (
                "GMT\" }",
                "GMT\", \"Checksum-Algorithm\": \"MD5\" }",
                "algorithm \"MD5\"",
            ),
            (
                "GMT\" }",
                "GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"0011223\" }",
                "digits \"0011223\"",
            ),
            ("0/5000000\", \"End", "0/7000000\", \"End", "from \"0/7000000\""),
            ("\"Timeline\": 2", "\"Timeline\": 0", "timeline 0"),
            ("0/6000100", "06000100", "to \"06000100\""),
            ("\"Size\": 8192", "\"Size\": -1", "cannot be read"),
        ] {
            let body = V2_BODY.replace(from, to);
            assert_ne!(body, V2_BODY, "{from}");
            let error = message(&sealed(&body));
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn the_last_line_stands_alone() {
        let joined = sealed(V2_BODY).replace(",\n\"Manifest", ", \"Manifest");
        assert!(message(&joined).contains("should end in a line"), "{joined}");
        let added = format!("{}\n", sealed(V2_BODY));
        assert!(message(&added).contains("should end in a line"), "{added}");
    }
}
