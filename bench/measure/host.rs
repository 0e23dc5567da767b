//! Memory that the host of a virtual machine has lent elsewhere.
//!
//! A guest with free page reporting (Linux, mm/page_reporting.c: a balloon device, some two seconds) tells its host of
//! memory that nobody uses; the host takes it, and brings an empty page when one is touched again. Here that costs about
//! a millisecond for each MiB, which the kernel counts as CPU time of whoever touches it first: a `cp` into fresh page
//! cache took 36 ms of CPU where it takes 6. Who pays depends on who was there before, not on the tool. So memory is
//! fetched back before the clock starts.

use memmap2::{Advice, MmapMut};

/// One byte in each is written.
const PAGE_BYTES: usize = 4096;

/// Has the host bring so many MiB, but at most half of what there is, and leaves them free for whoever comes next.
pub fn bring(mib: usize) {
    let most_mib = super::memory_kib("MemAvailable") >> 11;
    let Ok(mut memory) = MmapMut::map_anon(mib.min(most_mib) << 20) else {
        return;
    };
    // In pages of 2 MiB where there are any: a tenth of the time.
    let _ = memory.advise(Advice::HugePage);
    memory.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
}
