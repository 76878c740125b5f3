//! `key.json` of a sample: which answers were drawn, and from which strata. The people who label do not see it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::error::LabelError;
use crate::bench::scores::{
    result_table::ResultTable,
    validation::{ItemWeight, Sample, SampleStratum, strata_of_weights},
};

/// The items of a run by their names.
pub(super) struct ItemNames {
    by_name: HashMap<String, usize>,
}

impl ItemNames {
    pub(super) fn new(table: &ResultTable) -> Self {
        let names = table.items.iter().map(|item| {
            let id = &table.prompts[item.prompt as usize];
            format!("{id}/{}/{}", item.language.code(), item.seed)
        });
        Self {
            by_name: names.enumerate().map(|(index, name)| (name, index)).collect(),
        }
    }

    /// The item's index in the run's table.
    pub(super) fn index(&self, name: &str) -> Result<usize, LabelError> {
        let index = self.by_name.get(name).copied();
        index.ok_or_else(|| LabelError::NoSuchItem(name.to_owned()))
    }
}

/// `key.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum SampleKey {
    /// As `validate sample` writes it.
    Strata { strata: Vec<KeyStratum> },
    /// As earlier versions wrote it: by item, the number of answers that it stands for.
    Weights { weights: BTreeMap<String, f64> },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyStratum {
    #[serde(flatten)]
    stratum: SampleStratum,
    /// Names of the items that were drawn from it.
    drawn: Vec<String>,
}

/// The strata of a sample, and the drawn items by name, each with the index of its stratum.
pub(super) struct NamedSample {
    pub(super) strata: Vec<SampleStratum>,
    pub(super) items: Vec<(String, usize)>,
}

impl SampleKey {
    /// The key of a sample from which nothing has been drawn yet.
    pub(super) fn new(strata: &[SampleStratum]) -> Self {
        let strata = strata.iter().map(|&stratum| KeyStratum {
            stratum,
            drawn: Vec::new(),
        });
        Self::Strata {
            strata: strata.collect(),
        }
    }

    /// Adds an item that was drawn from the stratum with this index.
    pub(super) fn insert(&mut self, stratum: usize, item: String) {
        if let Self::Strata { strata } = self
            && let Some(stratum) = strata.get_mut(stratum)
        {
            stratum.drawn.push(item);
        }
    }

    /// Names of the drawn items.
    pub(super) fn items(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Strata { strata } => {
                Box::new(strata.iter().flat_map(|one| one.drawn.iter().map(String::as_str)))
            }
            Self::Weights { weights } => Box::new(weights.keys().map(String::as_str)),
        }
    }

    /// The strata, and what was drawn from each. Where the key has weights, the strata follow from them.
    pub(super) fn sample(self, names: &ItemNames, table: &ResultTable) -> Result<NamedSample, LabelError> {
        match self {
            Self::Weights { weights } => sample_of_weights(weights.into_iter().collect(), names, table),
            Self::Strata { strata } => {
                let items = strata.iter().enumerate().flat_map(|(index, one)| {
                    let drawn = one.drawn.iter();
                    drawn.map(move |item| (item.clone(), index))
                });
                Ok(NamedSample {
                    items: items.collect(),
                    strata: strata.iter().map(|one| one.stratum).collect(),
                })
            }
        }
    }
}

/// The sample whose items stand for so many answers each.
pub(super) fn sample_of_weights(
    weights: Vec<(String, f64)>,
    names: &ItemNames,
    table: &ResultTable,
) -> Result<NamedSample, LabelError> {
    let mut names_of = HashMap::new();
    let mut weighted = Vec::new();
    for (name, weight) in weights {
        let index = names.index(&name)?;
        weighted.push(ItemWeight { item: index, weight });
        names_of.insert(index, name);
    }
    let Sample { strata, drawn } = strata_of_weights(table, &weighted);
    let items = drawn
        .into_iter()
        .filter_map(|one| Some((names_of.remove(&one.item)?, one.stratum)));
    Ok(NamedSample {
        items: items.collect(),
        strata,
    })
}
