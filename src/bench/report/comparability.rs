//! Whether runs can be compared, in words that are the same on the terminal and on report pages.

use serde::Serialize;

use crate::bench::scores::comparable::{Aspect, Comparability, FactDifference};

/// The sentences about it, which stand above everything else on a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ComparabilityText {
    /// The conclusion in one sentence.
    pub headline: String,
    /// Whether verdicts may differ because of something other than the target.
    pub warns: bool,
    /// The differences because of which verdicts may differ.
    pub blocking: Vec<String>,
    /// The other differences, and what is not known.
    pub others: Vec<String>,
}

impl ComparabilityText {
    /// Describes what differs between runs.
    pub(crate) fn of(comparability: &Comparability) -> Self {
        let has = |what: Aspect| comparability.differences.iter().any(|one| one.what == what);
        let translators = has(Aspect::Translators);
        let only = match translators {
            true => "the target, how it was prompted and the translators of its prompts",
            false => "the target and how it was prompted",
        };
        let headline = match (comparability.comparable, has(Aspect::Unknown)) {
            (false, _) => "Verdicts may differ between these runs because of more than the target".to_owned(),
            (true, true) => format!("As far as is known, only {only} may change verdicts between these runs"),
            (true, false) => format!("Only {only} may change verdicts between these runs"),
        };
        let lines = |differences: Vec<&FactDifference>| {
            let lines = differences.into_iter().map(|one| comparability.sentence(one));
            lines.collect()
        };
        Self {
            headline,
            warns: !comparability.comparable,
            blocking: lines(comparability.blocking().collect()),
            others: lines(comparability.non_blocking().collect()),
        }
    }

    /// The sentences as lines of text.
    pub(crate) fn to_text(&self) -> String {
        let colon = |list: &[String]| if list.is_empty() { "." } else { ":" };
        let mut text = format!("{}{}", self.headline, colon(&self.blocking));
        for line in &self.blocking {
            text += &format!("\n  {line}");
        }
        if !self.others.is_empty() {
            text += "\nOther differences:";
        }
        for line in &self.others {
            text += &format!("\n  {line}");
        }
        text
    }
}
