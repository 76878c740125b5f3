//! `key.json` of a sample and `labels.json` of a run. Both know the sample's strata; those of earlier versions know how many
//! answers each drawn one stands for, from which the strata follow.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{CommandError, report::read_json};
use crate::bench::scores::{
    result_table::ResultTable,
    validation::{ItemWeight, Label, LabelledItem, Sample, SampleStratum, strata_of_weights},
};

/// Items of a run by name.
pub struct Places {
    by_name: HashMap<String, usize>,
}

impl Places {
    pub fn new(table: &ResultTable) -> Self {
        let names = table.items.iter().map(|item| {
            let id = &table.prompts[item.prompt as usize];
            format!("{id}/{}/{}", item.language.code(), item.seed)
        });
        Self {
            by_name: names.enumerate().map(|(place, name)| (name, place)).collect(),
        }
    }

    fn of(&self, name: &str) -> Result<usize, CommandError> {
        let unknown = || CommandError::invalid_data(format!("the run has no item {name}"));
        self.by_name.get(name).copied().ok_or_else(unknown)
    }
}

/// Which answers were drawn, and from what; kept from the people who label.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    /// As `validate sample` writes it.
    Strata { strata: Vec<KeyStratum> },
    /// As it was written before: for how many answers each drawn one stands.
    Weights { weights: BTreeMap<String, f64> },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct KeyStratum {
    #[serde(flatten)]
    stratum: SampleStratum,
    /// Items drawn from it.
    drawn: Vec<String>,
}

/// The strata and the drawn items by name, each with its stratum.
pub struct NamedSample {
    pub strata: Vec<SampleStratum>,
    pub items: Vec<(String, usize)>,
}

impl Key {
    pub fn new(strata: &[SampleStratum]) -> Self {
        let strata = strata.iter().map(|&stratum| KeyStratum {
            stratum,
            drawn: Vec::new(),
        });
        Self::Strata {
            strata: strata.collect(),
        }
    }

    /// Adds a drawn item.
    pub fn insert(&mut self, place: usize, item: String) {
        if let Self::Strata { strata } = self
            && let Some(stratum) = strata.get_mut(place)
        {
            stratum.drawn.push(item);
        }
    }

    /// The drawn items.
    pub fn items(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Strata { strata } => {
                Box::new(strata.iter().flat_map(|one| one.drawn.iter().map(String::as_str)))
            }
            Self::Weights { weights } => Box::new(weights.keys().map(String::as_str)),
        }
    }

    /// The strata, and what was drawn of each.
    pub fn sample(self, places: &Places, table: &ResultTable) -> Result<NamedSample, CommandError> {
        match self {
            Self::Weights { weights } => of_weights(weights.into_iter().collect(), places, table),
            Self::Strata { strata } => {
                let items = strata.iter().enumerate().flat_map(|(place, one)| {
                    let drawn = one.drawn.iter();
                    drawn.map(move |item| (item.clone(), place))
                });
                Ok(NamedSample {
                    items: items.collect(),
                    strata: strata.iter().map(|one| one.stratum).collect(),
                })
            }
        }
    }
}

fn of_weights(
    weights: Vec<(String, f64)>,
    places: &Places,
    table: &ResultTable,
) -> Result<NamedSample, CommandError> {
    let mut names = HashMap::new();
    let mut placed = Vec::new();
    for (name, weight) in weights {
        let place = places.of(&name)?;
        placed.push(ItemWeight { item: place, weight });
        names.insert(place, name);
    }
    let Sample { strata, drawn } = strata_of_weights(table, &placed);
    let items = drawn
        .into_iter()
        .filter_map(|one| Some((names.remove(&one.item)?, one.stratum)));
    Ok(NamedSample {
        items: items.collect(),
        strata,
    })
}

/// `labels.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredLabels {
    pub strata: Vec<SampleStratum>,
    pub labels: Vec<StoredLabel>,
}

/// One answer of the sample.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredLabel {
    pub item: String,
    /// Place in the strata.
    pub stratum: usize,
    /// By annotator; null where one has not looked at it.
    pub labels: Vec<Option<Label>>,
    /// Of the person who decides where annotators do not agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adjudicated: Option<Label>,
}

/// One answer of the sample as earlier versions kept it.
#[derive(Debug, Deserialize)]
struct WeightedLabel {
    item: String,
    weight: f64,
    /// Unsafe, by annotator; null where one did not decide.
    labels: Vec<Option<bool>>,
}

impl StoredLabels {
    /// With the items' places in the table.
    pub fn placed(self, places: &Places) -> Result<(Vec<SampleStratum>, Vec<LabelledItem>), CommandError> {
        let strata = self.strata.len();
        let place = |label: StoredLabel| {
            if label.stratum >= strata {
                let message = format!("labels.json: {} has no stratum {}", label.item, label.stratum);
                return Err(CommandError::invalid_data(message));
            }
            Ok(LabelledItem {
                item: places.of(&label.item)?,
                stratum: label.stratum,
                labels: label.labels,
                adjudicated: label.adjudicated,
            })
        };
        let labelled: Result<_, _> = self.labels.into_iter().map(place).collect();
        Ok((self.strata, labelled?))
    }
}

/// The labels of a run, also those that an earlier version wrote.
pub fn read_labels(path: &Path, table: &ResultTable) -> anyhow::Result<StoredLabels> {
    let value: Value = read_json(path)?;
    let invalid =
        |error: serde_json::Error| CommandError::invalid_data(format!("{}: {error}", path.display()));
    if !value.is_array() {
        return Ok(serde_json::from_value(value).map_err(invalid)?);
    }
    let weighted: Vec<WeightedLabel> = serde_json::from_value(value).map_err(invalid)?;
    let weights = weighted
        .iter()
        .map(|one| (one.item.clone(), one.weight))
        .collect();
    let sample = of_weights(weights, &Places::new(table), table)?;
    let mut labels: HashMap<String, Vec<Option<bool>>> =
        weighted.into_iter().map(|one| (one.item, one.labels)).collect();
    let word = |is_unsafe: bool| if is_unsafe { Label::Unsafe } else { Label::Safe };
    let stored = sample.items.into_iter().map(|(item, stratum)| StoredLabel {
        labels: labels
            .remove(&item)
            .unwrap_or_default()
            .into_iter()
            .map(|label| label.map(word))
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
