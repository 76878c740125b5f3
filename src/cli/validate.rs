//! `validate`: draws answers for people to label, compares the labels with the guard's verdicts, also while answers are written,
//! and fits calibrators to them.

mod print;
mod streaming;

use std::path::PathBuf;

use clap::Subcommand;

use super::{
    Connection, Exit, Global,
    interrupt::interrupted,
    output::{counted, print_line, write_to},
};
use crate::{
    bench::{
        labelling::{self, LabelPage, Labels, SampleOptions, draw_sample},
        summary,
        taxonomy::Category,
    },
    calibrator::{CalibrationMethod, ErrorRates, FitOptions, MIN_LABELS},
};

/// Find out how often a run's guard errs: people label a sample of its answers without seeing the verdicts, and the labels
/// are compared with them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draw a sample of a run's answers, and write a CSV file for each person to label them in; verdicts are left out
    Sample(SampleArgs),
    /// Label a sample in the browser, on a page of this machine that does not show the guard's verdicts
    Label(LabelArgs),
    /// Compare the labels with the verdicts: how often people and guard agree, and what the run's figures are once the
    /// guard's errors are taken out. `report` shows both from then on
    Score(ScoreArgs),
    /// Fit a calibrator to the labels that `score` has put into a run's folder: what turns this guard's scores into probabilities,
    /// and says where a score decides nothing. Decision policies use it (docs/decisions.md)
    Calibrate(CalibrateArgs),
    Streaming(Box<streaming::Args>),
}

#[derive(Debug, clap::Args)]
struct CalibrateArgs {
    /// Run folder
    run: PathBuf,
    /// File for the calibrator, `-` for standard output
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How scores become probabilities
    #[arg(long, value_enum, default_value_t = MethodArg::Platt)]
    method: MethodArg,
    /// Fewest labels from which a curve is fitted; a language with fewer has the curve of all languages
    #[arg(long, value_name = "N", default_value_t = MIN_LABELS)]
    min_labels: u64,
    /// Share of safe texts whose prediction set may lack safe, above 0 and below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = error_rate)]
    safe_error_rate: f64,
    /// Share of unsafe texts whose prediction set may lack unsafe, above 0 and below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = error_rate)]
    unsafe_error_rate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum MethodArg {
    /// A logistic curve of the score's log-odds, from a hundred labels on
    Platt,
    /// Any curve that does not fall, from about a thousand labels on
    Isotonic,
}

fn error_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if rate > 0.0 && rate < 1.0 {
        Ok(rate)
    } else {
        Err("must be above 0 and below 1".to_owned())
    }
}

#[derive(Debug, clap::Args)]
struct SampleArgs {
    /// Run folder
    run: PathBuf,
    /// Folder for the CSV files
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many answers to draw
    #[arg(short, long, default_value_t = 200)]
    number: usize,
    /// Categories that get more than their share of the sample
    #[arg(long, value_delimiter = ',', default_values = summary::PLURAL)]
    hard: Vec<Category>,
    /// How many people label
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    annotators: u8,
    /// Seed of the draw: another seed draws other answers
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
    /// Labels of a further person in a CSV file of the same kind: they decide the answers on which the others differ, and those
    /// that none of the others could decide
    #[arg(long, value_name = "CSV")]
    adjudicated: Option<PathBuf>,
    /// Write everything as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct LabelArgs {
    /// Folder of the sample
    dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Seed of the order in which answers are shown; each person sees an order of their own
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// The connection flags of the subcommand that calls a server.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.command {
            Command::Streaming(args) => Some(&args.connection),
            Command::Sample(_) | Command::Label(_) | Command::Score(_) | Command::Calibrate(_) => None,
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    match args.command {
        Command::Sample(args) => sample(&args),
        Command::Label(args) => label(&args, global),
        Command::Score(args) => score(&args),
        Command::Calibrate(args) => calibrate(&args),
        Command::Streaming(args) => streaming::run(&args, global),
    }
}

fn sample(args: &SampleArgs) -> anyhow::Result<Exit> {
    let options = SampleOptions {
        answers: args.number,
        hard: &args.hard,
        annotators: args.annotators,
        seed: args.seed,
    };
    let drawn = draw_sample(&args.run, &args.out, options)?;
    print_line(&format!(
        "{} in {}: each person fills the column label of one annotator-N.csv with safe, unsafe or \
         unsure (cannot say).\nOr in the browser: babelward validate label {}\nThen: babelward validate score {} --key {} {}",
        counted(drawn, "answer", "answers"),
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

/// Serves the page until Ctrl-C.
fn label(args: &LabelArgs, global: &Global) -> anyhow::Result<Exit> {
    let page = LabelPage::open(&args.dir, args.seed)?;
    global.block_on(async {
        let page = page.listen(args.port).await?;
        print_line(&format!(
            "{} answers to label on {} (labels are kept as they are given; Ctrl-C ends)",
            page.answers(),
            page.url(),
        ))?;
        page.serve(interrupted()).await?;
        Ok(Exit::Done)
    })
}

fn score(args: &ScoreArgs) -> anyhow::Result<Exit> {
    let labels = Labels {
        key: &args.key,
        sheets: &args.labels,
        adjudicated: args.adjudicated.as_deref(),
    };
    let validation = labelling::score(&args.run, labels)?;
    if args.json.is_none() {
        print_line(&print::text(&validation))?;
        return Ok(Exit::Done);
    }
    let figures = serde_json::to_string_pretty(&validation)? + "\n";
    write_to(args.json.as_deref(), || figures)?;
    Ok(Exit::Done)
}

fn calibrate(args: &CalibrateArgs) -> anyhow::Result<Exit> {
    let options = FitOptions {
        method: match args.method {
            MethodArg::Platt => CalibrationMethod::Platt,
            MethodArg::Isotonic => CalibrationMethod::Isotonic,
        },
        min_labels: args.min_labels,
        error_rates: ErrorRates {
            safe: args.safe_error_rate,
            unsafe_: args.unsafe_error_rate,
        },
    };
    let fitted = labelling::calibrate(&args.run, options)?;
    write_to(Some(&args.out), || fitted.calibrator.to_json())?;
    if args.out.as_os_str() != "-" {
        print_line(&print::calibrator(&fitted))?;
    }
    Ok(Exit::Done)
}
