//! `bench import`: makes runs of verdicts from other programs.

use std::path::PathBuf;

use serde_json::json;

use super::drive::print_study;
use crate::{
    bench::{
        import::{ImportError, ImportOptions, ImportedRuns, MissingVerdicts},
        results::RunFolder,
        settings::Controversial,
        summary,
        translation::TranslatorChoice,
    },
    cli::{
        CommandError, Exit, Format, Global,
        output::{counted, print_json, print_line, tell},
    },
};

/// What to import.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// One verdict per row (.jsonl, .json, .csv, .tsv, .parquet): id, language, category, label (safe, unsafe,
    /// controversial or undetermined); where known also unsafe_score, model, guard, seed, prompt, answer, attack_type, translator
    file: PathBuf,
    /// Folder for the run, or for one run per model; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Import this model's rows only; where the file names no model, the name of the model that answered
    #[arg(long)]
    model: Option<String>,
    /// Name of the guard, where the file does not say it
    #[arg(long)]
    guard: Option<String>,
    /// What the label controversial counts as in all figures: unsafe or safe
    #[arg(long, value_name = "LABEL", default_value = "unsafe")]
    controversial: Controversial,
    /// Prompts by several translators, such as opus-mt,deepl or `all`: a run for each, with the rows that name no translator
    /// in all of them; the report says how much of a language gap is translation
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    translators: Vec<String>,
}

pub(super) fn import(args: ImportArgs, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let options = ImportOptions {
        model: args.model,
        guard: args.guard,
        translator: None,
        controversial: args.controversial,
    };
    let choice = (!args.translators.is_empty()).then(|| TranslatorChoice::from_names(&args.translators));
    let runs = match ImportedRuns::read(&args.file, &options, choice.as_ref()) {
        Ok(runs) => runs,
        Err(ImportError::Invalid { problems, .. }) if global.format != Format::Human => {
            print_json(global.format, &json!({ "problems": problems }))?;
            return Ok(Exit::InvalidData);
        }
        Err(error @ (ImportError::NoSuchModel { .. } | ImportError::Translators { .. })) => {
            return Err(CommandError::usage(error).into());
        }
        Err(error) => return Err(CommandError::invalid_data(error).into()),
    };
    let missing = runs.missing();
    if !missing.is_empty() && !global.quiet {
        tell(format_args!("{}", missing_text(&missing)));
    }
    let written = runs.write(&args.out)?;
    if global.format != Format::Human {
        let runs = written.iter().map(|run| {
            json!({
                "model": run.summary.run.settings.target,
                "folder": run.folder.path(),
                "items": run.summary.items,
                "languages": run.summary.languages.iter().map(|one| one.language.code()).collect::<Vec<_>>(),
            })
        });
        print_json(
            global.format,
            &json!({ "runs": runs.collect::<Vec<_>>(), "missing": missing }),
        )?;
        return Ok(Exit::Done);
    }
    for run in &written {
        if written.len() > 1 {
            print_line(&format!("\n{}", run.title))?;
        }
        print_line(&summary::text_table(&run.summary))?;
        print_line(&format!("report  {}", run.folder.file("report.html").display()))?;
    }
    if choice.is_some() {
        print_line("")?;
        print_study(&RunFolder::open(&args.out))?;
    }
    Ok(Exit::Done)
}

fn missing_text(missing: &[&MissingVerdicts]) -> String {
    let count: usize = missing.iter().map(|verdicts| verdicts.answers.len()).sum();
    let lines: String = missing.iter().map(|verdicts| format!("\n  {verdicts}")).collect();
    format!(
        "babelward: {}, and the file does not say why; no figure counts what a language lacks:{lines}\n\
         fix: add the verdicts, as undetermined where there was none, or leave them out knowingly",
        counted(count, "verdict is missing", "verdicts are missing"),
    )
}
