//! Writing a manifest, file by file.

use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::{Checksum, ManifestVersion, WalRange, push_hex};

/// One file of the backup.
#[derive(Debug, Clone, Copy)]
pub struct FileLine<'a> {
    /// Relative to the data directory, parts joined by `/`.
    pub path: &'a [u8],
    /// Length, in bytes.
    pub bytes: u64,
    /// When it was modified. Only seconds count, and only the years that jiff knows, -9999 to 9999: another time is
    /// written as the beginning of 1970. Nobody reads it back.
    pub modified: SystemTime,
    /// `None` as after `--manifest-checksums=NONE`.
    pub checksum: Option<&'a Checksum>,
}

/// Writes a manifest bit by bit, so that a cluster of a million files needs no more memory than a small one:
/// [`take`](Self::take) now and then what has been written, and [`finish`](Self::finish) for the rest. What was taken,
/// one after the other, is the file.
#[derive(Debug)]
pub struct Writer {
    written: Vec<u8>,
    hash: Sha256,
    first: bool,
}

impl Writer {
    /// A manifest without files yet.
    pub fn new(version: ManifestVersion) -> Self {
        let number = version.number();
        let mut text = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {number},\n");
        if let ManifestVersion::V2(system_id) = version {
            text.push_str(&format!("\"System-Identifier\": {system_id},\n"));
        }
        text.push_str("\"Files\": [");
        Self {
            written: text.into_bytes(),
            hash: Sha256::new(),
            first: true,
        }
    }

    /// Adds a file. Each path once: `pg_verifybackup` takes no second one.
    pub fn file(&mut self, line: &FileLine<'_>) {
        self.push(if self.first { "\n" } else { ",\n" });
        self.first = false;
        self.push_path(line.path);
        let (bytes, modified) = (line.bytes, time(line.modified));
        self.push(&format!("\"Size\": {bytes}, \"Last-Modified\": \"{modified}\""));
        if let Some(checksum) = line.checksum {
            self.push_checksum(checksum);
        }
        self.push(" }");
    }

    /// How much there is to take, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.written.len()
    }

    /// What was written since the last was taken.
    pub fn take(&mut self) -> Vec<u8> {
        self.hash.update(&self.written);
        std::mem::take(&mut self.written)
    }

    /// The rest: with the WAL that the backup needs, newest timeline first, and the manifest's checksum.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> Vec<u8> {
        let lines: Vec<_> = wal_ranges.iter().map(wal_range).collect();
        self.push("\n],\n\"WAL-Ranges\": [\n");
        self.push(&lines.join(",\n"));
        self.push("\n],\n");
        self.hash.update(&self.written);
        self.push("\"Manifest-Checksum\": \"");
        push_hex(&mut self.written, &self.hash.finalize());
        self.written.extend(b"\"}\n");
        self.written
    }

    fn push(&mut self, text: &str) {
        self.written.extend(text.as_bytes());
    }

    fn push_path(&mut self, path: &[u8]) {
        if let Ok(text) = str::from_utf8(path) {
            // The escapes of JSON are spelled alike by both: \" \\ \b \f \n \r \t, others below space as \u0001.
            let quoted = serde_json::Value::from(text);
            self.push(&format!("{{ \"Path\": {quoted}, "));
        } else {
            self.push("{ \"Encoded-Path\": \"");
            push_hex(&mut self.written, path);
            self.push("\", ");
        }
    }

    fn push_checksum(&mut self, checksum: &Checksum) {
        let name = checksum.algorithm().name();
        self.push(&format!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \""));
        push_hex(&mut self.written, checksum.bytes());
        self.push("\"");
    }
}

fn wal_range(range: &WalRange) -> String {
    let WalRange { timeline, start, end } = range;
    format!("{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}")
}

fn time(at: SystemTime) -> String {
    let known = jiff::Timestamp::try_from(at).unwrap_or_default();
    known.strftime("%Y-%m-%d %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pg::backup_manifest::ChecksumAlgorithm;
    use crate::pg::{Lsn, SystemId, Timeline};

    const RANGES: [WalRange; 2] = [
        WalRange {
            timeline: Timeline(2),
            start: Lsn(0x500_0000),
            end: Lsn(0x1_0600_0100),
        },
        WalRange {
            timeline: Timeline(1),
            start: Lsn(0x400_0028),
            end: Lsn(0x500_0000),
        },
    ];

    fn write(version: ManifestVersion, lines: &[FileLine<'_>]) -> String {
        let mut writer = Writer::new(version);
        let mut text = Vec::new();
        for line in lines {
            writer.file(line);
            text.extend(writer.take());
            assert_eq!(writer.pending_bytes(), 0);
        }
        text.extend(writer.finish(&RANGES));
        String::from_utf8(text).unwrap()
    }

    /// The last line has the hash of what is before it: `head -n -1 backup_manifest | sha256sum`.
    fn check_last_line(text: &str) {
        let at = text.find("\"Manifest-Checksum\"").unwrap();
        let mut expected = b"\"Manifest-Checksum\": \"".to_vec();
        push_hex(&mut expected, &Sha256::digest(&text[..at]));
        assert_eq!(text[at..].strip_suffix("\"}\n").unwrap().as_bytes(), expected);
    }

    #[test]
    fn version_2_without_files() {
        let text = write(ManifestVersion::V2(SystemId(u64::MAX)), &[]);
        let expected = "\
{ \"PostgreSQL-Backup-Manifest-Version\": 2,
\"System-Identifier\": 18446744073709551615,
\"Files\": [
],
\"WAL-Ranges\": [
{ \"Timeline\": 2, \"Start-LSN\": \"0/5000000\", \"End-LSN\": \"1/6000100\" },
{ \"Timeline\": 1, \"Start-LSN\": \"0/4000028\", \"End-LSN\": \"0/5000000\" }
],
\"Manifest-Checksum\": \"";
        assert!(text.starts_with(expected), "{text}");
        check_last_line(&text);
    }

    #[test]
    fn paths_times_and_checksums() {
        let crc = Checksum::crc32c(0x347D_B796);
        let sha = Checksum::new(ChecksumAlgorithm::Sha224, &[0xA5; 28]).unwrap();
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + 999);
        let line = |path, checksum| FileLine {
            path,
            bytes: 225,
            modified: at(1_795_265_105),
            checksum,
        };
        let text = write(
            ManifestVersion::V1,
            &[
                line(b"backup_label", Some(&crc)),
                line(b"tab\t\"\\\x01\x7f\xC3\xBC", Some(&sha)),
                line(b"inv\xFF\xFE", None),
            ],
        );
        let expected = [
            r#"{ "PostgreSQL-Backup-Manifest-Version": 1,"#,
            r#""Files": ["#,
            r#"{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-11-21 12:45:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "96b77d34" },"#,
            &[
                "{ \"Path\": \"tab\\t\\\"\\\\\\u0001\x7fü\", \"Size\": 225, \"Last-Modified\": \"2026-11-21 12:45:05 GMT\", ",
                "\"Checksum-Algorithm\": \"SHA224\", \"Checksum\": \"",
                &"a5".repeat(28),
                "\" },",
            ]
            .concat(),
            r#"{ "Encoded-Path": "696e76fffe", "Size": 225, "Last-Modified": "2026-11-21 12:45:05 GMT" }"#,
            "],",
        ]
        .join("\n");
        assert!(text.starts_with(&expected), "{text}");
        check_last_line(&text);
    }

    #[test]
    fn times_before_1970_round_down_as_a_file_systems_seconds_do() {
        assert_eq!(time(SystemTime::UNIX_EPOCH), "1970-01-01 00:00:00 GMT");
        let early = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(time(early), "1969-12-31 23:59:59 GMT");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
        assert_eq!(time(far), "1970-01-01 00:00:00 GMT");
    }
}
