//! What is done to the directory, and how such a sequence is made up.

use std::fmt;

use proptest::prelude::*;
use walfs::store::ErrorKind;

use super::sample::{FINALS, NAMES, PIECES, Source};
use crate::common::scripted::Fault;

/// Who closes a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closer {
    /// Nobody knows: another pid namespace.
    Unknown,
    /// A process that lives, the one that opened it.
    Opener,
    /// The kernel, for a process that was killed.
    Killed,
}

/// One operation. Names are indices into [`NAMES`]; files are counted back from the one opened last.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Start {
        name: usize,
        known: bool,
    },
    Write {
        file: usize,
        from: usize,
        to: usize,
        source: Source,
    },
    WriteBeyond {
        file: usize,
    },
    Truncate {
        file: usize,
        cut: usize,
        more: usize,
    },
    Flush {
        file: usize,
        closer: Closer,
    },
    Fsync {
        file: usize,
        closer: Closer,
    },
    Release {
        file: usize,
    },
    Rename {
        from: usize,
        to: usize,
        replace: bool,
    },
    Unlink {
        name: usize,
    },
    Lookup {
        name: usize,
    },
    Read {
        name: usize,
        offset: usize,
        bytes: usize,
    },
    ReadBack {
        file: usize,
        offset: usize,
        bytes: usize,
    },
    List,
    Restart,
}

/// An operation, and what goes wrong with the store meanwhile.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) operation: Operation,
    pub(crate) faults: Vec<(usize, Fault)>,
}

/// One line each, also where a whole sequence is printed prettily.
impl fmt::Debug for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, faults) = (&self.operation, &self.faults);
        out.write_str(&format!("{operation:?} {faults:?}"))
    }
}

impl From<Operation> for Step {
    fn from(operation: Operation) -> Self {
        let faults = Vec::new();
        Self { operation, faults }
    }
}

/// Up to 30 deeds, some of which are many operations in a row.
pub(crate) fn steps(
    faults: impl Strategy<Value = Vec<(usize, Fault)>> + Clone,
) -> impl Strategy<Value = Vec<Step>> {
    let single =
        (operation(), faults.clone()).prop_map(|(operation, faults)| vec![Step { operation, faults }]);
    let copier = (copy(), faults, any::<prop::sample::Index>()).prop_map(|(operations, faults, at)| {
        let mut steps: Vec<Step> = operations.into_iter().map(Step::from).collect();
        let at = at.index(steps.len());
        steps[at].faults = faults;
        steps
    });
    prop::collection::vec(prop_oneof![2 => single, 3 => copier], 1..30).prop_map(|deeds| deeds.concat())
}

/// Faults that end within a few attempts, or with an answer.
pub(crate) fn answered() -> impl Strategy<Value = Vec<(usize, Fault)>> + Clone {
    use ErrorKind::{AlreadyExists, Damaged, Denied, Permanent, Transient};
    let fault = prop_oneof![
        3 => Just(Fault::Fails(Transient)),
        3 => Just(Fault::LosesAnswer(Transient)),
        1 => Just(Fault::Fails(Damaged)),
        1 => Just(Fault::Fails(Denied)),
        1 => Just(Fault::Fails(Permanent)),
        1 => Just(Fault::LosesAnswer(Permanent)),
        1 => Just(Fault::Fails(AlreadyExists)),
    ];
    some_of(fault)
}

/// Faults that last.
pub(crate) fn lasting() -> impl Strategy<Value = Vec<(usize, Fault)>> + Clone {
    some_of(prop_oneof![Just(Fault::Hangs), Just(Fault::DoesAndHangs)])
}

fn some_of(
    fault: impl Strategy<Value = Fault> + Clone,
) -> impl Strategy<Value = Vec<(usize, Fault)>> + Clone {
    prop_oneof![
        5 => Just(Vec::new()),
        2 => prop::collection::vec((0usize..4, fault), 1..3),
    ]
}

fn name() -> impl Strategy<Value = usize> {
    0..NAMES.len()
}

/// Mostly the last or the one before.
fn file() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0usize), 2 => Just(1), 1 => 0usize..6]
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        8 => Just(Source::Right),
        3 => Just(Source::Other),
        1 => Just(Source::Foreign),
        1 => Just(Source::Misplaced),
        1 => Just(Source::Zeros),
    ]
}

fn closer() -> impl Strategy<Value = Closer> {
    prop_oneof![2 => Just(Closer::Unknown), 2 => Just(Closer::Opener), 1 => Just(Closer::Killed)]
}

fn operation() -> impl Strategy<Value = Operation> {
    let span = (0..PIECES, 1..=PIECES).prop_map(|(from, length)| (from, (from + length).min(PIECES)));
    prop_oneof![
        2 => (name(), any::<bool>()).prop_map(|(name, known)| Operation::Start { name, known }),
        4 => (file(), span, source())
            .prop_map(|(file, (from, to), source)| Operation::Write { file, from, to, source }),
        1 => file().prop_map(|file| Operation::WriteBeyond { file }),
        2 => (file(), 0..=PIECES, prop_oneof![5 => Just(0usize), 1 => Just(5)])
            .prop_map(|(file, cut, more)| Operation::Truncate { file, cut, more }),
        3 => (file(), closer()).prop_map(|(file, closer)| Operation::Flush { file, closer }),
        2 => (file(), closer()).prop_map(|(file, closer)| Operation::Fsync { file, closer }),
        2 => file().prop_map(|file| Operation::Release { file }),
        4 => (name(), name(), any::<bool>())
            .prop_map(|(from, to, replace)| Operation::Rename { from, to, replace }),
        1 => name().prop_map(|name| Operation::Unlink { name }),
        2 => name().prop_map(|name| Operation::Lookup { name }),
        2 => (name(), 0usize..1_100_000, 0usize..300_000)
            .prop_map(|(name, offset, bytes)| Operation::Read { name, offset, bytes }),
        1 => (file(), 0usize..1_100_000, 0usize..300_000)
            .prop_map(|(file, offset, bytes)| Operation::ReadBack { file, offset, bytes }),
        1 => Just(Operation::List),
        1 => Just(Operation::Restart),
    ]
}

/// What a copier does, in one of the ways in which copiers do it.
fn copy() -> impl Strategy<Value = Vec<Operation>> {
    let order = prop_oneof![3 => Just(Order::Forward), 1 => Just(Order::Backward),
        1 => Just(Order::ZerosFirst), 1 => Just(Order::Sparse)];
    let renamed = prop_oneof![3 => Just(None), 1 => (0..FINALS, any::<bool>()).prop_map(Some)];
    (name(), source(), order, closer(), renamed, any::<bool>()).prop_map(
        |(name, source, order, closer, renamed, synced)| {
            let mut all = vec![Operation::Start {
                name,
                known: closer != Closer::Unknown,
            }];
            all.extend(order.writes(source));
            if synced {
                all.push(Operation::Fsync { file: 0, closer });
            }
            all.push(Operation::Flush { file: 0, closer });
            all.push(Operation::Release { file: 0 });
            all.extend(renamed.map(|(to, replace)| Operation::Rename {
                from: name,
                to,
                replace,
            }));
            all
        },
    )
}

#[derive(Debug, Clone, Copy)]
enum Order {
    Forward,
    Backward,
    ZerosFirst,
    Sparse,
}

impl Order {
    fn writes(self, source: Source) -> Vec<Operation> {
        let piece = |piece: usize, source| Operation::Write {
            file: 0,
            from: piece,
            to: piece + 1,
            source,
        };
        let whole = |source| Operation::Write {
            file: 0,
            from: 0,
            to: PIECES,
            source,
        };
        match self {
            Self::Forward => vec![
                Operation::Write {
                    file: 0,
                    from: 0,
                    to: 3,
                    source,
                },
                Operation::Write {
                    file: 0,
                    from: 3,
                    to: PIECES,
                    source,
                },
            ],
            Self::Backward => (0..PIECES).rev().map(|index| piece(index, source)).collect(),
            Self::ZerosFirst => vec![whole(Source::Zeros), piece(0, source), whole(source)],
            Self::Sparse => vec![
                piece(0, source),
                piece(2, source),
                Operation::Truncate {
                    file: 0,
                    cut: PIECES,
                    more: 0,
                },
            ],
        }
    }
}
