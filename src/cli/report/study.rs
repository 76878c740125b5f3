//! The report of several runs: a study.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Args, jurisdictions, load_to_compare, read_json, runs_in, write_tables, write_to};
use crate::{
    bench::{
        jurisdictions::Jurisdiction,
        report::{self, comparability::ComparabilityText, tables, translation_effects},
        results::{Origin, RunFolder, RunInfo},
        scores::{
            comparable::{NamedRun, Purpose, comparability},
            format_percent,
            models::{DeclaredFacts, ModelFacts, PromptedModel},
            run_names::{RunTraits, distinct_names},
            study::Study,
            study_run::StudyRun,
        },
        statistics::Bootstrap,
        translation::{ScoreTable, import},
    },
    cli::{
        CommandError, Exit,
        bench::SCORES,
        output::{print_line, table},
    },
};

/// Compares runs. A study of one folder of runs is written into it unless another one is named.
pub(super) fn study(dirs: &[PathBuf], args: &Args) -> anyhow::Result<Exit> {
    if args.paper || args.include_text || !args.what_if.is_empty() {
        let message = "--paper, --include-text and --what-if are for the report of one run";
        return Err(CommandError::usage(message).into());
    }
    let known = match &args.models {
        Some(path) => Known {
            file: Some(path.clone()),
            declared: read_json(path)?,
        },
        None => Known::default(),
    };
    let kept = args
        .dirs
        .iter()
        .map(|dir| dir.join(SCORES))
        .filter(|path| path.exists());
    let study = of_runs(
        dirs,
        &known,
        &kept.chain(args.quality.iter().cloned()).collect::<Vec<_>>(),
        &jurisdictions(&args.policy)?,
    )?;
    let out = args.out.as_deref().or(match &args.dirs[..] {
        [dir] if dir.join("runs.json").exists() => Some(dir),
        _ => None,
    });
    if let Some(out) = out {
        write(&study, out)?;
    }
    write_tables(args, &tables::study_sheets(&study))?;
    write_to(args.json.as_deref(), || {
        serde_json::to_string_pretty(&study).unwrap_or_default() + "\n"
    })?;
    if args.json.is_none() {
        print_line(&told(&study, out))?;
    }
    Ok(Exit::Done)
}

/// Writes and prints what the complete runs of a group say beside each other.
pub(in crate::cli) fn tell_group(folder: &RunFolder) -> anyhow::Result<()> {
    let scores = Some(folder.file(SCORES)).filter(|path| path.exists());
    let study = of_runs(&runs_in(folder.path()), &Known::default(), scores.as_slice(), &[])?;
    write(&study, folder.path())?;
    Ok(print_line(&told(&study, Some(folder.path())))?)
}

fn of_runs(
    dirs: &[PathBuf],
    known: &Known,
    quality: &[PathBuf],
    jurisdictions: &[Jurisdiction],
) -> anyhow::Result<Study> {
    let mut scores = ScoreTable::new();
    for path in quality {
        import::scores(path, &mut scores).map_err(CommandError::invalid_data)?;
    }
    let mut loaded = Vec::new();
    for dir in dirs {
        let (_, info, table, facts) = load_to_compare(dir)?;
        loaded.push((info, table, facts));
    }
    let infos: Vec<&RunInfo> = loaded.iter().map(|(info, ..)| info).collect();
    let models = models(dirs, &infos);
    let traits = dirs.iter().zip(&models).zip(&loaded);
    let traits = traits.map(|((dir, model), (_, _, facts))| RunTraits {
        model: model.clone(),
        translators: Some(facts.translator_names()).filter(|names| !names.is_empty()),
        precision: facts.target_precision.clone(),
        guard: facts.guard.clone(),
        seeds: facts.seeds.clone(),
        folder: folder_name(dir, dirs),
    });
    let names = distinct_names(&traits.collect::<Vec<_>>());
    let prompted = models.iter().zip(&infos);
    let prompted: Vec<_> = prompted
        .map(|(model, info)| PromptedModel {
            name: model,
            prompting: info.settings.prompting,
        })
        .collect();
    let of_models = ModelFacts::of_models(&prompted, &known.declared).map_err(|error| {
        let file = known.file.as_deref().unwrap_or(Path::new("--models"));
        CommandError::invalid_data(format!("{}: {error}", file.display()))
    })?;
    let mut runs = Vec::new();
    let mut facts = Vec::new();
    let loaded = loaded.into_iter().zip(names).zip(models).zip(of_models);
    for ((((_, table, own), name), model), of_model) in loaded {
        facts.push((name.clone(), own));
        runs.push(StudyRun {
            name,
            model,
            facts: of_model,
            table,
        });
    }
    let bootstrap = Bootstrap::default();
    let study = Study::with_scores(&runs, &scores, bootstrap).with_jurisdictions(&runs, jurisdictions);
    let purpose = match study.translation_effects.is_empty() {
        true => Purpose::Targets,
        false => Purpose::Translators,
    };
    let facts: Vec<_> = facts
        .iter()
        .map(|(name, facts)| NamedRun { name, facts })
        .collect();
    Ok(study.with_comparability(comparability(&facts, purpose)))
}

/// What `--models` says, and in which file.
#[derive(Debug, Default)]
struct Known {
    file: Option<PathBuf>,
    declared: BTreeMap<String, DeclaredFacts>,
}

/// The target of each run. Verdicts of a file that names no model are of one unnamed model.
fn models(dirs: &[PathBuf], infos: &[&RunInfo]) -> Vec<String> {
    let unnamed = |info: &RunInfo| match &info.origin {
        Origin::Imported { file, digest } => {
            let other = |one: &&&RunInfo| matches!(&one.origin, Origin::Imported { file: also, digest: own } if also == file && own != digest);
            Some(match infos.iter().find(other) {
                Some(_) => format!("unnamed model of {file} ({digest})"),
                None => format!("unnamed model of {file}"),
            })
        }
        Origin::Run | Origin::Rescored { .. } | Origin::Merged { .. } => None,
    };
    let runs = infos.iter().zip(dirs);
    let model = |(info, dir): (&&RunInfo, &PathBuf)| {
        let name = info.target().map(str::to_owned).or_else(|| unnamed(info));
        name.unwrap_or_else(|| dir.display().to_string())
    };
    runs.map(model).collect()
}

/// A run's folder by its name, or by its path where another one has the same name.
fn folder_name(dir: &Path, dirs: &[PathBuf]) -> String {
    let same = dirs.iter().filter(|other| other.file_name() == dir.file_name());
    match dir.file_name() {
        Some(name) if same.count() == 1 => name.to_string_lossy().into_owned(),
        _ => dir.display().to_string(),
    }
}

/// Writes `study.json` and `study.html`.
fn write(study: &Study, out: &Path) -> anyhow::Result<()> {
    let write =
        |name: &str, text: String| fs::write(out.join(name), text).with_context(|| out.display().to_string());
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    write("study.json", serde_json::to_string_pretty(study)? + "\n")?;
    write("study.html", report::study_html(study)?)
}

fn told(study: &Study, out: Option<&Path>) -> String {
    let comparable = study
        .comparable
        .as_ref()
        .map(|comparable| ComparabilityText::of(comparable).to_text() + "\n\n");
    let mut text = comparable.unwrap_or_default() + &leaderboard(study);
    let unknown = study.models_of_unknown_tuning();
    if let Some(first) = unknown.first() {
        let names: Vec<&str> = unknown.iter().copied().collect();
        let example = serde_json::json!({ *first: { "tuning": "base" } });
        text += &format!(
            "\n\nNot known to be base or instruct models, and so in no comparison of these: {}.\n\
             --models FILE says it: {example}",
            names.join(", ")
        );
    }
    if !study.translation_effects.is_empty() {
        text += "\n\n";
        text += &table(&translation_effects::lines(&study.translation_effects));
    }
    if let Some(out) = out {
        text += &format!("\n\nstudy   {}", out.join("study.html").display());
    }
    text
}

fn leaderboard(study: &Study) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format_percent(value, 1));
    let header = ["model", "macro safe %", "all agree %", "refused %", "weakest"];
    let rows = study.standings.iter().map(|one| {
        let weakest = one.weakest.as_ref();
        vec![
            one.name.clone(),
            percent(one.macro_safe),
            percent(one.agreement.percent),
            percent(one.refused_percent),
            weakest.map_or_else(String::new, |(name, value)| {
                format!("{name} {}", format_percent(*value, 1))
            }),
        ]
    });
    let header = header.map(str::to_owned).to_vec();
    table(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}
