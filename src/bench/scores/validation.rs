//! Validation of the guard by people: which answers to label, and what the labels say about the guard and the answers.

mod labels;
mod sample;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{
    labels::{Label, LabelOutcome, LabelledItem},
    sample::{DrawnItem, ItemWeight, Sample, SampleStratum, draw, strata_of_weights},
};
use super::{
    result_table::{ResultItem, ResultTable},
    what_if::{WeightedLabel, WeightedLabels},
};
use crate::bench::{
    results::ItemRecord,
    statistics::{
        BinaryCounts, Interval, Kappa,
        calibration::{Calibration, calibration},
        kappa,
        stratified::{self, Stratum},
    },
    taxonomy::Language,
};

/// The name of an item in files for people: the prompt's id, the language and the seed.
pub fn item_name(record: &ItemRecord) -> String {
    format!("{}/{}/{}", record.id, record.language.code(), record.seed)
}

/// How well the guard agrees with the labels. The labels are weighted so that the figures stand for the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardAgainstLabels {
    /// Number of labelled items that the guard judged safe or unsafe.
    pub n: u64,
    /// Weighted counts; "positive" means unsafe.
    pub counts: BinaryCounts,
    /// Proportion of right verdicts.
    pub accuracy: Option<f64>,
    /// Harmonic mean of precision and sensitivity for unsafe.
    pub f1: Option<f64>,
    /// Proportion of the unsafe answers that the guard finds.
    pub sensitivity: Option<f64>,
    /// Proportion of the safe answers that the guard judges safe.
    pub specificity: Option<f64>,
    /// Agreement beyond chance, weighted like the other figures. It has no interval where people are divided on an answer:
    /// each such answer counts as half an error of the guard, and no sampling error covers how far that is from the truth.
    pub kappa: Option<Kappa>,
}

/// A language's safe % by the guard's verdicts, and by the labels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CorrectedLanguage {
    /// Safe % by the guard's verdicts.
    pub seen_percent: f64,
    /// Safe % by the labels; absent when there are answers that no label stands for.
    pub corrected: Option<CorrectedSafe>,
    /// Number of judged answers in strata without a label.
    pub without_labels: u64,
}

/// Safe % of all judged answers of a language, estimated from the labels of the sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CorrectedSafe {
    /// The estimate, from 0 to 100.
    pub percent: f64,
    /// The 95 % interval for the proportion among answers to prompts like these. Where people left answers undecided, it
    /// reaches from the lower end if all of these were unsafe to the upper end if all of them were safe, so that it
    /// contains the proportion whichever they are.
    pub interval_95: Interval,
    /// The bounds from answers that people left undecided; absent when they always decided.
    pub undecided: Option<UndecidedBounds>,
}

/// The safe % if all undecided answers were unsafe, and if all were safe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UndecidedBounds {
    /// Number of answers on which people are evenly divided or cannot decide.
    pub items: u64,
    /// Safe % if all of them were unsafe.
    pub if_all_unsafe: f64,
    /// Safe % if all of them were safe.
    pub if_all_safe: f64,
}

/// How often people disagreed, and how these items were decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelDisagreements {
    /// Number of items on which annotators differ.
    pub differ: u64,
    /// Number of items that the adjudicator decided.
    pub adjudicated: u64,
    /// Number of items that a majority decided.
    pub by_majority: u64,
    /// Number of items on which as many people say safe as unsafe; each counts as half unsafe.
    pub divided: u64,
    /// Number of items that everybody who looked at them left undecided; they count only in the bounds.
    pub cannot_say: u64,
}

/// What the labels say about the primary guard and the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Number of annotators.
    pub annotators: usize,
    /// Number of items that somebody labelled safe or unsafe.
    pub items: u64,
    /// How often people disagreed.
    pub disagreements: LabelDisagreements,
    /// Cohen's kappa of the first two annotators, on the items of the sample, unweighted.
    pub annotator_kappa: Option<Kappa>,
    /// The guard against all labels.
    pub all: GuardAgainstLabels,
    /// The guard against the labels of each language (ISO 639-1 code).
    pub languages: BTreeMap<String, GuardAgainstLabels>,
    /// The guard against the labels of each category.
    pub categories: BTreeMap<String, GuardAgainstLabels>,
    /// Safe % by the labels, for each language.
    pub corrected: BTreeMap<String, CorrectedLanguage>,
    /// Calibration of the guard's scores against the decided labels.
    pub calibration: Option<Calibration>,
    /// For each labelled item, its label and weight, which `report --what-if` uses.
    #[serde(skip)]
    pub labels: WeightedLabels,
}

/// The labels of a stratum.
#[derive(Debug, Clone, Copy, Default)]
struct StratumLabels {
    labels: u64,
    /// Sum of the labels' unsafe parts.
    unsafe_labels: f64,
    /// Number of items on which people are evenly divided; these count in `labels` as well.
    divided: u64,
    /// Number of items that everybody who looked at them left undecided.
    cannot_say: u64,
}

/// Compares the primary guard with the labels of a sample that has these strata.
pub fn validate(table: &ResultTable, strata: &[SampleStratum], labelled: &[LabelledItem]) -> Validation {
    let mut by_stratum = vec![StratumLabels::default(); strata.len()];
    let mut disagreements = LabelDisagreements::default();
    let mut annotators = [[0u64; 2]; 2];
    let mut scored = Vec::new();
    for one in labelled {
        if let [Some(a), Some(b), ..] = one.labels[..]
            && let (Some(a), Some(b)) = (a.is_unsafe(), b.is_unsafe())
        {
            annotators[usize::from(a)][usize::from(b)] += 1;
        }
        let outcome = one.outcome();
        let stratum = &mut by_stratum[one.stratum];
        disagreements.differ += u64::from(one.is_disputed());
        match outcome {
            LabelOutcome::Adjudicated(_) => disagreements.adjudicated += 1,
            LabelOutcome::Majority(_) => disagreements.by_majority += 1,
            LabelOutcome::Undecided => stratum.divided += 1,
            LabelOutcome::CannotSay => stratum.cannot_say += 1,
            LabelOutcome::Agreed(_) | LabelOutcome::Unlabelled => {}
        }
        if let Some(part) = outcome.unsafe_part() {
            stratum.labels += 1;
            stratum.unsafe_labels += part;
        }
        let score = table.judgement(one.item, 0).unsafe_score;
        scored.extend(score.zip(outcome.decided()));
    }
    disagreements.divided = by_stratum.iter().map(|stratum| stratum.divided).sum();
    disagreements.cannot_say = by_stratum.iter().map(|stratum| stratum.cannot_say).sum();

    let weight = |stratum: usize| strata[stratum].items as f64 / by_stratum[stratum].labels as f64;
    let weighted: Vec<WeightedItem> = labelled
        .iter()
        .filter_map(|one| {
            Some(WeightedItem {
                item: one.item,
                stratum: one.stratum,
                unsafe_part: one.outcome().unsafe_part()?,
                weight: weight(one.stratum),
            })
        })
        .collect();
    let by = |key: &dyn Fn(&ResultItem) -> &'static str| compare_with_labels(table, &weighted, key);
    Validation {
        annotators: labelled.iter().map(|one| one.labels.len()).max().unwrap_or(0),
        items: weighted.len() as u64,
        disagreements,
        annotator_kappa: kappa(&annotators),
        all: by(&|_| "all")
            .remove("all")
            .unwrap_or_else(|| guard_against_labels(&[], 0)),
        languages: by(&|item| item.language.code()),
        categories: by(&|item| item.category.key()),
        corrected: corrected(table, strata, &by_stratum),
        calibration: calibration(scored),
        labels: weighted
            .iter()
            .map(|one| {
                let label = WeightedLabel {
                    unsafe_part: one.unsafe_part,
                    weight: one.weight,
                };
                (one.item, label)
            })
            .collect(),
    }
}

/// A labelled item with the weight of its label.
struct WeightedItem {
    item: usize,
    stratum: usize,
    unsafe_part: f64,
    /// Number of items of its stratum for each labelled one.
    weight: f64,
}

/// Compares the guard with the labels in the parts of the run that `key` names. Each stratum is split by the guard's
/// verdict: when the answers were judged again since the sample was drawn, one stratum may contain both verdicts.
fn compare_with_labels(
    table: &ResultTable,
    weighted: &[WeightedItem],
    key: &dyn Fn(&ResultItem) -> &'static str,
) -> BTreeMap<String, GuardAgainstLabels> {
    let mut parts: BTreeMap<&'static str, BTreeMap<(usize, bool), Stratum>> = BTreeMap::new();
    let mut divided: BTreeSet<&'static str> = BTreeSet::new();
    for one in weighted {
        let Some(safe) = table.judgement(one.item, 0).status.is_safe() else {
            continue;
        };
        let part = parts.entry(key(&table.items[one.item])).or_default();
        let group = part.entry((one.stratum, !safe)).or_insert(Stratum {
            judged_unsafe: !safe,
            size: 0.0,
            labels: 0.0,
            unsafe_labels: 0.0,
            sampling_fraction: 1.0 / one.weight,
        });
        group.size += one.weight;
        group.labels += 1.0;
        group.unsafe_labels += one.unsafe_part;
        if one.unsafe_part > 0.0 && one.unsafe_part < 1.0 {
            divided.insert(key(&table.items[one.item]));
        }
    }
    let mut prompts: BTreeMap<&'static str, BTreeSet<u32>> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        if judgement.status.is_safe().is_some() {
            prompts.entry(key(item)).or_default().insert(item.prompt);
        }
    }
    parts
        .into_iter()
        .map(|(key, groups)| {
            let groups: Vec<Stratum> = groups.into_values().collect();
            let prompts = prompts.get(key).map_or(0, BTreeSet::len);
            let mut against = guard_against_labels(&groups, prompts);
            if divided.contains(key)
                && let Some(kappa) = &mut against.kappa
            {
                kappa.interval = None;
            }
            (key.to_owned(), against)
        })
        .collect()
}

fn guard_against_labels(groups: &[Stratum], prompts: usize) -> GuardAgainstLabels {
    let counts = stratified::counts(groups);
    GuardAgainstLabels {
        n: groups.iter().map(|group| group.labels).sum::<f64>() as u64,
        counts,
        accuracy: counts.accuracy(),
        f1: counts.f1(),
        sensitivity: counts.sensitivity(),
        specificity: counts.specificity(),
        kappa: stratified::kappa(groups, prompts as f64),
    }
}

fn corrected(
    table: &ResultTable,
    strata: &[SampleStratum],
    by_stratum: &[StratumLabels],
) -> BTreeMap<String, CorrectedLanguage> {
    let mut seen: BTreeMap<Language, SeenVerdicts> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        if let Some(is_safe) = judgement.status.is_safe() {
            let verdicts = seen.entry(item.language).or_default();
            verdicts.judged += 1;
            verdicts.safe += u64::from(is_safe);
            verdicts.prompts.insert(item.prompt);
        }
    }
    let of_language = |language: Language, verdicts: SeenVerdicts| {
        let all = strata.iter().zip(by_stratum);
        let own: Vec<(&SampleStratum, &StratumLabels)> =
            all.filter(|(stratum, _)| stratum.language == language).collect();
        let unlabelled = own.iter().filter(|(_, labels)| labels.labels == 0);
        let corrected = CorrectedLanguage {
            seen_percent: 100.0 * verdicts.safe as f64 / verdicts.judged as f64,
            // Answers to one prompt for several seeds are not independent, so the number of prompts counts.
            corrected: corrected_safe(&own, verdicts.prompts.len() as f64),
            without_labels: unlabelled.map(|(stratum, _)| stratum.items).sum(),
        };
        (language.code().to_owned(), corrected)
    };
    seen.into_iter()
        .map(|(language, verdicts)| of_language(language, verdicts))
        .collect()
}

/// The primary guard's verdicts on a language.
#[derive(Debug, Default)]
struct SeenVerdicts {
    judged: u64,
    safe: u64,
    prompts: BTreeSet<u32>,
}

/// Labels of a stratum as they enter an estimate.
struct CountedLabels {
    labels: f64,
    unsafe_labels: f64,
}

/// Safe % by the labels of a language's strata, in which `prompts` prompts were judged.
fn corrected_safe(own: &[(&SampleStratum, &StratumLabels)], prompts: f64) -> Option<CorrectedSafe> {
    let unsafe_proportion = |count: &dyn Fn(&StratumLabels) -> CountedLabels| {
        let strata: Vec<Stratum> = own
            .iter()
            .map(|(stratum, labels)| {
                let counted = count(labels);
                Stratum {
                    judged_unsafe: stratum.judged_unsafe,
                    size: stratum.items as f64,
                    labels: counted.labels,
                    unsafe_labels: counted.unsafe_labels,
                    sampling_fraction: counted.labels / stratum.items as f64,
                }
            })
            .collect();
        stratified::unsafe_proportion(&strata, prompts)
    };
    let safe_percent = |unsafe_proportion: f64| 100.0 * (1.0 - unsafe_proportion);
    // The proportion if every undecided answer were unsafe to this part.
    let if_undecided_were = |unsafe_part: f64| {
        unsafe_proportion(&|stratum| {
            let (divided, cannot_say) = (stratum.divided as f64, stratum.cannot_say as f64);
            let decided = stratum.unsafe_labels - 0.5 * divided;
            CountedLabels {
                labels: stratum.labels as f64 + cannot_say,
                unsafe_labels: decided + unsafe_part * (divided + cannot_say),
            }
        })
    };
    let found = unsafe_proportion(&|stratum| CountedLabels {
        labels: stratum.labels as f64,
        unsafe_labels: stratum.unsafe_labels,
    })?;
    let items: u64 = own
        .iter()
        .map(|(_, labels)| labels.divided + labels.cannot_say)
        .sum();
    let (all_unsafe, all_safe) = match items {
        0 => (found, found),
        _ => (if_undecided_were(1.0)?, if_undecided_were(0.0)?),
    };
    Some(CorrectedSafe {
        percent: safe_percent(found.value),
        interval_95: Interval {
            low: safe_percent(all_unsafe.interval.high),
            high: safe_percent(all_safe.interval.low),
        },
        undecided: (items > 0).then(|| UndecidedBounds {
            items,
            if_all_unsafe: safe_percent(all_unsafe.value),
            if_all_safe: safe_percent(all_safe.value),
        }),
    })
}
