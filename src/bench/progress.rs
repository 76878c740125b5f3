//! What a person sees while a run goes on: bars on a terminal, a plain line now and then elsewhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{run::BenchEvent, scores::result_table::JudgementStatus, taxonomy::Language};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// One bar per language.
    Bars,
    /// A line every ten seconds.
    Lines,
    /// Nothing.
    Silent,
}

/// Shows a run's progress on standard error.
pub struct RunProgress {
    view: View,
    _group: MultiProgress,
    bars: BTreeMap<Language, ProgressBar>,
    counts: BTreeMap<Language, Count>,
    began: Instant,
    last_line: Instant,
    /// Tokens computed so far.
    tokens: u64,
}

#[derive(Default)]
struct Count {
    planned: u64,
    ended: u64,
    /// Of those, before this sitting.
    made: u64,
    safe: u64,
    judged: u64,
    undetermined: u64,
    failed: u64,
}

impl Count {
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

    /// What has no verdict, where there is some.
    fn without_verdict(&self) -> String {
        let counts = [("undetermined", self.undetermined), ("failed", self.failed)];
        let some = counts.iter().filter(|(_, count)| *count > 0);
        some.map(|(name, count)| format!(", {count} {name}")).collect()
    }

    fn safe_percent(&self) -> String {
        if self.judged == 0 {
            "-".to_owned()
        } else {
            format!("{:.1}", 100.0 * self.safe as f64 / self.judged as f64)
        }
    }
}

impl RunProgress {
    /// For judgements of prompts in these languages.
    pub fn new(planned: impl Iterator<Item = Language>, view: View) -> Self {
        let group = MultiProgress::new();
        let (mut counts, mut bars) = (BTreeMap::<Language, Count>::new(), BTreeMap::new());
        for language in planned {
            counts.entry(language).or_default().planned += 1;
        }
        if view == View::Bars {
            let style = ProgressStyle::with_template("{prefix:>8} {bar:30} {pos:>5}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            for (&language, count) in &counts {
                let bar = group.add(ProgressBar::new(count.planned));
                bar.set_style(style.clone());
                bar.set_prefix(language.name());
                bars.insert(language, bar);
            }
        }
        let now = Instant::now();
        Self {
            view,
            _group: group,
            bars,
            counts,
            began: now,
            last_line: now,
            tokens: 0,
        }
    }

    /// Takes in what was there before.
    pub fn made(&mut self, language: Language, mark: JudgementStatus) {
        if let Some(count) = self.counts.get_mut(&language) {
            count.add(mark);
            count.made += 1;
        }
    }

    /// Takes in what happened.
    pub fn on_event(&mut self, event: BenchEvent) {
        let BenchEvent::Ended {
            language,
            label,
            computed_tokens,
        } = event;
        self.tokens += computed_tokens;
        if let Some(count) = self.counts.get_mut(&language) {
            count.add(label.map_or(JudgementStatus::Failed, JudgementStatus::from));
        }
        match self.view {
            View::Silent => {}
            View::Bars => {
                let eta = self.eta();
                if let (Some(bar), Some(count)) = (self.bars.get(&language), self.counts.get(&language)) {
                    bar.set_position(count.ended);
                    bar.set_message(format!(
                        "safe {} %{}  {eta}",
                        count.safe_percent(),
                        count.without_verdict()
                    ));
                }
            }
            View::Lines if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("{}", self.line());
            }
            View::Lines => {}
        }
    }

    /// No more events.
    pub fn finish(&self) {
        for bar in self.bars.values() {
            bar.abandon();
        }
    }

    fn line(&self) -> String {
        let mut all = Count::default();
        let mut parts = Vec::new();
        for (language, count) in &self.counts {
            all.ended += count.ended;
            all.planned += count.planned;
            all.undetermined += count.undetermined;
            all.failed += count.failed;
            parts.push(format!("{} {} %", language.code(), count.safe_percent()));
        }
        format!(
            "{} of {} items{}, safe so far: {}, {}",
            all.ended,
            all.planned,
            all.without_verdict(),
            parts.join(", "),
            self.eta()
        )
    }

    /// Time left from token throughput: the tokens still to come are those of the average item so far.
    fn eta(&self) -> String {
        let made: u64 = self.counts.values().map(|count| count.made).sum();
        let ended = self.counts.values().map(|count| count.ended).sum::<u64>() - made;
        let planned = self.counts.values().map(|count| count.planned).sum::<u64>() - made;
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
    fn what_has_no_verdict_is_told_apart() {
        let languages = [
            Language::En,
            Language::En,
            Language::En,
            Language::De,
            Language::De,
            Language::De,
        ];
        let mut progress = RunProgress::new(languages.into_iter(), View::Silent);
        progress.made(Language::En, JudgementStatus::Safe);
        progress.made(Language::De, JudgementStatus::Skipped);
        assert!(
            progress
                .line()
                .starts_with("2 of 6 items, safe so far: en 100.0 %, de - %")
        );
        for (language, label) in [
            (Language::En, Some(Label::Unsafe)),
            (Language::En, None),
            (Language::De, Some(Label::Undetermined)),
        ] {
            progress.on_event(BenchEvent::Ended {
                language,
                label,
                computed_tokens: 10,
            });
        }
        let line = progress.line();
        let expected = "5 of 6 items, 1 undetermined, 1 failed, safe so far: en 50.0 %, de - %, ";
        assert!(line.starts_with(expected), "{line}");
    }
}
