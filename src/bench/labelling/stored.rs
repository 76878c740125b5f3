//! `labels.json`: the labels that a run's folder holds, with the strata of the sample that they label.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    error::LabelError,
    key::{ItemNames, sample_of_weights},
};
use crate::bench::{
    json_file::{JsonFileError, read_json},
    scores::{
        result_table::ResultTable,
        validation::{Label, LabelledItem, SampleStratum},
    },
};

/// Name of the file in a run's folder.
pub(super) const LABELS: &str = "labels.json";

/// `labels.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredLabels {
    pub(super) strata: Vec<SampleStratum>,
    pub(super) labels: Vec<StoredLabel>,
}

/// The labels of one answer of the sample.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredLabel {
    /// Name of the item.
    pub(super) item: String,
    /// Index of its stratum.
    pub(super) stratum: usize,
    /// One per annotator; null where an annotator has not looked at the answer.
    pub(super) labels: Vec<Option<Label>>,
    /// The label of the person who decides where annotators do not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) adjudicated: Option<Label>,
}

/// One answer of the sample, as earlier versions stored it.
#[derive(Debug, Deserialize)]
struct WeightedLabel {
    item: String,
    /// How many answers it stands for.
    weight: f64,
    /// Whether it is unsafe, per annotator; null where one did not decide.
    labels: Vec<Option<bool>>,
}

impl StoredLabels {
    /// The strata, and the labelled items by their index in the run's table.
    pub(super) fn resolve(
        self,
        names: &ItemNames,
    ) -> Result<(Vec<SampleStratum>, Vec<LabelledItem>), LabelError> {
        let strata = self.strata.len();
        let resolve = |label: StoredLabel| {
            if label.stratum >= strata {
                return Err(LabelError::NoSuchStratum {
                    item: label.item,
                    stratum: label.stratum,
                });
            }
            Ok(LabelledItem {
                item: names.index(&label.item)?,
                stratum: label.stratum,
                labels: label.labels,
                adjudicated: label.adjudicated,
            })
        };
        let labelled: Result<_, _> = self.labels.into_iter().map(resolve).collect();
        Ok((self.strata, labelled?))
    }
}

/// Reads the labels of a run, also those that an earlier version wrote.
pub(super) fn read_labels(path: &Path, table: &ResultTable) -> Result<StoredLabels, LabelError> {
    let value: Value = read_json(path)?;
    let invalid = |source| JsonFileError::Invalid {
        path: path.to_owned(),
        source,
    };
    if !value.is_array() {
        return Ok(serde_json::from_value(value).map_err(invalid)?);
    }
    let weighted: Vec<WeightedLabel> = serde_json::from_value(value).map_err(invalid)?;
    let weights = weighted
        .iter()
        .map(|one| (one.item.clone(), one.weight))
        .collect();
    let sample = sample_of_weights(weights, &ItemNames::new(table), table)?;
    let mut labels: HashMap<String, Vec<Option<bool>>> =
        weighted.into_iter().map(|one| (one.item, one.labels)).collect();
    let label = |is_unsafe: bool| if is_unsafe { Label::Unsafe } else { Label::Safe };
    let stored = sample.items.into_iter().map(|(item, stratum)| StoredLabel {
        labels: labels
            .remove(&item)
            .unwrap_or_default()
            .into_iter()
            .map(|is_unsafe| is_unsafe.map(label))
            .collect(),
        adjudicated: None,
        item,
        stratum,
    });
    Ok(StoredLabels {
        labels: stored.collect(),
        strata: sample.strata,
    })
}
