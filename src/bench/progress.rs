//! Counts what a run's judgements come to while it goes on, for progress displays.

use std::{collections::BTreeMap, time::Instant};

use super::{
    run::BenchEvent, scores::result_table::JudgementStatus, settings::Controversial, taxonomy::Language,
};

/// Counts of a run, by language.
pub struct RunTally {
    languages: BTreeMap<Language, LanguageTally>,
    controversial: Controversial,
    /// When this sitting began.
    began: Instant,
    /// Tokens that the server computed in this sitting.
    tokens: u64,
}

/// Counts of the judgements in one language.
#[derive(Debug, Clone, Default)]
pub struct LanguageTally {
    /// Judgements that the run makes if no cell stops early.
    pub planned: u64,
    /// Judgements that have ended, whatever their result.
    pub ended: u64,
    /// Of these, the ones that were recorded before this sitting.
    earlier: u64,
    safe: u64,
    /// Judgements whose verdict is safe or unsafe.
    judged: u64,
    undetermined: u64,
    failed: u64,
}

impl LanguageTally {
    fn add(&mut self, mark: JudgementStatus) {
        self.ended += 1;
        match mark {
            JudgementStatus::Safe => {
                self.judged += 1;
                self.safe += 1;
            }
            JudgementStatus::Unsafe => self.judged += 1,
            JudgementStatus::Undetermined => self.undetermined += 1,
            JudgementStatus::Failed => self.failed += 1,
            JudgementStatus::Skipped => {}
        }
    }

    /// `, 2 undetermined, 1 failed`; empty where every judgement has a verdict.
    pub fn without_verdict(&self) -> String {
        let counts = [("undetermined", self.undetermined), ("failed", self.failed)];
        let some = counts.iter().filter(|(_, count)| *count > 0);
        some.map(|(name, count)| format!(", {count} {name}")).collect()
    }

    /// Share of safe verdicts among those that are safe or unsafe, in percent; `-` while there are none.
    pub fn safe_percent(&self) -> String {
        if self.judged == 0 {
            "-".to_owned()
        } else {
            format!("{:.1}", 100.0 * self.safe as f64 / self.judged as f64)
        }
    }
}

impl RunTally {
    /// A tally without results. `planned` has the language of every judgement that the run is to make.
    /// `controversial` is what that label counts as.
    pub fn new(planned: impl Iterator<Item = Language>, controversial: Controversial) -> Self {
        let mut languages = BTreeMap::<Language, LanguageTally>::new();
        for language in planned {
            languages.entry(language).or_default().planned += 1;
        }
        Self {
            languages,
            controversial,
            began: Instant::now(),
            tokens: 0,
        }
    }

    /// Counts a judgement that was recorded before this sitting.
    pub fn add_earlier(&mut self, language: Language, mark: JudgementStatus) {
        if let Some(tally) = self.languages.get_mut(&language) {
            tally.add(mark);
            tally.earlier += 1;
        }
    }

    /// Counts what has just happened, and returns the language in which it did.
    pub fn add(&mut self, event: BenchEvent) -> Language {
        let BenchEvent::Ended {
            language,
            label,
            computed_tokens,
        } = event;
        self.tokens += computed_tokens;
        if let Some(tally) = self.languages.get_mut(&language) {
            tally.add(label.map_or(JudgementStatus::Failed, |label| {
                JudgementStatus::of(label, self.controversial)
            }));
        }
        language
    }

    /// The counts of each language.
    pub fn languages(&self) -> &BTreeMap<Language, LanguageTally> {
        &self.languages
    }

    /// All languages in one line.
    pub fn line(&self) -> String {
        let mut all = LanguageTally::default();
        let mut parts = Vec::new();
        for (language, tally) in &self.languages {
            all.ended += tally.ended;
            all.planned += tally.planned;
            all.undetermined += tally.undetermined;
            all.failed += tally.failed;
            parts.push(format!("{} {} %", language.code(), tally.safe_percent()));
        }
        format!(
            "{} of {} items{}, safe so far: {}, {}",
            all.ended,
            all.planned,
            all.without_verdict(),
            parts.join(", "),
            self.time_left()
        )
    }

    /// Throughput, and the time left at this throughput if the remaining judgements need as many tokens as the average one so
    /// far.
    pub fn time_left(&self) -> String {
        let earlier: u64 = self.languages.values().map(|tally| tally.earlier).sum();
        let ended = self.languages.values().map(|tally| tally.ended).sum::<u64>() - earlier;
        let planned = self.languages.values().map(|tally| tally.planned).sum::<u64>() - earlier;
        let seconds = self.began.elapsed().as_secs_f64();
        if ended == 0 || self.tokens == 0 || seconds <= 0.0 {
            return "ETA unknown".to_owned();
        }
        let rate = self.tokens as f64 / seconds;
        let left = self.tokens as f64 / ended as f64 * (planned - ended) as f64 / rate;
        format!("{rate:.0} tok/s, ETA {left:.0} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Label;

    #[test]
    fn judgements_without_a_verdict_are_counted_by_their_reason() {
        let languages = [
            Language::En,
            Language::En,
            Language::En,
            Language::De,
            Language::De,
            Language::De,
        ];
        let mut tally = RunTally::new(languages.into_iter(), Controversial::Unsafe);
        tally.add_earlier(Language::En, JudgementStatus::Safe);
        tally.add_earlier(Language::De, JudgementStatus::Skipped);
        assert!(
            tally
                .line()
                .starts_with("2 of 6 items, safe so far: en 100.0 %, de - %")
        );
        for (language, label) in [
            (Language::En, Some(Label::Unsafe)),
            (Language::En, None),
            (Language::De, Some(Label::Undetermined)),
        ] {
            tally.add(BenchEvent::Ended {
                language,
                label,
                computed_tokens: 10,
            });
        }
        let line = tally.line();
        let expected = "5 of 6 items, 1 undetermined, 1 failed, safe so far: en 50.0 %, de - %, ";
        assert!(line.starts_with(expected), "{line}");
    }
}
