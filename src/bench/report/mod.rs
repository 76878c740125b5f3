//! The report: one HTML file that loads nothing.

pub mod comparability;
pub mod formats;
pub mod isolation;
mod plots;
mod policies;
pub mod runs;
pub mod tables;
pub mod texts;

use std::collections::BTreeMap;

use minijinja::{Environment, Value, context, value::Serde};
use serde::Serialize;

use self::{comparability::Told, texts::Disagreements};
use super::{
    paper,
    results::Origin,
    scores::{
        Band, consistency,
        gaps::{Gap, MacroGap},
        shown, shown_p, shown_signed,
        study::Study,
    },
    settings::RunKind,
    summary::{LanguageScore, Summary},
    taxonomy::{Language, MacroCategory},
    translation::Metric,
};

const STYLE: &str = include_str!("style.css");
const SORT: &str = include_str!("sort.js");
/// Pages with the macros of policies.
const RUN: &str = concat!(include_str!("policies.html.j2"), include_str!("run.html.j2"));
/// Pages with the macro that says whether runs can be compared.
const COMPARE: &str = concat!(
    include_str!("comparable.html.j2"),
    include_str!("compare.html.j2")
);
const LABEL: &str = include_str!("label.html.j2");
const LABEL_SCRIPT: &str = include_str!("label.js");
const STUDY: &str = concat!(
    include_str!("policies.html.j2"),
    include_str!("comparable.html.j2"),
    include_str!("study.html.j2")
);
const ISOLATION: &str = include_str!("isolation.html.j2");

/// Why the report could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be made")]
pub struct ReportError(#[from] minijinja::Error);

/// Every figure of the report: `summary.json`.
///
/// # Errors
/// Never with our own types.
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

/// Renders the report without a list of disagreements.
///
/// # Errors
/// [`ReportError`].
pub fn html(summary: &Summary) -> Result<String, ReportError> {
    html_with(summary, None)
}

/// Renders the report. Texts of prompts and answers are in it only where the disagreements hold them.
///
/// # Errors
/// [`ReportError`].
pub fn html_with(summary: &Summary, disagreements: Option<&Disagreements>) -> Result<String, ReportError> {
    let guard_is_target = summary.run.provenance.guard_is_target();
    let found_cells: Vec<&Gap> = summary
        .category_gaps
        .iter()
        .filter(|gap| gap.is_found())
        .collect();
    let found_macro: Vec<&MacroGap> = summary.macro_gaps.iter().filter(|gap| gap.is_found()).collect();
    let beside = |micro: &Gap| {
        let mut macro_gaps = summary.macro_gaps.iter();
        macro_gaps
            .find(|gap| (gap.first, gap.second) == (micro.first, micro.second))
            .cloned()
    };
    let gaps: Vec<(&Gap, Option<MacroGap>)> = summary
        .language_gaps
        .iter()
        .map(|gap| (gap, beside(gap)))
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
    let ends = |gap: &&MacroGap| {
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
        apart => found_macro.iter().any(ends),
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

/// Renders the comparison of many runs.
///
/// # Errors
/// [`ReportError`].
pub fn study_html(study: &Study) -> Result<String, ReportError> {
    let environment = environment()?;
    let findings: Vec<_> = study.translation.iter().map(isolation::findings).collect();
    let translation = match findings.is_empty() {
        true => None,
        false => Some(environment.get_template("isolation.html")?.render(context! {
            s => Value::from(Serde(study)),
            names => names(),
            metrics => Metric::ALL.map(|metric| (metric.key(), metric.title())).into_iter().collect::<BTreeMap<_, _>>(),
            findings => Value::from(Serde(findings)),
        })?),
    };
    let values = context! {
        style => STYLE,
        sort => SORT,
        s => Value::from(Serde(study)),
        names => names(),
        comparable => Value::from(Serde(study.comparable.as_ref().map(Told::of))),
        unknown_tuning => study.of_unknown_tuning().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        policy_not_decided => Value::from(Serde(policies::not_decided(study.policies.as_ref()))),
        codes => study.language_codes(),
        scatter => Value::from(Serde(plots::scatter(study))),
        translation,
    };
    Ok(environment.get_template("study.html")?.render(values)?)
}

/// The page on which people label answers. Its script and style have the nonce.
///
/// # Errors
/// [`ReportError`].
pub fn label_page(nonce: &str, answers: usize) -> Result<String, ReportError> {
    let values = context! { style => STYLE, script => LABEL_SCRIPT, nonce, answers };
    Ok(environment()?.get_template("label.html")?.render(values)?)
}

fn environment() -> Result<Environment<'static>, ReportError> {
    let mut environment = Environment::new();
    environment.add_filter("percent", |value: Value| number(&value, |v| shown(v, 1)));
    environment.add_filter("tenth", |value: Value| number(&value, tenth));
    environment.add_filter("three", |value: Value| number(&value, |v| format!("{v:.3}")));
    environment.add_filter("signed", |value: Value| number(&value, shown_signed));
    environment.add_filter("pvalue", |value: Value| number(&value, shown_p));
    environment.add_filter("band", |value: Value| match f64::try_from(value).map(Band::of) {
        Ok(Band::Safe) => "safe",
        Ok(Band::Middle) => "middle",
        Ok(Band::Unsafe) => "unsafe",
        Err(_) => "none",
    });
    environment.add_filter("title_of", |key: String| {
        let mut groups = MacroCategory::ALL.into_iter();
        groups
            .find(|group| group.key() == key)
            .map_or(key, |group| group.title().to_owned())
    });
    environment.add_filter("short", |digest: String| {
        digest.chars().take(19).collect::<String>()
    });
    environment.add_template("run.html", RUN)?;
    environment.add_template("study.html", STUDY)?;
    environment.add_template("isolation.html", ISOLATION)?;
    environment.add_template("label.html", LABEL)?;
    environment.add_template("compare.html", COMPARE)?;
    Ok(environment)
}

fn number(value: &Value, format: impl Fn(f64) -> String) -> String {
    f64::try_from(value.clone()).map_or_else(|_| "–".to_owned(), format)
}

/// One digit after the point; what rounds to nothing has no sign.
fn tenth(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.as_str() {
        "-0.0" => "0.0".to_owned(),
        _ => text,
    }
}

/// What leaving categories out changes, pair by pair in table order, all languages last.
fn exclusion(summary: &Summary) -> Vec<(String, consistency::WithAndWithout)> {
    let Some(exclusion) = &summary.exclusion else {
        return Vec::new();
    };
    let pairs = consistency::pairs().map(|(a, b)| {
        let key = format!("{}-{}", a.code(), b.code());
        (key, format!("{} and {}", a.name(), b.name()))
    });
    pairs
        .chain([("all".to_owned(), "all languages".to_owned())])
        .filter_map(|(key, name)| Some((name, *exclusion.agreement.get(&key)?)))
        .collect()
}

/// What answered, by the server's word or else by the settings'.
fn target(summary: &Summary) -> String {
    let answered = summary
        .run
        .provenance
        .targets
        .first()
        .map(|target| target.model.clone());
    let asked = || Some(summary.run.settings.target.clone()).filter(|name| !name.is_empty());
    answered.or_else(asked).unwrap_or_else(|| "unknown".to_owned())
}

/// Where the verdicts come from, unless a run made them.
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

fn guards(summary: &Summary) -> Vec<String> {
    let named = summary.run.settings.guards.iter().enumerate();
    let name = |(place, name): (usize, &String)| match name.as_str() {
        "" => format!("guard {}", place + 1),
        name => name.to_owned(),
    };
    named.map(name).collect()
}

fn names() -> BTreeMap<&'static str, &'static str> {
    Language::ALL
        .map(|language| (language.code(), language.name()))
        .into()
}

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
        ("policies", "Policies", !summary.policies.is_empty()),
        ("scores", "Scores and thresholds", true),
        ("answers", "How answers ended", true),
        ("provenance", "To run it again", true),
    ];
    let shown = all.into_iter().filter(|(_, _, shown)| *shown);
    shown.map(|(id, title, _)| Section { id, title }).collect()
}

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
