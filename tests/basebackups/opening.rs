//! What it takes to open a backup of very many or very large files and to read a page of it (promise K2), without the kernel.

use walfs::store::Patience;

use super::reading::Browser;
use crate::common::below::LONG;
use crate::common::made_up::{self, MadeUp, REAL};
use crate::common::scripted::Scripted;

/// Requests, received bytes and bytes of the manifest as stored, of a mount that reads one page.
async fn one_page(made_up: MadeUp) -> (u64, u64, u64) {
    let backend = Scripted::map(true);
    let name = "monday".parse().expect("a name");
    let archive = super::reading::archive(backend.store()).await;
    let content = made_up::store(&archive, &name, made_up, Patience::for_at_most(LONG)).await;
    drop(archive);
    let objects = backend.objects();
    let manifest = objects.iter().find(|(key, _)| key.contains("/manifest."));
    let store = backend.store();
    let before = store.counts();
    let browser = Browser::over(store.clone()).await;
    let handle = browser
        .open(&format!("basebackups/monday/{REAL}"))
        .await
        .expect("open it");
    let read = browser.below.fs.read(handle, 40 * 8192, 8192, None).await;
    assert!(read.expect("read a page") == content[40 * 8192..41 * 8192]);
    let (gets, _) = browser.since(&before);
    let received = store.counts().bytes_in - before.bytes_in;
    // K1: "A page costs at most two requests"; this one lies in another part.
    let before = store.counts();
    let read = browser.below.fs.read(handle, 41 * 8192, 8192, None).await;
    assert!(read.expect("read a page") == content[41 * 8192..42 * 8192]);
    assert!(browser.since(&before).0 <= 2);
    // And the rest of it, whose every page lies elsewhere than the one before.
    let whole = browser
        .read_by(&format!("basebackups/monday/{REAL}"), 1 << 20)
        .await;
    assert!(whole.expect("read it") == content);
    (gets, received, manifest.expect("a manifest").1.len() as u64)
}

/// K2: "To open a backup and read one page takes a bounded number of requests and bounded memory, for a million files and
/// for 10 TB."
#[tokio::test(flavor = "multi_thread")]
async fn k2_one_page_of_a_huge_backup_takes_as_little_as_of_a_small_one() {
    let small = MadeUp {
        small: 1000,
        large: 2,
        one_changed_of: 100,
    };
    let many = MadeUp {
        small: 200_000,
        ..small
    };
    let large = MadeUp {
        large: 300,
        one_changed_of: 20,
        ..small
    };
    let (least, ..) = one_page(small).await;
    for made_up in [many, large] {
        let (gets, received, manifest) = one_page(made_up).await;
        assert!(manifest > 2 << 20, "{made_up:?}: a manifest of {manifest} bytes");
        assert!(
            gets <= least + 4 && received < 1 << 20,
            "{made_up:?}: {gets} requests, {least} for a small one; {received} bytes of {manifest}"
        );
    }
}
