//! How the allocator of the C library is told to give memory back.
//!
//! Segments come and go as blocks of many MiB. Left alone, glibc begins to carve such blocks out of its arenas after
//! the first one was freed, of which it has eight for each core, and blocks that stay in the cache pin the holes
//! between them: 300 MiB resident where 120 were in use. Other C libraries are left as they are.

/// Larger blocks are mapped by themselves, and are the system's again when they are freed. Plain and packed
/// frames stay below, where the memory is used again without asking the system.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 2 << 20;

/// Free memory at the end of an arena that is kept for the next write.
#[cfg(target_env = "gnu")]
const KEPT_FREE_BYTES: libc::c_int = 8 << 20;

/// Arenas in all. What many threads do at once, packing and unpacking, is long compared to the allocation before it.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// To be called before there are other threads. What the allocator refuses is no harm.
pub(crate) fn give_back_freed() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_FREE_BYTES),
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: mallopt changes settings of the allocator, at any time; no memory is touched.
        unsafe { libc::mallopt(setting, value) };
    }
}
