//! What a verdict is as the result of a moderation.

use serde::Serialize;

use super::categories::{PerCategory, counterparts};
use crate::{
    http::verdict::{has_undetermined_window, highest_score, is_undetermined},
    proto,
    rpc::label_name,
};

/// What an input is, for every category.
const TEXT: &str = "text";

/// The result of an input.
#[derive(Debug, Serialize)]
pub(super) struct ModerationResult {
    flagged: bool,
    categories: PerCategory<bool>,
    category_scores: PerCategory<f64>,
    category_applied_input_types: PerCategory<[&'static str; 1]>,
    babelward: VerdictReport,
}

/// What the guard says in its own words, which OpenAI's categories cannot.
#[derive(Debug, Serialize)]
struct VerdictReport {
    /// `safe`, `unsafe` or `controversial`.
    label: &'static str,
    unsafe_score: f64,
    /// The categories that the guard names.
    categories: Vec<GuardCategory>,
    /// Those of them that no category of OpenAI's stands for.
    without_counterpart: Vec<String>,
    category_scores_from: ScoreSource,
    /// Windows that a long text was judged in; absent where it was judged whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<usize>,
    /// What the server's decision policy says.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<DecisionReport>,
}

#[derive(Debug, Serialize)]
struct GuardCategory {
    category: String,
    name: String,
}

#[derive(Debug, Serialize)]
struct DecisionReport {
    action: String,
    policy: String,
}

/// Where the scores of categories are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ScoreSource {
    /// The probability that the text is unsafe and that the guard names one of these categories first.
    CategoryProbabilities,
    /// The unsafe score for the categories that the guard names, and 0 for all others, of which it says nothing.
    UnsafeScore,
}

/// The result of a verdict. `None` where it says neither safe nor unsafe, or has no score: then there is no result, because
/// every result would say one of both.
pub(super) fn result(response: proto::ClassifyResponse, threshold: Option<f64>) -> Option<ModerationResult> {
    let verdict = response.verdict?;
    let unsafe_score = verdict.unsafe_score?;
    let label = verdict.label();
    if is_undetermined(label) {
        return None;
    }
    let flagged = match threshold {
        Some(threshold) => highest_score(&verdict).is_some_and(|score| score >= threshold),
        None => label != proto::Label::Safe,
    };
    if !flagged && has_undetermined_window(&verdict) {
        return None;
    }
    let named = |category: &proto::CategoryResult| match category.display_name.is_empty() {
        true => category.category.clone(),
        false => category.display_name.clone(),
    };
    let written: Vec<_> = verdict
        .categories
        .iter()
        .map(|one| counterparts(&named(one)))
        .collect();
    let categories = PerCategory::of(|category| written.iter().any(|found| found.contains(&category)));
    let from = match verdict.category_probabilities.is_empty() {
        true => ScoreSource::UnsafeScore,
        false => ScoreSource::CategoryProbabilities,
    };
    let probabilities = &verdict.category_probabilities;
    let score = |category| match from {
        ScoreSource::UnsafeScore => match written.iter().any(|found| found.contains(&category)) {
            true => unsafe_score,
            false => 0.0,
        },
        // The guard names one category first, so these exclude each other.
        ScoreSource::CategoryProbabilities => probabilities
            .iter()
            .filter(|one| counterparts(&one.display_name).contains(&category))
            // From 0 on: an empty sum of floating-point numbers is -0.
            .fold(0.0, |sum, one| sum + one.probability),
    };
    Some(ModerationResult {
        flagged,
        categories,
        category_scores: PerCategory::of(score),
        category_applied_input_types: PerCategory::of(|_| [TEXT]),
        babelward: VerdictReport {
            label: label_name(label),
            unsafe_score,
            categories: verdict
                .categories
                .iter()
                .map(|one| GuardCategory {
                    category: one.category.clone(),
                    name: one.display_name.clone(),
                })
                .collect(),
            without_counterpart: verdict
                .categories
                .iter()
                .zip(&written)
                .filter(|(_, found)| found.is_empty())
                .map(|(one, _)| one.category.clone())
                .collect(),
            category_scores_from: from,
            windows: Some(verdict.windows.len()).filter(|windows| *windows > 0),
            decision: response.decision.map(|decision| DecisionReport {
                action: decision
                    .action()
                    .as_str_name()
                    .trim_start_matches("ACTION_")
                    .to_lowercase(),
                policy: format!("{}@{}", decision.policy, decision.policy_version),
            }),
        },
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn verdict(
        label: proto::Label,
        score: Option<f64>,
        categories: &[(&str, &str)],
    ) -> proto::ClassifyResponse {
        let categories = categories.iter().map(|(category, name)| proto::CategoryResult {
            category: (*category).to_owned(),
            display_name: (*name).to_owned(),
        });
        proto::ClassifyResponse {
            verdict: Some(proto::Verdict {
                label: label.into(),
                unsafe_score: score,
                categories: categories.collect(),
                ..proto::Verdict::default()
            }),
            ..proto::ClassifyResponse::default()
        }
    }

    fn written(response: proto::ClassifyResponse, threshold: Option<f64>) -> Value {
        serde_json::to_value(result(response, threshold).unwrap()).unwrap()
    }

    #[test]
    fn a_safe_text_has_all_keys_and_is_not_flagged() {
        let result = written(verdict(proto::Label::Safe, Some(0.25), &[]), None);
        assert_eq!(result["flagged"], false);
        for key in ["categories", "category_scores", "category_applied_input_types"] {
            assert_eq!(result[key].as_object().unwrap().len(), 13, "{key}");
        }
        assert!(
            result["categories"]
                .as_object()
                .unwrap()
                .values()
                .all(|value| value == false)
        );
        assert!(
            result["category_scores"]
                .as_object()
                .unwrap()
                .values()
                .all(|value| value == 0.0)
        );
        assert_eq!(result["category_applied_input_types"]["hate"], json!(["text"]));
        assert_eq!(result["babelward"]["unsafe_score"], 0.25);
        assert_eq!(result["babelward"]["category_scores_from"], "unsafe_score");
    }

    #[test]
    fn an_unsafe_text_has_the_categories_that_the_guard_names() {
        let named = [("S9", "Indiscriminate Weapons"), ("S6", "Specialized Advice")];
        let result = written(verdict(proto::Label::Unsafe, Some(0.75), &named), None);
        assert_eq!(result["flagged"], true);
        assert_eq!(result["categories"]["illicit/violent"], true);
        assert_eq!(result["categories"]["violence"], false);
        assert_eq!(result["category_scores"]["illicit"], 0.75);
        assert_eq!(result["category_scores"]["hate"], 0.0);
        let report = &result["babelward"];
        assert_eq!(report["without_counterpart"], json!(["S6"]));
        assert_eq!(
            report["categories"][0],
            json!({"category": "S9", "name": "Indiscriminate Weapons"})
        );
    }

    #[test]
    fn a_guard_that_names_categories_without_counterparts_still_flags() {
        let result = written(
            verdict(proto::Label::Controversial, Some(0.5), &[("PII", "PII")]),
            None,
        );
        assert_eq!(result["flagged"], true);
        assert!(
            result["categories"]
                .as_object()
                .unwrap()
                .values()
                .all(|value| value == false)
        );
        assert_eq!(result["babelward"]["without_counterpart"], json!(["PII"]));
        assert_eq!(result["babelward"]["label"], "controversial");
    }

    #[test]
    fn probabilities_of_categories_add_up() {
        let mut response = verdict(proto::Label::Safe, Some(0.5), &[]);
        let probability = |name: &str, probability| proto::CategoryProbability {
            category: "S".to_owned(),
            probability,
            display_name: name.to_owned(),
        };
        response.verdict.as_mut().unwrap().category_probabilities = vec![
            probability("Violent Crimes", 0.25),
            probability("Non-Violent Crimes", 0.125),
            probability("Elections", 0.0625),
        ];
        let result = written(response, None);
        assert_eq!(result["category_scores"]["illicit"], 0.375);
        assert_eq!(result["category_scores"]["illicit/violent"], 0.25);
        assert_eq!(result["category_scores"]["hate"], 0.0);
        // Of a safe text the guard names no category.
        assert_eq!(result["categories"]["illicit"], false);
        assert_eq!(
            result["babelward"]["category_scores_from"],
            "category_probabilities"
        );
    }

    #[test]
    fn a_threshold_takes_the_place_of_the_label() {
        let flagged =
            |label, score, threshold| written(verdict(label, Some(score), &[]), threshold)["flagged"].clone();
        assert_eq!(flagged(proto::Label::Safe, 0.25, Some(0.25)), true);
        assert_eq!(flagged(proto::Label::Safe, 0.25, Some(0.5)), false);
        assert_eq!(flagged(proto::Label::Unsafe, 0.75, Some(0.9)), false);
    }

    #[test]
    fn a_threshold_is_for_every_window_of_a_long_text() {
        let mut response = verdict(proto::Label::Controversial, Some(0.25), &[]);
        response.verdict.as_mut().unwrap().windows = [0.25, 0.75]
            .map(|score| proto::WindowVerdict {
                label: proto::Label::Safe.into(),
                unsafe_score: Some(score),
                ..proto::WindowVerdict::default()
            })
            .to_vec();
        assert_eq!(written(response.clone(), Some(0.5))["flagged"], true);
        assert_eq!(written(response.clone(), Some(0.8))["flagged"], false);
        response.verdict.as_mut().unwrap().windows[0].label = proto::Label::Undetermined.into();
        assert!(result(response, Some(0.8)).is_none(), "a window has no verdict");
    }

    #[test]
    fn without_a_verdict_there_is_no_result() {
        assert!(result(verdict(proto::Label::Undetermined, Some(0.1), &[]), None).is_none());
        assert!(result(verdict(proto::Label::Unspecified, Some(0.1), &[]), None).is_none());
        assert!(result(verdict(proto::Label::Safe, None, &[]), None).is_none());
        assert!(result(proto::ClassifyResponse::default(), None).is_none());
    }
}
