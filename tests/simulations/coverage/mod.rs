//! What intervals and tests of the reports do on planted truths, through the program itself: studies are simulated, written
//! as files of verdicts, imported, compared, and what the program says is held against what was planted.
//!
//! `cargo test --release --locked --test simulations coverage` runs a few small regimes with a fixed seed. All of them, as they stand in
//! docs/statistics.md:
//! `cargo test --release --locked --test simulations coverage -- --ignored --nocapture --test-threads 1`

mod count;
mod planted;
mod runs;
mod studies;

use self::{
    count::{print_interval_header, print_intervals, print_tests},
    planted::{Regime, WHOLE, tenth},
    runs::{Changes, Gaps, OfRun, OfTwo, equal, unequal},
};

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

/// The rest of the tables: studies of several runs, and runs with several guards.
#[test]
#[ignore = "takes minutes"]
fn all_studies() {
    let (mut intervals, mut tests) = (Vec::new(), Vec::new());
    for models in [6, 14] {
        let regime = format!("{models} models whose safety and size are unrelated");
        let counts = studies::Sizes::simulate(models, 1000, 300 + models as u64);
        intervals.push(
            counts
                .interval
                .interval_row("rank correlation of size and safety", &regime),
        );
        tests.push(counts.test.test_row("size and safety", &regime));
    }
    for (alike, name) in [(0.0, "independent answers"), (0.8, "three languages alike")] {
        let count = studies::kappa_of_guards(0.6, alike, 1000, 320);
        let regime = format!("kappa 0.6, 150 prompts, {name}");
        intervals.push(count.interval_row("kappa of two guards", &regime));
    }
    for (names, seeds) in [(&["a", "b"][..], 1), (&["a", "b", "c"], 1), (&["a", "b", "c"], 3)] {
        let counts = studies::Translators::simulate(names, seeds, 600, 340 + seeds);
        let regime = format!("{} translators alike, 120 prompts, seeds: {seeds}", names.len());
        intervals.push(
            counts
                .difference
                .interval_row("difference of two translators", &regime),
        );
        intervals.push(counts.gap.interval_row("gap to the reference language", &regime));
        tests.push(counts.test.test_row("translators against each other", &regime));
    }
    print_interval_header();
    intervals.iter().for_each(|row| println!("{row}"));
    print_tests(&tests);
}

/// Guards and translators, in small.
#[test]
fn studies_hold_what_was_planted() {
    let kappa = studies::kappa_of_guards(0.6, 0.8, 40, 5);
    assert!(kappa.covered() > 85.0 && kappa.none == 0, "{kappa:?}");
    let sizes = studies::Sizes::simulate(8, 30, 6);
    assert!(sizes.interval.covered() > 85.0, "{:?}", sizes.interval);
    assert!(
        sizes.test.percent(sizes.test.truth_above) < 17.0,
        "{:?}",
        sizes.test
    );
    let translators = studies::Translators::simulate(&["a", "b"], 1, 30, 7);
    assert!(
        translators.difference.covered() > 85.0,
        "{:?}",
        translators.difference
    );
    assert!(translators.gap.covered() > 85.0, "{:?}", translators.gap);
    let test = &translators.test;
    assert!(test.percent(test.truth_above) < 17.0, "{test:?}");
}

/// The macro average, as in docs/statistics.md.
#[test]
#[ignore = "takes half an hour"]
fn all_macro_averages() {
    print_interval_header();
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
                print_intervals(&regime.name, &[(&counts.macro_, "macro safe %")]);
            }
        }
    }
}

/// Figures of a run that pool answers to one prompt, as in docs/statistics.md.
#[test]
#[ignore = "takes minutes"]
fn all_pooled_figures() {
    print_interval_header();
    let mut seed = 112;
    let mut next = || {
        seed += 1;
        seed
    };
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
            print_intervals(
                &regime.name,
                &[
                    (&counts.macro_, "macro safe %"),
                    (&counts.micro, "micro safe %"),
                    (&counts.all, "safe % of all languages"),
                    (&counts.category, "safe % of a category"),
                ],
            );
            // Of one language it is all, whatever the verdicts.
            if languages > 1 {
                print_intervals(&regime.name, &[(&counts.agreement, "same verdict %")]);
            }
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
        print_intervals(
            &regime.name,
            &[
                (&counts.agreement, "change of agreement without two categories"),
                (&counts.policy, "change by a policy"),
            ],
        );
    }
}

/// Gaps between languages and changes between runs, as in docs/statistics.md.
#[test]
#[ignore = "takes a quarter of an hour"]
fn all_differences() {
    print_interval_header();
    let mut seed = 123;
    let mut next = || {
        seed += 1;
        seed
    };
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
        print_intervals(
            &regime.name,
            &[
                (&counts.macro_interval, "macro gap of two languages"),
                (&counts.micro_interval, "micro gap of two languages"),
            ],
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
        let counts = OfTwo::simulate(&regime, 300, next());
        print_intervals(&regime.name, &counts.intervals());
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
    let counts = OfTwo::simulate(&regime, 300, next());
    print_intervals(&regime.name, &counts.intervals());
    print_tests(&tests);
}
