//! Faults on demand: which requests they hit and what happens to those.
//!
//! Only says what is to happen; `front.rs` and `net.rs` make it happen.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::request::{Logged, Operation};

/// What happens to a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// The store is not asked; this is answered instead. See [`Action::error`] and its friends.
    Answer {
        status: u16,
        content_type: &'static str,
        body: String,
    },
    /// The connection is reset before the store is asked, the body unread.
    Reset,
    /// The store does it; then the connection is closed without an answer.
    LoseAnswer,
    /// The store does it; of the answer's body only so many bytes are sent, at most all but one, then the connection
    /// is closed. `Content-Length` is that of the whole.
    CutBody(usize),
    /// The store does it; the byte of the answer's body at this offset is sent with its lowest bit turned over.
    FlipBody(usize),
    /// The store is asked only after this time. It is asked even if the client has gone away meanwhile.
    Delay(Duration),
    /// Nothing happens, the body stays unread, until the rule is removed; then the connection is reset.
    Hang,
    /// The store is not asked; the answer is a 200 whose body is an `<Error>`, as S3 gives it to a
    /// CompleteMultipartUpload.
    ErrorIn200,
}

impl Action {
    /// An S3 error of any status and code.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::Answer {
            status,
            content_type: "application/xml",
            body: error_xml(code),
        }
    }

    /// 503: the store wants fewer requests.
    pub(crate) fn slow_down() -> Self {
        Self::error(503, "SlowDown")
    }

    /// 500: something broke in the store.
    pub(crate) fn internal_error() -> Self {
        Self::error(500, "InternalError")
    }

    /// 403 by a store that calls the client's session over. (S3 itself says it with 400: `error(400, "ExpiredToken")`.)
    pub(crate) fn expired_token() -> Self {
        Self::error(403, "ExpiredToken")
    }

    /// A 404 in HTML, as of a proxy or a wrong host: says nothing about the object.
    pub(crate) fn html_404() -> Self {
        let body = "<html><head><title>404 Not Found</title></head><body>nginx</body></html>".to_owned();
        Self::Answer {
            status: 404,
            content_type: "text/html",
            body,
        }
    }
}

/// The body of an S3 error.
pub(crate) fn error_xml(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>A fault of the test server.\
         </Message><RequestId>fault</RequestId></Error>"
    )
}

/// Which requests an action hits. Without more words: all of them, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    action: Action,
    method: Option<String>,
    operation: Option<Operation>,
    key_part: Option<String>,
    spared: u64,
    times: u64,
    chance: Option<(f64, fastrand::Rng)>,
}

impl Rule {
    /// Every request.
    pub(crate) fn new(action: Action) -> Self {
        let (method, operation, key_part, chance) = (None, None, None, None);
        Self {
            action,
            method,
            operation,
            key_part,
            spared: 0,
            times: u64::MAX,
            chance,
        }
    }

    /// Only this HTTP method.
    pub(crate) fn method(self, method: &str) -> Self {
        Self {
            method: Some(method.to_owned()),
            ..self
        }
    }

    /// Only this operation.
    pub(crate) fn operation(self, operation: Operation) -> Self {
        Self {
            operation: Some(operation),
            ..self
        }
    }

    /// Only keys (of a listing: prefixes) that contain this text.
    pub(crate) fn key(self, part: &str) -> Self {
        Self {
            key_part: Some(part.to_owned()),
            ..self
        }
    }

    /// Spares the first `spared` matching requests.
    pub(crate) fn after(self, spared: u64) -> Self {
        Self { spared, ..self }
    }

    /// Hits at most so many requests.
    pub(crate) fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// Hits the `nth` matching request (the first is 1) and no other.
    pub(crate) fn nth(self, nth: u64) -> Self {
        self.after(nth - 1).times(1)
    }

    /// Hits each matching request with this probability (0 to 1), the same ones for the same seed.
    pub(crate) fn probability(self, chance: f64, seed: u64) -> Self {
        Self {
            chance: Some((chance, fastrand::Rng::with_seed(seed))),
            ..self
        }
    }

    fn matches(&self, request: &Logged) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| *method == request.method)
            && self
                .operation
                .is_none_or(|operation| operation == request.operation)
            && self
                .key_part
                .as_ref()
                .is_none_or(|part| request.key.contains(part))
    }
}

/// The name of a rule in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleId(u64);

/// The rule of [`Faults::blackhole`]; others count from 1.
const BLACKHOLE: RuleId = RuleId(0);

#[derive(Debug)]
struct InForce {
    id: RuleId,
    rule: Rule,
    seen: u64,
    hits: u64,
}

impl InForce {
    fn new(id: RuleId, rule: Rule) -> Self {
        Self {
            id,
            rule,
            seen: 0,
            hits: 0,
        }
    }

    fn hit(&mut self, request: &Logged) -> bool {
        if !self.rule.matches(request) {
            return false;
        }
        self.seen += 1;
        if self.seen <= self.rule.spared || self.hits >= self.rule.times {
            return false;
        }
        let hit = self
            .rule
            .chance
            .as_mut()
            .is_none_or(|(chance, rng)| rng.f64() < *chance);
        self.hits += u64::from(hit);
        hit
    }
}

/// The rules in force. The first one that hits a request, in the order they were added, decides alone.
#[derive(Debug)]
pub(crate) struct Faults {
    rules: Mutex<(u64, Vec<InForce>)>,
    changed: watch::Sender<()>,
}

impl Faults {
    /// No faults.
    pub(crate) fn new() -> Self {
        Self {
            rules: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    fn rules(&self) -> MutexGuard<'_, (u64, Vec<InForce>)> {
        self.rules.lock().expect("no holder of the lock panics")
    }

    /// Puts a rule in force.
    pub(crate) fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.rules();
        rules.0 += 1;
        let id = RuleId(rules.0);
        rules.1.push(InForce::new(id, rule));
        id
    }

    /// Ends a rule, and with it the hanging of those it made hang. Returns how often it hit.
    pub(crate) fn remove(&self, id: RuleId) -> u64 {
        let hits = self.hits(id);
        self.rules().1.retain(|in_force| in_force.id != id);
        self.changed.send_replace(());
        hits
    }

    /// Ends all rules but the black hole.
    pub(crate) fn clear(&self) {
        self.rules().1.retain(|in_force| in_force.id == BLACKHOLE);
        self.changed.send_replace(());
    }

    /// How many requests the rule has hit; 0 once it is removed.
    pub(crate) fn hits(&self, id: RuleId) -> u64 {
        self.rules()
            .1
            .iter()
            .find(|in_force| in_force.id == id)
            .map_or(0, |in_force| in_force.hits)
    }

    /// Makes every request hang, whatever the other rules say, or ends that.
    pub(crate) fn blackhole(&self, on: bool) {
        self.remove(BLACKHOLE);
        if on {
            self.rules()
                .1
                .insert(0, InForce::new(BLACKHOLE, Rule::new(Action::Hang)));
        }
    }

    /// What is to happen to a request, and which rule says so.
    pub(crate) fn choose(&self, request: &Logged) -> Option<(RuleId, Action)> {
        let mut rules = self.rules();
        let hit = rules
            .1
            .iter_mut()
            .find_map(|in_force| in_force.hit(request).then_some(in_force))?;
        Some((hit.id, hit.rule.action.clone()))
    }

    /// Returns once the rule is no longer in force.
    pub(crate) async fn removed(&self, id: RuleId) {
        let mut changed = self.changed.subscribe();
        while self.rules().1.iter().any(|in_force| in_force.id == id) {
            changed.changed().await.expect("self holds the sender");
        }
    }
}
