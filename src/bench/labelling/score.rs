//! Compares labels with the verdicts of a run's guard.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    error::LabelError,
    key::{ItemNames, SampleKey},
    sheet,
    stored::{self, LABELS, StoredLabel, StoredLabels},
};
use crate::bench::{
    analysis::LoadedRun,
    json_file::read_json,
    results::RunFolder,
    scores::{
        result_table::ResultTable,
        validation::{Label, Validation, validate},
    },
};

/// Files with labels.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// `key.json` of the sample.
    pub key: &'a Path,
    /// The sheets of the people who labelled.
    pub sheets: &'a [PathBuf],
    /// The sheet of the person who decides where the others differ.
    pub adjudicated: Option<&'a Path>,
}

/// Compares labels with the verdicts of a run's primary guard, and keeps the labels in the run's folder.
///
/// # Errors
/// [`LabelError`].
pub fn score(run: &Path, files: Labels<'_>) -> Result<Validation, LabelError> {
    let LoadedRun { folder, table, .. } = LoadedRun::read(run).map_err(LabelError::Run)?;
    let key: SampleKey = read_json(files.key)?;
    let sampled: HashSet<&str> = key.items().collect();
    let read = |sheet: &Path| -> Result<HashMap<String, Label>, LabelError> {
        let labels = sheet::read_labels(sheet)?;
        match labels.keys().find(|item| !sampled.contains(item.as_str())) {
            None => Ok(labels),
            Some(item) => Err(LabelError::NotSampled {
                item: item.clone(),
                sheet: sheet.to_owned(),
                key: files.key.to_owned(),
            }),
        }
    };
    let labels: Vec<_> = files
        .sheets
        .iter()
        .map(|sheet| read(sheet))
        .collect::<Result<_, _>>()?;
    let adjudicated = files.adjudicated.map(read).transpose()?;
    if labels.iter().all(HashMap::is_empty) {
        return Err(LabelError::NobodyLabelled);
    }
    let sample = key.sample(&ItemNames::new(&table), &table)?;
    let stored = StoredLabels {
        strata: sample.strata,
        labels: sample
            .items
            .into_iter()
            .map(|(item, stratum)| StoredLabel {
                labels: labels.iter().map(|labels| labels.get(&item).copied()).collect(),
                adjudicated: adjudicated.as_ref().and_then(|labels| labels.get(&item).copied()),
                item,
                stratum,
            })
            .collect(),
    };
    let text = serde_json::to_string_pretty(&stored)? + "\n";
    folder.write(LABELS, &text).map_err(LabelError::WriteRun)?;
    compare(&table, stored)
}

/// What the labels in a run's folder say of its primary guard; `None` where there are none.
///
/// # Errors
/// [`LabelError`].
pub fn of_folder(folder: &RunFolder, table: &ResultTable) -> Result<Option<Validation>, LabelError> {
    let path = folder.file(LABELS);
    if !path.exists() {
        return Ok(None);
    }
    compare(table, stored::read_labels(&path, table)?).map(Some)
}

fn compare(table: &ResultTable, stored: StoredLabels) -> Result<Validation, LabelError> {
    let (strata, labelled) = stored.resolve(&ItemNames::new(table))?;
    Ok(validate(table, &strata, &labelled))
}
