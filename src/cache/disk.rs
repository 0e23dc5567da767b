//! Stored objects kept in a local directory, as they came from the store: compressed, with their own checksums.
//!
//! Safe to lose, and safe to find damaged: what is read from here is verified by the caller exactly as what comes
//! from the store. Names are hashes of archive and object, so that two archives may share a directory. The least
//! recently used go when the bound is passed. All errors are swallowed but for a log line: a broken cache is a slow
//! archive, not a broken one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;

/// The cache on disk. Its calls block; call it from a blocking thread.
#[derive(Debug)]
pub struct DiskCache {
    directory: PathBuf,
    limit_bytes: u64,
    /// Bytes held, as far as is known; other processes may share the directory.
    held_bytes: Mutex<u64>,
}

impl DiskCache {
    /// Opens the directory, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: &Path, limit_bytes: u64) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        let held_bytes = entries(directory)?.iter().map(|entry| entry.bytes).sum();
        Ok(Self {
            directory: directory.to_owned(),
            limit_bytes,
            held_bytes: Mutex::new(held_bytes),
        })
    }

    /// The object's bytes, if they are here. The caller must verify them.
    pub fn get(&self, archive: &str, object: &str) -> Option<Bytes> {
        let path = self.path(archive, object);
        let bytes = fs::read(&path).ok()?;
        // The time of last use is what eviction goes by; access times are often not kept.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(bytes.into())
    }

    /// Keeps an object's bytes.
    pub fn put(&self, archive: &str, object: &str, bytes: &[u8]) {
        if bytes.len() as u64 > self.limit_bytes {
            return;
        }
        if let Err(error) = self
            .write(&self.path(archive, object), bytes)
            .and_then(|()| self.evict())
        {
            tracing::warn!("cache directory {}: {error}", self.directory.display());
        }
    }

    /// Forgets an object, because its bytes turned out damaged.
    pub fn forget(&self, archive: &str, object: &str) {
        let _ = fs::remove_file(self.path(archive, object));
    }

    fn path(&self, archive: &str, object: &str) -> PathBuf {
        let name = blake3::Hasher::new()
            .update(archive.as_bytes())
            .update(b"\0")
            .update(object.as_bytes())
            .finalize();
        self.directory.join(name.to_hex().as_str())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        io::Write::write_all(&mut file, bytes)?;
        file.persist(path)?;
        *self.held_bytes.lock().expect("no panic while held") += bytes.len() as u64;
        Ok(())
    }

    fn evict(&self) -> io::Result<()> {
        let mut held_bytes = self.held_bytes.lock().expect("no panic while held");
        if *held_bytes <= self.limit_bytes {
            return Ok(());
        }
        let mut all = entries(&self.directory)?;
        all.sort_by_key(|entry| entry.used);
        *held_bytes = all.iter().map(|entry| entry.bytes).sum();
        for oldest in all {
            if *held_bytes <= self.limit_bytes {
                break;
            }
            fs::remove_file(&oldest.path)?;
            *held_bytes -= oldest.bytes;
        }
        Ok(())
    }
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn entries(directory: &Path) -> io::Result<Vec<Entry>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Another process may have evicted it since.
        if let Ok(meta) = entry.metadata() {
            all.push(Entry {
                path: entry.path(),
                bytes: meta.len(),
                used: meta.modified()?,
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_and_gives_back_by_archive_and_object() {
        let directory = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(directory.path(), 1 << 20).unwrap();
        cache.put("a", "wal/1", b"one");
        assert_eq!(cache.get("a", "wal/1").as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.get("b", "wal/1"), None);
        cache.forget("a", "wal/1");
        assert_eq!(cache.get("a", "wal/1"), None);
    }

    #[test]
    fn stays_under_its_bound_and_drops_the_least_recently_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(directory.path(), 250).unwrap();
        cache.put("a", "1", &[1; 100]);
        cache.put("a", "2", &[2; 100]);
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::open(cache.path("a", "2"))
            .unwrap()
            .set_modified(old)
            .unwrap();
        cache.put("a", "3", &[3; 100]);
        assert!(cache.get("a", "1").is_some() && cache.get("a", "2").is_none());
        assert!(cache.get("a", "3").is_some());
        cache.put("a", "huge", &[0; 251]);
        assert!(cache.get("a", "huge").is_none());
    }

    #[test]
    fn counts_what_an_earlier_process_left() {
        let directory = tempfile::tempdir().unwrap();
        DiskCache::open(directory.path(), 1000)
            .unwrap()
            .put("a", "1", &[1; 100]);
        let cache = DiskCache::open(directory.path(), 150).unwrap();
        cache.put("a", "2", &[2; 100]);
        assert!(entries(directory.path()).unwrap().len() == 1);
    }
}
