//! The state of the archive for who asks again and again, in `.walfs/` or by HTTP: looked at when asked, kept for a while, and
//! with the store away what was seen last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::archive;
use crate::metrics::Counted;
use crate::metrics::exposition::Exposition;

/// How long a look is good enough for the next who asks, at least.
const FRESH: Duration = Duration::from_secs(1);

/// ... and how many times as long as it took: who asks all the time keeps the store busy for no more than a tenth of it.
const TIMES: u32 = 10;

/// ... but no longer than this: what is told is to be of now.
const STALE: Duration = Duration::from_secs(60);

/// A form in which the state is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// `status.txt`
    Screen,
    /// `status.json`
    Json,
    /// `status.svg`
    Picture,
    /// `metrics.prom`
    Metrics,
}

/// What was seen of the archive at one moment.
pub trait Seen: std::fmt::Debug + Send + Sync {
    /// In this form. `is_remembered`: the archive cannot be read now.
    fn told(&self, form: Form, is_remembered: bool) -> String;
}

/// Who looks at the archive.
#[async_trait]
pub trait Overview: std::fmt::Debug + Send + Sync {
    /// Looks at all of it.
    ///
    /// # Errors
    /// [`archive::Error`]
    async fn look(&self) -> Result<Box<dyn Seen>, archive::Error>;
}

/// What was seen, and until when it is good enough.
type Last = (Instant, Box<dyn Seen>);

/// A look that failed.
#[derive(Debug, Clone)]
struct Failed {
    at: Instant,
    /// Until then it is not tried again: a store that is away lets everybody wait for the whole deadline.
    until: Instant,
    error: Arc<archive::Error>,
}

/// The last look.
#[derive(Debug)]
pub struct Looks {
    overview: Arc<dyn Overview>,
    /// Who looks holds it: others wait for the same look.
    last: Mutex<Option<Last>>,
    /// When a look failed last, and how: whoever has waited for it need not look himself.
    failed: std::sync::Mutex<Option<Failed>>,
    bytes: [AtomicU64; 4],
}

impl Looks {
    pub(crate) fn new(overview: Arc<dyn Overview>) -> Self {
        Self {
            overview,
            last: Mutex::new(None),
            failed: std::sync::Mutex::new(None),
            bytes: Default::default(),
        }
    }

    /// How long the text was when it was told last.
    pub(crate) fn bytes(&self, form: Form) -> u64 {
        self.bytes[form as usize].load(Ordering::Relaxed)
    }

    /// The text.
    ///
    /// # Errors
    /// [`archive::Error`]: the archive cannot be read, and nothing was seen before.
    pub(crate) async fn told(&self, form: Form) -> Result<String, Arc<archive::Error>> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let begun = Instant::now();
        let is_fresh = last.as_ref().is_some_and(|(until, _)| begun < *until);
        let mut is_remembered = false;
        if !is_fresh {
            match (self.look_since(asked).await, &*last) {
                (Ok(seen), _) => {
                    let (now, took) = (Instant::now(), begun.elapsed());
                    *last = Some((now + (took * TIMES).clamp(FRESH, STALE), seen));
                }
                (Err(error), Some(_)) => {
                    tracing::warn!("the archive cannot be looked at; what was seen last is told: {error}");
                    is_remembered = true;
                }
                (Err(error), None) => return Err(error),
            }
        }
        let (_, seen) = last.as_ref().expect("it was seen just now, or before");
        let text = seen.told(form, is_remembered);
        self.bytes[form as usize].store(text.len() as u64, Ordering::Relaxed);
        Ok(text)
    }

    /// Looks, unless a look failed while this one was waited for, or no longer ago than it took.
    async fn look_since(&self, asked: Instant) -> Result<Box<dyn Seen>, Arc<archive::Error>> {
        let (begun, failed) = (
            Instant::now(),
            self.failed.lock().expect("no panic while held").clone(),
        );
        if let Some(failed) = failed.filter(|failed| failed.at >= asked || begun < failed.until) {
            return Err(failed.error);
        }
        let looked = self.overview.look().await.map_err(Arc::new);
        if let Err(error) = &looked {
            let (at, took) = (Instant::now(), begun.elapsed());
            *self.failed.lock().expect("no panic while held") = Some(Failed {
                at,
                until: at + took.min(STALE),
                error: error.clone(),
            });
        }
        looked
    }
}

/// All that a process has to tell to who watches: the state of the archive, and what it counts itself.
#[derive(Debug)]
pub struct Watched {
    looks: Arc<Looks>,
    counted: Vec<Arc<dyn Counted>>,
}

impl Watched {
    /// The state that these looks tell, and these counters; no name twice.
    pub(crate) fn new(looks: Arc<Looks>, counted: Vec<Arc<dyn Counted>>) -> Self {
        Self { looks, counted }
    }

    /// What looks at the archive.
    pub(crate) fn looks(&self) -> &Looks {
        &self.looks
    }

    /// All as metrics. An archive that cannot be read is one of them, and no error.
    pub(crate) async fn metrics(&self) -> String {
        let archive = self.looks.told(Form::Metrics).await;
        let mut own = Exposition::default();
        for counted in &self.counted {
            counted.expose(&mut own);
        }
        archive.unwrap_or_else(|_| Exposition::unread().text()) + &own.text()
    }
}
