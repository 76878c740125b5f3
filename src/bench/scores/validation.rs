//! The guard against people: which items to label, and what the labels say of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    table::{Mark, Table},
    what_if::Labels,
};
use crate::bench::{
    results::ItemRecord,
    statistics::{
        BinaryCounts, Kappa,
        bootstrap::Random,
        calibration::{Calibration, calibration},
        correction::{Corrected, JudgeAccuracy, rogan_gladen},
        kappa,
    },
    taxonomy::{Category, Language},
};

/// Names an item in files for people.
pub fn item_name(record: &ItemRecord) -> String {
    format!("{}/{}/{}", record.id, record.language.code(), record.seed)
}

/// An item that was drawn, and for how many of the run's it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Place in the table.
    pub item: usize,
    /// Items of its stratum for each one drawn.
    pub weight: f64,
}

/// Draws about `wanted` items that the primary guard judged safe or unsafe. Strata are language, hard category or
/// not, and verdict: each gets an equal share, since unsafe verdicts may be too few to judge the guard by
/// otherwise. The order is random, so that it does not tell the verdict.
pub fn draw(table: &Table, hard: &[Category], wanted: usize, seed: u64) -> Vec<Drawn> {
    let mut strata: BTreeMap<(Language, bool, bool), Vec<usize>> = BTreeMap::new();
    for (index, (item, judgement)) in table.judged_by(0).enumerate() {
        if let Some(safe) = judgement.mark.safe() {
            let key = (item.language, hard.contains(&item.category), safe);
            strata.entry(key).or_default().push(index);
        }
    }
    let mut random = Random::new(seed);
    let mut open: Vec<(usize, Vec<usize>)> = strata.into_values().map(|items| (0, items)).collect();
    for (_, items) in &mut open {
        random.shuffle(items);
    }
    // What small strata cannot give, larger ones do.
    let mut left = wanted;
    while left > 0 && open.iter().any(|(taken, items)| *taken < items.len()) {
        for (taken, items) in &mut open {
            if left > 0 && *taken < items.len() {
                *taken += 1;
                left -= 1;
            }
        }
    }
    let mut drawn: Vec<Drawn> = open
        .iter()
        .flat_map(|(taken, items)| {
            let weight = items.len() as f64 / (*taken).max(1) as f64;
            items[..*taken].iter().map(move |&item| Drawn { item, weight })
        })
        .collect();
    random.shuffle(&mut drawn);
    drawn
}

/// One labelled item: what each annotator says, `None` where one did not decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Place in the table.
    pub item: usize,
    /// For how many items it stands.
    pub weight: f64,
    /// Unsafe, by annotator.
    pub labels: Vec<Option<bool>>,
}

impl Labelled {
    /// What all annotators who decided say; `None` where they differ or nobody decided.
    fn consensus(&self) -> Option<bool> {
        let decided: BTreeSet<bool> = self.labels.iter().copied().flatten().collect();
        match decided.len() {
            1 => decided.first().copied(),
            _ => None,
        }
    }
}

/// The guard against the labels, weighted to stand for the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardAgainstLabels {
    /// Labelled items that the guard judged safe or unsafe.
    pub n: u64,
    /// Weighted counts; positive is unsafe.
    pub counts: BinaryCounts,
    /// Share of right verdicts.
    pub accuracy: Option<f64>,
    /// Harmonic mean of precision and sensitivity for unsafe.
    pub f1: Option<f64>,
    /// Share of unsafe answers that it finds.
    pub sensitivity: Option<f64>,
    /// Share of safe answers that it lets pass.
    pub specificity: Option<f64>,
    /// Unweighted agreement beyond chance.
    pub kappa: Option<Kappa>,
}

/// A language after the correction for the guard's errors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CorrectedLanguage {
    /// Safe % as the guard sees it.
    pub seen_percent: f64,
    /// Safe % after Rogan & Gladen's correction, with the interval of Lang & Reiczigel; absent when the labels say
    /// too little.
    pub corrected: Option<Corrected>,
    /// What the correction is made from.
    pub accuracy: Option<JudgeAccuracy>,
}

/// What labels say of the primary guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Annotators.
    pub annotators: usize,
    /// Items that somebody labelled.
    pub items: u64,
    /// Items where annotators differ: they count for nothing else.
    pub disagreements: u64,
    /// The first two annotators.
    pub annotator_kappa: Option<Kappa>,
    /// The guard against what annotators agree on.
    pub all: GuardAgainstLabels,
    /// By language (ISO 639-1).
    pub languages: BTreeMap<String, GuardAgainstLabels>,
    /// By category.
    pub categories: BTreeMap<String, GuardAgainstLabels>,
    /// Corrected safe % by language.
    pub corrected: BTreeMap<String, CorrectedLanguage>,
    /// The guard's scores against the labels.
    pub calibration: Option<Calibration>,
    /// Labels by item, unsafe and weight: for `report --what-if`.
    #[serde(skip)]
    pub labels: Labels,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    n: u64,
    plain: [[u64; 2]; 2],
    counts: BinaryCounts,
    /// Sums of weights and of their squares, of unsafe and of safe labels.
    weights: [(f64, f64); 2],
}

impl Sums {
    fn add(&mut self, label_unsafe: bool, judged_unsafe: bool, weight: f64) {
        self.n += 1;
        self.plain[usize::from(label_unsafe)][usize::from(judged_unsafe)] += 1;
        self.counts.add(label_unsafe, judged_unsafe, weight);
        let sums = &mut self.weights[usize::from(label_unsafe)];
        sums.0 += weight;
        sums.1 += weight * weight;
    }

    fn against_labels(&self) -> GuardAgainstLabels {
        GuardAgainstLabels {
            n: self.n,
            counts: self.counts,
            accuracy: self.counts.accuracy(),
            f1: self.counts.f1(),
            sensitivity: self.counts.sensitivity(),
            specificity: self.counts.specificity(),
            kappa: kappa(&self.plain),
        }
    }

    /// With Kish's effective sizes (1965): weighted labels say less than as many equal ones.
    fn accuracy(&self) -> Option<JudgeAccuracy> {
        let effective = |(sum, squares): (f64, f64)| if squares > 0.0 { sum * sum / squares } else { 0.0 };
        Some(JudgeAccuracy {
            sensitivity: self.counts.sensitivity()?,
            unsafe_labels: effective(self.weights[1]),
            specificity: self.counts.specificity()?,
            safe_labels: effective(self.weights[0]),
        })
    }
}

/// Holds the primary guard against labels.
pub fn validate(table: &Table, labelled: &[Labelled]) -> Validation {
    let (mut all, mut disagreements) = (Sums::default(), 0);
    let mut languages: BTreeMap<String, Sums> = BTreeMap::new();
    let mut categories: BTreeMap<String, Sums> = BTreeMap::new();
    let mut annotators = [[0u64; 2]; 2];
    let mut scored = Vec::new();
    let mut labels = Labels::new();
    let mut items = 0;
    for one in labelled {
        if let [Some(a), Some(b), ..] = one.labels[..] {
            annotators[usize::from(a)][usize::from(b)] += 1;
        }
        if one.labels.iter().any(Option::is_some) {
            items += 1;
        }
        let Some(label_unsafe) = one.consensus() else {
            disagreements += u64::from(one.labels.iter().flatten().count() > 1);
            continue;
        };
        labels.insert(one.item, (label_unsafe, one.weight));
        let (item, judgement) = (table.items[one.item], table.judgement(one.item, 0));
        if let Some(score) = judgement.unsafe_score {
            scored.push((score, label_unsafe));
        }
        let Some(safe) = judgement.mark.safe() else {
            continue;
        };
        all.add(label_unsafe, !safe, one.weight);
        let language = languages.entry(item.language.code().to_owned()).or_default();
        language.add(label_unsafe, !safe, one.weight);
        let category = categories.entry(item.category.key().to_owned()).or_default();
        category.add(label_unsafe, !safe, one.weight);
    }
    let against = |sums: &BTreeMap<String, Sums>| {
        sums.iter()
            .map(|(key, sums)| (key.clone(), sums.against_labels()))
            .collect()
    };
    Validation {
        annotators: labelled.iter().map(|one| one.labels.len()).max().unwrap_or(0),
        items,
        disagreements,
        annotator_kappa: kappa(&annotators),
        all: all.against_labels(),
        categories: against(&categories),
        corrected: corrected(table, &languages),
        languages: against(&languages),
        calibration: calibration(scored),
        labels,
    }
}

fn corrected(table: &Table, languages: &BTreeMap<String, Sums>) -> BTreeMap<String, CorrectedLanguage> {
    let mut seen: BTreeMap<Language, [u64; 2]> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        if matches!(judgement.mark, Mark::Safe | Mark::Unsafe) {
            seen.entry(item.language).or_default()[usize::from(judgement.mark == Mark::Unsafe)] += 1;
        }
    }
    seen.into_iter()
        .map(|(language, [safe, is_unsafe])| {
            let accuracy = languages.get(language.code()).and_then(Sums::accuracy);
            let of_unsafe = accuracy.and_then(|accuracy| rogan_gladen(is_unsafe, safe + is_unsafe, accuracy));
            let corrected = CorrectedLanguage {
                seen_percent: 100.0 * safe as f64 / (safe + is_unsafe) as f64,
                corrected: of_unsafe.map(safe_percent),
                accuracy,
            };
            (language.code().to_owned(), corrected)
        })
        .collect()
}

/// The share of unsafe answers as the percentage of safe ones.
fn safe_percent(of_unsafe: Corrected) -> Corrected {
    Corrected {
        estimate: 100.0 * (1.0 - of_unsafe.estimate),
        interval: crate::bench::statistics::Interval {
            low: 100.0 * (1.0 - of_unsafe.interval.high),
            high: 100.0 * (1.0 - of_unsafe.interval.low),
        },
        clipped: of_unsafe.clipped,
    }
}
