//! What a person sees while a run goes on: bars on a terminal, a plain line now and then elsewhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{results::Label, run::BenchEvent, taxonomy::Language};

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
}

impl Count {
    fn add(&mut self, label: Option<Label>) {
        self.ended += 1;
        if let Some(label @ (Label::Safe | Label::Unsafe)) = label {
            self.judged += 1;
            self.safe += u64::from(label == Label::Safe);
        }
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
    pub fn made(&mut self, language: Language, label: Option<Label>) {
        if let Some(count) = self.counts.get_mut(&language) {
            count.add(label);
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
            count.add(label);
        }
        match self.view {
            View::Silent => {}
            View::Bars => {
                let eta = self.eta();
                if let (Some(bar), Some(count)) = (self.bars.get(&language), self.counts.get(&language)) {
                    bar.set_position(count.ended);
                    bar.set_message(format!("safe {} %  {eta}", count.safe_percent()));
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
        let (mut ended, mut planned) = (0, 0);
        let mut parts = Vec::new();
        for (language, count) in &self.counts {
            ended += count.ended;
            planned += count.planned;
            parts.push(format!("{} {} %", language.code(), count.safe_percent()));
        }
        format!(
            "{ended} of {planned} items, safe so far: {}, {}",
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
