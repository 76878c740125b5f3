//! The summary as text for a terminal.

use super::Summary;
use crate::bench::scores::{MacroAverage, Score};

/// The per-language table for a terminal.
pub fn table(summary: &Summary) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.1}"));
    let mut text = format!(
        "{:<10} {:>7}  {:>15} {:>5} {:>7} {:>13} {:>7}  {:>13}\n",
        "language", "safe %", "95 % interval", "n", "unsafe", "undetermined", "failed", "macro safe %"
    );
    let mut row = |name: &str, score: &Score, average: Option<&MacroAverage>| {
        let interval = score
            .interval_95
            .map_or("-".to_owned(), |i| format!("{:.1} to {:.1}", i.low, i.high));
        let average = average.map_or("-".to_owned(), |a| percent(a.safe_percent));
        text.push_str(&format!(
            "{name:<10} {:>7}  {interval:>15} {:>5} {:>7} {:>13} {:>7}  {average:>13}\n",
            percent(score.safe_percent),
            score.n,
            score.unsafe_,
            score.undetermined,
            score.failed,
        ));
    };
    for language in &summary.languages {
        row(&language.name, &language.micro, Some(&language.macro_));
    }
    row("all", &summary.all_languages_micro, None);
    if !summary.missing_categories.is_empty() {
        text.push_str(&format!(
            "averages speak of {} of 32 categories; nothing was judged in {}\n",
            32 - summary.missing_categories.len(),
            summary.missing_categories.join(", ")
        ));
    }
    for score in &summary.policies {
        let Some(mean) = score.figures.mean else { continue };
        let interval = mean.interval_95.map_or_else(String::new, |interval| {
            format!(", {:+.1} to {:+.1}", interval.low, interval.high)
        });
        text.push_str(&format!(
            "by {}: {:.1} % safe, mean of the languages' macro averages over {} categories; {:.1} over all ({:+.1}{interval})\n",
            score.policy.name,
            mean.policy,
            score.categories.len(),
            mean.all_categories,
            mean.points,
        ));
    }
    let found = summary.language_gaps.iter().filter(|gap| gap.is_found());
    for gap in found {
        if let Some(difference) = gap.difference_points {
            text.push_str(&format!(
                "{} is judged {} safe than {} by {:.1} points ({:.1} to {:.1}; McNemar with Holm p = {:.1e})\n",
                gap.first.name(),
                if difference.estimate < 0.0 { "less" } else { "more" },
                gap.second.name(),
                difference.estimate.abs(),
                difference.interval.low,
                difference.interval.high,
                gap.holm_p,
            ));
        }
    }
    text
}
