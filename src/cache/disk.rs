//! Stored objects kept in a local directory, as they came from the store: compressed, with their own checksums.
//!
//! Safe to lose, and safe to find damaged: what is read from here is verified by the caller exactly as what comes
//! from the store, and is read only if it is a regular file that is no longer than the object can be. Names are hashes of
//! archive and object, so that two archives may share a directory. The least recently used go when the bound is passed. All
//! errors are swallowed but for a log line: a broken cache is a slow archive, not a broken one.
//!
//! The directory may hold what is somebody else's: only regular files with names of the cache's own form count, and only
//! they are removed (promise S7).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;

use crate::beneath::{Kind, Root};

/// What the name of every file in the cache begins with.
const OWN: &str = "walfs-cache-";

/// ... and of one that is not whole yet.
const OWN_TEMPORARY: &str = "walfs-cache-new-";

/// Random letters and digits at the end of such a name.
const RANDOM_CHARS: usize = 12;

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
        let own = entries(&Root::open(directory)?)?;
        Ok(Self {
            directory: directory.to_owned(),
            limit_bytes,
            held_bytes: Mutex::new(sum(&own)),
        })
    }

    /// The object's bytes, if they are here and no more than `most_bytes`. The caller must verify them.
    pub fn get(&self, archive: &str, object: &str, most_bytes: u64) -> Option<Bytes> {
        let name = name_of(archive, object);
        match self.read(&name, most_bytes) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = self.directory.join(&name);
                tracing::warn!("{} is passed over, {object} is fetched: {error}", path.display());
                None
            }
        }
    }

    fn read(&self, name: &str, most_bytes: u64) -> io::Result<Vec<u8>> {
        let (root, inside) = (Root::open(&self.directory)?, Path::new(name));
        let bytes = root.read(inside, most_bytes)?;
        // The time of last use is what eviction goes by; access times are often not kept.
        let _ = root.set_modified(inside, SystemTime::now());
        Ok(bytes)
    }

    /// Keeps an object's bytes.
    pub fn put(&self, archive: &str, object: &str, bytes: &[u8]) {
        if bytes.len() as u64 > self.limit_bytes {
            return;
        }
        if let Err(error) = self
            .write(&name_of(archive, object), bytes)
            .and_then(|()| self.evict())
        {
            tracing::warn!("cache directory {}: {error}", self.directory.display());
        }
    }

    /// Forgets an object, because its bytes turned out damaged.
    pub fn forget(&self, archive: &str, object: &str) {
        let name = name_of(archive, object);
        let _ = Root::open(&self.directory).and_then(|root| root.remove_file(Path::new(&name)));
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(OWN_TEMPORARY)
            .rand_bytes(RANDOM_CHARS)
            .tempfile_in(&self.directory)?;
        io::Write::write_all(&mut file, bytes)?;
        file.persist(self.directory.join(name))?;
        *self.held_bytes.lock().expect("no panic while held") += bytes.len() as u64;
        Ok(())
    }

    fn evict(&self) -> io::Result<()> {
        let mut held_bytes = self.held_bytes.lock().expect("no panic while held");
        if *held_bytes <= self.limit_bytes {
            return Ok(());
        }
        let root = Root::open(&self.directory)?;
        let mut own = entries(&root)?;
        own.sort_by_key(|entry| entry.used);
        *held_bytes = sum(&own);
        for oldest in own {
            if *held_bytes <= self.limit_bytes {
                break;
            }
            root.remove_file(Path::new(&oldest.name))?;
            *held_bytes = held_bytes.saturating_sub(oldest.bytes);
        }
        Ok(())
    }
}

/// The name of an object's file.
fn name_of(archive: &str, object: &str) -> String {
    let hash = blake3::Hasher::new()
        .update(archive.as_bytes())
        .update(b"\0")
        .update(object.as_bytes())
        .finalize();
    format!("{OWN}{}", hash.to_hex())
}

/// Has the cache made a file of this name, or the beginning of one? (A killed process leaves it.)
fn is_own(name: &str) -> bool {
    if let Some(random) = name.strip_prefix(OWN_TEMPORARY) {
        return random.len() == RANDOM_CHARS && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    }
    let hash = name.strip_prefix(OWN);
    hash.is_some_and(|hash| blake3::Hash::from_hex(hash).is_ok())
}

struct Entry {
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// The files of the cache itself, whatever else lies in the directory.
fn entries(root: &Root) -> io::Result<Vec<Entry>> {
    let mut own = Vec::new();
    for (name, kind) in root.list(Path::new(""))? {
        let Some(name) = name.to_str().filter(|name| kind == Kind::File && is_own(name)) else {
            continue;
        };
        // Another process may have evicted it since.
        if let Ok(meta) = root.metadata(Path::new(name)) {
            own.push(Entry {
                name: name.to_owned(),
                bytes: meta.len(),
                used: meta.modified()?,
            });
        }
    }
    Ok(own)
}

fn sum(entries: &[Entry]) -> u64 {
    entries
        .iter()
        .fold(0, |sum, entry| entry.bytes.saturating_add(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST_BYTES: u64 = 1 << 20;

    fn get(cache: &DiskCache, object: &str) -> Option<Bytes> {
        cache.get("a", object, MOST_BYTES)
    }

    #[test]
    fn keeps_and_gives_back_by_archive_and_object() {
        let directory = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(directory.path(), 1 << 20).unwrap();
        cache.put("a", "wal/1", b"one");
        assert_eq!(get(&cache, "wal/1").as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.get("b", "wal/1", MOST_BYTES), None);
        cache.forget("a", "wal/1");
        assert_eq!(get(&cache, "wal/1"), None);
    }

    #[test]
    fn stays_under_its_bound_and_drops_the_least_recently_used() {
        let directory = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(directory.path(), 250).unwrap();
        cache.put("a", "1", &[1; 100]);
        cache.put("a", "2", &[2; 100]);
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        fs::File::open(directory.path().join(name_of("a", "2")))
            .unwrap()
            .set_modified(old)
            .unwrap();
        cache.put("a", "3", &[3; 100]);
        assert!(get(&cache, "1").is_some() && get(&cache, "2").is_none());
        assert!(get(&cache, "3").is_some());
        cache.put("a", "huge", &[0; 251]);
        assert!(get(&cache, "huge").is_none());
    }

    #[test]
    fn counts_what_an_earlier_process_left() {
        let directory = tempfile::tempdir().unwrap();
        DiskCache::open(directory.path(), 1000)
            .unwrap()
            .put("a", "1", &[1; 100]);
        fs::write(directory.path().join("walfs-cache-new-0123456789aB"), [0; 100]).unwrap();
        let cache = DiskCache::open(directory.path(), 150).unwrap();
        cache.put("a", "2", &[2; 100]);
        assert_eq!(entries(&Root::open(directory.path()).unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn only_names_that_the_cache_gives_are_its_own() {
        let hash = "0".repeat(64);
        assert!(is_own(&name_of("a", "wal/1")) && is_own("walfs-cache-new-0123456789aB"));
        for foreign in [
            hash.as_str(),
            &format!("{OWN}{hash}.bak"),
            &format!("{OWN}{}", &hash[1..]),
            "walfs-cache-new-notes.txt",
            "walfs-cache-",
            "walfs-cache",
            "",
        ] {
            assert!(!is_own(foreign), "{foreign:?} was taken for the cache's own");
        }
    }
}
