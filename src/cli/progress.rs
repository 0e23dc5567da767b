//! Progress for a person who watches: a line that changes on a terminal. Elsewhere nothing, or what begins in a line each
//! for those who ask for it.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::job::backup::named;
use crate::job::progress::{Phase, Progress, Silent};

const COPYING: &str = "{msg} {bytes} of {total_bytes} ({percent} %), {bytes_per_sec}, {eta} left";

const COUNTING: &str = "{spinner} {msg}: {bytes}, {bytes_per_sec}";

const WAITING: &str = "{spinner} {msg}";

const LISTING: &str = "{spinner} {msg}: {pos}";

/// Between two turns of the spinner.
const TICK: Duration = Duration::from_millis(200);

/// A line on the terminal that goes with the work.
#[derive(Debug)]
struct Line(ProgressBar);

/// What shows progress here.
pub(super) fn on_terminal() -> Arc<dyn Progress> {
    if !std::io::stderr().is_terminal() {
        return Arc::new(Silent);
    }
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(TICK);
    Arc::new(Line(bar))
}

/// A line for each thing that begins.
#[derive(Debug)]
struct Lines;

/// What shows progress here; without a terminal only if `verbose`.
pub(super) fn shown(verbose: bool) -> Arc<dyn Progress> {
    match verbose && !std::io::stderr().is_terminal() {
        true => Arc::new(Lines),
        false => on_terminal(),
    }
}

impl Progress for Lines {
    fn phase(&self, phase: Phase<'_>) {
        super::complain(&words(phase));
    }

    fn advance(&self, _: u64) {}
}

/// What begins, in words.
fn words(phase: Phase<'_>) -> String {
    match phase {
        Phase::Checkpoint => "waiting for the server's checkpoint (--fast does not wait)".into(),
        Phase::Copying { files, bytes } => {
            format!("copying {files} files, {}", indicatif::BinaryBytes(bytes))
        }
        Phase::Comparing { bytes } => format!("comparing {}", indicatif::BinaryBytes(bytes)),
        Phase::Restoring { bytes } => format!("restoring {}", indicatif::BinaryBytes(bytes)),
        Phase::Verifying { bytes } => format!("verifying {}", indicatif::BinaryBytes(bytes)),
        Phase::Dumping(name) => format!("dumping {name}"),
        Phase::Syncing => "making everything durable".into(),
        Phase::Listing => "listing archived files".into(),
        Phase::Finishing => "ending backup mode, and storing the last files".into(),
        Phase::Waiting(time) => format!("waiting {} s before anything is removed", time.as_secs()),
        Phase::Removing => "removing objects".into(),
        Phase::Searching(segments) => format!("looking through the WAL of {segments} segments"),
        Phase::WaitingForWal(missing) => format!("waiting for WAL in the archive: {}", named(missing)),
    }
}

impl Line {
    fn show(&self, template: &str, message: String) {
        let style = ProgressStyle::with_template(template).expect("the templates above are right");
        self.0.set_style(style);
        self.0.set_message(message);
    }

    fn count(&self, bytes: u64, message: String) {
        self.0.reset();
        self.0.set_length(bytes);
        self.show(COPYING, message);
    }
}

impl Progress for Line {
    fn phase(&self, phase: Phase<'_>) {
        match phase {
            Phase::Copying { files, bytes } => self.count(bytes, format!("{files} files:")),
            Phase::Comparing { bytes } => self.count(bytes, "comparing:".into()),
            Phase::Restoring { bytes } => self.count(bytes, "restoring:".into()),
            Phase::Listing | Phase::Removing => self.show(LISTING, words(phase)),
            Phase::Dumping(_) => self.show(COUNTING, words(phase)),
            Phase::Verifying { bytes } => self.count(bytes, "verifying:".into()),
            other => self.show(WAITING, words(other)),
        }
    }

    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
