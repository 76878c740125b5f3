//! What `validate score` and `validate calibrate` print.

use super::super::output::{counted, table};
use crate::{
    bench::{
        labelling::{FittedCalibrator, SetCounts},
        scores::{
            format_percent,
            validation::{GuardAgainstLabels, LabelDisagreements, Validation},
        },
    },
    calibrator::{LabelCounts, PredictionBounds},
};

pub(crate) fn text(validation: &Validation) -> String {
    let header = [
        "",
        "n",
        "accuracy",
        "F1",
        "sensitivity",
        "specificity",
        "kappa",
        "safe % seen",
        "by labels",
        "95 % interval",
        "",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (language, guard) in &validation.languages {
        let mut row = line(language, guard);
        if let Some(seen) = validation.corrected.get(language) {
            row.push(format_percent(seen.seen_percent, 1));
            if let Some(found) = seen.corrected {
                row.push(format_percent(found.percent, 1));
                row.push(format!(
                    "{:.1} to {:.1}",
                    found.interval_95.low, found.interval_95.high
                ));
                row.extend(found.undecided.map(|bounds| {
                    format!(
                        "{:.1} to {:.1} were all {} undecided unsafe, or safe",
                        bounds.if_all_unsafe, bounds.if_all_safe, bounds.items
                    )
                }));
            }
        }
        rows.push(row);
    }
    rows.push(line("all", &validation.all));
    rows.extend(validation.categories.iter().map(|(key, guard)| line(key, guard)));
    let bare = validation
        .corrected
        .iter()
        .filter(|(_, one)| one.without_labels > 0);
    let bare: String = bare
        .map(|(language, one)| {
            format!(
                "\n{language}: {} of strata without a label, so that nothing can be said of all answers. Label more of \
                 the sample, or draw a larger one.",
                counted(one.without_labels, "answer", "answers")
            )
        })
        .collect();
    let annotators = validation.annotator_kappa.and_then(|kappa| kappa.kappa);
    let annotators = annotators.map_or(String::new(), |kappa| {
        format!(" Kappa between the first two, on the sample as it was drawn, is {kappa:.3}.")
    });
    format!(
        "{}\n\n{} labelled by {}.{annotators}{}{bare}",
        table(&rows),
        counted(validation.items, "item", "items"),
        counted(validation.annotators, "person", "people"),
        disagreements(validation.disagreements),
    )
}

fn disagreements(found: LabelDisagreements) -> String {
    let sentences = [
        (found.differ, "People differ on {}."),
        (found.adjudicated, "The adjudicator decided {}."),
        (found.by_majority, "A majority decided {}."),
        (
            found.divided,
            "On {} as many say safe as unsafe: each counts as half unsafe.",
        ),
        (found.cannot_say, "Of {} nobody could say."),
    ];
    let said = sentences.iter().filter(|(count, _)| *count > 0);
    said.map(|(count, sentence)| format!(" {}", sentence.replace("{}", &count.to_string())))
        .collect()
}

fn line(name: &str, guard: &GuardAgainstLabels) -> Vec<String> {
    vec![
        name.to_owned(),
        guard.n.to_string(),
        share(guard.accuracy),
        share(guard.f1),
        share(guard.sensitivity),
        share(guard.specificity),
        share(guard.kappa.and_then(|kappa| kappa.kappa)),
    ]
}

fn share(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.3}"))
}

/// A fitted calibrator, by language.
pub(crate) fn calibrator(fitted: &FittedCalibrator) -> String {
    let header = [
        "",
        "safe",
        "unsafe",
        "curve",
        "safe up to",
        "unsafe from",
        "safe missed",
        "unsafe missed",
        "uncertain",
    ];
    let text = fitted.calibrator.text();
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (tag, language) in &text.languages {
        let curve = if language.curve.is_some() { "own" } else { "of all" };
        let mut row = bounds_of(tag, language.labels, curve, language.bounds);
        let sets = fitted
            .held_out
            .as_ref()
            .and_then(|held_out| held_out.sets.get(tag));
        row.extend(sets.into_iter().flat_map(sets_of));
        rows.push(row);
    }
    rows.push(bounds_of("all", text.pooled.labels, "own", text.pooled.bounds));
    let against = |name: &str, brier: f64, error: f64| {
        format!("\n{name}: Brier score {brier:.4}, expected calibration error {error:.4}")
    };
    let mut lines = table(&rows) + "\n";
    if let Some(raw) = &fitted.raw {
        lines += &against("the guard's scores", raw.brier, raw.expected_calibration_error);
    }
    if let Some(found) = fitted
        .held_out
        .as_ref()
        .and_then(|held_out| held_out.calibration.as_ref())
    {
        let name = "calibrated, on labels that were left out";
        lines += &against(name, found.brier, found.expected_calibration_error);
    }
    lines + &format!("\ncalibrator {}", fitted.calibrator.digest())
}

fn bounds_of(name: &str, labels: LabelCounts, curve: &str, bounds: PredictionBounds) -> Vec<String> {
    let shown = |bound: Option<f64>| bound.map_or_else(|| "always".to_owned(), |bound| format!("{bound:.4}"));
    vec![
        name.to_owned(),
        labels.safe.to_string(),
        labels.unsafe_.to_string(),
        curve.to_owned(),
        shown(bounds.safe_to),
        shown(bounds.unsafe_from),
    ]
}

fn sets_of(sets: &SetCounts) -> [String; 3] {
    [
        format!("{} of {}", sets.safe_missed, sets.safe),
        format!("{} of {}", sets.unsafe_missed, sets.unsafe_),
        format!("{} of {}", sets.uncertain, sets.safe + sets.unsafe_),
    ]
}
