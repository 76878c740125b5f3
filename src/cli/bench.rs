//! `bench run`: the benchmark against a running server.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;

use super::{CommandError, Exit, Global, data_source::DataArgs};
use crate::{
    bench::{
        dataset::Dataset,
        plan::{Plan, RowLimit, Selection},
        progress::{RunProgress, View},
        report,
        results::{FORMAT, FolderError, ItemRecord, Origin, RunFolder, RunInfo, RunStatus},
        run::{self, Run},
        settings::{DatasetInfo, Prompting, RunKind, RunSettings},
        summary::{self, Summary},
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
}

/// What to run.
#[derive(Debug, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Model that answers; the server's default when absent
    #[arg(long, default_value = "")]
    target: String,
    /// Model that judges; the server's default when absent
    #[arg(long, default_value = "")]
    guard: String,
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
    /// What the items' sampling seeds are made from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most items that are open at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let Command::Run(args) = args.command;
    let dataset = args.data.dataset(global)?;
    let job = Job::open(args.out.as_deref(), "bench")?;
    let settings = RunSettings {
        kind: RunKind::Benchmark,
        target: args.target,
        prompting: Prompting::Template,
        guards: vec![args.guard],
        selection: Selection {
            languages: args.languages,
            categories: args.categories,
            limit: args.limit.map_or(RowLimit::All, RowLimit::First),
        },
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seeds: vec![args.seed],
        shard: None,
        until: None,
        concurrency: usize::from(args.concurrency),
    };
    global.block_on(async {
        let client = global.connect().await?;
        run_and_report(&client, &dataset, settings, job, global).await
    })
}

/// The folder that a run will be written to; removed again when nothing comes of it.
pub(super) struct Job {
    path: PathBuf,
    folder: RunFolder,
}

impl Job {
    /// `out`, or the first free `runs/<name>-<n>`. Opened first, so that nobody waits for a run that then
    /// cannot be kept.
    pub(super) fn open(out: Option<&Path>, name: &str) -> anyhow::Result<Self> {
        if let Some(path) = out {
            return Ok(Self {
                path: path.to_owned(),
                folder: RunFolder::create(path)?,
            });
        }
        for n in 1.. {
            let path = Path::new("runs").join(format!("{name}-{n}"));
            if !path.exists() {
                return Ok(Self {
                    folder: RunFolder::create(&path)?,
                    path,
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

/// Drives a run to its end or to Ctrl-C, and writes and prints what came of it.
pub(super) async fn run_and_report(
    client: &Client,
    dataset: &Dataset,
    settings: RunSettings,
    job: Job,
    global: &Global,
) -> anyhow::Result<Exit> {
    let plan =
        Plan::new(dataset, &settings.selection).map_err(|error| CommandError::usage(error.to_string()))?;
    let view = match (global.quiet, std::io::stderr().is_terminal()) {
        (true, _) => View::Silent,
        (false, true) => View::Bars,
        (false, false) => View::Lines,
    };
    let mut progress = RunProgress::new(&plan, view);
    let mut run = Run::new(plan, settings.clone());
    let mut on_event = |event| progress.on_event(event);
    let driven = tokio::select! {
        driven = run.drive(client, &mut on_event) => Some(driven),
        _ = tokio::signal::ctrl_c() => None,
    };
    progress.finish();
    let ended = run.ended();
    let reason = match &driven {
        Some(Err(error)) => run::unanswered(error),
        _ => run::interrupted(),
    };
    if ended == 0 {
        return match driven {
            Some(Err(error)) => Err(error).context("no item was answered"),
            _ => Ok(Exit::Interrupted),
        };
    }
    let plan = run.plan_info();
    let finished = run.finish(&reason);
    let info = RunInfo {
        format: FORMAT.to_owned(),
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        status: RunStatus::Complete,
        origin: Origin::Run,
        settings,
        dataset: DatasetInfo::from(dataset),
        plan,
        provenance: finished.provenance,
        measured: finished.measured,
    };
    job.folder.save(
        &info,
        finished
            .records
            .iter()
            .cloned()
            .map(Ok::<ItemRecord, FolderError>),
    )?;
    let summary = Summary::new(info, &finished.records);
    write_report(&job.folder, &summary)?;
    print!("{}", summary::table(&summary));
    let demo =
        summary.run.settings.kind == RunKind::MechanismDemo || summary.run.provenance.guard_is_target();
    if demo {
        println!("\nThese verdicts are a mechanism demo and not a safety judgement.");
    }
    println!("\nreport  {}", job.path.join("report.html").display());
    println!("results {}", job.path.join("results.jsonl").display());
    Ok(match driven {
        None => Exit::Interrupted,
        Some(Err(error)) => return Err(error).context("the run ended early; what was judged is kept"),
        Some(Ok(())) if summary.all_languages_micro.failed > 0 => Exit::FailedItems,
        Some(Ok(())) => Exit::Done,
    })
}

/// Writes `summary.json` and `report.html`.
pub(super) fn write_report(folder: &RunFolder, summary: &Summary) -> anyhow::Result<()> {
    folder.write("summary.json", &(serde_json::to_string_pretty(summary)? + "\n"))?;
    folder.write("report.html", &report::html(summary)?)?;
    Ok(())
}

pub(super) fn language(code: &str) -> Result<Language, String> {
    Language::parse(code).map_err(|e| e.to_string())
}

fn category(key: &str) -> Result<Category, String> {
    Category::parse(key).map_err(|e| e.to_string())
}
