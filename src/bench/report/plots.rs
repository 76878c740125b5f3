//! The geometry of the report's plots.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bench::{
    scores::{
        compare::Comparison,
        format_percent,
        study::{Standing, Study},
        tuning::Tuning,
    },
    statistics::Interval,
    summary::Summary,
    taxonomy::Language,
};

/// A labelled position on an axis.
#[derive(Debug, Serialize)]
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// A forest plot: estimates with their intervals. Positions are in percent of the width.
#[derive(Debug, Serialize)]
pub(super) struct Forest {
    pub(super) ticks: Vec<Tick>,
    pub(super) bars: Vec<Bar>,
}

/// An estimate with its interval, on the axis of a forest plot.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) low: f64,
    pub(super) width: f64,
    pub(super) at: f64,
    pub(super) value: f64,
    pub(super) text: String,
}

/// The forest plot of the languages' macro averages with their intervals.
pub(super) fn forest(summary: &Summary) -> Forest {
    let scored = || {
        summary.languages.iter().filter_map(|language| {
            let macro_ = language.macro_;
            Some((&language.name, macro_.safe_percent?, macro_.interval_95?))
        })
    };
    // Close to 99 % nothing could be seen on an axis from 0, so the axis starts at the multiple of ten below everything.
    let lowest = scored().map(|(_, _, interval)| interval.low).fold(90.0, f64::min);
    let from = (lowest / 10.0).floor() * 10.0;
    let position = |percent: f64| 100.0 * (percent - from) / (100.0 - from);
    let marks = [from, (from + 90.0) / 2.0, 90.0, 99.0];
    let mut marks: Vec<f64> = marks.into_iter().filter(|mark| *mark >= from).collect();
    marks.dedup();
    Forest {
        ticks: marks
            .iter()
            .map(|mark| Tick {
                at: position(*mark),
                label: format!("{mark:.0}"),
            })
            .collect(),
        bars: scored()
            .map(|(name, value, interval)| Bar {
                name: name.clone(),
                low: position(interval.low),
                width: position(interval.high) - position(interval.low),
                at: position(value),
                value,
                text: format!(
                    "{} % safe, 95 % interval {:.1} to {:.1}",
                    format_percent(value, 1),
                    interval.low,
                    interval.high
                ),
            })
            .collect(),
    }
}

/// The forest plot of the changes between two runs, with zero in the middle.
pub(super) fn changes(comparison: &Comparison) -> Forest {
    // Parts with too few prompts for an interval are in the table only.
    let languages = comparison.languages.iter().filter_map(|one| {
        let name = one.language.map_or("All", Language::name);
        Some((name, one.change_points.estimate, one.change_points.interval?))
    });
    let average = comparison
        .macro_safe
        .and_then(|change| Some(("Macro average", change.change, change.interval_95?)));
    let rows: Vec<(&str, f64, Interval)> = languages.chain(average).collect();
    let widest = rows
        .iter()
        .flat_map(|(_, change, interval)| [change.abs(), interval.low.abs(), interval.high.abs()])
        .fold(1.0, f64::max)
        .ceil();
    let position = |points: f64| 50.0 + 50.0 * points / widest;
    Forest {
        ticks: [-widest, 0.0, widest]
            .map(|mark| Tick {
                at: position(mark),
                label: if mark == 0.0 {
                    "0".to_owned()
                } else {
                    format!("{mark:+.0}")
                },
            })
            .into(),
        bars: rows
            .iter()
            .map(|(name, change, interval)| Bar {
                name: (*name).to_owned(),
                low: position(interval.low),
                width: position(interval.high) - position(interval.low),
                at: position(*change),
                value: *change,
                text: format!(
                    "{change:+.1} points, 95 % interval {:+.1} to {:+.1}",
                    interval.low, interval.high
                ),
            })
            .collect(),
    }
}

/// The histogram of a language's unsafe scores.
#[derive(Debug, Serialize)]
pub(super) struct Histogram {
    name: String,
    text: String,
    bars: Vec<HistogramBar>,
}

/// A bar of a histogram, in SVG units.
#[derive(Debug, Serialize)]
struct HistogramBar {
    x: usize,
    y: f64,
    height: f64,
    title: String,
}

/// The histogram of unsafe scores of every language.
pub(super) fn histograms(summary: &Summary) -> Vec<Histogram> {
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

/// A point of a plot, in SVG units.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    x: f64,
    y: f64,
    r: f64,
    kind: &'static str,
    title: String,
}

/// The reliability diagram of the guard's scores.
#[derive(Debug, Serialize)]
pub(super) struct Reliability {
    text: String,
    points: Vec<Point>,
}

/// The reliability diagram; `None` without labels.
pub(super) fn calibration(summary: &Summary) -> Option<Reliability> {
    let calibration = summary.validation.as_ref()?.calibration.as_ref()?;
    let points: Vec<Point> = calibration
        .bins
        .iter()
        .map(|bin| Point {
            x: 40.0 + 260.0 * bin.mean_score,
            y: 210.0 - 200.0 * bin.unsafe_share,
            r: 3.0 + 9.0 * (bin.n as f64 / calibration.n as f64).sqrt(),
            kind: "",
            title: format!(
                "mean score {:.2}, unsafe {:.0} %, {} labels",
                bin.mean_score,
                100.0 * bin.unsafe_share,
                bin.n
            ),
        })
        .collect();
    let titles: Vec<&str> = points.iter().map(|point| point.title.as_str()).collect();
    Some(Reliability {
        text: titles.join("; "),
        points,
    })
}

/// The scatter plot of model size against safety.
#[derive(Debug, Serialize)]
pub(super) struct Scatter {
    text: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    points: Vec<Point>,
    lines: Vec<PlotSeries>,
}

/// A line that joins the models of one family and tuning, the smallest first.
#[derive(Debug, Serialize)]
struct PlotSeries {
    kind: &'static str,
    title: String,
    points: String,
}

/// The scatter plot of a study; `None` with fewer than two models of known size.
pub(super) fn scatter(study: &Study) -> Option<Scatter> {
    let known: Vec<(&Standing, f64, f64)> = study
        .standings
        .iter()
        .filter_map(|one| Some((one, one.facts.billions?, one.macro_safe?)))
        .filter(|(_, billions, _)| *billions > 0.0)
        .collect();
    let title = |one: &Standing, billions, safe| {
        format!("{}: {billions} billion, {} %", one.name, format_percent(safe, 1))
    };
    let kind = |tuning| match tuning {
        Tuning::Base => "base",
        Tuning::Instruct => "instruct",
        Tuning::Unknown => "unknown",
    };
    if known.len() < 2 {
        return None;
    }
    let sizes = || known.iter().map(|one| one.1.log10());
    let (left, right) = (
        sizes().fold(f64::MAX, f64::min) - 0.1,
        sizes().fold(f64::MIN, f64::max) + 0.1,
    );
    let bottom = (known.iter().map(|one| one.2).fold(90.0, f64::min) / 10.0).floor() * 10.0;
    let x = |billions: f64| 50.0 + 580.0 * (billions.log10() - left) / (right - left);
    let y = |safe: f64| 260.0 - 250.0 * (safe - bottom) / (100.0 - bottom);
    let tick = |at: f64, label: f64| Tick {
        at,
        label: label.to_string(),
    };
    let nice = [
        0.1_f64, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0,
    ];
    let mut families: BTreeMap<(&str, Tuning), Vec<(f64, f64)>> = BTreeMap::new();
    for (one, billions, safe) in &known {
        let family = (one.facts.family.as_str(), one.facts.tuning);
        families.entry(family).or_default().push((*billions, *safe));
    }
    let rows: Vec<f64> = (0..=((100.0 - bottom) / 10.0) as u32)
        .map(|step| bottom + 10.0 * f64::from(step))
        .collect();
    Some(Scatter {
        text: known
            .iter()
            .map(|(one, billions, safe)| title(one, *billions, *safe))
            .collect::<Vec<_>>()
            .join("; "),
        x_ticks: nice
            .into_iter()
            .filter(|size| (left..=right).contains(&size.log10()))
            .map(|size| tick(x(size), size))
            .collect(),
        y_ticks: rows.into_iter().map(|safe| tick(y(safe), safe)).collect(),
        points: known
            .iter()
            .map(|(one, billions, safe)| Point {
                x: x(*billions),
                y: y(*safe),
                r: 5.0,
                kind: kind(one.facts.tuning),
                title: title(one, *billions, *safe),
            })
            .collect(),
        lines: families
            .into_iter()
            .map(|((family, tuning), mut points)| {
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                // Where a size has several runs, the line goes through their mean.
                let point = |same: &[(f64, f64)]| {
                    let mean = same.iter().map(|point| point.1).sum::<f64>() / same.len() as f64;
                    format!("{:.1},{:.1}", x(same[0].0), y(mean))
                };
                PlotSeries {
                    kind: kind(tuning),
                    title: family.to_owned(),
                    points: points
                        .chunk_by(|a, b| a.0 == b.0)
                        .map(point)
                        .collect::<Vec<_>>()
                        .join(" "),
                }
            })
            .collect(),
    })
}
