//! Random histories of an archive and its copy, pruned by random rules, against what a recovery would read (promises K3, K8):
//! backups that build on each other, timelines that fork and go on, lost segments and histories, pins, unfinished backups,
//! prunes and copies that die at any call. Without a server: what counts are names, parts and WAL.
//!
//! `PROPTEST_CASES` raises the number of histories.

use std::collections::BTreeSet;

use futures::FutureExt;
use jiff::SignedDuration;
use proptest::prelude::*;
use walfs::job::verify::{self, verify};

use self::check::View;
use self::history::World;
use self::place::{Place, going, quiet};
use self::step::{Step, Wanted, Which, step};
use crate::common::below::LONG;

mod check;
mod history;
mod place;
mod step;

impl World {
    fn place(&self, which: Which) -> &Place {
        match which {
            Which::Original => &self.original,
            Which::Copy => &self.copy,
        }
    }

    fn view(&self, which: Which) -> View<'_> {
        View {
            world: self,
            place: self.place(which),
            has_leavings: matches!(which, Which::Copy) && self.has_leavings,
        }
    }

    async fn prune(&self, which: Which, wanted: &Wanted) {
        let (place, view) = (self.place(which), self.view(which));
        let rules = wanted.rules();
        if !rules.keeps_any() {
            return;
        }
        let (reach, pinned) = (view.reach(), view.pinned());
        let before = place.backend.objects();
        let progress = quiet();
        let prune = place.prune_by(&rules, &progress);
        let planned = prune.plan().await.expect("plan");
        assert_eq!(place.backend.objects(), before, "a plan changed something");
        let done = prune.run().await.expect("prune");
        assert_eq!(going(&planned.0), going(&done.0), "plan and deed");
        assert_eq!(planned.1, done.1, "what was counted, and what was removed");
        assert_eq!(view.pinned(), pinned);
        view.check_kept(&done.0, &reach, wanted);
        view.check_nothing_unneeded(wanted);
        let after = place.backend.objects();
        let again = prune.run().await.expect("prune");
        assert_eq!(place.backend.objects(), after, "a second prune changed something");
        assert_eq!(going(&again.0), BTreeSet::new());
    }

    async fn prune_dies(&self, which: Which, wanted: &Wanted, calls: usize, done: bool) {
        let (place, view) = (self.place(which), self.view(which));
        let rules = wanted.rules();
        if !rules.keeps_any() {
            return;
        }
        let (reach, pinned) = (view.reach(), view.pinned());
        let progress = quiet();
        let prune = place.prune_by(&rules, &progress);
        place.backend.die_after(calls, done);
        tokio::select! {
            outcome = prune.run() => { outcome.expect("prune"); }
            () = place.backend.dead() => {}
        }
        place.backend.revive();
        place.bury();
        assert_eq!(view.pinned(), pinned);
        for backup in view.existing() {
            view.check_backup(backup, &reach, wanted.pitr_days.is_some());
        }
    }

    /// WAL that the copy lacks, in the order in which it goes there.
    fn wal_to_copy(&self) -> Vec<String> {
        let there = self.copy.stored("wal/");
        self.original.stored("wal/").difference(&there).cloned().collect()
    }

    async fn copy(&mut self) {
        let (before, reach) = (
            self.original.backend.objects(),
            self.view(Which::Original).reach(),
        );
        let report = self.original.copy_to(&self.copy).await;
        assert!(report.is_complete, "{report:?}");
        assert_eq!(
            self.original.backend.objects(),
            before,
            "the original was changed"
        );
        assert_eq!(self.wal_to_copy(), Vec::<String>::new());
        let view = self.view(Which::Copy);
        assert!(view.pinned().is_superset(&self.view(Which::Original).pinned()));
        for backup in self.view(Which::Original).existing() {
            assert!(self.copy.exists(backup), "{} is not in the copy", backup.name);
            view.check_content(backup);
        }
        // It may have what the original has lost since.
        let there = view.reach();
        for ((id, line), read) in &reach {
            let copied = &there[&(id.clone(), *line)];
            assert!(
                copied.len() >= read.len(),
                "{id} along {line}: {read:?}, in the copy {copied:?}"
            );
        }
        let after = self.copy.backend.objects();
        self.original.copy_to(&self.copy).await;
        assert_eq!(
            self.copy.backend.objects(),
            after,
            "the second run changed something"
        );
    }

    async fn copy_dies(&mut self, which: Which, calls: usize, done: bool) {
        let (before, reach) = (self.original.backend.objects(), self.view(Which::Copy).reach());
        let wanted = self.wal_to_copy();
        let dying = self.place(which).backend.clone();
        dying.die_after(calls, done);
        tokio::select! {
            _ = self.original.copy_to(&self.copy) => {}
            () = dying.dead() => {}
        }
        dying.revive();
        self.has_leavings = true;
        assert_eq!(
            self.original.backend.objects(),
            before,
            "the original was changed"
        );
        // No hole that the original has not: it came in the order of the WAL.
        let there = self.copy.stored("wal/");
        let came = wanted.iter().take_while(|key| there.contains(*key)).count();
        let late = wanted[came..].iter().find(|key| there.contains(*key));
        assert_eq!(late, None, "it came before {:?}", wanted.get(came));
        let view = self.view(Which::Copy);
        for backup in view.existing() {
            view.check_content(backup);
            if reach.keys().any(|(id, _)| *id == backup.id) {
                view.check_backup(backup, &reach, false);
            }
        }
    }

    /// Read back, nothing of a backup is damaged or missing. WAL was lost.
    async fn check_sound(&self) {
        for place in [&self.original, &self.copy] {
            let options = verify::Options::default();
            let report = verify(&place.archive, &options, &quiet(), LONG)
                .boxed()
                .await
                .expect("verify");
            let bad = |finding: &&verify::Finding| {
                ["trees/", "basebackups/", "prune/"]
                    .iter()
                    .any(|folder| finding.object.starts_with(folder))
            };
            let bad: Vec<_> = report.findings.iter().filter(bad).collect();
            assert!(bad.is_empty(), "{bad:?}");
        }
    }
}

fn run(steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        for step in steps {
            world.step(step).await;
        }
        // Whatever was begun is finished, and what is left is right.
        for step in [
            Step::DropUnfinished,
            Step::Copy,
            Step::Prune(Which::Original, Wanted::only_the_newest()),
            Step::Prune(Which::Copy, Wanted::only_the_newest()),
        ] {
            world.step(&step).await;
        }
        world.check_sound().await;
    });
}

/// The clock of a host that takes backups may be ahead: what is archived after its backup is not given up for that.
#[test]
fn k3_a_clock_that_is_ahead_gives_up_no_branch() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new().await;
        let backup = |changed| Step::Backup { segments: 0, changed };
        let archive = Step::Archive(2);
        let fork = Step::Fork {
            of: 0,
            back: 0,
            with_history: true,
        };
        world.step(&backup(0)).await;
        world.step(&archive).await;
        world.step(&fork).await;
        world.ahead = SignedDuration::from_hours(1);
        world.step(&backup(1)).await;
        world.step(&Step::Switch(0)).await;
        world.step(&archive).await;
        world.prune(Which::Original, &Wanted::only_the_newest()).await;
        assert!(
            world.original.exists(&world.backups[0]),
            "it alone reaches the end of timeline 1"
        );
    });
}

/// A number of histories that takes seconds, or what `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|text| text.parse().ok()).unwrap_or(usual),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn k3_whatever_happened_before(steps in prop::collection::vec(step(), 1..40)) {
        run(&steps);
    }
}
