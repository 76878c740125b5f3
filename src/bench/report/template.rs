//! The templates of the pages, and what they share.

use std::collections::BTreeMap;

use minijinja::{Environment, Value};

use super::format::tenth;
use crate::bench::{
    scores::{Band, format_change, format_p_value, format_percent},
    taxonomy::{Language, MacroCategory},
};

pub(super) const STYLE: &str = include_str!("style.css");
pub(super) const SORT: &str = include_str!("sort.js");
/// The page of a run, with the macros about jurisdictions in front.
const RUN: &str = concat!(include_str!("jurisdictions.html.j2"), include_str!("run.html.j2"));
/// The page of two runs, with the macro about comparability in front.
const TWO_RUNS: &str = concat!(
    include_str!("comparability.html.j2"),
    include_str!("two_runs.html.j2")
);
const LABEL: &str = include_str!("label.html.j2");
pub(super) const LABEL_SCRIPT: &str = include_str!("label.js");
const STUDY: &str = concat!(
    include_str!("jurisdictions.html.j2"),
    include_str!("comparability.html.j2"),
    include_str!("study.html.j2")
);
const TRANSLATION_EFFECTS: &str = include_str!("translation_effects.html.j2");

/// Why the report could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the report cannot be made")]
pub struct ReportError(#[from] minijinja::Error);

/// The environment that renders all pages, with the filters that the templates use.
pub(super) fn environment() -> Result<Environment<'static>, ReportError> {
    let mut environment = Environment::new();
    environment.add_filter("percent", |value: Value| number(&value, |v| format_percent(v, 1)));
    environment.add_filter("tenth", |value: Value| number(&value, tenth));
    environment.add_filter("three", |value: Value| number(&value, |v| format!("{v:.3}")));
    environment.add_filter("signed", |value: Value| number(&value, format_change));
    environment.add_filter("pvalue", |value: Value| number(&value, format_p_value));
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
    environment.add_template("translation_effects.html", TRANSLATION_EFFECTS)?;
    environment.add_template("label.html", LABEL)?;
    environment.add_template("two_runs.html", TWO_RUNS)?;
    Ok(environment)
}

/// A number in the given format, or a dash for anything else.
fn number(value: &Value, format: impl Fn(f64) -> String) -> String {
    f64::try_from(value.clone()).map_or_else(|_| "–".to_owned(), format)
}

/// The English names of the languages, by code.
pub(super) fn names() -> BTreeMap<&'static str, &'static str> {
    Language::ALL
        .map(|language| (language.code(), language.name()))
        .into()
}
