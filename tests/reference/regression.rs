//! What the sequences have found, each by name, and the flows of real writers that must not be left to chance.

use walfs::mount::error::Error;
use walfs::mount::fs::Opening;
use walfs::store::ErrorKind;

use super::sample::{self, SEGMENT_BYTES, Source};
use crate::common::below::{Below, LONG, MAKING};
use crate::common::scripted::{Fault, Scripted};
use crate::common::wal;

async fn below(backend: &std::sync::Arc<Scripted>) -> Below {
    Below::open(backend.store(), LONG).await.unwrap()
}

/// `cp 00000002.history x.tmp && mv x.tmp 00000002.history`: what came under a temporary name was compressed, and its
/// size was then told from the stored size as if it were not. PostgreSQL would have read a history cut short.
#[tokio::test(flavor = "multi_thread")]
async fn small_file_through_a_temporary_name_keeps_its_size() {
    let backend = Scripted::map(true);
    let below = below(&backend).await;
    let text = wal::history(1, "0/3000000");
    let text = [text, "# a comment that compresses well\n".repeat(20).into()].concat();
    below.copy("00000002.history.tmp", &text).await.unwrap();
    below
        .rename("00000002.history.tmp", "00000002.history", true)
        .await
        .unwrap();
    assert_eq!(
        below.lookup("00000002.history").await.unwrap().bytes,
        text.len() as u64
    );
    assert_eq!(below.read("00000002.history").await.unwrap(), text);
}

/// PostgreSQL archives a `.partial` after a promotion. When the store refused it once, the failed version kept the name
/// for as long as the daemon ran, and no later `cp` could open it.
#[tokio::test(flavor = "multi_thread")]
async fn partial_is_archived_after_a_first_try_that_failed() {
    let backend = Scripted::map(true);
    let below = below(&backend).await;
    let name = format!("{}.partial", wal::segment_name(1, 3, SEGMENT_BYTES));
    let content = sample::content(&name, Source::Right);
    let refused = [0, 1, 2, 3, 4, 5].map(|call| (call, Fault::Fails(ErrorKind::Denied)));
    backend.arm(&refused);
    let handle = below
        .fs
        .create(below.wal, name.as_ref(), MAKING, None)
        .await
        .unwrap()
        .1;
    below.write(handle, 0, &content).await.unwrap_err();
    below.fs.flush(handle, None, None).await.unwrap_err();
    backend.disarm();
    assert!(matches!(below.lookup(&name).await, Err(Error::NotFound)));
    below.fs.release(handle).await;
    below.copy(&name, &content).await.unwrap();
    assert_eq!(below.read(&name).await.unwrap(), **content);
}

/// What `strace` shows of `pg_receivewal`: zeros, a second descriptor that is synced and closed, data, sync, close,
/// rename, and the new name synced (promise W6).
#[tokio::test(flavor = "multi_thread")]
async fn segment_received_by_pg_receivewal_is_archived_when_it_is_full() {
    let backend = Scripted::map(true);
    let below = below(&backend).await;
    let name = wal::segment_name(1, 3, SEGMENT_BYTES);
    let partial = format!("{name}.partial");
    let handle = below.start(&partial, None).await.unwrap();
    for page in 0..128u64 {
        below.write(handle, page * 8192, &[0; 8192]).await.unwrap();
    }
    sync(&below, &partial).await;
    let content = sample::content(&name, Source::Right);
    for (index, piece) in content.chunks(100_000).enumerate() {
        below.write(handle, index as u64 * 100_000, piece).await.unwrap();
    }
    below.fs.flush(handle, None, None).await.unwrap();
    below.fs.release(handle).await;
    sync(&below, &partial).await;
    let objects = backend.objects();
    let archived: Vec<&String> = objects.keys().filter(|key| key.starts_with("wal/")).collect();
    assert_eq!(archived, [&format!("wal/{name}.lz4")]);
    below.rename(&partial, &name, true).await.unwrap();
    sync(&below, &name).await;
    assert_eq!(below.read(&name).await.unwrap(), **content);
    assert!(matches!(below.lookup(&partial).await, Err(Error::NotFound)));
}

/// A rename of `pg_receivewal` that failed left its `.partial` as a file that is archived when it is full only; the next
/// `cp` to that name, an archiver's, was told that all was well, and nothing was stored.
#[tokio::test(flavor = "multi_thread")]
async fn partial_whose_rename_failed_is_archived_by_the_next_copy() {
    let backend = Scripted::map(true);
    let below = below(&backend).await;
    let name = wal::segment_name(1, 3, SEGMENT_BYTES);
    let partial = format!("{name}.partial");
    let handle = below.start(&partial, None).await.unwrap();
    below
        .write(handle, 0, &[0; SEGMENT_BYTES as usize])
        .await
        .unwrap();
    below.fs.release(handle).await;
    below.rename(&partial, &name, true).await.unwrap_err();
    let content = sample::content(&partial, Source::Right);
    below.copy(&partial, &content).await.unwrap();
    assert_eq!(below.read(&partial).await.unwrap(), **content);
    assert!(backend.objects().contains_key(&format!("wal/{partial}.lz4")));
}

/// W4: "also when two machines race". Here two copiers of one machine do, in step: the contents decide.
#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_name_race() {
    for honours_conditions in [true, false] {
        for (other, winners) in [(Source::Right, 2), (Source::Other, 1)] {
            let backend = Scripted::map(honours_conditions);
            let below = below(&backend).await;
            let name = wal::segment_name(1, 1, SEGMENT_BYTES);
            let contents = [Source::Right, other].map(|source| sample::content(&name, source));
            let copies = contents.iter().map(|content| below.copy(&name, content));
            let outcomes = futures::future::join_all(copies).await;
            assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), winners);
            for outcome in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                assert_eq!(outcome.errno(), libc::EEXIST, "{outcome}");
            }
            let stored = below.read(&name).await.unwrap();
            let won = outcomes.iter().position(Result::is_ok).expect("one of them");
            assert!(stored == **contents[won], "not what the winner brought");
        }
    }
}

/// Opens without truncating, syncs, closes.
async fn sync(below: &Below, name: &str) {
    let found = below.lookup(name).await.unwrap();
    let handle = below.fs.open_for(found.ino, Opening::Read, None).await.unwrap();
    below.fs.fsync(handle, None).await.unwrap();
    below.fs.flush(handle, None, None).await.unwrap();
    below.fs.release(handle).await;
}
