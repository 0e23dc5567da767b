//! `walfs status --all`: every archive of a place, a line each, the worst first.

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;

use futures::stream::{self, StreamExt};

use super::{StatusArgs, TROUBLE, keep, stamped};
use crate::archive::below;
use crate::assemble::{self, Stay};
use crate::cli::out::Out;
use crate::cli::wal::Failure;
use crate::config::Config;
use crate::job::progress::{Progress, Silent};
use crate::job::status::{Brief, Limits, State, metrics_of_all, status, table};
use crate::store::Patience;
use std::io::Write;

/// Archives that are looked at at once.
const LOOKS: usize = 8;

/// Tells of all, and gives the exit code of the worst.
pub(super) async fn show(arguments: &StatusArgs) -> Result<ExitCode, Failure> {
    let config = arguments.archive.config()?;
    let store = assemble::place(&config).await?;
    let patience = Patience::for_at_most(config.deadline);
    let mut names = below::list(&store, &config.location, &HashSet::new(), patience).await?;
    if names.is_empty() {
        return Err(match below::is_archive(&store, patience).await? {
            true => format!("{} is an archive itself\nHINT: leave --all away", config.place),
            false => format!("there is no archive right below {}", config.place),
        }
        .into());
    }
    names.sort();
    let limits = arguments.limits();
    let looks = stream::iter(names).map(|name| look(&config, name, limits));
    let mut briefs: Vec<Brief> = looks.buffered(LOOKS).collect().await;
    // The order of names stays among equals.
    briefs.sort_by_key(|brief| brief.state);
    tell(arguments, &briefs)?;
    Ok(match briefs.first().map(|worst| worst.state) {
        Some(State::Unread) => ExitCode::FAILURE,
        Some(State::Look) => ExitCode::from(TROUBLE),
        _ => ExitCode::SUCCESS,
    })
}

async fn look(place: &Config, name: String, limits: Limits) -> Brief {
    let Some(config) = place.below(&name) else {
        return Brief::unread(&name, "no archive can have this name".into());
    };
    let quiet: Arc<dyn Progress> = Arc::new(Silent);
    let look = async {
        let archive = Arc::new(assemble::archive(&config, Stay::Short, config.deadline).await?);
        let looked = status(&archive, None, &limits, &quiet, config.deadline).await?;
        Ok::<_, assemble::Error>(Brief::of(&name, &looked))
    };
    let looked = look.await;
    looked.unwrap_or_else(|error| Brief::unread(&name, error.to_string()))
}

fn tell(arguments: &StatusArgs, briefs: &[Brief]) -> Result<(), Failure> {
    let mut out = Out::new();
    let text = match (arguments.json, arguments.metrics) {
        (true, _) => {
            let lines: Result<Vec<String>, _> = briefs.iter().map(serde_json::to_string).collect();
            lines?.join("\n") + "\n"
        }
        (_, true) => stamped(metrics_of_all(briefs)),
        _ => table(briefs),
    };
    keep(arguments, &stamped(metrics_of_all(briefs)))?;
    out.write_all(text.as_bytes())?;
    Ok(out.end()?)
}
