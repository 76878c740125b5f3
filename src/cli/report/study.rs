//! The report of several runs: a study.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{Args, load, policies, read_json, runs_in, write_tables, write_to};
use crate::{
    bench::{
        policies::Policy,
        report::{self, isolation, tables},
        results::RunFolder,
        scores::study::{ModelFacts, Study, StudyRun},
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
        Some(path) => read_json(path)?,
        None => BTreeMap::new(),
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
        &policies(&args.policy)?,
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
    let study = of_runs(&runs_in(folder.path()), &BTreeMap::new(), scores.as_slice(), &[])?;
    write(&study, folder.path())?;
    Ok(print_line(&told(&study, Some(folder.path())))?)
}

fn of_runs(
    dirs: &[PathBuf],
    known: &BTreeMap<String, ModelFacts>,
    quality: &[PathBuf],
    policies: &[Policy],
) -> anyhow::Result<Study> {
    let mut scores = ScoreTable::new();
    for path in quality {
        import::scores(path, &mut scores).map_err(|error| CommandError::invalid_data(error.to_string()))?;
    }
    let mut runs = Vec::new();
    for dir in dirs {
        let (_, info, table) = load(dir)?;
        let target = info.provenance.targets.first().map(|target| target.model.clone());
        let name = target
            .filter(|name| !name.is_empty())
            .or(Some(info.settings.target).filter(|name| !name.is_empty()))
            .unwrap_or_else(|| dir.display().to_string());
        let facts = known.get(&name).cloned();
        runs.push(StudyRun {
            facts: facts.unwrap_or_else(|| ModelFacts::of_name(&name, info.settings.prompting)),
            name,
            table,
        });
    }
    let bootstrap = Bootstrap::default();
    Ok(Study::with_scores(&runs, &scores, bootstrap).by_policies(&runs, policies))
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
    let mut text = leaderboard(study);
    if !study.translation.is_empty() {
        text += "\n\n";
        text += &table(&isolation::lines(&study.translation));
    }
    if let Some(out) = out {
        text += &format!("\n\nstudy   {}", out.join("study.html").display());
    }
    text
}

fn leaderboard(study: &Study) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let header = ["model", "macro safe %", "all agree %", "refused %", "weakest"];
    let rows = study.standings.iter().map(|one| {
        let weakest = one.weakest.as_ref();
        let name = match &one.translators[..] {
            [] => one.name.clone(),
            translators => format!("{} ({})", one.name, translators.join(", ")),
        };
        vec![
            name,
            percent(one.macro_safe),
            percent(one.agreement.percent),
            percent(one.refused_percent),
            weakest.map_or_else(String::new, |(name, value)| format!("{name} {value:.1}")),
        ]
    });
    let header = header.map(str::to_owned).to_vec();
    table(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}
