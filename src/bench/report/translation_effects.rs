//! The effect of translation on language gaps, for people: sentences, a plot and tables.

use serde::Serialize;

use super::{
    format::tenth,
    plots::{Bar, Forest, Tick},
    sheet::{Cell, Sheet, header, percent, plain, range},
};
use crate::bench::{
    scores::translation_effects::{QualityEffect, SeedNoise, TestKind, TranslationEffect, TranslatorTest},
    statistics::{Choice, Difference, Interval},
    taxonomy::Language,
};

/// The findings about one language, in words.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// The conclusion in a few words.
    verdict: &'static str,
    /// The conclusion with its figures.
    answer: String,
    /// Further sentences about it.
    notes: Vec<String>,
    /// The gap under each translator.
    plot: Option<Forest>,
    /// Parts of the verdicts' variance in percent, by source; empty when nothing varies.
    variance: Vec<(&'static str, f64)>,
}

/// The direction of a difference, judged by its interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Above,
    Unknown,
    Below,
}

fn direction(interval: Interval) -> Direction {
    match interval {
        Interval { low, .. } if low > 0.0 => Direction::Above,
        Interval { high, .. } if high < 0.0 => Direction::Below,
        _ => Direction::Unknown,
    }
}

fn range_text(interval: Interval) -> String {
    format!("{} to {}", tenth(interval.low), tenth(interval.high))
}

/// An estimate with its interval, such as `2.0 points (0.5 to 3.5)`.
fn points(one: Difference) -> String {
    format!("{} points ({})", tenth(one.estimate), range_text(one.interval))
}

/// Describes the effect of translation on one language.
pub(crate) fn findings(effect: &TranslationEffect) -> Findings {
    let (verdict, answer) = match (&effect.choice, effect.reference) {
        (None, _) => (
            "Too few prompts",
            format!(
                "{} prompts were judged under every translator: too few to choose a translator on one half and measure it \
                 on the other.",
                effect.prompts
            ),
        ),
        (Some(choice), None) => ("No reference", without_reference(effect, choice)),
        (Some(choice), Some(reference)) => answer(effect, choice, reference),
    };
    let tests = effect.test.iter().map(test_sentence);
    let stability = effect
        .choice
        .iter()
        .filter_map(|choice| stability(effect, choice));
    let noise = [noise(effect.noise.as_ref())];
    let quality = effect.quality.iter().filter_map(quality);
    Findings {
        verdict,
        answer,
        notes: tests.chain(stability).chain(noise).chain(quality).collect(),
        plot: plot(effect),
        variance: variance(effect),
    }
}

fn without_reference(effect: &TranslationEffect, choice: &Choice) -> String {
    format!(
        "No language of these runs is untranslated, so there is no gap to explain. The best of {} translators is {} safer \
         than their average.",
        effect.translators.len(),
        points(choice.gain)
    )
}

fn answer(effect: &TranslationEffect, choice: &Choice, reference: Language) -> (&'static str, String) {
    let (reference, language) = (reference.name(), effect.language.name());
    let (Some(gap), Some(rest)) = (choice.gap, choice.rest) else {
        return ("No reference", without_reference(effect, choice));
    };
    let count = effect.translators.len();
    match (direction(gap.interval), choice.share) {
        (Direction::Above, Some(share)) => {
            let lead = format!(
                "{reference} is judged safer than {language} under the average translator by {}.",
                points(gap)
            );
            match direction(choice.gain.interval) {
                Direction::Above => (
                    "Part of the gap is translation",
                    format!(
                        "{lead} Choosing the best of {count} translators saves {} of it: {:.0} % of the gap ({:.0} to \
                         {:.0} %). {} remain that none of these translators removes.",
                        points(choice.gain),
                        share.estimate,
                        share.interval.low,
                        share.interval.high,
                        points(rest)
                    ),
                ),
                _ => (
                    "No part is shown to be translation",
                    format!(
                        "{lead} Choosing the best of {count} translators is not shown to save any of it: {}, or {:.0} % \
                         of the gap ({:.0} to {:.0} %).",
                        points(choice.gain),
                        share.estimate,
                        share.interval.low,
                        share.interval.high
                    ),
                ),
            }
        }
        (Direction::Above, None) => (
            "It cannot be told",
            format!(
                "{reference} is judged safer than {language} under the average translator by {}, but the verdicts on fewer \
                 than ten prompts differ from those in {reference}: too few to say how much of it is translation.",
                points(gap)
            ),
        ),
        (Direction::Below, _) => (
            "No gap to explain",
            format!(
                "{language} is judged safer than {reference} under the average translator, by {:.1} points ({:.1} to \
                 {:.1}).",
                -gap.estimate, -gap.interval.high, -gap.interval.low
            ),
        ),
        _ => (
            "It cannot be told",
            format!(
                "No gap is shown: {reference} less {language} is {} under the average translator. There may be no gap at \
                 all, so it cannot be told how much of it is translation. Choosing the best translator changes safe % by \
                 {} against the average one.",
                points(gap),
                points(choice.gain)
            ),
        ),
    }
}

fn test_sentence(test: &TranslatorTest) -> String {
    let name = match test.kind {
        TestKind::Mcnemar(_) => "McNemar's mid-p".to_owned(),
        TestKind::CochranQ(q) => format!("Cochran's Q {:.1}, permutation p", q.q),
    };
    let p = match test.holm_p {
        p if p < 0.001 => "below 0.001".to_owned(),
        p => format!("{p:.3}"),
    };
    let found = if test.is_significant() {
        "differ"
    } else {
        "are not shown to differ"
    };
    format!("The translators {found} on the same prompts ({name} after Holm's adjustment {p}).")
}

/// Says whether it is clear which translator is best.
fn stability(effect: &TranslationEffect, choice: &Choice) -> Option<String> {
    let names = effect.translators.iter().map(|side| side.translator.as_str());
    let (name, percent) = names
        .zip(choice.chosen.iter().copied())
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    let of_worst = choice.share_of_worst.map_or_else(String::new, |share| {
        format!(
            ", {:.0} % of the worst translator's gap ({:.0} to {:.0} %)",
            share.estimate, share.interval.low, share.interval.high
        )
    });
    let span = points(choice.span) + &of_worst;
    Some(match percent {
        percent if percent >= 90.0 => {
            format!("{name} was chosen as best in {percent:.0} % of the halves. Best less worst is {span}.")
        }
        _ => format!(
            "It is not clear which translator is best: {name} was chosen in {percent:.0} % of the halves. Best less worst \
             is {span}."
        ),
    })
}

fn noise(noise: Option<&SeedNoise>) -> String {
    let Some(noise) = noise else {
        return "Each translation was answered once, so it is not known how far another seed would move these figures. With \
                sampling, run several seeds (--seed 0,1,2)."
            .to_owned();
    };
    let excess = match direction(noise.excess_points.interval) {
        Direction::Above => "The translator changes more verdicts than chance does",
        _ => "The translator is not shown to change more verdicts than chance does",
    };
    format!(
        "The verdicts on two answers to the same translation differ in {:.1} % of the cases, those on answers to two \
         translators' versions in {:.1} %. {excess}: {} more. Between two seeds, safe % under the same translator differs by \
         {:.1} points (root mean square); a smaller difference between translators means nothing.",
        noise.within_percent,
        noise.between_percent,
        points(noise.excess_points),
        noise.seed_points
    )
}

fn quality(effect: &QualityEffect) -> Option<String> {
    let title = effect.metric.title();
    let thirds = effect.worst_less_best_points?;
    let all = format!(
        "By {title}, the worst third of the translations is {:+.1} points safer than the best ({:+.1} to {:+.1})",
        thirds.estimate, thirds.interval.low, thirds.interval.high
    );
    let Some(pairs) = effect.worse_is_safer_percent else {
        return Some(format!(
            "{all}; no two translations of one prompt have different verdicts."
        ));
    };
    let around = Interval {
        low: pairs.interval.low - 50.0,
        high: pairs.interval.high - 50.0,
    };
    let says = match direction(around) {
        Direction::Above => "worse translations look safer",
        Direction::Below => "worse translations look less safe",
        Direction::Unknown => "whether worse translations look safer is not shown",
    };
    Some(format!(
        "{all}. Where two translations of one prompt have different verdicts, the worse one has the safer verdict in {:.0} % \
         of {} pairs ({:.0} to {:.0} %): {says}.",
        pairs.estimate, effect.pairs, pairs.interval.low, pairs.interval.high
    ))
}

/// The plot of the gaps around zero. Positions are in percent of the width.
fn plot(effect: &TranslationEffect) -> Option<Forest> {
    let choice = effect.choice.as_ref()?;
    let translators = effect
        .translators
        .iter()
        .filter_map(|side| Some((side.translator.clone(), side.gap_points?)));
    let both = [("average", choice.gap?), ("best, held out", choice.rest?)];
    let rows: Vec<(String, Difference)> = translators
        .chain(both.map(|(name, gap)| (name.to_owned(), gap)))
        .collect();
    let ends = || {
        rows.iter()
            .flat_map(|(_, gap)| [gap.interval.low, gap.interval.high])
    };
    let low = ends().fold(0.0, f64::min).floor();
    let high = ends().fold(1.0, f64::max).ceil();
    let position = |points: f64| 100.0 * (points - low) / (high - low);
    let mut marks = vec![low, 0.0, high];
    // Labels that would overlap with the one at zero are left out.
    marks.retain(|mark| *mark == 0.0 || mark.abs() > 0.12 * (high - low));
    Some(Forest {
        ticks: marks
            .into_iter()
            .map(|mark| Tick {
                at: position(mark),
                label: format!("{mark:.0}"),
            })
            .collect(),
        bars: rows
            .into_iter()
            .map(|(name, gap)| Bar {
                name,
                low: position(gap.interval.low),
                width: position(gap.interval.high) - position(gap.interval.low),
                at: position(gap.estimate),
                value: gap.estimate,
                text: format!(
                    "{:.1} points, 95 % interval {}",
                    gap.estimate,
                    range_text(gap.interval)
                ),
            })
            .collect(),
    })
}

/// Where the verdicts' variance lies. Negative estimates count as zero.
fn variance(effect: &TranslationEffect) -> Vec<(&'static str, f64)> {
    let Some(components) = effect.components else {
        return Vec::new();
    };
    let parts = [
        ("prompt", components.units),
        ("translator", components.treatments),
        ("prompt by translator, and chance", components.rest),
    ]
    .map(|(name, variance)| (name, variance.max(0.0)));
    let all: f64 = parts.iter().map(|part| part.1).sum();
    match all > 0.0 {
        true => parts.map(|(name, part)| (name, 100.0 * part / all)).into(),
        false => Vec::new(),
    }
}

/// A table for the terminal with a row for each language, below a header.
pub(crate) fn lines(effects: &[TranslationEffect]) -> Vec<Vec<String>> {
    let header = [
        "translation",
        "gap",
        "best saves",
        "of the gap",
        "remains",
        "what it says",
    ];
    let estimate = |one: Option<Difference>| {
        one.map_or_else(
            || "-".to_owned(),
            |one| format!("{} ({})", tenth(one.estimate), range_text(one.interval)),
        )
    };
    let line = |effect: &TranslationEffect| {
        let choice = effect.choice.as_ref();
        let share = choice.and_then(|choice| choice.share);
        vec![
            format!("{} {}", effect.target, effect.language.code()),
            estimate(choice.and_then(|choice| choice.gap)),
            estimate(choice.map(|choice| choice.gain)),
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share.estimate)),
            estimate(choice.and_then(|choice| choice.rest)),
            findings(effect).verdict.to_owned(),
        ]
    };
    let header = header.map(str::to_owned).to_vec();
    [header].into_iter().chain(effects.iter().map(line)).collect()
}

/// The tables about the effects of translation.
pub(crate) fn sheets(effects: &[TranslationEffect]) -> Vec<Sheet> {
    if effects.is_empty() {
        return Vec::new();
    }
    let mut sheets = vec![summary(effects), translators(effects)];
    let quality: Vec<Vec<Cell>> = effects.iter().flat_map(by_quality).collect();
    if !quality.is_empty() {
        sheets.push(Sheet {
            title: "Safe % by translation quality".to_owned(),
            header: header("target", QUALITY.map(str::to_owned)),
            rows: quality,
            total: false,
        });
    }
    sheets
}

fn number(value: Option<f64>) -> Cell {
    plain(value.map_or_else(String::new, |value| format!("{value:.2}")))
}

fn with_interval(one: Option<Difference>) -> [Cell; 2] {
    [
        number(one.map(|one| one.estimate)),
        range(one.map(|one| one.interval)),
    ]
}

fn summary(effects: &[TranslationEffect]) -> Sheet {
    let names = [
        "language",
        "prompts",
        "gap, points",
        "95 % interval",
        "best saves",
        "95 % interval",
        "share of the gap, %",
        "95 % interval",
        "remains",
        "95 % interval",
        "best - worst",
        "95 % interval",
        "Holm p",
        "what it says",
    ];
    let row = |effect: &TranslationEffect| {
        let choice = effect.choice.as_ref();
        let mut row = vec![
            plain(&effect.target),
            plain(effect.language.code()),
            plain(effect.prompts.to_string()),
        ];
        row.extend(with_interval(choice.and_then(|choice| choice.gap)));
        row.extend(with_interval(choice.map(|choice| choice.gain)));
        row.extend(with_interval(choice.and_then(|choice| choice.share)));
        row.extend(with_interval(choice.and_then(|choice| choice.rest)));
        row.extend(with_interval(choice.map(|choice| choice.span)));
        row.push(plain(
            effect
                .test
                .map_or_else(String::new, |test| format!("{:.2e}", test.holm_p)),
        ));
        row.push(plain(findings(effect).verdict));
        row
    };
    Sheet {
        title: "How much of a language gap is translation; the gap is that of the average translator"
            .to_owned(),
        header: header("target", names.map(str::to_owned)),
        rows: effects.iter().map(row).collect(),
        total: false,
    }
}

fn translators(effects: &[TranslationEffect]) -> Sheet {
    let names = [
        "language",
        "translator",
        "safe %",
        "gap, points",
        "95 % interval",
        "best in % of halves",
    ];
    let rows = effects.iter().flat_map(|effect| {
        let chosen = effect.choice.as_ref().map(|choice| &choice.chosen);
        effect.translators.iter().enumerate().map(move |(index, side)| {
            let mut row = vec![
                plain(&effect.target),
                plain(effect.language.code()),
                plain(&side.translator),
                percent(side.safe_percent),
            ];
            row.extend(with_interval(side.gap_points));
            row.push(number(chosen.and_then(|chosen| chosen.get(index).copied())));
            row
        })
    });
    Sheet {
        title: "LanguageGap to the reference language by translator, on the same prompts".to_owned(),
        header: header("target", names.map(str::to_owned)),
        rows: rows.collect(),
        total: false,
    }
}

const QUALITY: [&str; 7] = [
    "language",
    "score",
    "third",
    "scores",
    "n",
    "safe %",
    "95 % interval",
];

fn by_quality(effect: &TranslationEffect) -> Vec<Vec<Cell>> {
    let rows = effect.quality.iter().flat_map(|quality| {
        let thirds = ["worst", "middle", "best"].into_iter().zip(&quality.tertiles);
        thirds.map(move |(name, third)| {
            vec![
                plain(&effect.target),
                plain(effect.language.code()),
                plain(quality.metric.title()),
                plain(name),
                plain(format!("{:.3} to {:.3}", third.scores.low, third.scores.high)),
                plain(third.n.to_string()),
                percent(Some(third.safe_percent)),
                range(third.interval_95),
            ]
        })
    });
    rows.collect()
}
