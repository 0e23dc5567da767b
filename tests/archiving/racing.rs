//! Two machines that archive into one prefix: two mounts of one archive, one name.

use super::rig::{Rig, Source, cp_to};
use crate::common::wait;
use crate::common::walfs::Mount;

/// Both at once; who succeeded?
fn race(rig: &Rig, second: &Mount, one: &Source, two: &Source) -> [bool; 2] {
    let mut copies = [cp_to(&rig.mount, one), cp_to(second, two)].map(|mut command| {
        command.stderr(std::process::Stdio::null());
        command.spawn().expect("run cp")
    });
    copies
        .each_mut()
        .map(|copy| wait::for_exit("cp to end", copy).success())
}

/// W4: "also when two machines race: put-if-absent in the store where it has it". Twenty rounds.
#[test]
fn w4_of_two_racing_mounts_exactly_one_wins() {
    for rig in Rig::both_kinds() {
        let second = rig.second_mount();
        for round in 1..=20 {
            let (one, two) = (rig.segment(round, 1), rig.segment(round, 2));
            let won = race(&rig, &second, &one, &two);
            assert!(won[0] != won[1], "round {round}: {won:?}");
            rig.assert_archived(if won[0] { &one } else { &two });
        }
    }
}

/// W4: "The same content again succeeds", also when it is brought by two machines at once.
#[test]
fn w4_of_two_racing_mounts_with_equal_content_both_win() {
    for rig in Rig::both_kinds() {
        let second = rig.second_mount();
        for round in 1..=10 {
            let source = rig.segment(round, 1);
            assert_eq!(
                race(&rig, &second, &source, &source),
                [true, true],
                "round {round}"
            );
            rig.assert_archived(&source);
        }
    }
}

/// W5: two clusters that begin an empty archive at the same moment: it becomes the archive of one of them.
#[test]
fn w5_of_two_clusters_racing_for_an_empty_archive_one_is_refused() {
    for number in 1..=3 {
        for rig in Rig::both_kinds() {
            let second = rig.second_mount();
            let one = rig.segment(number, 1);
            let other = rig.segment(number + 1, 1);
            let content = crate::common::wal::segment(&other.name, 77, super::rig::SMALL, 1);
            let two = rig.source(&other.name, content);
            let won = race(&rig, &second, &one, &two);
            assert!(won[0] != won[1], "{won:?}");
            let (winner, loser) = if won[0] { (&one, &two) } else { (&two, &one) };
            rig.assert_archived(winner);
            rig.assert_absent(&loser.name);
        }
    }
}
