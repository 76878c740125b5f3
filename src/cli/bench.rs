//! `bench run`: the benchmark against a running server.

mod drive;
mod import;
mod merge;

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;

pub(super) use self::drive::{Job, Unfinished, begin, finish};
use super::{Connection, Exit, Global, data_source::DataArgs, global::time, report::category};
use crate::bench::{
    plan::{RowLimit, Selection},
    results::RunFolder,
    run::{Failures, Run},
    settings::{Prompting, RunKind, RunSettings, Sampling, Shard, Until},
    taxonomy::{Category, Language},
};

/// The benchmark.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a prompt set against the server
    Run(RunArgs),
    /// Go on with a run that was stopped, by whatever it was
    Resume(ResumeArgs),
    /// Let other guards judge the answers of a complete run; nothing is generated again
    Rescore(RescoreArgs),
    /// Make runs of verdicts that were made elsewhere
    Import(import::ImportArgs),
    /// Put the shards of a run together
    Merge(merge::MergeArgs),
}

/// What to run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Model that answers; the server's default when absent
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    target: String,
    /// The target continues the prompt's raw text, as base models do, instead of answering in its chat template
    #[arg(long)]
    raw: bool,
    /// Model that judges; the server's default when absent. Repeated: each judges every answer, the first counts
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    guard: Vec<String>,
    /// Languages, such as en,de; all of the set when absent
    #[arg(long, value_delimiter = ',', value_parser = language)]
    languages: Vec<Language>,
    /// Categories, such as crime_tax; all when absent
    #[arg(long, value_delimiter = ',', value_parser = category)]
    categories: Vec<Category>,
    /// Take the first so many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Most tokens of an answer (the paper's: 200)
    #[arg(long, default_value_t = 200)]
    max_new_tokens: u32,
    /// 0 is greedy
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// 1 is off
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// What the items' sampling seeds are made from. Several, such as 0,1,2: every prompt is asked once with each
    #[arg(long, default_value = "0", value_delimiter = ',')]
    seed: Vec<u64>,
    /// Ask no more of a language and category once the 95 % interval of its safe share is this narrow: ci=0.02 is
    /// two points to either side
    #[arg(long, value_name = "ci=WIDTH", value_parser = until)]
    until: Option<Until>,
    /// Take one part of the rows, such as 1/4; other machines take the others, `bench merge` puts them together
    #[arg(long, value_name = "I/N", conflicts_with = "until")]
    shard: Option<Shard>,
    /// Most items that are open at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    connection: Connection,
}

/// Which run to go on with.
#[derive(Debug, clap::Args)]
struct ResumeArgs {
    /// Its folder
    dir: PathBuf,
    /// Ask again what has failed
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
    /// Model that judges; repeatable, the first counts
    #[arg(long, value_name = "ID", required = true)]
    guard: Vec<String>,
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

/// How long to try.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Patience {
    /// Try a server that answers nothing for so long, such as 5m
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    retry_for: Duration,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Run(args) => run_set(args, global),
        Command::Resume(args) => {
            let failures = if args.retry_failed {
                Failures::AskAgain
            } else {
                Failures::Keep
            };
            drive(
                Run::open(RunFolder::open(&args.dir), failures)?,
                args.patience,
                global,
            )
        }
        Command::Rescore(args) => {
            let job = Job::open(args.out.as_deref(), "rescore")?;
            let run = Run::rescore(job.folder().clone(), &RunFolder::open(&args.dir), args.guard)?;
            drive(run, args.patience, global)
        }
        Command::Import(args) => import::import(args, global),
        Command::Merge(args) => merge::merge(args, global),
    }
}

fn run_set(args: RunArgs, global: &Global) -> anyhow::Result<Exit> {
    let dataset = args.data.dataset(global)?;
    let job = Job::open(args.out.as_deref(), "bench")?;
    let mut seeds = args.seed;
    seeds.sort_unstable();
    seeds.dedup();
    let settings = RunSettings {
        kind: RunKind::Benchmark,
        target: args.target,
        prompting: if args.raw {
            Prompting::Raw
        } else {
            Prompting::Template
        },
        guards: args.guard,
        selection: Selection {
            languages: args.languages,
            categories: args.categories,
            limit: args.limit.map_or(RowLimit::All, RowLimit::First),
        },
        sampling: Some(Sampling {
            max_new_tokens: args.max_new_tokens,
            temperature: args.temperature,
            top_p: args.top_p,
        }),
        seeds,
        shard: args.shard,
        until: args.until,
        concurrency: usize::from(args.concurrency),
    };
    // Connected first: without a server no run begins.
    let patience = args.patience;
    global.block_on(async {
        let client = global.connect().await?;
        let run = begin(&job, &dataset, settings)?;
        finish(&client, run, patience.retry_for, Unfinished::Resumable, global).await
    })
}

fn drive(run: Run, patience: Patience, global: &Global) -> anyhow::Result<Exit> {
    global.block_on(async {
        let client = global.connect().await?;
        finish(&client, run, patience.retry_for, Unfinished::Resumable, global).await
    })
}

pub(super) fn language(code: &str) -> Result<Language, String> {
    Language::parse(code).map_err(|e| e.to_string())
}

fn until(text: &str) -> Result<Until, String> {
    let width = text.strip_prefix("ci=").and_then(|width| width.parse().ok());
    match width {
        Some(half_width) if half_width > 0.0 && half_width < 0.5 => Ok(Until { half_width }),
        _ => Err("write ci= and a width between 0 and 0.5, such as ci=0.02".to_owned()),
    }
}
