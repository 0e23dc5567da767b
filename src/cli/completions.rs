//! `walfs completions`: what a shell asks when TAB is pressed.

use std::io::Write;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::out::Out;
use super::{Cli, complain};

/// The shells that there are completions for.
const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "elvish"];

/// Print what makes a shell complete the commands and options of walfs
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  . <(walfs completions bash)
  walfs completions bash > /usr/share/bash-completion/completions/walfs
  walfs completions zsh > /usr/share/zsh/vendor-completions/_walfs
  walfs completions fish > /usr/share/fish/vendor_completions.d/walfs.fish

The Debian package has them in these places.")]
pub struct CompletionsArgs {
    /// Whose language
    #[arg(value_name = "SHELL", value_parser = shell())]
    shell: Shell,
}

fn shell() -> impl TypedValueParser<Value = Shell> {
    PossibleValuesParser::new(SHELLS).try_map(|name| name.parse::<Shell>())
}

/// Runs `walfs completions`.
pub(super) fn print(arguments: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut visible(&Cli::command()),
        "walfs",
        &mut script,
    );
    let mut out = Out::new();
    match out.write_all(&script).and_then(|()| out.end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Without what `--help` does not show, which would be offered, too.
fn visible(whole: &Command) -> Command {
    let below = whole.get_subcommands().filter(|below| !below.is_hide_set());
    Command::new("walfs")
        .args(whole.get_arguments())
        .subcommands(below)
}
