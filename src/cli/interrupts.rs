//! Signals that end a command which has something to clean up: SIGINT and SIGTERM. A terminal that is closed ends nothing.
//!
//! The first one is the command's to act on. `timeout -s INT` and a terminal's Ctrl-C under it send two at once, to the
//! process and to its group, and both mean the same: so a second one changes nothing but says that the cleaning up goes
//! on, and only the third, or SIGQUIT, ends it at once. What was ignored when walfs was started (`&` in a shell
//! script) stays so.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, with their names and what the exit code of whoever they end is: 128 and their number.
const SIGNALS: [(libc::c_int, &str); 2] = [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")];

/// Listens to the signals.
#[derive(Debug)]
pub(super) struct Interrupts {
    heard: Vec<(Signal, &'static str)>,
}

impl Interrupts {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    /// The system does not let us listen.
    pub(super) fn listen() -> std::io::Result<Self> {
        let wanted = SIGNALS.into_iter().filter(|(number, _)| !is_ignored(*number));
        let heard = wanted.map(|(number, name)| Ok((signal(SignalKind::from_raw(number))?, name)));
        Ok(Self {
            heard: heard.collect::<std::io::Result<_>>()?,
        })
    }

    /// Waits for one, and gives its name.
    pub(super) async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|context| {
            let mut heard = self.heard.iter_mut();
            let come = heard.find_map(|(signal, name)| signal.poll_recv(context).is_ready().then_some(*name));
            come.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    /// Waits for the first one, and gives its name. From then on the third ends the process.
    pub(super) async fn first(mut self) -> &'static str {
        let first = self.next().await;
        tokio::spawn(async move {
            self.next().await;
            super::complain(&"cleaning up; the next signal, or SIGQUIT, ends it at once");
            let third = self.next().await;
            std::process::exit(code(third).into())
        });
        first
    }
}

/// The exit code of a process that the signal of this name has ended.
pub(super) fn exit_code(name: &str) -> ExitCode {
    ExitCode::from(code(name))
}

fn code(name: &str) -> u8 {
    let known = SIGNALS.into_iter().find(|(_, known)| *known == name);
    known.map_or(1, |(number, _)| 128 + number as u8)
}

/// Is a signal ignored, as whoever started this process wished?
fn is_ignored(number: libc::c_int) -> bool {
    // SAFETY: only asks; the structure is plain numbers, for which zeros are right.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(number, std::ptr::null(), &raw mut now) == 0 && now.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(["SIGINT", "SIGTERM"].map(code), [130, 143]);
    }
}
