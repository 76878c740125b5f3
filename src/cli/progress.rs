//! Progress on standard error: bars on a terminal, a plain line now and then elsewhere.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::{counted, tell};
use crate::bench::{
    progress::RunTally,
    run::BenchEvent,
    scores::result_table::JudgementStatus,
    settings::Controversial,
    taxonomy::Language,
    translation::{IgnoredRows, TranslationProgress},
};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// One bar per language.
    Bars,
    /// A line every ten seconds.
    Lines,
    /// Nothing.
    Silent,
}

/// Shows the progress of a run.
pub(super) struct RunProgress {
    view: View,
    /// Keeps the bars on lines of their own.
    _group: MultiProgress,
    bars: BTreeMap<Language, ProgressBar>,
    tally: RunTally,
    last_line: Instant,
}

impl RunProgress {
    /// For a run that makes one judgement for each of `planned`, in that language, and counts the label "controversial" as this.
    pub(super) fn new(
        planned: impl Iterator<Item = Language>,
        controversial: Controversial,
        quiet: bool,
    ) -> Self {
        let view = match (quiet, io::stderr().is_terminal()) {
            (true, _) => View::Silent,
            (false, true) => View::Bars,
            (false, false) => View::Lines,
        };
        let tally = RunTally::new(planned, controversial);
        let group = MultiProgress::new();
        let mut bars = BTreeMap::new();
        if view == View::Bars {
            let style = ProgressStyle::with_template("{prefix:>8} {bar:30} {pos:>5}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            for (&language, counts) in tally.languages() {
                let bar = group.add(ProgressBar::new(counts.planned));
                bar.set_style(style.clone());
                bar.set_prefix(language.name());
                bars.insert(language, bar);
            }
        }
        Self {
            view,
            _group: group,
            bars,
            tally,
            last_line: Instant::now(),
        }
    }

    /// Counts a judgement that was recorded before this sitting.
    pub(super) fn add_earlier(&mut self, language: Language, mark: JudgementStatus) {
        self.tally.add_earlier(language, mark);
    }

    /// Counts and shows what has just happened.
    pub(super) fn on_event(&mut self, event: BenchEvent) {
        let language = self.tally.add(event);
        match self.view {
            View::Silent => {}
            View::Bars => {
                let counts = self.tally.languages().get(&language);
                if let (Some(bar), Some(counts)) = (self.bars.get(&language), counts) {
                    bar.set_position(counts.ended);
                    bar.set_message(format!(
                        "safe {} %{}  {}",
                        counts.safe_percent(),
                        counts.without_verdict(),
                        self.tally.time_left()
                    ));
                }
            }
            View::Lines if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                tell(format_args!("{}", self.tally.line()));
            }
            View::Lines => {}
        }
    }

    /// Leaves the bars as they are.
    pub(super) fn finish(&self) {
        for bar in self.bars.values() {
            bar.abandon();
        }
    }
}

/// Shows the progress of a translation: one bar at a time.
pub(super) struct TranslationBars {
    quiet: bool,
    bar: ProgressBar,
}

impl TranslationBars {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            bar: ProgressBar::hidden(),
        }
    }
}

impl TranslationProgress for TranslationBars {
    fn begin(&mut self, name: &str, requests: usize) {
        if self.quiet {
            return;
        }
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}");
        self.bar = ProgressBar::new(requests as u64)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_prefix(name.to_owned());
    }

    fn advance(&mut self, answered: usize) {
        self.bar.set_position(answered as u64);
    }

    fn end(&mut self) {
        self.bar.finish_and_clear();
    }

    fn ignored(&mut self, rows: IgnoredRows) {
        let text = match rows {
            IgnoredRows::Candidates(count) => format!(
                "{} of other prompts or languages and ignored",
                counted(count, "candidate is", "candidates are")
            ),
            IgnoredRows::Scores(count) => format!(
                "{} of other prompts, languages or translators and ignored",
                counted(count, "score is", "scores are")
            ),
        };
        tell(format_args!("{text}"));
    }
}
