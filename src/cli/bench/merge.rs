//! `bench merge`: the shards of a run as one run.

use std::path::PathBuf;

use super::{Job, drive::tell};
use crate::{
    bench::{
        merge::{self, MergeError},
        results::RunFolder,
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
    let job = Job::open(args.out.as_deref(), "merged")?;
    let shards: Vec<_> = args.shards.iter().map(|path| RunFolder::open(path)).collect();
    merge::merge(&shards, job.folder()).map_err(|error| match error {
        MergeError::Refused(_) => CommandError::usage(error),
        MergeError::Folder(_) => CommandError::invalid_data(error),
    })?;
    let summary = tell(job.folder())?;
    Ok(match summary.all_languages_micro.failed {
        0 => Exit::Done,
        _ => Exit::FailedItems,
    })
}
