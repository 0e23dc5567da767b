//! `walfs man`: a manual page of each command, for packages. What `--help` says, as man(1) shows it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::beneath::Root;

use super::{Cli, complain};

/// Write walfs.1, and walfs-COMMAND.1 of each command, into a directory
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct ManArgs {
    /// Is there already; pages of these names in it are replaced
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs `walfs man`.
pub(super) fn write(arguments: &ManArgs) -> ExitCode {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let directory = &arguments.directory;
    match Root::open(directory).and_then(|directory| write_pages(&command, &directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!(
                "cannot write manual pages into {directory:?}: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

/// Of this command and of those below it.
fn write_pages(command: &Command, directory: &Root) -> io::Result<()> {
    let version = concat!("walfs ", env!("CARGO_PKG_VERSION"));
    let page = Man::new(command.clone()).source(version).manual("walfs manual");
    directory.write(Path::new(&page.get_filename()), &rendered(command, &page)?, 0o644)?;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    below
        .into_iter()
        .try_for_each(|below| write_pages(below, directory))
}

fn rendered(command: &Command, page: &Man) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    synopsis(command).to_writer(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    notes(command).to_writer(&mut text)?;
    Ok(text)
}

/// As `--help` has it. The library's names every option, without its value.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for (at, line) in usage.trim_start_matches("Usage:").lines().enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        roff.text([roman(line.trim())]);
    }
    roff
}

/// The manual below the options: examples, files, exit codes. The page of the library would fill its lines as it does
/// sentences, and keep no heading apart.
fn notes(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let Some(notes) = command.get_after_long_help() else {
        return roff;
    };
    roff.control("SH", ["NOTES"]);
    for request in ["nh", "ad l"] {
        roff.control(request, []);
    }
    for line in notes.to_string().lines() {
        match line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            Some(heading) => roff.control("SS", [heading]),
            None => roff.text([roman(line)]),
        };
    }
    roff
}
