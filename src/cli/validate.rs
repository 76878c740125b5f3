//! `validate`: draws answers for people to label, and holds the guard against the labels.

mod files;
mod label;
mod print;
mod sheet;

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;

use self::{
    files::{Key, Places, StoredLabel, StoredLabels},
    sheet::Entry,
};
use super::{
    CommandError, Exit, Global,
    output::{counted, print_line},
    report::{category, load, read_json, write_to},
};
use crate::bench::{
    report::texts,
    results::RunFolder,
    scores::{
        result_table::ResultTable,
        validation::{Label, Validation, draw, item_name, validate},
    },
    summary,
    taxonomy::Category,
};

/// Where labels lie in a run's folder.
const LABELS: &str = "labels.json";

/// Find out how often a run's guard errs: people label a sample of its answers without seeing the verdicts, and the labels
/// are compared with them.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw a sample of a run's answers, and write a CSV file for each person to label them in; verdicts are left out
    Sample(SampleArgs),
    /// Label a sample in the browser, on a page of this machine that does not show the guard's verdicts
    Label(label::LabelArgs),
    /// Compare the labels with the verdicts: how often people and guard agree, and what the run's figures are once the
    /// guard's errors are taken out. `report` shows both from then on
    Score(ScoreArgs),
}

#[derive(Debug, clap::Args)]
struct SampleArgs {
    /// Run folder
    run: PathBuf,
    /// Folder for the CSV files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Answers to draw
    #[arg(short, long, default_value_t = 200)]
    number: usize,
    /// Categories that get more than their share
    #[arg(long, value_delimiter = ',', value_parser = category, default_values = summary::PLURAL)]
    hard: Vec<Category>,
    /// People who label
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    annotators: u8,
    /// Another seed draws other answers
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, clap::Args)]
struct ScoreArgs {
    /// Run folder
    run: PathBuf,
    /// `key.json` of the sample
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The labelled CSV files
    #[arg(required = true, value_name = "CSV")]
    labels: Vec<PathBuf>,
    /// Labels of a further person in a CSV file of the same kind: they decide the answers on which the others differ, and
    /// those of which nobody else could say
    #[arg(long, value_name = "CSV")]
    adjudicated: Option<PathBuf>,
    /// Write everything as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    match args.command {
        Command::Sample(args) => sample(&args),
        Command::Label(args) => label::label(&args, global),
        Command::Score(args) => score(&args),
    }
}

fn sample(args: &SampleArgs) -> anyhow::Result<Exit> {
    let (folder, _, table) = load(&args.run)?;
    let sample = draw(&table, &args.hard, args.number, args.seed);
    let drawn = &sample.drawn;
    if drawn.is_empty() {
        return Err(
            CommandError::invalid_data("the run has no answer that was judged safe or unsafe").into(),
        );
    }
    let order: HashMap<usize, usize> = drawn
        .iter()
        .enumerate()
        .map(|(place, drawn)| (drawn.item, place))
        .collect();
    let prompts = texts::prompts(&folder);
    let mut entries: Vec<Option<Entry>> = vec![None; drawn.len()];
    let mut key = Key::new(&sample.strata);
    let records = folder.records().map_err(CommandError::invalid_data)?;
    for (index, record) in records.enumerate() {
        let record = record.map_err(CommandError::invalid_data)?;
        let Some(&place) = order.get(&index) else {
            continue;
        };
        let answer = record.answer().and_then(|answer| answer.text.clone());
        let prompt = prompts.get(&(record.id.to_string(), record.language));
        let name = item_name(&record);
        entries[place] = Some(Entry {
            item: name.clone(),
            language: record.language,
            category: record.category,
            prompt: prompt.cloned().unwrap_or_default(),
            answer: answer.unwrap_or_default(),
        });
        key.insert(drawn[place].stratum, name);
    }
    // What people wrote into a sample is never overwritten.
    RunFolder::create(&args.out)?;
    let write = |name: &str, text: &str| {
        let path = args.out.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let entries: Vec<Entry> = entries.into_iter().flatten().collect();
    write(sheet::SAMPLE, &sheet::sample_lines(&entries))?;
    let text = sheet::csv(&entries, &HashMap::new());
    for annotator in 1..=args.annotators {
        write(&format!("annotator-{annotator}.csv"), &text)?;
    }
    write("key.json", &(serde_json::to_string_pretty(&key)? + "\n"))?;
    print_line(&format!(
        "{} in {}: each person fills the column label of one annotator-N.csv with safe, unsafe or \
         unsure (cannot say).\nOr in the browser: babelward validate label {}\nThen: babelward validate score {} --key {} {}",
        counted(drawn.len(), "answer", "answers"),
        args.out.display(),
        args.out.display(),
        args.run.display(),
        args.out.join("key.json").display(),
        (1..=args.annotators)
            .map(|n| args.out.join(format!("annotator-{n}.csv")).display().to_string())
            .collect::<Vec<_>>()
            .join(" ")
    ))?;
    Ok(Exit::Done)
}

fn score(args: &ScoreArgs) -> anyhow::Result<Exit> {
    let (folder, _, table) = load(&args.run)?;
    let key: Key = read_json(&args.key)?;
    let sampled: HashSet<&str> = key.items().collect();
    let read = |path: &PathBuf| -> anyhow::Result<HashMap<String, Label>> {
        let labels = sheet::read_labels(path)?;
        match labels.keys().find(|item| !sampled.contains(item.as_str())) {
            None => Ok(labels),
            Some(other) => Err(not_sampled(other, path, &args.key).into()),
        }
    };
    let labels: Vec<_> = args.labels.iter().map(read).collect::<Result<_, _>>()?;
    let adjudicated = args.adjudicated.as_ref().map(read).transpose()?;
    if labels.iter().all(HashMap::is_empty) {
        return Err(CommandError::invalid_data("nobody has labelled anything yet").into());
    }
    let sample = key.sample(&Places::new(&table), &table)?;
    let stored = StoredLabels {
        strata: sample.strata,
        labels: sample
            .items
            .into_iter()
            .map(|(item, stratum)| StoredLabel {
                labels: labels.iter().map(|labels| labels.get(&item).copied()).collect(),
                adjudicated: adjudicated.as_ref().and_then(|labels| labels.get(&item).copied()),
                item,
                stratum,
            })
            .collect(),
    };
    folder.write(LABELS, &(serde_json::to_string_pretty(&stored)? + "\n"))?;
    let validation = held_against(&table, stored)?;
    write_to(args.json.as_deref(), || {
        serde_json::to_string_pretty(&validation).unwrap_or_default() + "\n"
    })?;
    if args.json.is_none() {
        print_line(&print::text(&validation))?;
    }
    Ok(Exit::Done)
}

fn not_sampled(item: &str, labels: &Path, key: &Path) -> CommandError {
    let message = format!(
        "{}: {item} is not in the sample of {}",
        labels.display(),
        key.display()
    );
    CommandError::invalid_data(message)
}

/// The labels in a run's folder, if there are any, held against its guard.
pub(super) fn of_folder(folder: &RunFolder, table: &ResultTable) -> anyhow::Result<Option<Validation>> {
    let path = folder.file(LABELS);
    if !path.exists() {
        return Ok(None);
    }
    let stored = files::read_labels(&path, table)?;
    Ok(Some(held_against(table, stored)?))
}

fn held_against(table: &ResultTable, stored: StoredLabels) -> anyhow::Result<Validation> {
    let places = Places::new(table);
    let (strata, labelled) = stored.placed(&places)?;
    Ok(validate(table, &strata, &labelled))
}
