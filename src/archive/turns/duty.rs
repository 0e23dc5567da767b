//! What has turns of its own: a job, of all hosts together or of one.

use std::fmt;

use super::{Job, SCHEDULE};
use crate::linux::process::host_name;

/// What stands between a job and its host.
const AT: char = '@';

/// A job; of files, with the host whose they are: each has its own, and no other host can store them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duty {
    /// The job.
    pub job: Job,
    /// The only host that does it, if no other can: its name, as keys have it.
    pub host: Option<String>,
}

impl Duty {
    /// That of this host.
    pub fn here(job: Job) -> Self {
        let host = (job == Job::Files).then(|| written(&host_name()));
        Self { job, host }
    }

    /// That which has this folder below `schedule/`.
    pub(super) fn of_folder(name: &str) -> Option<Self> {
        let (job, host) = match name.split_once(AT) {
            Some((job, host)) => (job, Some(host.to_owned())),
            None => (name, None),
        };
        let job = Job::ALL.into_iter().find(|known| known.name() == job)?;
        let duty = Self { job, host };
        (duty.host.is_some() == (job == Job::Files)).then_some(duty)
    }

    pub(super) fn folder(&self) -> String {
        let host = self.host.iter().map(|host| format!("{AT}{host}"));
        format!("{SCHEDULE}{}{}/", self.job.name(), host.collect::<String>())
    }
}

/// For people.
impl fmt::Display for Duty {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.job.name())?;
        match &self.host {
            Some(host) => write!(out, " of {host}"),
            None => Ok(()),
        }
    }
}

/// A host's name, as a key may have it.
fn written(host: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".-_".contains(letter);
    host.chars()
        .map(|letter| if plain(letter) { letter } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_a_host_and_nothing_else_is() {
        let files = Duty {
            job: Job::Files,
            host: Some("db1.example.org".into()),
        };
        assert_eq!(files.folder(), "schedule/files@db1.example.org/");
        assert_eq!(Duty::of_folder("files@db1.example.org"), Some(files));
        assert_eq!(Duty::of_folder("backup"), Some(Duty::here(Job::Backup)));
        for odd in ["files", "backup@db1", "dance", ""] {
            assert_eq!(Duty::of_folder(odd), None, "{odd}");
        }
        assert!(Duty::here(Job::Files).host.is_some());
        assert_eq!(written("a/../b c"), "a_.._b_c");
    }
}
