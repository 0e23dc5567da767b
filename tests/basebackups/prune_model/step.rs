//! What may happen to an archive and its copy.

use proptest::prelude::*;
use walfs::job::prune::Rules;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// So many segments.
    Archive(u64),
    /// A backup over so many segments, in which these files have changed.
    Backup {
        segments: u64,
        changed: u8,
    },
    /// A server is restored so many segments before the end of a timeline, and archives from now on; perhaps without its
    /// history.
    Fork {
        of: usize,
        back: u64,
        with_history: bool,
    },
    /// The server of another timeline archives from now on.
    Switch(usize),
    /// An archived segment or history is lost.
    Lose(usize),
    Pin(usize),
    Unpin(usize),
    /// A backup is begun, builds on the newest, and is left like that.
    LeaveUnfinished,
    /// These are given up.
    DropUnfinished,
    Prune(Which, Wanted),
    /// It dies after so many calls, of which the last may be done.
    PruneDies(Which, Wanted, usize, bool),
    /// What the copy lacks is brought there.
    Copy,
    /// It dies after so many calls to one of the two.
    CopyDies(Which, usize, bool),
}

/// One of the two archives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Original,
    Copy,
}

#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) last: Option<u32>,
    pub(super) days: Option<u32>,
    pub(super) daily: Option<u32>,
    pub(super) monthly: Option<u32>,
    pub(super) pitr_days: Option<u32>,
}

impl Wanted {
    /// The newest one, and nothing else.
    pub(super) fn only_the_newest() -> Self {
        Self {
            last: Some(1),
            days: None,
            daily: None,
            monthly: None,
            pitr_days: None,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            last: self.last,
            days: self.days,
            daily: self.daily,
            monthly: self.monthly,
            pitr_days: self.pitr_days,
            ..Rules::default()
        }
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let some = |most: u32| prop::option::weighted(0.4, 0..most);
    let all = (
        prop::option::weighted(0.8, 0..4u32),
        some(20),
        some(4),
        some(3),
        prop::option::weighted(0.3, 0..10u32),
    );
    all.prop_map(|(last, days, daily, monthly, pitr_days)| Wanted {
        last,
        days,
        daily,
        monthly,
        pitr_days,
    })
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![2 => Just(Which::Original), 1 => Just(Which::Copy)]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4u64).prop_map(Step::Archive),
        8 => (0..3u64, any::<u8>()).prop_map(|(segments, changed)| Step::Backup { segments, changed }),
        2 => (any::<usize>(), 0..5u64, prop::bool::weighted(0.85))
            .prop_map(|(of, back, with_history)| Step::Fork { of, back, with_history }),
        2 => any::<usize>().prop_map(Step::Switch),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Pin),
        1 => any::<usize>().prop_map(Step::Unpin),
        1 => Just(Step::LeaveUnfinished),
        1 => Just(Step::DropUnfinished),
        6 => (which(), wanted()).prop_map(|(which, wanted)| Step::Prune(which, wanted)),
        4 => (which(), wanted(), 0..120usize, any::<bool>())
            .prop_map(|(which, wanted, calls, done)| Step::PruneDies(which, wanted, calls, done)),
        3 => Just(Step::Copy),
        2 => (which(), 0..150usize, any::<bool>())
            .prop_map(|(which, calls, done)| Step::CopyDies(which, calls, done)),
    ]
}
