//! `bench run`: the benchmark against a running server.

mod drive;
mod import;
mod merge;
mod run;
mod translators;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Subcommand;

pub(super) use self::{
    drive::{Job, Unfinished, begin, check_served, finish},
    translators::SCORES,
};
use super::{
    CommandError, Connection, Exit, Global, global::time, output::print_line, policy::PolicyArgs, report,
};
use crate::{
    bench::{
        results::{RunFolder, RunGroup, RunStatus},
        run::{Failures, Run},
        taxonomy::Language,
    },
    client::PolicyChoice,
};

/// Run the benchmark against a server.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a prompt set against the server
    Run(Box<run::RunArgs>),
    /// Continue a run that ended early, by Ctrl-C or a failure: what has been judged is kept, the rest is asked
    Resume(ResumeArgs),
    /// Judge the answers of a complete run again, with other guards or by another policy, as a run of its own; no answer
    /// is generated again
    Rescore(RescoreArgs),
    /// Make runs of verdicts that were made elsewhere
    Import(import::ImportArgs),
    /// Put the shards of a run together
    Merge(merge::MergeArgs),
}

/// Which run to go on with.
#[derive(Debug, clap::Args)]
struct ResumeArgs {
    /// The run's folder, or that of several runs that were begun together
    dir: PathBuf,
    /// Ask the items that ended with an error once more, too; without this they stay failed
    #[arg(long)]
    retry_failed: bool,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connection: Connection,
}

/// What to judge again.
#[derive(Debug, clap::Args)]
struct RescoreArgs {
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
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connection: Connection,
}

impl Args {
    /// The flags of those that call a server.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.command {
            Command::Run(args) => Some(&args.connection),
            Command::Resume(args) => Some(&args.connection),
            Command::Rescore(args) => Some(&args.connection),
            Command::Import(_) | Command::Merge(_) => None,
        }
    }
}

/// How long to go on trying.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Patience {
    /// How long to go on trying while the server answers nothing, such as 5m; then the run stops, and can be resumed
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    retry_for: Duration,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Run(args) => run::run(&args, global),
        Command::Resume(args) => resume(&args, global),
        Command::Rescore(args) => {
            let job = Job::open(args.out.as_deref(), "rescore")?;
            let source = RunFolder::open(&args.dir);
            let settings = source.complete_info()?.settings;
            let policy = match args.policy.choice()? {
                // Who names neither wants other guards.
                PolicyChoice::Native if !args.own_policy => settings.policy,
                given => given,
            };
            let guards = match args.guard.is_empty() {
                true => settings.guards,
                false => args.guard,
            };
            global.block_on(async { check_served(&global.connect().await?, &guards, &policy).await })?;
            let run = Run::rescore(job.folder().clone(), &source, guards, policy)?;
            drive(run, job.folder().path(), args.patience, global)
        }
        Command::Import(args) => import::import(args, global),
        Command::Merge(args) => merge::merge(args, global),
    }
}

fn resume(args: &ResumeArgs, global: &Global) -> anyhow::Result<Exit> {
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
    drive_all(&folder, &group, failures, args.patience, global)
}

/// Drives the runs of a group one after the other; those that are complete stay as they are.
fn drive_all(
    folder: &RunFolder,
    group: &RunGroup,
    failures: Failures,
    patience: Patience,
    global: &Global,
) -> anyhow::Result<Exit> {
    let mut exit = Exit::Done;
    for member in &group.runs {
        let own = RunFolder::open(&folder.file(&member.folder));
        if failures == Failures::Keep && own.info()?.status == RunStatus::Complete {
            eprintln!("babelward: {} is complete", own.path().display());
            continue;
        }
        print_line(&format!("\n{}", member.title()))?;
        match drive(Run::open(own, failures)?, folder.path(), patience, global)? {
            Exit::Done => {}
            Exit::Interrupted => return Ok(Exit::Interrupted),
            other => exit = other,
        }
    }
    print_line("")?;
    report::tell_group(folder)?;
    print_line(&format!(
        "\nall targets: babelward report {}",
        folder.path().display()
    ))?;
    Ok(exit)
}

/// Drives a run; `resumed` is the folder to go on with when it does not get to its end.
fn drive(run: Run, resumed: &Path, patience: Patience, global: &Global) -> anyhow::Result<Exit> {
    let unfinished = Unfinished::Resumable(resumed);
    global.block_on(async {
        let client = global.connect().await?;
        finish(&client, run, patience.retry_for, unfinished, global).await
    })
}

pub(super) fn language(code: &str) -> Result<Language, String> {
    Language::parse(code).map_err(|e| e.to_string())
}
