//! `bench import`: verdicts that were made elsewhere.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::translators::ALL;
use crate::{
    bench::{
        import::{Import, ImportError, ImportOptions, MissingVerdicts, translators},
        results::{GroupRun, RunFolder, RunGroup, folder_names},
        summary::{self, Summary},
    },
    cli::{
        CommandError, Exit, Format, Global,
        output::{counted, print_json, print_line},
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
    /// Prompts by several translators, such as opus-mt,deepl or `all`: a run for each, with the rows that name no translator
    /// in all of them; the report says how much of a language gap is translation
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    translators: Vec<String>,
}

pub(super) fn import(args: ImportArgs, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let imports = match read_all(&args) {
        Ok(imports) => imports,
        Err(ImportError::Invalid { problems, .. }) if global.format != Format::Human => {
            print_json(global.format, &json!({ "problems": problems }))?;
            return Ok(Exit::InvalidData);
        }
        Err(error @ (ImportError::NoSuchModel { .. } | ImportError::Translators { .. })) => {
            return Err(CommandError::usage(error).into());
        }
        Err(error) => return Err(CommandError::invalid_data(error).into()),
    };
    let missing: Vec<&MissingVerdicts> = imports.iter().flat_map(|(_, import)| &import.gaps).collect();
    if !missing.is_empty() && !global.quiet {
        let count: usize = missing.iter().map(|gap| gap.answers.len()).sum();
        let lines: String = missing.iter().map(|gap| format!("\n  {gap}")).collect();
        eprintln!(
            "babelward: {}, and nobody can tell why; no figure counts what a language lacks:{lines}\n\
             fix: add the verdicts, as undetermined where there was none, or leave them out knowingly",
            counted(count, "verdict is missing", "verdicts are missing"),
        );
    }
    let members: Vec<Member<'_>> = imports.iter().flat_map(members).collect();
    let mut written = Vec::new();
    match &members[..] {
        [member] => written.push(write(member, &args.out)?),
        members => {
            let folder = RunFolder::create(&args.out)?;
            let titles: Vec<String> = members.iter().map(Member::title).collect();
            let names = folder_names(titles.iter().map(String::as_str));
            for (member, name) in members.iter().zip(&names) {
                written.push(write(member, &args.out.join(name))?);
            }
            if !args.translators.is_empty() {
                let runs = members.iter().zip(names).map(|(member, folder)| GroupRun {
                    target: member.model.to_owned(),
                    translator: member.translator.map(str::to_owned),
                    folder,
                });
                RunGroup::new(runs.collect()).write(&folder)?;
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
            &json!({ "runs": runs.collect::<Vec<_>>(), "missing": missing }),
        )?;
        return Ok(Exit::Done);
    }
    for ((folder, summary), member) in written.iter().zip(&members) {
        if written.len() > 1 {
            print_line(&format!("\n{}", member.title()))?;
        }
        print_line(&summary::text_table(summary))?;
        print_line(&format!("report  {}", folder.file("report.html").display()))?;
    }
    if !args.translators.is_empty() {
        print_line("")?;
        report::tell_group(&RunFolder::open(&args.out))?;
    }
    Ok(Exit::Done)
}

/// The file, or what each translator has of it.
fn read_all(args: &ImportArgs) -> Result<Vec<(Option<String>, Import)>, ImportError> {
    let options = |translator: Option<String>| ImportOptions {
        model: args.model.clone(),
        guard: args.guard.clone(),
        translator,
    };
    if args.translators.is_empty() {
        return Ok(vec![(None, Import::read(&args.file, &options(None))?)]);
    }
    let known = translators(&args.file)?;
    let names = match &args.translators[..] {
        [one] if one == ALL => &known[..],
        names => names,
    };
    let twice = |place: usize| names[..place].contains(&names[place]);
    if names.len() < 2 || (0..names.len()).any(twice) || names.iter().any(|name| !known.contains(name)) {
        return Err(ImportError::Translators {
            known: known.join(", "),
        });
    }
    let read = |name: &String| {
        let import = Import::read(&args.file, &options(Some(name.clone())))?;
        Ok((Some(name.clone()), import))
    };
    names.iter().map(read).collect()
}

/// A run of the file.
struct Member<'a> {
    import: &'a Import,
    /// Its place in the import.
    place: usize,
    model: &'a str,
    translator: Option<&'a str>,
}

impl Member<'_> {
    fn title(&self) -> String {
        match self.translator {
            Some(translator) if self.import.models().len() > 1 => format!("{}-{translator}", self.model),
            Some(translator) => translator.to_owned(),
            None => self.model.to_owned(),
        }
    }
}

fn members((translator, import): &(Option<String>, Import)) -> Vec<Member<'_>> {
    let models = import.models().into_iter().enumerate();
    let member = |(place, model)| Member {
        import,
        place,
        model,
        translator: translator.as_deref(),
    };
    models.map(member).collect()
}

fn write(member: &Member<'_>, path: &Path) -> anyhow::Result<(RunFolder, Summary)> {
    let folder = RunFolder::create(path)?;
    member.import.write(member.place, &folder)?;
    report::renew(folder.path())
}
