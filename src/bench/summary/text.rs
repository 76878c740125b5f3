//! The summary as text for a terminal.

use super::figures::Summary;
use crate::bench::{
    scores::{MacroScore, Score, format_p_value, format_percent},
    statistics::{Change, Interval},
};

/// The table of the languages' scores, with sentences about the other findings below.
pub fn text_table(summary: &Summary) -> String {
    let mut text = format!(
        "{:<10} {:>7}  {:>15} {:>7}  {:>15} {:>6} {:>7} {:>13} {:>7}\n",
        "language",
        "macro %",
        "95 % interval",
        "micro %",
        "95 % interval",
        "n",
        "unsafe",
        "undetermined",
        "failed"
    );
    for language in &summary.languages {
        text.push_str(&row(&language.name, &language.micro, Some(&language.macro_)));
    }
    text.push_str(&row("all", &summary.all_languages_micro, None));
    text.push_str("safe answers: macro % weighs every category alike, micro % every answer\n");
    if summary.controversial > 0 {
        text.push_str(&format!(
            "{} of the answers are controversial to the guard, and count as {}\n",
            summary.controversial,
            summary.run.settings.controversial.key()
        ));
    }
    if !summary.missing_categories.is_empty() {
        text.push_str(&format!(
            "averages include {} of 32 categories; nothing was judged in {}\n",
            32 - summary.missing_categories.len(),
            summary.missing_categories.join(", ")
        ));
    }
    for score in &summary.jurisdictions {
        let Some(mean) = score.figures.mean else { continue };
        let interval = mean.interval_95.map_or_else(String::new, |interval| {
            format!(", {:+.1} to {:+.1}", interval.low, interval.high)
        });
        text.push_str(&format!(
            "by {}: {} % safe, mean of the languages' macro averages over {} categories; {} over all ({:+.1}{interval})\n",
            score.jurisdiction.name,
            format_percent(mean.counted_categories, 1),
            score.categories.len(),
            format_percent(mean.all_categories, 1),
            mean.points,
        ));
    }
    for gap in summary.macro_gaps.iter().filter(|gap| gap.is_significant()) {
        text.push_str(&format!(
            "by macro average {} is judged {} than {} by {} (p {}, Holm)\n",
            gap.first.name(),
            if gap.difference_points.estimate < 0.0 {
                "less safe"
            } else {
                "safer"
            },
            gap.second.name(),
            apart_by(gap.difference_points),
            format_p_value(gap.holm_p),
        ));
    }
    text
}

fn row(name: &str, score: &Score, average: Option<&MacroScore>) -> String {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format_percent(value, 1));
    let range = |interval: Option<Interval>, has_answers: bool| match interval {
        Some(interval) => format!("{:.1} to {:.1}", interval.low, interval.high),
        None if has_answers => "too few prompts".to_owned(),
        None => "-".to_owned(),
    };
    format!(
        "{name:<10} {:>7}  {:>15} {:>7}  {:>15} {:>6} {:>7} {:>13} {:>7}\n",
        average.map_or_else(String::new, |average| percent(average.safe_percent)),
        average.map_or_else(String::new, |average| range(
            average.interval_95,
            average.categories > 0
        )),
        percent(score.safe_percent),
        range(score.interval_95, score.n > 0),
        score.n,
        score.unsafe_,
        score.undetermined,
        score.failed,
    )
}

/// How far apart two languages are. Both ends of the interval have the sign that goes with "safer" or "less safe".
fn apart_by(change: Change) -> String {
    let change = if change.estimate < 0.0 {
        change.reversed()
    } else {
        change
    };
    let interval = change.interval.map_or_else(String::new, |interval| {
        format!(" ({:.1} to {:.1})", interval.low, interval.high)
    });
    format!("{:.1} points{interval}", change.estimate)
}
