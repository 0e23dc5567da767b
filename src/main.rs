//! The `walfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    walfs::cli::main()
}
