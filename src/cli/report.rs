//! `report`: writes the summary and the report of a run again from its results, or a study of several runs.

use std::path::{Path, PathBuf};

use super::{
    CommandError, Exit, Global,
    output::{print_line, write_to},
    study_text::study_text,
};
use crate::bench::{
    analysis::{KnownModels, StudySources, TextsInReport, report_run, runs_in, write_study},
    jurisdictions::{self, Jurisdiction},
    report::{Sheet, formats, tables},
    scores::what_if::Filter,
    statistics::Bootstrap,
    summary::{self, Options},
    taxonomy::Category,
    translation::sets::RUN_SCORES,
};

/// Write a run's summary and report again, or a study that compares several runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
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
    /// Categories to leave out of the consistency figures, to see what that changes
    #[arg(long, value_delimiter = ',', default_values = summary::PLURAL)]
    exclude: Vec<Category>,
    /// Score by a jurisdiction's rules too: a TOML or JSON file that says which categories count (see docs/benchmark.md); repeatable
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
    /// Try a filter on the answers: threshold=0.3, or guard=2 for the run's second guard; repeatable
    #[arg(long, value_name = "FILTER")]
    what_if: Vec<Filter>,
    /// Facts about the models of a study: a JSON object from a model's name to its family, billions (of parameters) and tuning
    #[arg(long, value_name = "FILE")]
    models: Option<PathBuf>,
    /// Quality scores of a study's translations: `translate`'s candidates.jsonl, or a file with id, language, translator and
    /// comet, metricx or human; repeatable
    #[arg(long, value_name = "FILE")]
    quality: Vec<PathBuf>,
    /// Folder for a study's files; when absent, the folder of the runs where `bench run` made them together
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes `summary.json` and `report.html` of a run, or the study of several.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let dirs: Vec<PathBuf> = args.dirs.iter().flat_map(|dir| runs_in(dir)).collect();
    match &dirs[..] {
        [dir] => one(dir, &args),
        dirs => study(dirs, &args),
    }
}

fn one(dir: &Path, args: &Args) -> anyhow::Result<Exit> {
    if !args.quality.is_empty() {
        let message = "--quality is for studies: the same prompts by several translators, a run for each";
        return Err(CommandError::usage(message).into());
    }
    let options = Options {
        exclude: args.exclude.clone(),
        jurisdictions: args.jurisdictions()?,
        filters: args.what_if.clone(),
        // The labels in the run's folder are added.
        validation: None,
        paper: args.paper,
        bootstrap: Bootstrap::default(),
    };
    let texts = match args.include_text {
        true => TextsInReport::With,
        false => TextsInReport::Without,
    };
    let report = report_run(dir, options, texts)?;
    let summary = &report.summary;
    args.write_tables(&tables::sheets(summary))?;
    if let Some(path) = &args.json {
        let figures = report.figures()?;
        write_to(Some(path), || figures)?;
        return Ok(Exit::Done);
    }
    let mut text = summary::text_table(summary);
    if args.paper && summary.paper.is_none() {
        text += &format!(
            "\nthe paper prints no figures of {}\n",
            summary.run.settings.target
        );
    }
    print_line(&format!(
        "{text}\nreport  {}",
        report.folder.file("report.html").display()
    ))?;
    Ok(Exit::Done)
}

/// Compares runs. A study of one folder of runs is written into it unless another one is named.
fn study(dirs: &[PathBuf], args: &Args) -> anyhow::Result<Exit> {
    if args.paper || args.include_text || !args.what_if.is_empty() {
        let message = "--paper, --include-text and --what-if are for the report of one run";
        return Err(CommandError::usage(message).into());
    }
    let kept = args.dirs.iter().map(|dir| dir.join(RUN_SCORES));
    let kept = kept.filter(|path| path.exists());
    let models = args.models.as_deref().map(KnownModels::read).transpose()?;
    let study = StudySources {
        runs: dirs,
        models: models.unwrap_or_default(),
        quality: kept.chain(args.quality.iter().cloned()).collect(),
        jurisdictions: args.jurisdictions()?,
    }
    .study()?;
    let out = args.out.as_deref().or(match &args.dirs[..] {
        [dir] if dir.join("runs.json").exists() => Some(dir),
        _ => None,
    });
    if let Some(out) = out {
        write_study(&study, out)?;
    }
    args.write_tables(&tables::study_sheets(&study))?;
    if args.json.is_none() {
        print_line(&study_text(&study, out))?;
        return Ok(Exit::Done);
    }
    let figures = serde_json::to_string_pretty(&study)? + "\n";
    write_to(args.json.as_deref(), || figures)?;
    Ok(Exit::Done)
}

impl Args {
    /// The rules of jurisdictions to score by.
    fn jurisdictions(&self) -> Result<Vec<Jurisdiction>, CommandError> {
        jurisdictions::read_all(&self.policy).map_err(CommandError::invalid_data)
    }

    fn write_tables(&self, sheets: &[Sheet]) -> anyhow::Result<()> {
        write_to(self.markdown.as_deref(), || formats::markdown(sheets))?;
        write_to(self.csv.as_deref(), || formats::csv(sheets))?;
        write_to(self.latex.as_deref(), || formats::latex(sheets))
    }
}
