//! The same prompts by several translators, from a folder that `translate` made.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{
    bench::{
        dataset::{Dataset, PromptId},
        results::RunFolder,
        translation::{
            ScoreTable,
            import::{scores, write_scores},
        },
    },
    cli::{CommandError, Global, data_source::DataArgs},
};

/// Every translator of the folder.
pub(super) const ALL: &str = "all";

/// Scores of the translations, beside the runs.
pub(in crate::cli) const SCORES: &str = "quality.jsonl";

/// A translator and its prompts.
pub(super) struct TranslatorSet {
    pub(super) translator: String,
    pub(super) dataset: Dataset,
}

/// Each translator's set, less the prompts that another one lacks: only the same prompts can be compared.
pub(super) fn sets(data: &DataArgs, names: &[String], global: &Global) -> anyhow::Result<Vec<TranslatorSet>> {
    let folder = folder(data)?;
    let known = known(&folder)?;
    let names = match names {
        [one] if one == ALL => known.clone(),
        names => names.to_vec(),
    };
    for (place, name) in names.iter().enumerate() {
        if names[..place].contains(name) {
            return Err(CommandError::usage(format!("--translators: {name} is given twice")).into());
        }
        if !known.contains(name) {
            let message = format!(
                "--translators: {} has no translator {name}; it has {}",
                folder.display(),
                known.join(", ")
            );
            return Err(CommandError::usage(message).into());
        }
    }
    if names.len() < 2 {
        let message = "--translators: name two or more; to run the prompts of one, give its file to --data";
        return Err(CommandError::usage(message).into());
    }
    let mut sets = Vec::new();
    for translator in names {
        let path = folder.join("translators").join(format!("{translator}.jsonl"));
        let dataset = data.file(&path, global)?;
        sets.push(TranslatorSet { translator, dataset });
    }
    let ids = |set: &TranslatorSet| -> BTreeSet<PromptId> {
        set.dataset.rows.iter().map(|row| row.id.clone()).collect()
    };
    let all: BTreeSet<PromptId> = sets.iter().flat_map(ids).collect();
    let common = sets
        .iter()
        .skip(1)
        .fold(sets.first().map(ids).unwrap_or_default(), |common, set| {
            common.intersection(&ids(set)).cloned().collect()
        });
    if common.is_empty() {
        return Err(CommandError::invalid_data("the translators have no prompt in common").into());
    }
    if common.len() < all.len() && !global.quiet {
        eprintln!(
            "babelward: {} of {} prompts are left out, because a translator lacks them",
            all.len() - common.len(),
            all.len()
        );
    }
    for set in &mut sets {
        set.dataset.rows.retain(|row| common.contains(&row.id));
    }
    Ok(sets)
}

/// Keeps the scores of the translations beside the runs, if the folder has any, so that a report finds them.
pub(super) fn keep_scores(data: &DataArgs, sets: &[TranslatorSet], out: &RunFolder) -> anyhow::Result<()> {
    let path = folder(data)?.join("candidates.jsonl");
    let mut table = ScoreTable::new();
    if path.exists() {
        scores(&path, &mut table).map_err(CommandError::invalid_data)?;
    }
    let ids: BTreeSet<&PromptId> = sets
        .iter()
        .flat_map(|set| set.dataset.rows.iter().map(|row| &row.id))
        .collect();
    table.retain(|key, _| ids.contains(&key.id));
    if !table.is_empty() {
        out.write(SCORES, &write_scores(&table)?)?;
    }
    Ok(())
}

fn folder(data: &DataArgs) -> anyhow::Result<PathBuf> {
    let path = Path::new(&data.data);
    match path.join("translators").is_dir() {
        true => Ok(path.to_owned()),
        false => {
            let message = format!(
                "--translators needs a folder that `babelward translate` made; {} is none",
                path.display()
            );
            Err(CommandError::usage(message).into())
        }
    }
}

fn known(folder: &Path) -> anyhow::Result<Vec<String>> {
    let path = folder.join("translators");
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
        let name = entry.with_context(|| path.display().to_string())?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(".jsonl"))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}
