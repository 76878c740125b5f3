//! Whether runs can be compared, in words: the same on a terminal and on a page.

use serde::Serialize;

use crate::bench::scores::comparable::{Aspect, Comparability, Difference};

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
        let is_unknown = |difference: &Difference| difference.what == Aspect::Unknown;
        let unknown = comparability.differences.iter().any(is_unknown);
        let headline = match (comparability.comparable, unknown) {
            (false, _) => "These runs differ in more than the target: verdicts may differ because of it",
            (true, true) => "Nothing that is known of these runs but the target changes verdicts",
            (true, false) => {
                "The same prompts, guard, policy, translators, languages and categories in all runs"
            }
        };
        let lines = |differences: Vec<&Difference>| differences.iter().map(ToString::to_string).collect();
        Self {
            headline: headline.to_owned(),
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
