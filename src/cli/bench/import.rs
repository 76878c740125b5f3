//! `bench import`: verdicts that were made elsewhere.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    bench::{
        import::{Import, ImportError, ImportOptions},
        problem::{counted, list},
        results::{RunFolder, folder_names},
        summary::{self, Summary},
    },
    cli::{
        CommandError, Exit, Format, Global,
        output::{print_json, print_line},
        report,
    },
};

/// What to import.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// One verdict per row (.jsonl, .json, .csv, .tsv, .parquet): id, language, category, label (safe, unsafe or
    /// undetermined); where known also unsafe_score, model, guard, seed, prompt, answer, attack_type, translator
    file: PathBuf,
    /// Folder for the run, or for one run per model; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Take this model's rows only; of a file that names no model, the model that answered
    #[arg(long)]
    model: Option<String>,
    /// Who judged, where the file does not say it
    #[arg(long)]
    guard: Option<String>,
}

pub(super) fn import(args: ImportArgs, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let options = ImportOptions {
        model: args.model,
        guard: args.guard,
    };
    let import = match Import::read(&args.file, &options) {
        Ok(import) => import,
        Err(ImportError::Invalid { problems, .. }) if global.format != Format::Human => {
            print_json(global.format, &json!({ "problems": problems }))?;
            return Ok(Exit::InvalidData);
        }
        Err(error @ ImportError::NoSuchModel { .. }) => {
            return Err(CommandError::usage(error.to_string()).into());
        }
        Err(error) => return Err(CommandError::invalid_data(error.to_string()).into()),
    };
    if !import.gaps.is_empty() && !global.quiet {
        eprintln!(
            "babelward: {}, and nobody can tell why; they are in no figure:{}",
            counted(import.gaps.len()).replace("problem", "missing verdict"),
            list(&import.gaps, "they are in no language's n")
        );
    }
    let models = import.models();
    let mut written = Vec::new();
    match models[..] {
        [_] => written.push(write(&import, 0, &args.out)?),
        _ => {
            RunFolder::create(&args.out)?;
            for (number, name) in folder_names(models.iter().copied()).iter().enumerate() {
                written.push(write(&import, number, &args.out.join(name))?);
            }
        }
    }
    if global.format != Format::Human {
        let runs = written.iter().map(|(folder, summary)| {
            json!({
                "model": summary.run.settings.target,
                "folder": folder.path(),
                "items": summary.items,
                "languages": summary.languages.iter().map(|one| one.language.code()).collect::<Vec<_>>(),
            })
        });
        print_json(
            global.format,
            &json!({ "runs": runs.collect::<Vec<_>>(), "missing": import.gaps }),
        )?;
        return Ok(Exit::Done);
    }
    for (folder, summary) in &written {
        if written.len() > 1 {
            print_line(&format!("\n{}", summary.run.settings.target))?;
        }
        print_line(&summary::table(summary))?;
        print_line(&format!("report  {}", folder.file("report.html").display()))?;
    }
    Ok(Exit::Done)
}

fn write(import: &Import, model: usize, path: &Path) -> anyhow::Result<(RunFolder, Summary)> {
    let folder = RunFolder::create(path)?;
    import.write(model, &folder)?;
    report::renew(folder.path())
}
