//! `man`: the manual as pages for `man`, one for each command.

use std::{fs, path::PathBuf};

use anyhow::Context as _;

use super::{Exit, Global};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for the pages, such as /usr/local/share/man/man1; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Writes the pages of `program`, the whole command line. They have no date, so that the same program writes the same pages.
pub(crate) fn run(args: &Args, program: clap::Command, global: &Global) -> anyhow::Result<Exit> {
    let context = || format!("cannot write the pages into {}", args.to.display());
    fs::create_dir_all(&args.to).with_context(context)?;
    clap_mangen::generate_to(program, &args.to).with_context(context)?;
    if !global.quiet {
        let first = args.to.join("babelward.1");
        eprintln!("The pages begin with {0}: man {0}", first.display());
    }
    Ok(Exit::Done)
}
