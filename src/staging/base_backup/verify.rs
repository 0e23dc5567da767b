//! Is a tree what its own `backup_manifest` says? (promise B4)
//!
//! What lies in a manifest is compared as `pg_verifybackup` would do it later, with what is stored:
//!
//! - **Lengths** first: a file that is missing or shorter has not arrived yet, and nobody is to blame.
//! - **Names**: a file that the manifest does not list is in no backup of PostgreSQL's, and `pg_verifybackup` would complain
//!   of it for ever.
//! - **A CRC-32C**, PostgreSQL's default, was made of each file while its bytes passed: no byte is looked at again.
//! - **Any other checksum** is not known of before the manifest comes, which is last. So the files are read back
//!   ([`crate::staging::tree::reading_back`]), and whoever completes the backup waits as long as `pg_verifybackup` would take.
//! - **Without checksums** (`--manifest-checksums=NONE`) there is nothing but the lengths.
//!
//! Of a backup in tar files the members are compared ([`super::tar_verify`]).

use std::collections::HashSet;
use std::sync::Arc;

use crate::pg::backup_manifest::{Checksum, ChecksumAlgorithm, File, Manifest, Summer};
use crate::staging::tree::judge::DraftFile;
use crate::staging::tree::names::Kind;
use crate::staging::tree::reading_back::Sum;

use super::tablespaces::{self, Mapped};
use super::{Candidate, Error};

/// Files that are not compared, because `pg_basebackup -R` and whoever restores write to them (`pg_verifybackup.c`).
const IGNORED: [&[u8]; 3] = [b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// What else is there and in no manifest: the manifest, and segments, which are proved by themselves.
const UNLISTED: [&[u8]; 2] = [super::MANIFEST, super::MANIFEST_TMP];
const WAL_DIRECTORY: &[u8] = b"pg_wal/";

/// A file with what the manifest says of it.
type Listed<'a> = (&'a File, &'a Checksum, Arc<DraftFile>);

/// A file that has another checksum.
pub(super) struct Wrong<'a> {
    file: &'a File,
    expected: &'a Checksum,
    found: Checksum,
}

impl<'a> Wrong<'a> {
    pub(super) fn unless_same(file: &'a File, expected: &'a Checksum, found: Checksum) -> Option<Self> {
        (found != *expected).then_some(Self {
            file,
            expected,
            found,
        })
    }
}

pub(super) fn is_ignored(file: &File) -> bool {
    IGNORED.contains(&&file.path[..])
}

impl Candidate<'_> {
    /// Compares the files with the manifest. The caller holds the state, so nothing changes.
    ///
    /// # Errors
    /// [`Error::NoBackup`]: a file is missing or has another length. [`Error::WrongContent`]. [`Error::Tree`]: what was
    /// sent cannot be read back.
    pub(super) async fn verify(&self, manifest: &Manifest, mapped: &[Mapped]) -> Result<(), Error> {
        let listed = self.listed_files(manifest, mapped)?;
        self.check_unlisted(manifest, mapped)?;
        let (summed, others): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|(_, expected, _)| expected.algorithm() == ChecksumAlgorithm::Crc32c);
        let mut wrong = Vec::new();
        for (file, expected, content) in summed {
            let found = Checksum::crc32c(self.0.crc(&content).await?.value());
            wrong.extend(Wrong::unless_same(file, expected, found));
        }
        let wanted = others
            .iter()
            .map(|(_, expected, content)| (content.clone(), expected.algorithm()));
        let found = self.0.read_back::<Summer>(wanted.collect()).await?;
        for ((file, expected, _), found) in others.into_iter().zip(found) {
            wrong.extend(Wrong::unless_same(file, expected, found));
        }
        refuse(wrong)
    }

    /// The files that have a checksum, once all are there and as long as they should be.
    fn listed_files<'a>(&self, manifest: &'a Manifest, mapped: &[Mapped]) -> Result<Vec<Listed<'a>>, Error> {
        let names = self.0.names();
        let mut found = Vec::with_capacity(manifest.files.len());
        for listed in manifest.files.iter().filter(|file| !is_ignored(file)) {
            let path = tablespaces::resolve(mapped, &listed.path);
            let content = names.find(&path).and_then(|number| match names.kind(number) {
                Ok(Kind::File(file)) => Some(file.clone()),
                _ => None,
            });
            match (content, &listed.checksum) {
                (Some(content), checksum) if content.bytes() == listed.bytes => {
                    found.extend(checksum.as_ref().map(|checksum| (listed, checksum, content)));
                }
                (content, _) => return Err(not_there(listed, content.map(|content| content.bytes()))),
            }
        }
        Ok(found)
    }

    fn check_unlisted(&self, manifest: &Manifest, mapped: &[Mapped]) -> Result<(), Error> {
        let listed = manifest.files.iter();
        let listed: HashSet<Vec<u8>> = listed
            .map(|file| tablespaces::resolve(mapped, &file.path))
            .collect();
        let may_be_there = |path: &[u8]| {
            IGNORED.contains(&path)
                || UNLISTED.contains(&path)
                || path.starts_with(WAL_DIRECTORY)
                || listed.contains(path)
        };
        let names = self.0.names();
        let files = names.all().filter(|(_, kind)| matches!(kind, Kind::File(_)));
        let mut others = files
            .filter_map(|(number, _)| names.path(number))
            .filter(|path| !may_be_there(path));
        let Some(path) = others.next() else {
            return Ok(());
        };
        let path = String::from_utf8_lossy(&path).into_owned();
        let more = match others.count() {
            0 => String::new(),
            count => format!(", as are {count} more"),
        };
        Err(Error::no_backup(format!(
            "{path} is there{more}, and backup_manifest does not list it\n\
             HINT: remove what PostgreSQL did not put there, and fsync the backup's directory"
        )))
    }
}

/// What is wrong, if anything.
pub(super) fn refuse(wrong: Vec<Wrong<'_>>) -> Result<(), Error> {
    let Some(Wrong {
        file,
        expected,
        found,
    }) = wrong.first()
    else {
        return Ok(());
    };
    Err(Error::WrongContent {
        path: String::from_utf8_lossy(&file.path).into_owned(),
        algorithm: expected.algorithm().name(),
        expected: expected.digits(),
        found: found.digits(),
        others: wrong.len() - 1,
    })
}

pub(super) fn not_there(listed: &File, bytes: Option<u64>) -> Error {
    let path = String::from_utf8_lossy(&listed.path);
    let found = bytes.map_or("it is not there".into(), |bytes| {
        format!("{bytes} bytes are there")
    });
    let expected = listed.bytes;
    Error::no_backup(format!(
        "backup_manifest lists {path} with {expected} bytes, and {found}"
    ))
}

impl Sum for Summer {
    type Algorithm = ChecksumAlgorithm;
    type Found = Checksum;

    fn new(algorithm: ChecksumAlgorithm) -> Self {
        Self::new(algorithm)
    }

    fn update(&mut self, plain: &[u8]) {
        self.update(plain);
    }

    fn finish(self) -> Checksum {
        self.finish()
    }
}
