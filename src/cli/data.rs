//! `data check` and `data convert`: checks and converts prompt sets before a run.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use super::{
    CommandError, Exit, Format, Global,
    data_source::{ReadArgs, source},
    output::{Color, counted, painted, print_json, print_line, table},
};
use crate::bench::{
    dataset::{CheckReport, Dataset, Expect, Problem, Wrapper, write_long},
    problem::{Kind as _, Severity},
};

/// Prompt sets.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check schema, encoding, languages and counts; lists every problem with its row
    Check(CheckArgs),
    /// Write a set in any format as JSON lines, one prompt per line
    Convert(ConvertArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExpectArg {
    /// Compare with M-ALERT's counts when the set has about as many rows
    Auto,
    /// Compare with M-ALERT's counts
    MAlert,
    /// Compare with no counts
    Any,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// The set: a file, or a hub's OWNER/NAME[/FILE]
    #[arg(value_name = "FILE|HUB_ID")]
    data: String,
    #[command(flatten)]
    read: ReadArgs,
    /// Which number of prompts per category to compare with
    #[arg(long, default_value = "auto")]
    expect: ExpectArg,
    /// Print one JSON document; the same as --format json
    #[arg(long)]
    json: bool,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// The set: a file, or a hub's OWNER/NAME[/FILE]
    #[arg(value_name = "FILE|HUB_ID")]
    data: String,
    #[command(flatten)]
    read: ReadArgs,
    /// Convert texts to Unicode's normal form C
    #[arg(long)]
    nfc: bool,
    /// File to write, which must not exist yet; standard output when absent
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Check(args) => check(&args, global),
        Command::Convert(args) => convert(&args, global),
    }
}

fn check(args: &CheckArgs, global: &Global) -> anyhow::Result<Exit> {
    let expect = match args.expect {
        ExpectArg::Auto => Expect::Auto,
        ExpectArg::MAlert => Expect::MAlert,
        ExpectArg::Any => Expect::Any,
    };
    let source = source(&args.data, global)?;
    let report = CheckReport::of(&source, args.read.options(), expect).map_err(CommandError::invalid_data)?;
    match (args.json, global.format) {
        (false, Format::Human) => print_line(&human(&report, global))?,
        (true, Format::Human) | (_, Format::Json) => {
            print_json(Format::Json, &serde_json::to_value(&report)?)?
        }
        (_, Format::Jsonl) => {
            for problem in &report.problems {
                print_json(Format::Jsonl, &serde_json::to_value(problem)?)?;
            }
        }
    }
    let bad = report.errors > 0 || (args.strict && report.warnings > 0);
    Ok(if bad { Exit::InvalidData } else { Exit::Done })
}

fn human(report: &CheckReport, global: &Global) -> String {
    let mut blocks = Vec::new();
    if !report.problems.is_empty() {
        let lines = report
            .problems
            .iter()
            .map(|problem| problem_line(problem, report, global));
        blocks.push(lines.collect::<Vec<_>>().join("\n"));
        let mut fixes: Vec<_> = report.problems.iter().map(|problem| problem.kind).collect();
        fixes.sort();
        fixes.dedup();
        let rows = fixes.into_iter().map(|kind| {
            let name = serde_json::to_value(kind).unwrap_or_default();
            vec![
                name.as_str().unwrap_or_default().to_owned(),
                kind.fix().to_owned(),
            ]
        });
        blocks.push(format!("what to do\n{}", table(&rows.collect::<Vec<_>>())));
    }
    let mut header = vec!["category".to_owned(), "rows".to_owned()];
    header.extend(report.compared_with_m_alert.then(|| "M-ALERT".to_owned()));
    let rows = report.categories.iter().map(|count| {
        let mut row = vec![count.key.to_owned(), count.rows.to_string()];
        row.extend(report.compared_with_m_alert.then(|| count.m_alert.to_string()));
        row
    });
    blocks.push(table(&[header].into_iter().chain(rows).collect::<Vec<_>>()));
    blocks.push(overview(report));
    blocks.join("\n\n")
}

fn problem_line(problem: &Problem, report: &CheckReport, global: &Global) -> String {
    let severity = match problem.kind.severity() {
        Severity::Error => painted("error", Color::Red, global.no_color),
        Severity::Warning => painted("warning", Color::Yellow, global.no_color),
    };
    let file = match problem.file.as_str() {
        "" => &report.name,
        file => file,
    };
    let id = problem
        .id
        .as_ref()
        .map(|id| format!(", id {id}"))
        .unwrap_or_default();
    let field = match problem.field.as_str() {
        "" => String::new(),
        field => format!(", field `{field}`"),
    };
    format!(
        "{severity}  {file}, {}{id}{field}: {}",
        problem.location, problem.message
    )
}

fn overview(report: &CheckReport) -> String {
    let listed = |counts: &mut dyn Iterator<Item = (String, u64)>| {
        let parts: Vec<_> = counts.map(|(name, count)| format!("{name} {count}")).collect();
        parts.join(", ")
    };
    let named = |counts: &std::collections::BTreeMap<String, u64>| {
        listed(&mut counts.iter().map(|(name, count)| (name.clone(), *count)))
    };
    let mut rows = vec![
        vec!["set".to_owned(), report.name.clone()],
        vec!["digest".to_owned(), report.digest.clone()],
        vec![
            "rows".to_owned(),
            format!(
                "{}, {}",
                counted(report.rows, "id", "ids"),
                counted(report.prompts, "prompt", "prompts")
            ),
        ],
        vec![
            "languages".to_owned(),
            listed(
                &mut report
                    .languages
                    .iter()
                    .map(|(language, count)| (language.code().to_owned(), *count)),
            ),
        ],
    ];
    for (title, counts) in [
        ("attack types", &report.attack_types),
        ("translators", &report.translators),
    ] {
        if !counts.is_empty() {
            rows.push(vec![title.to_owned(), named(counts)]);
        }
    }
    if report.wrapper.prompts > 0 {
        let done = match report.wrapper.handling {
            Wrapper::Keep => "kept (--wrapper strip takes it off)",
            Wrapper::Strip => "stripped",
        };
        rows.push(vec![
            "wrapper".to_owned(),
            format!(
                "{} ALERT's instruction wrapper, {done}",
                counted(report.wrapper.prompts, "prompt has", "prompts have")
            ),
        ]);
    }
    rows.push(vec![
        "result".to_owned(),
        format!(
            "{}, {}",
            counted(report.errors, "error", "errors"),
            counted(report.warnings, "warning", "warnings")
        ),
    ]);
    table(&rows)
}

fn convert(args: &ConvertArgs, global: &Global) -> anyhow::Result<Exit> {
    let source = source(&args.data, global)?;
    let mut dataset = Dataset::open(&source, args.read.options()).map_err(CommandError::invalid_data)?;
    if args.nfc {
        dataset = dataset.into_nfc();
    }
    let Some(path) = &args.out else {
        let mut out = BufWriter::new(io::stdout().lock());
        write_long(&dataset, &mut out)?;
        out.flush()?;
        return Ok(Exit::Done);
    };
    let file = File::create_new(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            CommandError::usage(format!("{} is there already: name another file", path.display())).into()
        }
        _ => anyhow::Error::from(error).context(path.display().to_string()),
    })?;
    let mut out = BufWriter::new(file);
    let written = write_long(&dataset, &mut out).and_then(|()| out.flush());
    if written.is_err() {
        // It was not there before, and half of it is of no use.
        let _ = fs::remove_file(path);
    }
    written.with_context(|| path.display().to_string())?;
    Ok(Exit::Done)
}
