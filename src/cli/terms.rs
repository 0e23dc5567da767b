//! Options on how versions are stored, of `walfs dump` and `walfs files`.

use std::time::Duration;

use clap::Args;

use crate::config::duration;
use crate::job::version::Terms;
use crate::linux::kernel::Owner;

/// How versions are stored.
#[derive(Debug, Args)]
#[command(next_help_heading = "Versions")]
pub(super) struct TermsArgs {
    /// Store everything, whatever earlier versions have; if nothing has changed, too
    #[arg(long)]
    full: bool,
    /// After so many versions in a row that build on earlier ones, store everything [default: never]
    ///
    /// Damage of something stored reaches no version before it, and at most so many behind the first that has it. What has not
    /// changed is not stored all the same.
    #[arg(
        long,
        value_name = "N",
        env = "WALFS_MAX_INCREMENTALS",
        hide_env_values = true
    )]
    max_incrementals: Option<u32>,
    /// Store everything when the newest version that stands alone is older than this, as 7d [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration, env = "WALFS_MAX_SPAN", hide_env_values = true)]
    max_span: Option<Duration>,
    /// To whom all that is stored belongs, by numbers [default: to whom it does; a dump to who takes it]
    #[arg(long, value_name = "UID:GID", value_parser = owner, env = "WALFS_OWNER", hide_env_values = true)]
    owner: Option<Owner>,
}

impl TermsArgs {
    pub(super) fn terms(&self) -> Terms {
        Terms {
            full: self.full,
            max_incrementals: self.max_incrementals,
            max_span: self.max_span,
            owner: self.owner,
        }
    }
}

fn owner(text: &str) -> Result<Owner, String> {
    let numbers = text.split_once(':').and_then(|(uid, gid)| {
        Some(Owner {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    });
    // The last number stands for no user (chown(2)).
    let known = numbers.filter(|owner| owner.uid != u32::MAX && owner.gid != u32::MAX);
    known.ok_or_else(|| format!("{text:?} is no UID:GID, such as 1000:1000"))
}
