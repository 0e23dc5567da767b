//! Are the files inside of a backup's tar files what its `backup_manifest` says?
//!
//! A member is found by its header, and most headers lie between small members: so a tar file is read window by window.
//! The inside of a long member is not read where the checksum is a CRC-32C: those of its whole chunks are known, and only
//! what lies before the first and behind the last one is looked at. Compressed tar files are not opened.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::archive::tree::chunks;
use crate::parts::chunk::Crc;
use crate::pg::backup_manifest::{Checksum, ChecksumAlgorithm, File, Manifest, Summer};
use crate::pg::control::CONTROL_FILE_BYTES;
use crate::staging::tree::judge::{DraftFile, Written};

use super::recognise::CONTROL;
use super::tar_backup::{BLOCK, header};
use super::verify::{self, Wrong, is_ignored, not_there};
use super::{Candidate, Error};

/// Bytes read at once: a multiple of tar's blocks, so that none lies in two windows.
const WINDOW_BYTES: usize = 2 << 20;

/// What a manifest lists, by tar file and member.
type Members<'a> = HashMap<&'a [u8], &'a File>;

impl Candidate<'_> {
    /// As [`Candidate::verify`], for a backup in tar files. Gives the control file, unless it is in a compressed one.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn verify_tars(&self, manifest: &Manifest) -> Result<Option<Vec<u8>>, Error> {
        let mut tars: BTreeMap<String, Members<'_>> = BTreeMap::new();
        for file in manifest.files.iter().filter(|file| !is_ignored(file)) {
            let (tar, member) = self.place(&file.path);
            tars.entry(tar).or_default().insert(member, file);
        }
        let (mut wrong, mut control) = (Vec::new(), None);
        for (tar, members) in &tars {
            // One that is not there is compressed.
            if let Some(file) = self.0.file(format!("{tar}.tar").as_bytes()) {
                wrong.extend(self.verify_tar(tar, file, members, &mut control).await?);
            }
        }
        verify::refuse(wrong)?;
        Ok(control)
    }

    /// The tar file that has a file of the manifest, without its suffix, and the file's name in it (`basebackup.c`).
    fn place<'a>(&self, path: &'a [u8]) -> (String, &'a [u8]) {
        let own = in_tablespace(path).filter(|(tar, _)| self.has_tar(tar));
        own.unwrap_or_else(|| ("base".into(), path))
    }

    async fn verify_tar<'a>(
        &self,
        tar: &str,
        file: Arc<DraftFile>,
        members: &Members<'a>,
        control: &mut Option<Vec<u8>>,
    ) -> Result<Vec<Wrong<'a>>, Error> {
        let (mut wrong, mut seen, mut at) = (Vec::new(), HashSet::new(), 0);
        let mut walk = Walk {
            tree: self.0,
            file,
            start: 0,
            window: Vec::new(),
        };
        while let Some((name, bytes)) = walk.header(at).await? {
            let content = at + BLOCK..at + BLOCK + bytes;
            at += BLOCK + bytes.next_multiple_of(BLOCK);
            let Some(listed) = members.get(&name[..]) else {
                continue;
            };
            seen.insert(name);
            let there = walk.file.bytes().saturating_sub(content.start).min(bytes);
            // A tar file that is cut off ends before the member does, whatever the manifest says.
            if there != listed.bytes || there != bytes {
                return Err(not_there(listed, Some(there)));
            }
            if listed.path == CONTROL && bytes == CONTROL_FILE_BYTES as u64 {
                *control = Some(walk.whole(content.clone()).await?);
            }
            if let Some(expected) = &listed.checksum {
                let found = walk.sum(content, expected.algorithm()).await?;
                wrong.extend(Wrong::unless_same(listed, expected, found));
            }
        }
        match members.iter().find(|(name, _)| !seen.contains(**name)) {
            Some((_, missing)) => {
                let path = String::from_utf8_lossy(&missing.path);
                Err(Error::no_backup(format!(
                    "backup_manifest lists {path}, and it is not in {tar}.tar"
                )))
            }
            None => Ok(wrong),
        }
    }
}

/// The tablespace of a file of the manifest, and the file's name there.
fn in_tablespace(path: &[u8]) -> Option<(String, &[u8])> {
    let rest = path.strip_prefix(b"pg_tblspc/")?;
    let slash = rest.iter().position(|&byte| byte == b'/')?;
    let oid: u32 = str::from_utf8(&rest[..slash]).ok()?.parse().ok()?;
    Some((oid.to_string(), &rest[slash + 1..]))
}

/// A tar file that is gone through.
struct Walk<'a> {
    tree: Written<'a>,
    file: Arc<DraftFile>,
    /// Where the window lies.
    start: u64,
    window: Vec<u8>,
}

impl Walk<'_> {
    /// Name and length of the member there; `None` at the end.
    async fn header(&mut self, at: u64) -> Result<Option<(Vec<u8>, u64)>, Error> {
        let bytes = self.at(at).await?;
        Ok(bytes.get(..BLOCK as usize).and_then(header))
    }

    /// The bytes of the window from `at` on: none only at the file's end.
    async fn at(&mut self, at: u64) -> Result<&[u8], Error> {
        let within = |skip: &u64| *skip < self.window.len() as u64;
        let skip = match at.checked_sub(self.start).filter(within) {
            Some(skip) => skip as usize,
            None => {
                self.window = self.tree.read(&self.file, at, WINDOW_BYTES).await?;
                self.start = at;
                0
            }
        };
        Ok(&self.window[skip..])
    }

    async fn sum(&mut self, content: Range<u64>, algorithm: ChecksumAlgorithm) -> Result<Checksum, Error> {
        if algorithm == ChecksumAlgorithm::Crc32c {
            return Ok(Checksum::crc32c(self.crc(content).await?.value()));
        }
        let (mut summer, mut at) = (Summer::new(algorithm), content.start);
        while at < content.end {
            let bytes = self.until(at, content.end).await?;
            summer.update(bytes);
            at += bytes.len() as u64;
        }
        Ok(summer.finish())
    }

    async fn crc(&mut self, content: Range<u64>) -> Result<Crc, Error> {
        let (mut crc, mut at) = (Crc::default(), content.start);
        while at < content.end {
            let index = chunks::index_of(at);
            let chunk = chunks::range(index, self.file.bytes());
            if chunk.start == at
                && chunk.end <= content.end
                && let Some(known) = self.file.chunk_crc(index).await
            {
                crc = crc.then(known);
                at = chunk.end;
                continue;
            }
            let bytes = self.until(at, content.end.min(chunk.end)).await?;
            crc = crc.then(Crc::of(bytes));
            at += bytes.len() as u64;
        }
        Ok(crc)
    }

    async fn whole(&mut self, content: Range<u64>) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        while content.start + (whole.len() as u64) < content.end {
            let at = content.start + whole.len() as u64;
            whole.extend_from_slice(self.until(at, content.end).await?);
        }
        Ok(whole)
    }

    /// Some bytes from `at` on, none behind `end`, which is in the file.
    async fn until(&mut self, at: u64, end: u64) -> Result<&[u8], Error> {
        let bytes = self.at(at).await?;
        let most = bytes.len().min((end - at) as usize);
        Ok(&bytes[..most])
    }
}
