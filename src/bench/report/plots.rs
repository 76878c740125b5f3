//! Geometry of the report's plots.

use serde::Serialize;

use crate::bench::{
    scores::study::{Study, Tuning},
    summary::Summary,
};

/// A labelled place on an axis.
#[derive(Debug, Serialize)]
pub struct Tick {
    at: f64,
    label: String,
}

/// The languages' macro averages with their intervals; places are percent of the width.
#[derive(Debug, Serialize)]
pub struct Forest {
    ticks: Vec<Tick>,
    bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    low: f64,
    width: f64,
    at: f64,
    value: f64,
    text: String,
}

pub fn forest(summary: &Summary) -> Forest {
    let scored = || {
        summary.languages.iter().filter_map(|language| {
            let macro_ = language.macro_;
            Some((&language.name, macro_.safe_percent?, macro_.interval_95?))
        })
    };
    // At 99 % nothing is seen on an axis from 0: it starts at the ten below everything.
    let lowest = scored().map(|(_, _, interval)| interval.low).fold(90.0, f64::min);
    let from = (lowest / 10.0).floor() * 10.0;
    let place = |percent: f64| 100.0 * (percent - from) / (100.0 - from);
    let marks = [from, (from + 90.0) / 2.0, 90.0, 99.0];
    let mut marks: Vec<f64> = marks.into_iter().filter(|mark| *mark >= from).collect();
    marks.dedup();
    Forest {
        ticks: marks
            .iter()
            .map(|mark| Tick {
                at: place(*mark),
                label: format!("{mark:.0}"),
            })
            .collect(),
        bars: scored()
            .map(|(name, value, interval)| Bar {
                name: name.clone(),
                low: place(interval.low),
                width: place(interval.high) - place(interval.low),
                at: place(value),
                value,
                text: format!(
                    "{value:.1} % safe, 95 % interval {:.1} to {:.1}",
                    interval.low, interval.high
                ),
            })
            .collect(),
    }
}

/// Bars of a language's unsafe scores.
#[derive(Debug, Serialize)]
pub struct Histogram {
    name: String,
    text: String,
    bars: Vec<HistogramBar>,
}

#[derive(Debug, Serialize)]
struct HistogramBar {
    x: usize,
    y: f64,
    height: f64,
    title: String,
}

pub fn histograms(summary: &Summary) -> Vec<Histogram> {
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

/// A point of a plot in SVG units.
#[derive(Debug, Serialize)]
pub struct Point {
    x: f64,
    y: f64,
    r: f64,
    kind: &'static str,
    title: String,
}

/// The reliability diagram.
#[derive(Debug, Serialize)]
pub struct Reliability {
    text: String,
    points: Vec<Point>,
}

pub fn calibration(summary: &Summary) -> Option<Reliability> {
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

/// Size against safety.
#[derive(Debug, Serialize)]
pub struct Scatter {
    text: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    points: Vec<Point>,
}

pub fn scatter(study: &Study) -> Option<Scatter> {
    let known: Vec<(&str, f64, f64, Tuning)> = study
        .standings
        .iter()
        .filter_map(|one| {
            Some((
                one.name.as_str(),
                one.facts.billions?,
                one.macro_safe?,
                one.facts.tuning,
            ))
        })
        .filter(|(_, billions, ..)| *billions > 0.0)
        .collect();
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
    let nice = [0.1_f64, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];
    let rows: Vec<f64> = (0..=((100.0 - bottom) / 10.0) as u32)
        .map(|step| bottom + 10.0 * f64::from(step))
        .collect();
    Some(Scatter {
        text: known
            .iter()
            .map(|(name, billions, safe, _)| format!("{name}: {billions} billion, {safe:.1} %"))
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
            .map(|(name, billions, safe, tuning)| Point {
                x: x(*billions),
                y: y(*safe),
                r: 5.0,
                kind: match tuning {
                    Tuning::Base => "base",
                    Tuning::Instruct => "instruct",
                },
                title: format!("{name}: {billions} billion, {safe:.1} %"),
            })
            .collect(),
    })
}
