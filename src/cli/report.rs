//! `report`: makes summary and report of a run folder again, from its results; of several, a study.

mod study;

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

pub(super) use self::study::tell_group;
use super::{
    CommandError, Exit, Global,
    output::{counted, print_line},
    validate,
};
use crate::bench::{
    jurisdictions::{self, Jurisdiction},
    report::{
        self, Sheet, formats, tables,
        texts::{self, Disagreements},
    },
    results::{ItemRecord, RunFolder, RunInfo},
    scores::{
        comparable::{PromptFingerprints, RunFacts},
        result_table::ResultTable,
        what_if::Filter,
    },
    statistics::Bootstrap,
    summary::{self, Options, Summary},
    taxonomy::Category,
};

/// Make a run's summary and report again; of several runs, a study that compares them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folders
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Write every figure as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the tables as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the tables as LaTeX, shaped like the paper's
    #[arg(long, value_name = "FILE")]
    latex: Option<PathBuf>,
    /// Show the paper's figures of the same model beside ours
    #[arg(long)]
    paper: bool,
    /// Put prompts and answers into the report: they may be harmful
    #[arg(long)]
    include_text: bool,
    /// Categories to leave out of the consistency, to see what that changes
    #[arg(long, value_delimiter = ',', value_parser = category, default_values = summary::PLURAL)]
    exclude: Vec<Category>,
    /// Score by a policy too, which says in TOML or JSON which categories count (see docs/benchmark.md); repeatable
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// Try a filter on the answers: threshold=0.3, or guard=2 for the run's second guard; repeatable
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    what_if: Vec<Filter>,
    /// What is known of the models of a study: a JSON object of name to family, billions, tuning
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Quality scores of a study's translations: `translate`'s candidates.jsonl, or a file with id, language, translator and
    /// comet, metricx or human; repeatable
    #[arg(long, value_name = "FILE")]
    quality: Vec<PathBuf>,
    /// Folder for a study's files; the runs' own where `bench run` made them together
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Reads `results.jsonl`, writes `summary.json` and `report.html`.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let dirs: Vec<PathBuf> = args.dirs.iter().flat_map(|dir| runs_in(dir)).collect();
    match &dirs[..] {
        [dir] => one(dir, &args),
        dirs => study::study(dirs, &args),
    }
}

/// A run of several targets is a folder of runs.
fn runs_in(dir: &Path) -> Vec<PathBuf> {
    let is_run = |path: &Path| path.join("run.json").exists();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut runs: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| is_run(path))
        .collect();
    runs.sort();
    match is_run(dir) || runs.is_empty() {
        true => vec![dir.to_owned()],
        false => runs,
    }
}

/// A run's table, without its texts.
pub(super) fn load(dir: &Path) -> anyhow::Result<(RunFolder, RunInfo, ResultTable)> {
    read_run(dir, |_| {})
}

/// The same with what is to be known of a run to compare it with others.
pub(super) fn load_to_compare(dir: &Path) -> anyhow::Result<(RunFolder, RunInfo, ResultTable, RunFacts)> {
    let mut prompts = PromptFingerprints::default();
    let (folder, info, table) = read_run(dir, |record| prompts.add(record))?;
    let facts = RunFacts::of(&info, &table, prompts);
    Ok((folder, info, table, facts))
}

fn read_run(
    dir: &Path,
    mut see: impl FnMut(&ItemRecord),
) -> anyhow::Result<(RunFolder, RunInfo, ResultTable)> {
    let folder = RunFolder::open(dir);
    let mut read = || {
        let info = folder.complete_info()?;
        let records = folder.records()?;
        let records = records.inspect(|record| {
            if let Ok(record) = record {
                see(record);
            }
        });
        let table = ResultTable::collect(info.settings.guards.len(), records)?;
        Ok((info, table))
    };
    let read: Result<_, crate::bench::results::FolderError> = read();
    let (info, table) = read.map_err(CommandError::invalid_data)?;
    Ok((folder, info, table))
}

/// The summary of a complete run, written with its report.
pub(super) fn renew(dir: &Path) -> anyhow::Result<(RunFolder, Summary)> {
    let (folder, info, table) = load(dir)?;
    let summary = Summary::of(info, &table, &Options::default());
    write(&folder, &summary, None)?;
    Ok((folder, summary))
}

/// Writes `summary.json` and `report.html`.
pub(super) fn write(
    folder: &RunFolder,
    summary: &Summary,
    disagreements: Option<&Disagreements>,
) -> anyhow::Result<()> {
    folder.write("summary.json", &report::figures(summary, disagreements)?)?;
    folder.write("report.html", &report::html_with(summary, disagreements)?)?;
    Ok(())
}

fn one(dir: &Path, args: &Args) -> anyhow::Result<Exit> {
    if !args.quality.is_empty() {
        let message = "--quality is for studies: the same prompts by several translators, a run for each";
        return Err(CommandError::usage(message).into());
    }
    let (folder, info, table) = load(dir)?;
    let guards = info.settings.guards.len();
    for filter in &args.what_if {
        if let Filter::Guard(guard) = filter
            && *guard >= guards
        {
            return Err(CommandError::usage(format!(
                "--what-if guard={}: the run has {}",
                guard + 1,
                counted(guards, "guard", "guards")
            ))
            .into());
        }
    }
    let options = Options {
        exclude: args.exclude.clone(),
        jurisdictions: jurisdictions(&args.policy)?,
        filters: args.what_if.clone(),
        validation: validate::of_folder(&folder, &table)?,
        paper: args.paper,
        bootstrap: Bootstrap::default(),
    };
    let summary = Summary::of(info, &table, &options);
    let mut disagreements = texts::disagreements(&table);
    if args.include_text {
        texts::add_texts(&folder, &mut disagreements).map_err(CommandError::invalid_data)?;
    }
    write(&folder, &summary, Some(&disagreements))?;
    write_tables(args, &tables::sheets(&summary))?;
    match &args.json {
        Some(path) => {
            let figures = report::figures(&summary, Some(&disagreements))?;
            write_to(Some(path), || figures)?;
        }
        None => {
            let mut text = summary::text_table(&summary);
            if args.paper && summary.paper.is_none() {
                text += &format!(
                    "\nthe paper prints no figures of {}\n",
                    summary.run.settings.target
                );
            }
            print_line(&format!(
                "{text}\nreport  {}",
                folder.file("report.html").display()
            ))?;
        }
    }
    Ok(Exit::Done)
}

/// Reads the jurisdictions to score by.
fn jurisdictions(paths: &[PathBuf]) -> Result<Vec<Jurisdiction>, CommandError> {
    jurisdictions::read_all(paths).map_err(CommandError::invalid_data)
}

fn write_tables(args: &Args, sheets: &[Sheet]) -> anyhow::Result<()> {
    write_to(args.markdown.as_deref(), || formats::markdown(sheets))?;
    write_to(args.csv.as_deref(), || formats::csv(sheets))?;
    write_to(args.latex.as_deref(), || formats::latex(sheets))
}

/// Reads a JSON file that the user wrote.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parsed = serde_json::from_str(&text);
    Ok(parsed.map_err(|error| CommandError::invalid_data(format!("{}: {error}", path.display())))?)
}

/// Writes to a file, or to standard output for `-`; nothing without a path.
pub(super) fn write_to(path: Option<&Path>, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match path {
        Some(path) if path.as_os_str() == "-" => io::stdout().lock().write_all(text().as_bytes())?,
        Some(path) => fs::write(path, text()).with_context(|| path.display().to_string())?,
        None => {}
    }
    Ok(())
}

pub(super) fn category(key: &str) -> Result<Category, String> {
    Category::parse(key).map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<Filter, String> {
    let expected = || format!("`{text}` is no filter; filters are threshold=0.3 (in 0 to 1) and guard=2");
    match text.split_once('=').ok_or_else(expected)? {
        ("threshold", value) => match value.parse() {
            Ok(threshold) if (0.0..=1.0).contains(&threshold) => Ok(Filter::Threshold(threshold)),
            _ => Err(expected()),
        },
        ("guard", number) => match number.parse::<usize>() {
            Ok(number) if number > 1 => Ok(Filter::Guard(number - 1)),
            _ => Err(expected()),
        },
        _ => Err(expected()),
    }
}
