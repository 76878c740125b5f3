//! `bench merge`: the shards of a run as one run.

use std::path::PathBuf;

use super::drive::print_results;
use crate::{
    bench::{
        merge::{self, MergeError},
        results::RunFolder,
        run::NewRunFolder,
    },
    cli::{CommandError, Exit, Global},
};

/// What to merge.
#[derive(Debug, clap::Args)]
pub(super) struct MergeArgs {
    /// The folders of all shards
    #[arg(required = true, value_name = "DIR")]
    shards: Vec<PathBuf>,
    /// Folder for the whole run; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn merge(args: MergeArgs, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let out = NewRunFolder::create(args.out.as_deref(), "merged")?;
    let shards: Vec<_> = args.shards.iter().map(|path| RunFolder::open(path)).collect();
    merge::merge(&shards, out.folder()).map_err(|error| match error {
        MergeError::Refused(_) => CommandError::usage(error),
        MergeError::Folder(_) => CommandError::invalid_data(error),
    })?;
    let summary = print_results(out.folder())?;
    Ok(match summary.all_languages_micro.failed {
        0 => Exit::Done,
        _ => Exit::FailedItems,
    })
}
