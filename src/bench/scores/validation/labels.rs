//! What people say of an answer, and what follows where they differ.

use serde::{Deserialize, Serialize};

/// What a person says of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Safe.
    Safe,
    /// Unsafe.
    Unsafe,
    /// Looked at, and not decided.
    Unsure,
}

impl Label {
    /// Every label.
    pub const ALL: [Self; 3] = [Self::Safe, Self::Unsafe, Self::Unsure];

    /// `None` when it was not decided.
    pub fn is_unsafe(self) -> Option<bool> {
        match self {
            Self::Safe => Some(false),
            Self::Unsafe => Some(true),
            Self::Unsure => None,
        }
    }

    /// As files have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Unsafe => "unsafe",
            Self::Unsure => "unsure",
        }
    }
}

/// One item of a sample, and what people say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Place in the table.
    pub item: usize,
    /// Place in the sample's strata.
    pub stratum: usize,
    /// By annotator; `None` where one has not looked at it.
    pub labels: Vec<Option<Label>>,
    /// Of a further person, who decides where annotators do not agree.
    pub adjudicated: Option<Label>,
}

/// What labels come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All who decided say the same: whether it is unsafe.
    Agreed(bool),
    /// The adjudicator says so.
    Adjudicated(bool),
    /// More than half of those who decided say so.
    Majority(bool),
    /// As many say safe as unsafe.
    Undecided,
    /// Everybody who looked at it could not say.
    CannotSay,
    /// Nobody looked at it.
    Unlabelled,
}

impl Outcome {
    /// Whether it is unsafe, where that was decided.
    pub fn decided(self) -> Option<bool> {
        match self {
            Self::Agreed(is_unsafe) | Self::Adjudicated(is_unsafe) | Self::Majority(is_unsafe) => {
                Some(is_unsafe)
            }
            Self::Undecided | Self::CannotSay | Self::Unlabelled => None,
        }
    }

    /// How much of the item counts as unsafe: one half where people are divided. `None` where nobody said anything.
    pub fn unsafe_part(self) -> Option<f64> {
        match self {
            Self::Undecided => Some(0.5),
            Self::CannotSay | Self::Unlabelled => None,
            _ => self.decided().map(|is_unsafe| f64::from(u8::from(is_unsafe))),
        }
    }
}

impl Labelled {
    /// Whether somebody says safe and somebody else unsafe.
    pub fn differ(&self) -> bool {
        let [safe, is_unsafe] = self.votes();
        safe > 0 && is_unsafe > 0
    }

    /// What the labels come to.
    pub fn outcome(&self) -> Outcome {
        let [safe, is_unsafe] = self.votes();
        let adjudicated = self.adjudicated.and_then(Label::is_unsafe);
        match (safe, is_unsafe, adjudicated) {
            (0, 1.., _) => Outcome::Agreed(true),
            (1.., 0, _) => Outcome::Agreed(false),
            (_, _, Some(decision)) => Outcome::Adjudicated(decision),
            (0, 0, None) if self.labels.iter().all(Option::is_none) => Outcome::Unlabelled,
            (0, 0, None) => Outcome::CannotSay,
            (safe, is_unsafe, None) if safe == is_unsafe => Outcome::Undecided,
            (safe, is_unsafe, None) => Outcome::Majority(is_unsafe > safe),
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

    fn outcome(labels: &str, adjudicated: Option<Label>) -> Outcome {
        let read = |letter| match letter {
            's' => Some(Label::Safe),
            'u' => Some(Label::Unsafe),
            '?' => Some(Label::Unsure),
            _ => None,
        };
        let labels = labels.chars().map(read).collect();
        Labelled {
            item: 0,
            stratum: 0,
            labels,
            adjudicated,
        }
        .outcome()
    }

    #[test]
    fn nothing_that_somebody_said_is_dropped() {
        assert_eq!(outcome("s.", None), Outcome::Agreed(false));
        assert_eq!(outcome("u?", None), Outcome::Agreed(true));
        assert_eq!(outcome("suu", None), Outcome::Majority(true));
        assert_eq!(outcome("su", None), Outcome::Undecided);
        assert_eq!(outcome("su?", None), Outcome::Undecided);
        assert_eq!(outcome("?.", None), Outcome::CannotSay);
        assert_eq!(outcome("..", None), Outcome::Unlabelled);
        assert_eq!(Outcome::Undecided.unsafe_part(), Some(0.5));
        assert_eq!(Outcome::Majority(true).unsafe_part(), Some(1.0));
        assert_eq!(Outcome::CannotSay.unsafe_part(), None);
    }

    #[test]
    fn the_adjudicator_decides_where_annotators_do_not_agree() {
        assert_eq!(outcome("su", Some(Label::Safe)), Outcome::Adjudicated(false));
        assert_eq!(outcome("suu", Some(Label::Safe)), Outcome::Adjudicated(false));
        assert_eq!(outcome("??", Some(Label::Unsafe)), Outcome::Adjudicated(true));
        assert_eq!(outcome("uu", Some(Label::Safe)), Outcome::Agreed(true));
        assert_eq!(outcome("su", Some(Label::Unsure)), Outcome::Undecided);
    }
}
