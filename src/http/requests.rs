//! How many requests got which answer.

use hyper::{Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Counted;
use crate::metrics::exposition::Exposition;

/// What begins the paths that are answered; everything else is counted together.
const ROUTES: [&str; 12] = [
    "absent",
    "backup-list",
    "backup-push",
    "fetch",
    "metrics",
    "ping",
    "status",
    "status.json",
    "status.svg",
    "wal",
    "wal-fetch",
    "wal-push",
];

type Labels = [(&'static str, String); 3];

/// The counts: as many as there are routes, methods and answers, whatever is asked.
#[derive(Debug, Default)]
pub struct Requests(Family<Labels, Counter>);

impl Requests {
    /// One was answered.
    pub(super) fn answered(&self, method: &Method, path: &str, status: StatusCode) {
        let first = path.trim_start_matches('/').split('/').next();
        let route = ROUTES.iter().find(|route| Some(**route) == first);
        let route = route.map_or("other".to_owned(), |route| format!("/{route}"));
        let method = match *method {
            Method::GET | Method::HEAD | Method::POST | Method::PUT => method.as_str(),
            _ => "other",
        };
        let labels = [
            ("route", route),
            ("method", method.to_owned()),
            ("status", status.as_str().to_owned()),
        ];
        self.0.get_or_create(&labels).inc();
    }
}

impl Counted for Requests {
    fn expose(&self, metrics: &mut Exposition) {
        let help = "Requests by HTTP that were answered; of what is sent in pieces, that sending began";
        metrics.live("http_requests", help, self.0.clone());
    }
}
