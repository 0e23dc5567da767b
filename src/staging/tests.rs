//! Drafts against a plain buffer that was written in the same way.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::archive::wal::Offered;
use crate::codec::ContentHash;
use crate::memory::Share;

/// Lengths and places of writes that matter: whole frames, more than one, parts, across a border.
const WRITES: [(u64, usize); 10] = [
    (0, FRAME_BYTES),
    (FRAME, 4 * FRAME_BYTES),
    (FRAME / 2, FRAME_BYTES),
    (5 * FRAME, 1000),
    (5 * FRAME + 1000, FRAME_BYTES),
    (9 * FRAME, FRAME_BYTES),
    (2 * FRAME, FRAME_BYTES),
    (2 * FRAME + 5, 10),
    (7 * FRAME, FRAME_BYTES),
    (0, 7 * FRAME_BYTES),
];

fn staging(memory_bytes: usize) -> Staging {
    staging_with(Compression::default(), memory_bytes)
}

fn staging_with(compression: Compression, memory_bytes: usize) -> Staging {
    let memory = Memory {
        frames: Share::new(memory_bytes as u64),
        ..Default::default()
    };
    let options = Options {
        memory,
        ..Default::default()
    };
    Staging::new(compression, &options)
}

async fn stored(draft: &mut Draft) -> Vec<u8> {
    let finished = draft.finish().await.unwrap();
    let object = finished.read(0..finished.stored_bytes()).await.unwrap();
    let content = codec::unpack_all(&object).unwrap();
    assert_eq!(finished.hash(), ContentHash::of(&content));
    content
}

/// Random bytes, also written to the model.
fn random_into(model: &mut Vec<u8>, random: &mut fastrand::Rng, start: usize, bytes: usize) -> Vec<u8> {
    let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..4)).take(bytes).collect();
    model.resize(model.len().max(start + bytes), 0);
    model[start..start + bytes].copy_from_slice(&data);
    data
}

/// In any order of the writes above, in memory and in a temporary file, finished on the way or not.
#[tokio::test]
async fn what_is_written_is_what_is_stored() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let staging = staging(if seed % 2 == 0 { 64 << 20 } else { 0 });
        let (mut draft, mut model) = (staging.draft(), Vec::new());
        let mut writes = WRITES;
        random.shuffle(&mut writes);
        for (offset, bytes) in writes {
            let data = random_into(&mut model, &mut random, offset as usize, bytes);
            draft.write(offset, &data).await.unwrap();
            let read = draft.read(offset / 2, 2 * FRAME_BYTES).await.unwrap();
            let start = offset as usize;
            let expected = &model[start / 2..model.len().min(start / 2 + 2 * FRAME_BYTES)];
            assert!(
                read == expected,
                "seed {seed}: reading back after {bytes} bytes at {offset}"
            );
            if random.u8(..4) == 0 {
                assert!(
                    stored(&mut draft).await == model,
                    "seed {seed}: finished on the way"
                );
            }
        }
        assert!(stored(&mut draft).await == model, "seed {seed}");
    }
}

/// The same writes, and cuts, into a draft that is only hashed at first: with room for all its frames, for some, for none.
#[tokio::test]
async fn what_is_compared_has_the_hash_of_what_is_written_and_can_still_be_stored() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let staging = staging([64 << 20, 5 * FRAME_BYTES, 0][seed as usize % 3]);
        let (mut draft, mut model) = (staging.draft().compared(), Vec::new());
        let mut writes = WRITES;
        random.shuffle(&mut writes);
        for (offset, bytes) in writes {
            let data = random_into(&mut model, &mut random, offset as usize, bytes);
            draft.write(offset, &data).await.unwrap();
            if random.u8(..3) == 0 {
                let cut = random.usize(..model.len());
                model.truncate(cut);
                draft.truncate(cut as u64).await.unwrap();
            }
            if random.bool() {
                let hash = draft.hash().await.unwrap();
                assert_eq!(hash, ContentHash::of(&model), "seed {seed}: on the way");
            }
        }
        assert_eq!(
            draft.hash().await.unwrap(),
            ContentHash::of(&model),
            "seed {seed}"
        );
        let read = draft.read(0, model.len()).await.unwrap();
        assert!(read == model, "seed {seed}: read back");
        assert!(stored(&mut draft).await == model, "seed {seed}: stored after all");
    }
}

/// Many files of which each has begun: those that there is no memory for are packed, and go on all the same.
#[tokio::test]
async fn frames_that_are_open_take_no_more_memory_than_there_is() {
    let memory = Memory {
        frames: Share::new(0),
        open_frames: Share::new(3 * FRAME),
        ..Default::default()
    };
    let options = Options {
        memory,
        ..Default::default()
    };
    let staging = Staging::new(Compression::default(), &options);
    let mut drafts: Vec<Draft> = std::iter::repeat_with(|| staging.draft()).take(10).collect();
    for part in 0..3 {
        for (number, draft) in drafts.iter_mut().enumerate() {
            let data = vec![number as u8 + 1; 1000];
            draft.write(part * 1000, &data).await.unwrap();
        }
    }
    let slots = || drafts.iter().map(|draft| &draft.frames[0]);
    assert_eq!(slots().filter(|slot| matches!(slot, Slot::Open(..))).count(), 3);
    assert_eq!(staging.0.memory.open_frames.free_bytes(), 0);
    for (number, draft) in drafts.iter_mut().enumerate() {
        assert!(stored(draft).await == vec![number as u8 + 1; 3000], "{number}");
    }
    assert_eq!(staging.0.memory.open_frames.free_bytes(), 3 * FRAME);
}

/// What is only hashed is counted as what is packed is: all drafts together stay within their memory.
#[tokio::test]
async fn what_is_compared_takes_no_more_memory_than_there_is() {
    let staging = staging(4 * FRAME_BYTES);
    let mut draft = staging.draft().compared();
    draft.write(0, &vec![7; 10 * FRAME_BYTES]).await.unwrap();
    draft.hash().await.unwrap();
    let hashed = draft.frames.iter().filter(|slot| matches!(slot, Slot::Hashed(_)));
    assert_eq!(hashed.count(), 4);
    assert_eq!(staging.0.memory.frames.free_bytes(), 0);
    drop(draft);
    assert_eq!(staging.0.memory.frames.free_bytes(), 4 * FRAME);
}

/// Polls so often at most, then gives up: what a deadline does in the middle.
async fn given_up<T>(work: impl Future<Output = T>, polls: usize) -> Option<T> {
    let mut work = pin!(work);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// Writes that share their bytes, cuts and growth, and hashes and seals that are given up in the middle and tried again.
#[tokio::test]
async fn what_is_given_up_in_the_middle_can_be_tried_again() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let memory_bytes = [64 << 20, 5 * FRAME_BYTES, 0][seed as usize % 3];
        let staging = staging(memory_bytes);
        let (mut draft, mut model) = (staging.draft().compared(), Vec::new());
        let mut writes = WRITES;
        random.shuffle(&mut writes);
        for (offset, bytes) in writes {
            let data: Bytes = std::iter::repeat_with(|| random.u8(..4)).take(bytes).collect();
            let (start, end) = (offset as usize, offset as usize + bytes);
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(&data);
            draft.write_shared(offset, &data).await.unwrap();
            if random.u8(..3) == 0 {
                let length = random.usize(..model.len() + 2 * FRAME_BYTES);
                model.resize(length, 0);
                draft.truncate(length as u64).await.unwrap();
            }
            if let Some(hash) = given_up(draft.hash(), random.usize(..6)).await {
                assert_eq!(hash.unwrap(), ContentHash::of(&model), "seed {seed}");
            }
            if random.u8(..4) == 0 {
                given_up(draft.finish(), random.usize(..6)).await;
            }
        }
        assert_eq!(
            draft.hash().await.unwrap(),
            ContentHash::of(&model),
            "seed {seed}"
        );
        assert!(stored(&mut draft).await == model, "seed {seed}");
        drop(draft);
        // What was being hashed when it was cut off gives its room back a little later.
        let room = staging.0.memory.frames.take(memory_bytes as u64);
        let room = tokio::time::timeout(Duration::from_secs(30), room).await;
        assert!(room.is_ok(), "seed {seed}: room for frames is lost");
    }
}

/// A frame that cannot be read back from its temporary file, once.
#[tokio::test]
async fn what_could_not_be_packed_otherwise_is_tried_again() {
    let staging = staging_with("zstd:1".parse().unwrap(), 0);
    let mut draft = staging.draft();
    draft.write(0, b"content").await.unwrap();
    draft.finish().await.unwrap();
    let empty = Some(Arc::new(tempfile::tempfile().unwrap()));
    let file = std::mem::replace(&mut draft.spill.lock().unwrap().file, empty);
    draft.repack(Compression::None).await.unwrap_err();
    draft.spill.lock().unwrap().file = file;
    draft.repack(Compression::None).await.unwrap();
    assert!(stored(&mut draft).await == b"content");
}

/// A writer that goes on after an error must not get the frame as it was before.
#[tokio::test]
async fn what_a_failed_write_would_have_changed_is_not_stored() {
    for cut in [false, true] {
        let staging = staging(0);
        let mut draft = staging.draft();
        draft.write(0, &vec![7; 2 * FRAME_BYTES]).await.unwrap();
        draft.finish().await.unwrap();
        let empty = Some(Arc::new(tempfile::tempfile().unwrap()));
        let file = std::mem::replace(&mut draft.spill.lock().unwrap().file, empty);
        let failed = match cut {
            true => draft.truncate(5).await,
            false => draft.write(5, b"changed").await,
        };
        failed.unwrap_err();
        draft.spill.lock().unwrap().file = file;
        assert!(draft.finish().await.is_err(), "cut: {cut}");
        draft.truncate(0).await.unwrap();
        draft.write(0, b"begun anew").await.unwrap();
        assert!(stored(&mut draft).await == b"begun anew");
    }
}
