//! The page of a study, which compares many runs.

use std::collections::BTreeMap;

use minijinja::{Value, context, value::Serde};

use super::{
    comparability::ComparabilityText,
    jurisdictions, plots,
    template::{ReportError, SORT, STYLE, environment, names},
    translation_effects,
};
use crate::bench::{scores::study::Study, translation::Metric};

/// Renders the report of a study, which compares many runs.
///
/// # Errors
/// [`ReportError`].
pub fn study_html(study: &Study) -> Result<String, ReportError> {
    let environment = environment()?;
    let findings: Vec<_> = study
        .translation_effects
        .iter()
        .map(translation_effects::findings)
        .collect();
    let translation = match findings.is_empty() {
        true => None,
        false => Some(environment.get_template("translation_effects.html")?.render(context! {
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
        comparable => Value::from(Serde(study.comparable.as_ref().map(ComparabilityText::of))),
        unknown_tuning => study.models_of_unknown_tuning().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        policy_not_decided => Value::from(Serde(jurisdictions::not_decided(study.jurisdictions.as_ref()))),
        codes => study.language_codes(),
        scatter => Value::from(Serde(plots::scatter(study))),
        translation,
    };
    Ok(environment.get_template("study.html")?.render(values)?)
}
