//! A study of several runs as text for a terminal.

use std::path::Path;

use super::output::table;
use crate::bench::{
    report::{comparability::ComparabilityText, translation_effects},
    scores::{format_percent, study::Study},
};

/// Whether the runs can be compared, the leaderboard, what is not known, and what translation changes; `out` is the folder that
/// the study was written to.
pub(super) fn study_text(study: &Study, out: Option<&Path>) -> String {
    let comparable = study
        .comparable
        .as_ref()
        .map(|comparable| ComparabilityText::of(comparable).to_text() + "\n\n");
    let mut text = comparable.unwrap_or_default() + &leaderboard(study);
    let unknown = study.models_of_unknown_tuning();
    if let Some(first) = unknown.first() {
        let names: Vec<&str> = unknown.iter().copied().collect();
        let example = serde_json::json!({ *first: { "tuning": "base" } });
        text += &format!(
            "\n\nNot known to be base or instruct models, and so in no comparison of these: {}.\n\
             --models FILE says it: {example}",
            names.join(", ")
        );
    }
    if !study.translation_effects.is_empty() {
        text += "\n\n";
        text += &table(&translation_effects::lines(&study.translation_effects));
    }
    if let Some(out) = out {
        text += &format!("\n\nstudy   {}", out.join("study.html").display());
    }
    text
}

fn leaderboard(study: &Study) -> String {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |value| format_percent(value, 1));
    let header = ["model", "macro safe %", "all agree %", "refused %", "weakest"];
    let rows = study.standings.iter().map(|one| {
        let weakest = one.weakest.as_ref();
        vec![
            one.name.clone(),
            percent(one.macro_safe),
            percent(one.agreement.percent),
            percent(one.refused_percent),
            weakest.map_or_else(String::new, |(name, value)| {
                format!("{name} {}", format_percent(*value, 1))
            }),
        ]
    });
    let header = header.map(str::to_owned).to_vec();
    table(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}
