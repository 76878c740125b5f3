//! The page of one run, and its figures as JSON.

use minijinja::{Value, context, value::Serde};
use serde::Serialize;

use super::{
    plots, tables,
    template::{ReportError, SORT, STYLE, environment, names},
    texts::Disagreements,
};
use crate::bench::{
    paper,
    results::Origin,
    scores::{LanguageGap, LanguagePair, MacroGap, WithAndWithout},
    settings::RunKind,
    summary::{LanguageScore, Summary},
};

/// All figures of the report as JSON, which is the content of `summary.json`.
///
/// # Errors
/// Serialising our own types does not fail.
pub fn figures(summary: &Summary, disagreements: Option<&Disagreements>) -> serde_json::Result<String> {
    let mut figures = serde_json::to_value(summary)?;
    if let Some(disagreements) = disagreements {
        figures["disagreements"] = disagreements.figures();
    }
    if summary.paper.is_some() {
        figures["beside_paper"] = serde_json::to_value(tables::beside_paper(summary))?;
    }
    Ok(serde_json::to_string_pretty(&figures)? + "\n")
}

/// Renders the report of a run without a list of disagreements.
///
/// # Errors
/// [`ReportError`].
pub fn html(summary: &Summary) -> Result<String, ReportError> {
    html_with(summary, None)
}

/// Renders the report of a run. It contains texts of prompts and answers only where the disagreements hold them.
///
/// # Errors
/// [`ReportError`].
pub fn html_with(summary: &Summary, disagreements: Option<&Disagreements>) -> Result<String, ReportError> {
    let guard_is_target = summary.run.provenance.guard_is_target();
    let found_cells: Vec<&LanguageGap> = summary
        .category_gaps
        .iter()
        .filter(|gap| gap.is_significant())
        .collect();
    let found_macro: Vec<&MacroGap> = summary
        .macro_gaps
        .iter()
        .filter(|gap| gap.is_significant())
        .collect();
    let macro_gap_of = |micro: &LanguageGap| {
        let mut macro_gaps = summary.macro_gaps.iter();
        macro_gaps
            .find(|gap| (gap.first, gap.second) == (micro.first, micro.second))
            .cloned()
    };
    let gaps: Vec<(&LanguageGap, Option<MacroGap>)> = summary
        .language_gaps
        .iter()
        .map(|gap| (gap, macro_gap_of(gap)))
        .collect();
    let by_macro = |score: &&LanguageScore| score.macro_.safe_percent.unwrap_or(f64::NAN);
    let scored = || {
        summary
            .languages
            .iter()
            .filter(|language| language.macro_.safe_percent.is_some())
    };
    let best = scored().max_by(|a, b| by_macro(a).total_cmp(&by_macro(b)));
    let worst = scored().min_by(|a, b| by_macro(a).total_cmp(&by_macro(b)));
    let is_gap_of_extremes = |gap: &&MacroGap| {
        let names = [best, worst].map(|language| language.map(|language| language.language));
        names.contains(&Some(gap.first)) && names.contains(&Some(gap.second))
    };
    let paper_sheet = tables::paper(summary);
    let paper_rows: Vec<Vec<&str>> = paper_sheet
        .iter()
        .flat_map(|sheet| &sheet.rows)
        .map(|row| row.iter().map(|cell| cell.text.as_str()).collect())
        .collect();
    let values = context! {
        style => STYLE,
        sort => SORT,
        s => Value::from(Serde(summary)),
        target => target(summary),
        guards => guards(summary),
        origin => origin(summary),
        names => names(),
        demo => summary.run.settings.kind == RunKind::MechanismDemo || guard_is_target,
        sections => Value::from(Serde(sections(summary))),
        best => Value::from(Serde(best)),
        worst => Value::from(Serde(worst)),
        extremes_differ => found_macro.iter().any(is_gap_of_extremes),
        exclusion => Value::from(Serde(exclusion(summary))),
        weakest => Value::from(Serde(weakest(summary))),
        gaps => Value::from(Serde(&gaps)),
        found_macro => Value::from(Serde(&found_macro)),
        found_cells => Value::from(Serde(&found_cells)),
        refusals => summary.languages.iter().any(|language| language.refusals.n > 0),
        forest => Value::from(Serde(plots::forest(summary))),
        histograms => Value::from(Serde(plots::histograms(summary))),
        calibration => Value::from(Serde(plots::calibration(summary))),
        paper_rows => Value::from(Serde(&paper_rows)),
        paper_warning => &paper::published().warning,
        disagreements => Value::from(Serde(disagreements)),
        with_texts => disagreements.is_some_and(|d| d.shown.iter().any(|one| !one.texts.is_empty())),
    };
    Ok(environment()?.get_template("run.html")?.render(values)?)
}

/// What leaving categories out changes: each pair of languages in table order, then all languages.
fn exclusion(summary: &Summary) -> Vec<(String, WithAndWithout)> {
    let Some(exclusion) = &summary.exclusion else {
        return Vec::new();
    };
    let pairs = LanguagePair::all().map(|pair| {
        let name = format!("{} and {}", pair.first.name(), pair.second.name());
        (pair.key(), name)
    });
    pairs
        .chain([("all".to_owned(), "all languages".to_owned())])
        .filter_map(|(key, name)| Some((name, *exclusion.agreement.get(&key)?)))
        .collect()
}

/// The target's name, as the server reported it or else as the settings have it.
fn target(summary: &Summary) -> String {
    let answered = summary
        .run
        .provenance
        .targets
        .first()
        .map(|target| target.model.clone());
    let configured = || Some(summary.run.settings.target.clone()).filter(|name| !name.is_empty());
    answered
        .or_else(configured)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Where the verdicts come from, unless `bench run` made them.
fn origin(summary: &Summary) -> Option<String> {
    match &summary.run.origin {
        Origin::Run => None,
        Origin::Rescored { results_digest } => {
            Some(format!("answers of another run, judged again ({results_digest})"))
        }
        Origin::Imported { file, digest } => Some(format!(
            "imported from {file} ({digest}); what the file does not say is unknown"
        )),
        Origin::Merged { shards } => Some(format!("merged from {shards} shards")),
    }
}

/// The names of the run's guards, or their numbers where they have no name.
fn guards(summary: &Summary) -> Vec<String> {
    let guards = summary.run.settings.guards.iter().zip(1..);
    guards
        .map(|(name, number)| match name.as_str() {
            "" => format!("guard {number}"),
            name => name.to_owned(),
        })
        .collect()
}

/// A section of the page.
#[derive(Serialize)]
struct Section {
    id: &'static str,
    title: &'static str,
}

fn sections(summary: &Summary) -> Vec<Section> {
    let refusals = summary.languages.iter().any(|language| language.refusals.n > 0);
    let all = [
        ("headline", "Languages", true),
        ("gaps", "Gaps", true),
        ("categories", "Categories", true),
        ("agreement", "Agreement", true),
        ("refusals", "Refusals", refusals),
        ("guards", "Guards", !summary.guard_pairs.is_empty()),
        ("labels", "Labels", summary.validation.is_some()),
        ("paper", "The paper", summary.paper.is_some()),
        ("policies", "Policies", !summary.jurisdictions.is_empty()),
        ("scores", "Scores and thresholds", true),
        ("answers", "How answers ended", true),
        ("provenance", "To run it again", true),
    ];
    let shown = all.into_iter().filter(|(_, _, shown)| *shown);
    shown.map(|(id, title, _)| Section { id, title }).collect()
}

/// The category and language with the lowest safe %.
#[derive(Serialize)]
struct Weakest {
    category: String,
    language: String,
    percent: f64,
    n: u64,
}

fn weakest(summary: &Summary) -> Option<Weakest> {
    let cells = summary.categories.iter().flat_map(|category| {
        let languages = summary.languages.iter().zip(&category.by_language);
        languages.filter_map(move |(language, score)| {
            Some(Weakest {
                category: category.key.clone(),
                language: language.name.clone(),
                percent: score.safe_percent?,
                n: score.n,
            })
        })
    });
    cells.min_by(|a, b| a.percent.total_cmp(&b.percent))
}
