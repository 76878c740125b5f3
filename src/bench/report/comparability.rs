//! Whether runs can be compared, in words: the same on a terminal and on a page.

use serde::Serialize;

use crate::bench::scores::comparable::{Aspect, Comparability, FactDifference};

/// What a page says of it above everything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// What it comes to.
    pub headline: String,
    /// Whether verdicts may differ because of something else than the target.
    pub warns: bool,
    /// Differences that verdicts may come from.
    pub blocking: Vec<String>,
    /// Others, and what is not known.
    pub others: Vec<String>,
}

impl Told {
    /// In words.
    pub fn of(comparability: &Comparability) -> Self {
        let has = |what: Aspect| comparability.differences.iter().any(|one| one.what == what);
        let translators = has(Aspect::Translators);
        let only = match translators {
            true => "the target, how it was asked and the translators of its prompts",
            false => "the target and how it was asked",
        };
        let headline = match (comparability.comparable, has(Aspect::Unknown)) {
            (false, _) => "More than the target may change verdicts between these runs".to_owned(),
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
            others: lines(comparability.told().collect()),
        }
    }

    /// The same as lines of text.
    pub fn text(&self) -> String {
        let colon = |list: &[String]| if list.is_empty() { "." } else { ":" };
        let mut text = format!("{}{}", self.headline, colon(&self.blocking));
        for line in &self.blocking {
            text += &format!("\n  {line}");
        }
        if !self.others.is_empty() {
            text += "\nTo be known besides:";
        }
        for line in &self.others {
            text += &format!("\n  {line}");
        }
        text
    }
}
