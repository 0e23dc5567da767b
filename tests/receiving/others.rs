//! A segment is received while others bring the same name: the same content, or other. A sync is true only if what it has
//! acknowledged comes back (promises W1, W4, S1).

use super::*;
use crate::common::user::said;
use crate::common::walfs::Mount;
use crate::common::world::World;

/// W4: another server archives the segment, whole and with other content, while it is received. No sync of what that does
/// not have succeeds from then on, for nobody would get it back.
#[tokio::test(flavor = "multi_thread")]
async fn w4_a_sync_fails_once_the_segment_is_archived_with_other_content() {
    let backend = Scripted::map(true);
    let (below, other) = (open(&backend).await, open(&backend).await);
    let mut receiving = Receiving::begin(&below, content(1)).await.unwrap();
    receiving.take(50_000).await.unwrap();
    receiving.sync().await.unwrap();
    let kept = fragments(&backend);
    other.copy(&name(), &content(2)).await.unwrap();
    for up_to in [60_000, 70_000] {
        receiving.take(up_to).await.unwrap();
        let refused = receiving.sync().await.unwrap_err();
        assert_eq!(refused.errno(), libc::EEXIST, "{refused}");
        assert!(refused.to_string().contains("HINT: "), "{refused}");
    }
    assert_eq!(receiving.close().await.unwrap_err().errno(), libc::EEXIST);
    assert_eq!(
        fragments(&backend),
        kept,
        "what was acknowledged stays, and nothing else comes"
    );
}

/// W1: the same content may be archived meanwhile: the receiver's sync is true, and so is that of one that is behind.
#[tokio::test(flavor = "multi_thread")]
async fn w1_a_sync_holds_once_the_same_segment_is_archived() {
    let backend = Scripted::map(true);
    let (below, other) = (open(&backend).await, open(&backend).await);
    let content = content(1);
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    receiving.take(50_000).await.unwrap();
    receiving.sync().await.unwrap();
    other.copy(&name(), &content).await.unwrap();
    for up_to in [60_000, 300_000] {
        receiving.take(up_to).await.unwrap();
        receiving.sync().await.unwrap();
    }
    receiving.end().await.unwrap();
    fragments_go(&backend).await;
}

/// W6: two receivers of one server begin a segment at one moment, through two mounts: who saw no file lays one out, though
/// the other has synced something of it since.
#[tokio::test(flavor = "multi_thread")]
async fn w6_a_receiver_may_lay_out_what_another_has_begun() {
    let backend = Scripted::map(true);
    let belows = [open(&backend).await, open(&backend).await];
    let content = content(1);
    let partial = format!("{}.partial", name());
    assert!(belows[1].lookup(&partial).await.is_err());
    let mut first = Receiving::begin(&belows[0], content.clone()).await.unwrap();
    first.take(8192).await.unwrap();
    first.sync().await.unwrap();
    let handle = belows[1].start(&partial, None).await.unwrap();
    for block in 0..WHOLE / 8192 {
        let zeros = belows[1].write(handle, (block * 8192) as u64, &[0; 8192]);
        zeros.await.unwrap();
    }
    let mut second = Receiving {
        below: &belows[1],
        partial,
        handle,
        content: content.clone(),
        at: 0,
    };
    second.sync().await.unwrap();
    assert_begins_with(&found(&open(&backend).await).await, &content, 8192);
    for up_to in [50_000, 300_000] {
        second.take(up_to).await.unwrap();
        second.sync().await.unwrap();
        first.take(up_to + 10_000).await.unwrap();
        first.sync().await.unwrap();
    }
    first.end().await.unwrap();
    assert!(open(&backend).await.read(&name()).await.unwrap() == *content);
}

/// W4: two servers that have parted are received by two mounts: what one of them is told stays, and the other is not told
/// the same of its own.
#[tokio::test(flavor = "multi_thread")]
async fn w4_of_two_servers_one_is_received() {
    let backend = Scripted::map(true);
    let belows = [open(&backend).await, open(&backend).await];
    let (right, mut wrong) = (content(1), content(1).to_vec());
    wrong[40_000..].reverse();
    let mut first = Receiving::begin(&belows[0], right.clone()).await.unwrap();
    let mut second = Receiving::begin(&belows[1], Arc::new(wrong)).await.unwrap();
    // Up to here they are one.
    second.take(30_000).await.unwrap();
    second.sync().await.unwrap();
    for up_to in [20_000, 30_000, 50_000] {
        first.take(up_to).await.unwrap();
        first.sync().await.unwrap();
    }
    for up_to in [45_000, 60_000, 300_000] {
        second.take(up_to).await.unwrap();
        let refused = second.sync().await.unwrap_err();
        assert_eq!(refused.errno(), libc::EEXIST, "{refused}");
        assert!(refused.to_string().contains("HINT: "), "{refused}");
        first.take(up_to + 10_000).await.unwrap();
        first.sync().await.unwrap();
        assert_begins_with(&found(&open(&backend).await).await, &right, up_to + 10_000);
    }
    second.close().await.unwrap_err();
    first.end().await.unwrap();
    assert!(open(&backend).await.read(&name()).await.unwrap() == **right);
}

/// The same, at one moment: of two that have parted not both are told that their own is safe.
#[tokio::test(flavor = "multi_thread")]
async fn w4_two_servers_that_are_received_at_one_moment_are_not_both_told_so() {
    for round in 0..20 {
        let backend = Scripted::map(true);
        let belows = [open(&backend).await, open(&backend).await];
        let contents = [content(1), content(2)];
        let mut first = Receiving::begin(&belows[0], contents[0].clone()).await.unwrap();
        let mut second = Receiving::begin(&belows[1], contents[1].clone()).await.unwrap();
        for receiving in [&mut first, &mut second] {
            receiving.take(20_000).await.unwrap();
        }
        let told = tokio::join!(first.sync(), second.sync());
        assert!(told.0.is_err() || told.1.is_err(), "round {round}");
        if let Some(told) = [told.0, told.1].iter().position(Result::is_ok) {
            assert_begins_with(&found(&open(&backend).await).await, &contents[told], 20_000);
        }
    }
}

/// A sync that could not be compared with what others have is not made good by one more.
#[tokio::test(flavor = "multi_thread")]
async fn w1_a_sync_that_could_not_ask_fails_until_it_can() {
    let backend = Scripted::map(true);
    let (below, other) = (open(&backend).await, open(&backend).await);
    let mut receiving = Receiving::begin(&below, content(1)).await.unwrap();
    receiving.take(20_000).await.unwrap();
    receiving.sync().await.unwrap();
    let kept = fragments(&backend);
    other.copy(&name(), &content(2)).await.unwrap();
    receiving.take(30_000).await.unwrap();
    for denied in 0..3 {
        backend.arm(&[(denied, Fault::Fails(ErrorKind::Denied))]);
        receiving.sync().await.unwrap_err();
        backend.disarm();
        assert_eq!(receiving.sync().await.unwrap_err().errno(), libc::EEXIST);
        assert_eq!(fragments(&backend), kept);
    }
}

/// A commit waits for one round trip: what has to be asked is asked beside the put, and it is little.
#[tokio::test(flavor = "multi_thread")]
async fn w7_a_sync_asks_little() {
    let backend = Scripted::map(true);
    let (below, content) = (open(&backend).await, content(1));
    let mut receiving = Receiving::begin(&below, content.clone()).await.unwrap();
    receiving.take(20_000).await.unwrap();
    receiving.sync().await.unwrap();
    for up_to in (30_000..100_000).step_by(10_000) {
        receiving.take(up_to).await.unwrap();
        backend.answers();
        receiving.sync().await.unwrap();
        let mut asked: Vec<&str> = backend.answers().iter().map(|answer| answer.operation).collect();
        asked.sort_unstable();
        assert_eq!(asked, ["get", "list", "put"]);
    }
}

/// W4: who archives a segment of which another server's bytes are kept is told nothing, for the receiver may be the one that
/// has parted; the log names the segment.
#[test]
fn w4_a_segment_that_contradicts_what_was_received_is_named() {
    let world = World::new("contradicted");
    let mount = Mount::local(&world);
    let files = [1, 2].map(|seed| world.owned_file(&format!("content-{seed}"), &content(seed)));
    let partial = mount.wal().join(format!("{}.partial", name()));
    let whole = mount.wal().join(name());
    // Laid out, filled in for a bit, closed; then the other one's.
    let receive = "head -c 1048576 /dev/zero > \"$1\" && exec 3<> \"$1\" &&
        head -c 50000 \"$2\" >&3 && exec 3>&- && cp \"$3\" \"$4\"";
    let output = mount
        .user()
        .shell(receive, &[&partial, &files[0], &files[1], &whole]);
    assert!(output.status.success(), "{}", said(&output));
    mount.wait_for_log(&format!(
        "{} is archived, but 50000 bytes of it were received",
        name()
    ));
    assert!(mount.log().contains("HINT: of two servers"), "{}", mount.log());
    // The same, and nothing to say.
    let next = wal::segment_name(1, 4, SEGMENT_BYTES);
    let same = world.owned_file("same", &wal::segment(&next, SYSTEM, SEGMENT_BYTES, 3));
    let partial = mount.wal().join(format!("{next}.partial"));
    let whole = mount.wal().join(&next);
    let output = mount.user().shell(receive, &[&partial, &same, &same, &whole]);
    assert!(output.status.success(), "{}", said(&output));
    mount.wait_for_log(&format!("archived {next}"));
    assert!(
        !mount.log().contains(&format!("{next} is archived, but")),
        "{}",
        mount.log()
    );
}

/// B12: a timeline goes on after another one has left it, and is only received.
#[test]
fn b12_a_fork_is_noticed_when_its_parent_is_received() {
    let world = World::new("received-parent");
    let mut mount = Mount::local(&world);
    let history = world.owned_file("history", &wal::history(1, "0/400000"));
    let before = world.owned_file("before", &content(1));
    let archive = "cp \"$1\" \"$2\" && cp \"$3\" \"$4\"";
    let (whole, second) = (mount.wal().join(name()), mount.wal().join("00000002.history"));
    let output = mount.user().shell(archive, &[&before, &whole, &history, &second]);
    assert!(output.status.success(), "{}", said(&output));
    mount.restart();
    assert!(!mount.log().contains("goes on"), "{}", mount.log());
    let next = wal::segment_name(1, 4, SEGMENT_BYTES);
    let behind = world.owned_file("behind", &wal::segment(&next, SYSTEM, SEGMENT_BYTES, 1));
    let partial = mount.wal().join(format!("{next}.partial"));
    let receive = "head -c 1048576 /dev/zero > \"$1\" && exec 3<> \"$1\" && cat \"$2\" >&3 && exec 3>&-";
    let output = mount.user().shell(receive, &[&partial, &behind]);
    assert!(output.status.success(), "{}", said(&output));
    mount.wait_for_log(&format!("timeline 1 goes on: {next} is archived"));
}
