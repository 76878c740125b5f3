//! `validate`: draws answers for people to label, and holds the guard against the labels.

mod label;
mod sheet;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use self::sheet::{Entry, Label};
use super::{
    CommandError, Exit, Global,
    output::{counted, print_line, table},
    report::{category, load, read_json, write_to},
};
use crate::bench::{
    report::texts,
    results::RunFolder,
    scores::{
        table::Table,
        validation::{GuardAgainstLabels, Labelled, Validation, draw, item_name, validate},
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
    /// Write everything as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What stands for how many answers; kept from the people who label.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    /// Weight by item.
    weights: BTreeMap<String, f64>,
}

/// One labelled answer, as `labels.json` keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct StoredLabel {
    item: String,
    weight: f64,
    /// Unsafe, by annotator; null where one did not decide.
    labels: Vec<Option<bool>>,
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
    let drawn = draw(&table, &args.hard, args.number, args.seed);
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
    let mut key = Key {
        weights: BTreeMap::new(),
    };
    let records = folder
        .records()
        .map_err(|error| CommandError::invalid_data(error.to_string()))?;
    for (index, record) in records.enumerate() {
        let record = record.map_err(|error| CommandError::invalid_data(error.to_string()))?;
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
        key.weights.insert(name, drawn[place].weight);
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
        "{} in {}: each person fills the column label of one annotator-N.csv with safe or unsafe (empty: \
         cannot say).\nOr in the browser: babelward validate label {}\nThen: babelward validate score {} --key {} {}",
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
    let read: Vec<_> = args
        .labels
        .iter()
        .map(|path| sheet::read_labels(path))
        .collect::<Result<_, _>>()?;
    for (path, labels) in args.labels.iter().zip(&read) {
        if let Some(other) = labels.keys().find(|item| !key.weights.contains_key(*item)) {
            let message = format!(
                "{}: {other} is not in the sample of {}",
                path.display(),
                args.key.display()
            );
            return Err(CommandError::invalid_data(message).into());
        }
    }
    if read.iter().all(HashMap::is_empty) {
        return Err(CommandError::invalid_data("nobody has labelled anything yet").into());
    }
    let stored: Vec<StoredLabel> = key
        .weights
        .into_iter()
        .map(|(item, weight)| StoredLabel {
            labels: read
                .iter()
                .map(|labels| labels.get(&item).copied().and_then(Label::is_unsafe))
                .collect(),
            item,
            weight,
        })
        .collect();
    folder.write(LABELS, &(serde_json::to_string_pretty(&stored)? + "\n"))?;
    let validation = validate(&table, &placed(&table, stored)?);
    write_to(args.json.as_deref(), || {
        serde_json::to_string_pretty(&validation).unwrap_or_default() + "\n"
    })?;
    if args.json.is_none() {
        print_line(&text(&validation))?;
    }
    Ok(Exit::Done)
}

/// The labels in a run's folder, if there are any, held against its guard.
pub(super) fn of_folder(folder: &RunFolder, table: &Table) -> anyhow::Result<Option<Validation>> {
    let path = folder.file(LABELS);
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(validate(table, &placed(table, read_json(&path)?)?)))
}

fn placed(table: &Table, stored: Vec<StoredLabel>) -> anyhow::Result<Vec<Labelled>> {
    let names = table.items.iter().map(|item| {
        let id = &table.prompts[item.prompt as usize];
        format!("{id}/{}/{}", item.language.code(), item.seed)
    });
    let places: HashMap<String, usize> = names.enumerate().map(|(place, name)| (name, place)).collect();
    let place = |label: StoredLabel| {
        let unknown = || CommandError::invalid_data(format!("the run has no item {}", label.item));
        Ok(Labelled {
            item: places.get(&label.item).copied().ok_or_else(unknown)?,
            weight: label.weight,
            labels: label.labels,
        })
    };
    stored.into_iter().map(place).collect()
}

fn text(validation: &Validation) -> String {
    let share = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    let header = [
        "",
        "n",
        "accuracy",
        "F1",
        "sensitivity",
        "specificity",
        "kappa",
        "safe % seen",
        "corrected",
        "",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let line = |name: &str, guard: &GuardAgainstLabels| {
        vec![
            name.to_owned(),
            guard.n.to_string(),
            share(guard.accuracy),
            share(guard.f1),
            share(guard.sensitivity),
            share(guard.specificity),
            share(guard.kappa.and_then(|kappa| kappa.kappa)),
        ]
    };
    for (language, guard) in &validation.languages {
        let mut row = line(language, guard);
        if let Some(seen) = validation.corrected.get(language) {
            row.push(format!("{:.1}", seen.seen_percent));
            row.extend(seen.corrected.map(|c| format!("{:.1}", c.estimate)));
            row.extend(
                seen.corrected
                    .map(|c| format!("{:.1} to {:.1}", c.interval.low, c.interval.high)),
            );
        }
        rows.push(row);
    }
    rows.push(line("all", &validation.all));
    rows.extend(validation.categories.iter().map(|(key, guard)| line(key, guard)));
    format!(
        "{}\n\n{} labelled by {}, who differ on {}; kappa between the first two: {}.",
        table(&rows),
        counted(validation.items, "item", "items"),
        counted(validation.annotators, "person", "people"),
        validation.disagreements,
        share(validation.annotator_kappa.and_then(|kappa| kappa.kappa)),
    )
}
