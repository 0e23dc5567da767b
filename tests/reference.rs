//! Sequences of operations on the mounted directory, without a mount, against a small reference (promise W2 to W6, R1,
//! R3, S1, S2): what is archived is at every step exactly what the reference says, an operation that acknowledges
//! succeeds if and only if it is archived, and nothing archived ever changes. Writers go forward, backward, sparsely,
//! twice; are killed; race; the store fails, hangs, loses its answers; the daemon starts again.
//!
//! `PROPTEST_CASES` raises the number of sequences. What such a sequence has found stays as a test in `regression`.

mod model;
mod operation;
mod process;
mod regression;
mod sample;
mod world;

use std::sync::Arc;

use proptest::prelude::*;

use crate::common::scripted::Scripted;
use operation::{Step, answered, lasting, steps};
use world::World;

/// A number of sequences that takes seconds, or what `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|text| text.parse().ok()).unwrap_or(usual),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn run(backend: impl Future<Output = Arc<Scripted>>, hasty: bool, steps: &[Step]) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        World::new(backend.await, hasty).await.run(steps).await;
    });
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn store_with_conditional_writes(steps in steps(answered())) {
        run(async { Scripted::map(true) }, false, &steps);
    }
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn store_that_ignores_conditions(steps in steps(answered())) {
        run(async { Scripted::map(false) }, false, &steps);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn local_directory(steps in steps(answered())) {
        let directory = tempfile::tempdir().unwrap();
        run(Scripted::directory(directory.path()), false, &steps);
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn store_that_hangs(steps in steps(lasting())) {
        run(async { Scripted::map(true) }, true, &steps);
    }
}
