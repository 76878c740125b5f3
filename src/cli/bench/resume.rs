//! `bench resume` and `bench rescore`: runs that go on from what another sitting, or another run, has left.

use std::path::{Path, PathBuf};

use super::drive::{Patience, drive, drive_group, exit_of, print_results};
use crate::{
    bench::{
        dataset::Dataset,
        results::{RunFolder, RunGroup, RunStatus},
        run::{Failures, NewRunFolder, Run, check_served},
        settings::{Controversial, DatasetInfo, RunSettings},
    },
    cli::{CommandError, Connection, Exit, Global, policy::PolicyArgs},
    client::PolicyChoice,
};

/// Which run to go on with.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// The run's folder, or that of several runs that were begun together
    dir: PathBuf,
    /// Also ask the items again that ended with an error; without this they stay failed
    #[arg(long)]
    retry_failed: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// What to judge again.
#[derive(Debug, clap::Args)]
pub(super) struct RescoreArgs {
    /// The run's folder
    dir: PathBuf,
    /// Guard to judge with; repeatable, the verdicts of the first are the scores. Without it the run's own guards judge
    /// again, by the policy that is given
    #[arg(long, value_name = "ID", required_unless_present_any = ["policy", "policy_file", "own_policy"])]
    guard: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Judge by the categories that each guard was trained on, where the run had another policy
    #[arg(long, conflicts_with_all = ["policy", "policy_file"])]
    own_policy: bool,
    /// What a guard's label "controversial" counts as in all figures: unsafe or safe; as in the run when absent
    #[arg(long, value_name = "LABEL")]
    controversial: Option<Controversial>,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub(super) connection: Connection,
}

pub(super) fn resume(args: &ResumeArgs, global: &Global) -> anyhow::Result<Exit> {
    let failures = match args.retry_failed {
        true => Failures::AskAgain,
        false => Failures::Keep,
    };
    let folder = RunFolder::open(&args.dir);
    let Some(group) = RunGroup::read(&folder)? else {
        if !folder.file("run.json").exists() {
            let message = format!(
                "{}: there is neither run.json nor runs.json. It is no run, or was stopped before it asked anything: \
                 begin again in another folder",
                args.dir.display()
            );
            return Err(CommandError::invalid_data(message).into());
        }
        return drive(Run::open(folder, failures)?, &args.dir, args.patience, global);
    };
    drive_group(&folder, &group, failures, args.patience, global)
}

/// Goes on with the run in `out`, or shows it when it is complete. Where none has begun there it removes what a start that was
/// stopped has left, and returns `None`.
pub(super) fn go_on(
    out: &Path,
    dataset: &Dataset,
    settings: &RunSettings,
    patience: Patience,
    global: &Global,
) -> anyhow::Result<Option<Exit>> {
    let folder = RunFolder::open(out);
    if !folder.file("run.json").exists() {
        Run::remove_unbegun(&folder)?;
        return Ok(None);
    }
    let info = folder.info()?;
    if info.settings != *settings || info.dataset != DatasetInfo::from(dataset) {
        let message = format!(
            "--out {}: the run there has other prompts or other settings; name another folder, or remove this one",
            out.display()
        );
        return Err(CommandError::invalid_data(message).into());
    }
    if info.status == RunStatus::Complete {
        return Ok(Some(exit_of(&print_results(&folder)?)));
    }
    let run = Run::open(folder, Failures::Keep)?;
    drive(run, out, patience, global).map(Some)
}

pub(super) fn rescore(args: RescoreArgs, global: &Global) -> anyhow::Result<Exit> {
    let out = NewRunFolder::create(args.out.as_deref(), "rescore")?;
    let source = RunFolder::open(&args.dir);
    let settings = source.complete_info()?.settings;
    let policy = match args.policy.choice()? {
        // Neither a policy nor --own-policy was given: only the guards change.
        PolicyChoice::Native if !args.own_policy => settings.policy,
        given => given,
    };
    let guards = match args.guard.is_empty() {
        true => settings.guards,
        false => args.guard,
    };
    global.block_on(async { Ok(check_served(&global.connect().await?, &guards, &policy).await?) })?;
    let run = Run::rescore(out.folder().clone(), &source, guards, policy, args.controversial)?;
    drive(run, out.folder().path(), args.patience, global)
}
