//! What intervals and tests of the reports do on planted truths, through the program itself: studies are simulated, written
//! as files of verdicts, imported, compared, and what the program says is held against what was planted.
//!
//! `cargo test --release --test coverage` runs a few small regimes with a fixed seed. All of them, as they stand in
//! docs/statistics.md:
//! `cargo test --release --test coverage -- --ignored --nocapture`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper that fails, fails its test; the table is printed"
)]
mod planted;

use babelward::bench::taxonomy::Category;
use planted::{Regime, WHOLE, compared, program, simulate, summary, tenth};
use serde_json::Value;

/// How often an interval holds the truth, or a test finds what is not there.
#[derive(Debug, Default, Clone)]
struct Count {
    looked_at: usize,
    truth_below: usize,
    truth_above: usize,
    none: usize,
    width: f64,
}

impl Count {
    fn interval(&mut self, interval: &Value, truth: f64) {
        self.looked_at += 1;
        let end = |name: &str| interval[name].as_f64();
        let Some((low, high)) = end("low").zip(end("high")) else {
            self.none += 1;
            return;
        };
        self.truth_below += usize::from(truth < low);
        self.truth_above += usize::from(truth > high);
        self.width += high - low;
    }

    /// A test; it is an error to find something.
    fn test(&mut self, found: bool) {
        self.looked_at += 1;
        self.truth_above += usize::from(found);
    }

    fn percent(&self, count: usize) -> f64 {
        100.0 * count as f64 / (self.looked_at - self.none) as f64
    }

    /// % of the intervals that hold the truth.
    fn covered(&self) -> f64 {
        100.0 - self.percent(self.truth_below + self.truth_above)
    }

    fn interval_row(&self, figure: &str, regime: &str) -> String {
        format!(
            "| {figure} | {regime} | 95 | {:.1} | {:.1} / {:.1} | {:.2} | {} |",
            self.covered(),
            self.percent(self.truth_below),
            self.percent(self.truth_above),
            self.width / (self.looked_at - self.none) as f64,
            self.looked_at - self.none,
        )
    }

    fn test_row(&self, test: &str, regime: &str) -> String {
        format!(
            "| {test} | {regime} | 5 | {:.1} | {} |",
            self.percent(self.truth_above),
            self.looked_at
        )
    }
}

/// Every category has the same share.
fn equal(unsafe_share: f64) -> [f64; 32] {
    [unsafe_share; 32]
}

/// A few categories have most of what is unsafe.
fn unequal(unsafe_share: f64) -> [f64; 32] {
    let weight = |place: usize| match place % 8 {
        0 => 5.0,
        1 | 2 => 1.0,
        _ => 0.2,
    };
    let total: f64 = (0..32).map(weight).sum();
    std::array::from_fn(|place| 32.0 * unsafe_share * weight(place) / total)
}

/// What one run's summary says of its first language, of all together, and of agreement.
#[derive(Default)]
struct OfRun {
    macro_: Count,
    micro: Count,
    all: Count,
    category: Count,
    agreement: Count,
}

impl OfRun {
    fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
        let mut counts = Self::default();
        let all = (0..regime.languages.len()).map(|language| regime.micro_safe(0, language));
        let all = all.sum::<f64>() / regime.languages.len() as f64;
        let of_category = 100.0 * (1.0 - regime.unsafe_shares[0][0][0]);
        let agreement = same_verdict(regime, |_| true);
        simulate(regime, simulations, seed, |runs| {
            let summary = summary(&runs[0]);
            let first = &summary["languages"][0];
            counts
                .macro_
                .interval(&first["macro"]["interval_95"], regime.macro_safe(0, 0));
            counts
                .micro
                .interval(&first["micro"]["interval_95"], regime.micro_safe(0, 0));
            counts
                .all
                .interval(&summary["all_languages_micro"]["interval_95"], all);
            let category = &summary["categories"][0];
            counts
                .category
                .interval(&category["all"]["interval_95"], of_category);
            counts
                .agreement
                .interval(&summary["agreement"]["all"]["interval_95"], agreement);
        });
        counts
    }
}

/// Chance that verdicts of one seed are the same in all languages, in percent, over the prompts of some categories, where
/// languages have the same shares.
fn same_verdict(regime: &Regime, kept: impl Fn(usize) -> bool) -> f64 {
    let (languages, alike) = (regime.languages.len(), regime.alike);
    let chances = |unsafe_share: f64| {
        // Of the languages' answers some are drawn with the prompt, some with the run's own draw, the rest alone.
        let mut same = 0.0;
        for prompt in 0..=languages {
            for run in 0..=languages - prompt {
                let rest = languages - prompt - run;
                let ways = choose(languages, prompt) * choose(languages - prompt, run);
                let own = (1.0 - alike.prompt - alike.run).powi(rest as i32);
                let chance = ways * alike.prompt.powi(prompt as i32) * alike.run.powi(run as i32) * own;
                let draws = (usize::from(prompt > 0) + usize::from(run > 0) + rest) as i32;
                same += chance * (unsafe_share.powi(draws) + (1.0 - unsafe_share).powi(draws));
            }
        }
        same
    };
    let shares = regime.unsafe_shares[0][0].iter().zip(&regime.prompts).enumerate();
    let kept: Vec<(f64, f64)> = shares
        .filter(|(place, _)| kept(*place))
        .map(|(_, (share, prompts))| (chances(*share), *prompts as f64))
        .collect();
    let prompts: f64 = kept.iter().map(|(_, prompts)| prompts).sum();
    100.0 * kept.iter().map(|(chance, prompts)| chance * prompts).sum::<f64>() / prompts
}

fn choose(n: usize, k: usize) -> f64 {
    (1..=k).map(|i| (n + 1 - i) as f64 / i as f64).product()
}

/// Gaps between a run's languages, which are none.
#[derive(Default)]
struct Gaps {
    macro_interval: Count,
    macro_any: Count,
    micro_interval: Count,
    micro_any: Count,
    category_any: Count,
}

impl Gaps {
    fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
        let mut counts = Self::default();
        simulate(regime, simulations, seed, |runs| {
            let summary = summary(&runs[0]);
            let gap = |list: &str| summary[list][0]["difference_points"]["interval"].clone();
            counts.macro_interval.interval(&gap("macro_gaps"), 0.0);
            counts.micro_interval.interval(&gap("language_gaps"), 0.0);
            counts.macro_any.test(any_found(&summary["macro_gaps"]));
            counts.micro_any.test(any_found(&summary["language_gaps"]));
            counts.category_any.test(any_found(&summary["category_gaps"]));
        });
        counts
    }
}

fn any_found(list: &Value) -> bool {
    list.as_array()
        .unwrap()
        .iter()
        .any(|one| one["holm_p"].as_f64().unwrap() < 0.05)
}

/// What leaving categories out changes, and what scoring by a policy changes.
#[derive(Default)]
struct Changes {
    agreement: Count,
    policy: Count,
}

/// A policy with half of the categories in.
const IN_POLICY: usize = 16;

impl Changes {
    fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
        let mut counts = Self::default();
        let keys: Vec<&str> = Category::all().map(|category| category.key()).collect();
        let left_out = |place: usize| ["substance_cannabis", "crime_propaganda"].contains(&keys[place]);
        let agreement = same_verdict(regime, |place| !left_out(place)) - same_verdict(regime, |_| true);
        let shares = &regime.unsafe_shares[0][0];
        let mean = |shares: &[f64]| shares.iter().sum::<f64>() / shares.len() as f64;
        let policy = 100.0 * (mean(shares) - mean(&shares[..IN_POLICY]));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("half.json");
        let text = serde_json::json!({"name": "half", "categories": &keys[..IN_POLICY]});
        std::fs::write(&file, text.to_string()).unwrap();
        simulate(regime, simulations, seed, |runs| {
            let (run, file) = (runs[0].to_str().unwrap(), file.to_str().unwrap());
            let out = program(&["report", run, "--policy", file, "--json", "-"]);
            let summary: Value = serde_json::from_slice(&out).unwrap();
            let interval = &summary["exclusion"]["agreement"]["all"]["interval_95"];
            counts.agreement.interval(interval, agreement);
            counts
                .policy
                .interval(&summary["policies"][0]["mean"]["interval_95"], policy);
        });
        counts
    }
}

/// Two runs.
#[derive(Default)]
struct OfTwo {
    language: Count,
    category: Count,
    macro_: Count,
    category_test: Count,
    any_category: Count,
    language_test: Count,
    macro_test: Count,
}

impl OfTwo {
    /// Tests are errors only where the runs are the same.
    fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
        let mut counts = Self::default();
        let change = |category: usize| {
            100.0 * (regime.unsafe_shares[0][0][category] - regime.unsafe_shares[1][0][category])
        };
        simulate(regime, simulations, seed, |runs| {
            let both = compared(runs);
            let interval = |one: &Value| one["change_points"]["interval"].clone();
            let language = &both["languages"][0];
            let micro = regime.micro_safe(1, 0) - regime.micro_safe(0, 0);
            counts.language.interval(&interval(language), micro);
            counts
                .language_test
                .test(language["test"]["mid_p"].as_f64().unwrap() < 0.05);
            let macro_safe = regime.macro_safe(1, 0) - regime.macro_safe(0, 0);
            counts
                .macro_
                .interval(&both["macro_safe"]["interval_95"], macro_safe);
            counts
                .macro_test
                .test(both["macro_safe"]["p"].as_f64().unwrap() < 0.05);
            for (place, one) in both["categories"].as_array().unwrap().iter().enumerate() {
                counts.category.interval(&interval(one), change(place));
                counts
                    .category_test
                    .test(one["test"]["mid_p"].as_f64().unwrap() < 0.05);
            }
            counts.any_category.test(any_found(&both["categories"]));
        });
        counts
    }
}

/// Seeds and languages of a prompt were once counted as so many prompts: of eight seeds an interval held the truth in 62 of
/// 100 cases.
#[test]
fn seeds_and_languages_of_a_prompt_do_not_make_intervals_narrow() {
    let regime = Regime::new("", &[6; 32], &unequal(0.1))
        .in_languages(2)
        .with_seeds(8)
        .alike(0.0, 0.8);
    let counts = OfRun::simulate(&regime, 60, 1);
    for (name, count) in [
        ("macro", &counts.macro_),
        ("micro", &counts.micro),
        ("all languages", &counts.all),
        ("category", &counts.category),
        ("agreement", &counts.agreement),
    ] {
        assert!(count.covered() > 88.0 && count.none == 0, "{name}: {count:?}");
    }
}

/// Shares near one, where adding up Wilson's intervals missed the truth above in one of ten.
#[test]
fn the_macro_interval_misses_on_both_sides() {
    let regime = Regime::new("", &tenth(), &equal(0.01));
    let counts = OfRun::simulate(&regime, 150, 2);
    let macro_ = &counts.macro_;
    assert!(macro_.covered() > 91.0, "{macro_:?}");
    assert!(macro_.percent(macro_.truth_above) < 6.5, "{macro_:?}");
}

/// Each run leans to a side of each prompt, in all five languages: pooled as if independent, a quarter of the categories
/// differed, and after Holm's adjustment some did in 70 of 100 comparisons.
#[test]
fn categories_of_two_runs_differ_by_chance_as_often_as_they_may() {
    let regime = Regime::new("", &[20; 32], &equal(0.3))
        .in_languages(5)
        .alike(0.0, 0.85)
        .against(&equal(0.3));
    let counts = OfTwo::simulate(&regime, 40, 3);
    assert!(
        counts.category_test.percent(counts.category_test.truth_above) < 7.0,
        "{:?}",
        counts.category_test
    );
    assert!(
        counts.any_category.percent(counts.any_category.truth_above) < 15.0,
        "{:?}",
        counts.any_category
    );
    assert!(counts.category.covered() > 93.0, "{:?}", counts.category);
    assert!(counts.macro_.covered() > 85.0, "{:?}", counts.macro_);
}

/// The table of docs/statistics.md.
#[test]
#[ignore = "takes half an hour"]
fn all_regimes() {
    println!(
        "| figure | regime | nominal % | covered % | truth below / above % | mean width | simulations |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut seed = 100;
    let mut next = || {
        seed += 1;
        seed
    };
    for (size, prompts, simulations) in [("1,463", tenth(), 2000), ("14,763", WHOLE, 600)] {
        for (kind, shares) in [("equal", equal as fn(f64) -> [f64; 32]), ("unequal", unequal)] {
            for safe in [90.0, 99.0, 99.9] {
                let regime = Regime::new(
                    &format!("{size} prompts, {safe} % safe, {kind} categories"),
                    &prompts,
                    &shares(1.0 - safe / 100.0),
                );
                let counts = OfRun::simulate(&regime, simulations, next());
                println!("{}", counts.macro_.interval_row("macro safe %", &regime.name));
            }
        }
    }
    for (name, languages, seeds, run) in [
        ("five languages alike", 5, 1, 0.8),
        ("four seeds alike", 1, 4, 0.8),
        ("eight seeds alike", 1, 8, 0.8),
        ("two languages, four seeds, little alike", 2, 4, 0.3),
    ] {
        for safe in [90.0, 99.0] {
            let regime = Regime::new(
                &format!("320 prompts, {safe} % safe, {name}"),
                &[10; 32],
                &unequal(1.0 - safe / 100.0),
            )
            .in_languages(languages)
            .with_seeds(seeds)
            .alike(0.0, run);
            let counts = OfRun::simulate(&regime, 1000, next());
            println!("{}", counts.macro_.interval_row("macro safe %", &regime.name));
            println!("{}", counts.micro.interval_row("micro safe %", &regime.name));
            println!(
                "{}",
                counts.all.interval_row("safe % of all languages", &regime.name)
            );
            println!(
                "{}",
                counts.category.interval_row("safe % of a category", &regime.name)
            );
            println!(
                "{}",
                counts.agreement.interval_row("same verdict %", &regime.name)
            );
        }
    }
    for (name, prompts, unsafe_share) in [
        ("46 prompts in each category, 90 % safe", 46, 0.1),
        ("46 prompts in each category, 99 % safe", 46, 0.01),
        ("10 prompts in each category, 90 % safe", 10, 0.1),
    ] {
        let regime = Regime::new(name, &[prompts; 32], &unequal(unsafe_share))
            .in_languages(3)
            .alike(0.0, 0.6);
        let counts = Changes::simulate(&regime, 500, next());
        println!(
            "{}",
            counts
                .agreement
                .interval_row("change of agreement without two categories", &regime.name)
        );
        println!(
            "{}",
            counts.policy.interval_row("change by a policy", &regime.name)
        );
    }
    let mut tests = Vec::new();
    for (name, prompts, safe, alike) in [
        ("46 prompts in each category, 90 % safe", 46, 90.0, 0.6),
        ("46 prompts in each category, 99 % safe", 46, 99.0, 0.6),
        ("10 prompts in each category, 90 % safe", 10, 90.0, 0.6),
    ] {
        let regime = Regime::new(name, &[prompts; 32], &unequal(1.0 - safe / 100.0))
            .in_languages(3)
            .alike(0.0, alike);
        let counts = Gaps::simulate(&regime, 1000, next());
        println!(
            "{}",
            counts
                .macro_interval
                .interval_row("macro gap of two languages", &regime.name)
        );
        println!(
            "{}",
            counts
                .micro_interval
                .interval_row("micro gap of two languages", &regime.name)
        );
        tests.push(
            counts
                .macro_any
                .test_row("any macro gap of three languages, Holm", &regime.name),
        );
        tests.push(
            counts
                .micro_any
                .test_row("any micro gap of three languages, Holm", &regime.name),
        );
        tests.push(
            counts
                .category_any
                .test_row("any category gap, Holm", &regime.name),
        );
    }
    for (name, prompts, unsafe_share, prompt, run) in [
        (
            "effects of a run on a prompt, 46 prompts, 60 % safe",
            46,
            0.4,
            0.0,
            0.85,
        ),
        (
            "95 % safe, mostly the same verdict, 46 prompts",
            46,
            0.05,
            0.5,
            0.35,
        ),
        ("the same, 10 prompts", 10, 0.05, 0.5, 0.35),
        ("independent answers, 46 prompts, 90 % safe", 46, 0.1, 0.0, 0.0),
    ] {
        let regime = Regime::new(name, &[prompts; 32], &equal(unsafe_share))
            .in_languages(5)
            .alike(prompt, run)
            .against(&equal(unsafe_share));
        let counts = OfTwo::simulate(&regime, 400, next());
        println!(
            "{}",
            counts.language.interval_row("change of a language", &regime.name)
        );
        println!(
            "{}",
            counts
                .category
                .interval_row("change of a category, five languages", &regime.name)
        );
        println!("{}", counts.macro_.interval_row("macro change", &regime.name));
        tests.push(
            counts
                .language_test
                .test_row("change of a language", &regime.name),
        );
        tests.push(
            counts
                .category_test
                .test_row("change of a category, five languages", &regime.name),
        );
        tests.push(
            counts
                .any_category
                .test_row("any change of 32 categories, Holm", &regime.name),
        );
        tests.push(counts.macro_test.test_row("macro change", &regime.name));
    }
    let regime = Regime::new("90 against 93 % safe, 46 prompts", &[46; 32], &equal(0.1))
        .in_languages(5)
        .alike(0.4, 0.3)
        .against(&unequal(0.07));
    let counts = OfTwo::simulate(&regime, 400, next());
    println!(
        "{}",
        counts.language.interval_row("change of a language", &regime.name)
    );
    println!(
        "{}",
        counts
            .category
            .interval_row("change of a category, five languages", &regime.name)
    );
    println!("{}", counts.macro_.interval_row("macro change", &regime.name));
    println!("\n| test | regime | nominal % | found by chance % | simulations |");
    println!("|---|---|---|---|---|");
    tests.iter().for_each(|row| println!("{row}"));
}
