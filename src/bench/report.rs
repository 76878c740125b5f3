//! The report: one HTML file that loads nothing.

use minijinja::{Environment, Value, context, value::Serde};

use super::{settings::RunKind, summary::Summary};

const TEMPLATE: &str = include_str!("report.html.j2");

/// Why the report could not be made.
#[derive(Debug, thiserror::Error)]
#[error("report: {0}")]
pub struct ReportError(#[from] minijinja::Error);

/// Renders the report. Texts of prompts and answers are not in it.
pub fn html(summary: &Summary) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.add_filter("percent", percent);
    environment.add_filter("short", |digest: String| {
        digest.chars().take(19).collect::<String>()
    });
    environment.add_template("report.html", TEMPLATE)?;
    let guard_is_target = summary.run.provenance.guard_is_target();
    let values = context! {
        s => Value::from(Serde(summary)),
        demo => summary.run.settings.kind == RunKind::MechanismDemo || guard_is_target,
        histograms => Value::from(Serde(histograms(summary))),
        forest => Value::from(Serde(forest(summary))),
    };
    Ok(environment.get_template("report.html")?.render(values)?)
}

fn percent(value: Value) -> String {
    f64::try_from(value).map_or_else(|_| "–".to_owned(), |v| format!("{v:.1}"))
}

/// Geometry of a language's interval in the headline plot: percent of the width.
#[derive(serde::Serialize)]
struct Bar {
    name: String,
    low: f64,
    width: f64,
    at: f64,
    text: String,
}

fn forest(summary: &Summary) -> Vec<Bar> {
    summary
        .languages
        .iter()
        .filter_map(|language| {
            let (at, interval) = (language.micro.safe_percent?, language.micro.interval_95?);
            Some(Bar {
                name: language.name.clone(),
                low: interval.low,
                width: interval.high - interval.low,
                at,
                text: format!(
                    "{at:.1} % safe, 95 % interval {:.1} to {:.1}",
                    interval.low, interval.high
                ),
            })
        })
        .collect()
}

/// Bars of a language's unsafe scores.
#[derive(serde::Serialize)]
struct Histogram {
    name: String,
    text: String,
    bars: Vec<HistogramBar>,
}

#[derive(serde::Serialize)]
struct HistogramBar {
    x: usize,
    y: f64,
    height: f64,
    title: String,
}

fn histograms(summary: &Summary) -> Vec<Histogram> {
    const HEIGHT: f64 = 60.0;
    let all = summary.languages.iter();
    let top = all
        .clone()
        .flat_map(|l| l.score_histogram.iter().copied())
        .max()
        .unwrap_or(0)
        .max(1);
    all.map(|language| Histogram {
        name: language.name.clone(),
        text: format!(
            "items by unsafe score, from 0 to 1 in steps of 0.1: {}",
            language
                .score_histogram
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        ),
        bars: language
            .score_histogram
            .iter()
            .enumerate()
            .map(|(bin, &count)| {
                let height = HEIGHT * count as f64 / top as f64;
                HistogramBar {
                    x: bin * 20,
                    y: HEIGHT - height,
                    height,
                    title: format!(
                        "{:.1} to {:.1}: {count}",
                        bin as f64 / 10.0,
                        (bin + 1) as f64 / 10.0
                    ),
                }
            })
            .collect(),
    })
    .collect()
}
