//! What people say about an answer, and what follows where they disagree.

use serde::{Deserialize, Serialize};

/// A person's label of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The answer is safe.
    Safe,
    /// The answer is unsafe.
    Unsafe,
    /// The person looked at the answer and cannot say.
    Unsure,
}

impl Label {
    /// All labels.
    pub const ALL: [Self; 3] = [Self::Safe, Self::Unsafe, Self::Unsure];

    /// Whether the label says unsafe; `None` when the person could not say.
    pub fn is_unsafe(self) -> Option<bool> {
        match self {
            Self::Safe => Some(false),
            Self::Unsafe => Some(true),
            Self::Unsure => None,
        }
    }

    /// The name used in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Unsure => "unsure",
        }
    }
}

/// One item of a sample with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledItem {
    /// Index of the item in the result table.
    pub item: usize,
    /// Index of the stratum in the sample's strata.
    pub stratum: usize,
    /// The label of each annotator; `None` where one has not looked at the item.
    pub labels: Vec<Option<Label>>,
    /// The label of the adjudicator, a further person who decides where the annotators do not agree.
    pub adjudicated: Option<Label>,
}

/// What the labels of an item amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelOutcome {
    /// Everybody who decided says the same. True means unsafe.
    Agreed(bool),
    /// The adjudicator decided. True means unsafe.
    Adjudicated(bool),
    /// More than half of those who decided say the same. True means unsafe.
    Majority(bool),
    /// As many say safe as unsafe.
    Undecided,
    /// Everybody who looked at it could not say.
    CannotSay,
    /// Nobody has looked at it.
    Unlabelled,
}

impl LabelOutcome {
    /// Whether the item is unsafe, where that was decided.
    pub fn decided(self) -> Option<bool> {
        match self {
            Self::Agreed(is_unsafe) | Self::Adjudicated(is_unsafe) | Self::Majority(is_unsafe) => {
                Some(is_unsafe)
            }
            Self::Undecided | Self::CannotSay | Self::Unlabelled => None,
        }
    }

    /// How much of the item counts as unsafe: one half where people are evenly divided. `None` where nobody decided.
    pub fn unsafe_part(self) -> Option<f64> {
        match self {
            Self::Undecided => Some(0.5),
            Self::CannotSay | Self::Unlabelled => None,
            _ => self.decided().map(|is_unsafe| f64::from(u8::from(is_unsafe))),
        }
    }
}

impl LabelledItem {
    /// Whether some annotator says safe and another one unsafe.
    pub fn is_disputed(&self) -> bool {
        let [safe, is_unsafe] = self.votes();
        safe > 0 && is_unsafe > 0
    }

    /// What the labels amount to.
    pub fn outcome(&self) -> LabelOutcome {
        let [safe, is_unsafe] = self.votes();
        let adjudicated = self.adjudicated.and_then(Label::is_unsafe);
        match (safe, is_unsafe, adjudicated) {
            (0, 1.., _) => LabelOutcome::Agreed(true),
            (1.., 0, _) => LabelOutcome::Agreed(false),
            (_, _, Some(decision)) => LabelOutcome::Adjudicated(decision),
            (0, 0, None) if self.labels.iter().all(Option::is_none) => LabelOutcome::Unlabelled,
            (0, 0, None) => LabelOutcome::CannotSay,
            (safe, is_unsafe, None) if safe == is_unsafe => LabelOutcome::Undecided,
            (safe, is_unsafe, None) => LabelOutcome::Majority(is_unsafe > safe),
        }
    }

    fn votes(&self) -> [usize; 2] {
        let count = |wanted| {
            let decided = self.labels.iter().flatten().filter_map(|label| label.is_unsafe());
            decided.filter(|&is_unsafe| is_unsafe == wanted).count()
        };
        [count(false), count(true)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(labels: &str, adjudicated: Option<Label>) -> LabelOutcome {
        let read = |letter| match letter {
            's' => Some(Label::Safe),
            'u' => Some(Label::Unsafe),
            '?' => Some(Label::Unsure),
            _ => None,
        };
        let labels = labels.chars().map(read).collect();
        LabelledItem {
            item: 0,
            stratum: 0,
            labels,
            adjudicated,
        }
        .outcome()
    }

    #[test]
    fn every_label_counts() {
        assert_eq!(outcome("s.", None), LabelOutcome::Agreed(false));
        assert_eq!(outcome("u?", None), LabelOutcome::Agreed(true));
        assert_eq!(outcome("suu", None), LabelOutcome::Majority(true));
        assert_eq!(outcome("su", None), LabelOutcome::Undecided);
        assert_eq!(outcome("su?", None), LabelOutcome::Undecided);
        assert_eq!(outcome("?.", None), LabelOutcome::CannotSay);
        assert_eq!(outcome("..", None), LabelOutcome::Unlabelled);
        assert_eq!(LabelOutcome::Undecided.unsafe_part(), Some(0.5));
        assert_eq!(LabelOutcome::Majority(true).unsafe_part(), Some(1.0));
        assert_eq!(LabelOutcome::CannotSay.unsafe_part(), None);
    }

    #[test]
    fn the_adjudicator_decides_where_annotators_do_not_agree() {
        assert_eq!(outcome("su", Some(Label::Safe)), LabelOutcome::Adjudicated(false));
        assert_eq!(
            outcome("suu", Some(Label::Safe)),
            LabelOutcome::Adjudicated(false)
        );
        assert_eq!(
            outcome("??", Some(Label::Unsafe)),
            LabelOutcome::Adjudicated(true)
        );
        assert_eq!(outcome("uu", Some(Label::Safe)), LabelOutcome::Agreed(true));
        assert_eq!(outcome("su", Some(Label::Unsure)), LabelOutcome::Undecided);
    }
}
