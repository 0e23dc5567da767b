//! Backups by HTTP: the commands, as processes of their own.

use std::ffi::OsString;

use hyper::StatusCode;

use super::answer::{self, Answer};
use super::routes::Side;

impl Side {
    /// Takes a backup, and answers when it is complete.
    pub(super) async fn back_up(&self) -> Answer {
        let Ok(_only) = self.backing_up.try_lock() else {
            return answer::text(
                StatusCode::CONFLICT,
                "a backup that was asked for by HTTP is being taken",
            );
        };
        self.run("backup", &["--json".into()]).await
    }

    /// All backups, as JSON.
    pub(super) async fn list(&self) -> Answer {
        self.run("backup-list", &["--json".into()]).await
    }

    async fn run(&self, command: &'static str, arguments: &[OsString]) -> Answer {
        let mut stop = self.stop.clone();
        match self.program.run(command, arguments, &mut stop).await {
            Ok(ended) if ended.code == Some(0) => match ended.report {
                Some(report) => answer::typed(StatusCode::OK, "application/json", format!("{report}\n")),
                None => answer::text(StatusCode::INTERNAL_SERVER_ERROR, "it has printed nothing"),
            },
            Ok(ended) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, ended.words),
            Err(error) => answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("cannot start it: {error}"),
            ),
        }
    }
}
