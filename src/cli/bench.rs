//! `bench run`: the benchmark against a running server.

mod import;

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Subcommand;

use super::{
    CommandError, Exit, Global,
    data_source::DataArgs,
    global::time,
    report::{self, category},
};
use crate::{
    bench::{
        dataset::Dataset,
        plan::{Plan, RowLimit, Selection},
        progress::{RunProgress, View},
        results::RunFolder,
        run::{Failures, Run},
        settings::{DatasetInfo, Prompting, RunKind, RunSettings, Sampling, Until},
        summary::{self, Options, Summary},
        taxonomy::{Category, Language},
    },
    client::Client,
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
}

/// What to run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Model that answers; the server's default when absent
    #[arg(long, default_value = "")]
    target: String,
    /// The target continues the prompt's raw text, as base models do, instead of answering in its chat template
    #[arg(long)]
    raw: bool,
    /// Model that judges; the server's default when absent. Repeated: each judges every answer, the first counts
    #[arg(long, default_value = "")]
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
    /// Most items that are open at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
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
}

/// What to judge again.
#[derive(Debug, clap::Args)]
struct RescoreArgs {
    /// The run's folder
    dir: PathBuf,
    /// Model that judges; repeatable, the first counts
    #[arg(long, required = true)]
    guard: Vec<String>,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    patience: Patience,
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
            let run = Run::rescore(job.folder.clone(), &RunFolder::open(&args.dir), args.guard)?;
            drive(run, args.patience, global)
        }
        Command::Import(args) => import::import(args, global),
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
        shard: None,
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

/// The folder that a run will be written to; removed again when nothing comes of it.
pub(super) struct Job {
    folder: RunFolder,
}

impl Job {
    /// `out`, or the first free `runs/<name>-<n>`. Opened first, so that nobody waits for a run that then
    /// cannot be kept.
    pub(super) fn open(out: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        if let Some(path) = out {
            return Ok(Self {
                folder: RunFolder::create(path)?,
            });
        }
        for n in 1.. {
            let path = Path::new("runs").join(format!("{name}-{n}"));
            if !path.exists() {
                return Ok(Self {
                    folder: RunFolder::create(&path)?,
                });
            }
        }
        Err(CommandError::usage("no free folder under runs; name one with --out").into())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.folder.remove_if_empty();
    }
}

/// What becomes of a run that does not get to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Somebody goes on with it later.
    Resumable,
    /// It is told as it is: what is open has failed.
    Told,
}

/// A new run over a prompt set.
pub(super) fn begin(job: &Job, dataset: &Dataset, settings: RunSettings) -> anyhow::Result<Run> {
    let plan =
        Plan::new(dataset, &settings.selection).map_err(|error| CommandError::usage(error.to_string()))?;
    Ok(Run::create(
        job.folder.clone(),
        &plan,
        settings,
        DatasetInfo::from(dataset),
    )?)
}

/// Drives a run to its end or to Ctrl-C, and writes and prints what came of it.
pub(super) async fn finish(
    client: &Client,
    mut run: Run,
    retry_for: Duration,
    unfinished: Unfinished,
    global: &Global,
) -> anyhow::Result<Exit> {
    let view = match (global.quiet, std::io::stderr().is_terminal()) {
        (true, _) => View::Silent,
        (false, true) => View::Bars,
        (false, false) => View::Lines,
    };
    let mut progress = RunProgress::new(run.planned(), view);
    for (language, label) in run.made()? {
        progress.made(language, label);
    }
    let folder = run.folder().clone();
    let mut on_event = |event| progress.on_event(event);
    let driven = tokio::select! {
        driven = run.drive(client, retry_for, &mut on_event) => Some(driven),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    let given_up = match &driven {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("stopped by the user".to_owned()),
    };
    if given_up.is_some() && (unfinished == Unfinished::Resumable || run.made()?.is_empty()) {
        let resume = format!(
            "what was judged is kept; go on with: babelward bench resume {}",
            folder.path().display()
        );
        return match driven {
            Some(Err(error)) => Err(anyhow::Error::new(error).context(resume)),
            _ => {
                eprintln!("babelward: {resume}");
                Ok(Exit::Interrupted)
            }
        };
    }
    run.complete(given_up.as_deref())?;
    let (folder, info, table) = report::load(folder.path())?;
    let summary = Summary::of(info, &table, &Options::default());
    report::write(&folder, &summary, None)?;
    print!("{}", summary::table(&summary));
    let demo =
        summary.run.settings.kind == RunKind::MechanismDemo || summary.run.provenance.guard_is_target();
    if demo {
        println!("\nThese verdicts are a mechanism demo and not a safety judgement.");
    }
    println!("\nreport  {}", folder.file("report.html").display());
    println!("results {}", folder.file("results.jsonl").display());
    Ok(match driven {
        None => Exit::Interrupted,
        Some(Err(error)) => return Err(error).context("the run ended early; what was judged is kept"),
        Some(Ok(())) if summary.all_languages_micro.failed > 0 => Exit::FailedItems,
        Some(Ok(())) => Exit::Done,
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
