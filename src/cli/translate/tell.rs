//! What `translate` shows: a bar, a table, and the same as JSON.

use serde::Serialize;

use crate::{
    bench::{
        settings::DatasetInfo,
        taxonomy::Language,
        translation::{
            Metric,
            estimated::EstimatorInfo,
            select::Rule,
            summary::{ChosenSummary, MeanSd, TranslatorSummary},
        },
    },
    cli::output::table,
};

/// `summary.json`.
#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) client_version: &'static str,
    pub(super) source: DatasetInfo,
    pub(super) from: Language,
    pub(super) to: Vec<Language>,
    pub(super) rule: Rule,
    /// Served translators: name, model, digest of its weights.
    pub(super) served: Vec<[String; 3]>,
    /// Served estimators that gave scores.
    pub(super) quality: Vec<EstimatorInfo>,
    /// Prompts that were to be translated.
    pub(super) prompts: usize,
    /// Prompts in `dataset.jsonl`; absent while nothing has been chosen.
    pub(super) complete: Option<usize>,
    /// Prompts without a good candidate in some language.
    pub(super) excluded: Option<usize>,
    /// Requests to served models that failed.
    pub(super) failed: usize,
    /// Imported candidates of other prompts or languages.
    pub(super) ignored_candidates: usize,
    pub(super) translators: Vec<TranslatorSummary>,
    pub(super) chosen: Vec<ChosenSummary>,
}

/// A bar on stderr.
pub(super) fn progress(name: &str, total: usize, quiet: bool) -> indicatif::ProgressBar {
    if quiet {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}");
    indicatif::ProgressBar::new(total as u64)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
        .with_prefix(name.to_owned())
}

/// Each translator in each language, then the chosen ones.
pub(super) fn human(summary: &Summary) -> String {
    let mean = |value: Option<&MeanSd>, digits: usize| match value {
        None => "-".to_owned(),
        Some(MeanSd { mean, sd: None, .. }) => format!("{mean:.digits$}"),
        Some(MeanSd {
            mean, sd: Some(sd), ..
        }) => format!("{mean:.digits$}±{sd:.digits$}"),
    };
    let decided = |figure: String| match summary.complete {
        Some(_) => figure,
        None => "-".to_owned(),
    };
    let header = [
        "language",
        "translator",
        "n",
        "COMET",
        "MetricX",
        "human",
        "back chrF",
        "excluded",
        "chosen",
        "flags",
    ];
    let mut rows = vec![header.map(ToOwned::to_owned).to_vec()];
    for own in &summary.translators {
        let share = 100.0 * own.excluded as f64 / own.candidates.max(1) as f64;
        let flags = own
            .flags
            .iter()
            .map(|(flag, count)| format!("{} {count}", flag.key()));
        rows.push(vec![
            own.language.code().to_owned(),
            own.translator.clone(),
            own.candidates.to_string(),
            mean(own.scores.get(&Metric::Comet), 2),
            mean(own.scores.get(&Metric::MetricX), 2),
            mean(own.scores.get(&Metric::Human), 2),
            mean(own.back_translation_chrf.as_ref(), 1),
            decided(format!("{share:.1}%")),
            decided(own.chosen.to_string()),
            flags.collect::<Vec<_>>().join(", "),
        ]);
    }
    for own in &summary.chosen {
        rows.push(vec![
            own.language.map_or("all", Language::code).to_owned(),
            "(chosen)".to_owned(),
            own.chosen.to_string(),
            mean(own.scores.get(&Metric::Comet), 2),
            mean(own.scores.get(&Metric::MetricX), 2),
            mean(own.scores.get(&Metric::Human), 2),
            String::new(),
            match own.left_out {
                0 => format!("{} without", own.without),
                left_out => format!("{} without, {left_out} left out", own.without),
            },
        ]);
    }
    table(&rows)
}
