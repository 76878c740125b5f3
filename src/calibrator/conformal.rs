//! Which labels a text with a score may have, at a stated error rate: label-conditional split conformal prediction (Vovk,
//! Gammerman & Shafer 2005, section 4.5; Vovk 2012), with weights for texts that were not drawn with equal probabilities
//! (Tibshirani, Foygel Barber, Candes & Ramdas 2019).
//!
//! For each label, a text is compared with the labelled ones of this label. Its prediction set has the label unless its score is
//! among the strangest: the lowest ones for unsafe, the highest ones for safe. If the labelled texts and the new one are
//! exchangeable, the set of an unsafe text lacks `unsafe` with a probability of at most the error rate, whatever the scores are
//! like, and that of a safe text lacks `safe` likewise.

use serde::{Deserialize, Serialize};

use super::labelled::LabelledScore;

/// How often the set of a text may lack the text's own label, for each label, above 0 and below 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRates {
    /// Of safe texts, the share whose set lacks `safe`.
    pub safe: f64,
    /// Of unsafe texts, the share whose set lacks `unsafe`.
    #[serde(rename = "unsafe")]
    pub unsafe_: f64,
}

/// The labels that a text may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PredictionSet {
    /// Safe alone.
    Safe,
    /// Unsafe alone.
    Unsafe,
    /// Safe and unsafe: the score does not tell them apart.
    Both,
    /// Neither: the score is strange for both.
    Neither,
}

/// Which scores have which label in their set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictionBounds {
    /// Scores up to this one have `safe` in their set. Absent where all have it, because there are too few safe labels to leave it
    /// out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_to: Option<f64>,
    /// Scores from this one on have `unsafe` in their set. Absent where all have it, because there are too few unsafe labels to
    /// leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsafe_from: Option<f64>,
}

impl PredictionBounds {
    /// The bounds that labelled texts result in.
    pub(super) fn of(texts: &[LabelledScore], rates: ErrorRates) -> Self {
        let scores = |is_unsafe: bool, sign: f64| -> Vec<Conformity> {
            let labelled = texts.iter().filter(|text| text.is_unsafe == is_unsafe);
            labelled
                .map(|text| Conformity {
                    value: sign * text.score,
                    weight: text.weight,
                })
                .collect()
        };
        Self {
            safe_to: least(scores(false, -1.0), rates.safe).map(|value| -value),
            unsafe_from: least(scores(true, 1.0), rates.unsafe_),
        }
    }

    /// The set of a text with this unsafe score.
    pub fn set(self, score: f64) -> PredictionSet {
        let may_be_safe = self.safe_to.is_none_or(|to| score <= to);
        let may_be_unsafe = self.unsafe_from.is_none_or(|from| score >= from);
        match (may_be_safe, may_be_unsafe) {
            (true, false) => PredictionSet::Safe,
            (false, true) => PredictionSet::Unsafe,
            (true, true) => PredictionSet::Both,
            (false, false) => PredictionSet::Neither,
        }
    }

    /// What is wrong with bounds that somebody has written; `None` where nothing is.
    pub(super) fn problem(self) -> Option<String> {
        let inside = |bound: Option<f64>| bound.is_none_or(|bound| (0.0..=1.0).contains(&bound));
        let valid = inside(self.safe_to) && inside(self.unsafe_from);
        (!valid).then(|| "safe_to and unsafe_from must be from 0 to 1".to_owned())
    }
}

/// How much a labelled text looks like its label, and how many texts it stands for.
#[derive(Debug, Clone, Copy)]
struct Conformity {
    value: f64,
    weight: f64,
}

/// The least value that a text of a label may have, so that its p-value is above the error rate. The p-value of a text is the
/// weighted share of the labelled texts that look no more like the label than it does, itself counted with the largest weight,
/// because its own weight is not known. `None` where every value has such a p-value.
fn least(mut texts: Vec<Conformity>, rate: f64) -> Option<f64> {
    texts.sort_by(|a, b| a.value.total_cmp(&b.value));
    let largest = texts.iter().map(|text| text.weight).fold(0.0, f64::max);
    // Where all weights are equal they become 1, so that sums of them are exact.
    let relative = |text: &Conformity| text.weight / largest;
    let all = texts.iter().map(relative).sum::<f64>() + 1.0;
    if texts.is_empty() || 1.0 / all > rate {
        return None;
    }
    let mut up_to = 1.0;
    for (at, text) in texts.iter().enumerate() {
        up_to += relative(text);
        // Ties count together.
        let last_of_ties = texts.get(at + 1).is_none_or(|next| next.value > text.value);
        if last_of_ties && up_to / all > rate {
            return Some(text.value);
        }
    }
    None
}
