//! `completions`: the script by which a shell completes commands and flags.

use std::io::{self, Write as _};

use clap_complete::Shell;

use super::Exit;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Shell that reads the script
    shell: Shell,
}

/// Prints the script for `program`, the whole command line.
pub(crate) fn run(args: &Args, program: clap::Command) -> anyhow::Result<Exit> {
    let mut program = visible(program);
    // In memory first: clap_complete panics where a script cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "babelward", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// The same without the commands that help does not show, which clap_complete would offer.
fn visible(program: clap::Command) -> clap::Command {
    let shown = program.get_subcommands().filter(|command| !command.is_hide_set());
    clap::Command::new("babelward")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(program.get_arguments())
        .subcommands(shown)
}
