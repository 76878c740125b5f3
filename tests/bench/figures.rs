//! Planted truths: effects that are put into results are found by the figures that look for them, and effects that
//! are not there are not.

use babelward::bench::{
    jurisdictions::Jurisdiction,
    results::{ItemRecord, Label, Outcome, SkipReason},
    scores::{
        comparable::Pairing,
        compare::compare,
        gate::Gate,
        models::ModelFacts,
        result_table::ResultTable,
        study::Study,
        study_run::StudyRun,
        tuning::Tuning,
        validation::{self, LabelledItem, draw, validate},
        what_if::{Filter, Reference, WeightedLabels, what_if},
    },
    settings::{Counting, Prompting},
    statistics::{Bootstrap, Interval, wilson},
    summary::{Options, Summary},
    taxonomy::{Category, Language},
};

use crate::planted::{Coin, category, info, record, verdict};

/// `rows` prompts of each category in every language, each safe with the probability that `safe` gives.
fn run(rows: u64, seed: u64, safe: impl Fn(Category, Language) -> f64) -> Vec<ItemRecord> {
    let mut coin = Coin::new(seed);
    let mut records = Vec::new();
    for (number, category) in Category::all().enumerate() {
        for row in 0..rows {
            for language in Language::ALL {
                let verdicts = [verdict(coin.toss(safe(category, language)))];
                records.push(record(
                    number as u64 * rows + row,
                    language,
                    category,
                    0,
                    &verdicts,
                ));
            }
        }
    }
    records
}

fn options() -> Options {
    Options {
        bootstrap: Bootstrap {
            resamples: 300,
            seed: 1,
        },
        ..Options::default()
    }
}

fn summary(records: &[ItemRecord], guards: usize, seeds: Vec<u64>, options: &Options) -> Summary {
    Summary::of(
        info("target", guards, seeds),
        &ResultTable::of(Counting::strict(guards), records),
        options,
    )
}

/// The paper's finding: Llama 3.2 is unsafe in Italian on `crime_tax` and safe elsewhere.
#[test]
fn a_blind_spot_of_one_language_and_category_is_found_and_nothing_else() {
    let tax = category("crime_tax");
    let records = run(100, 5, |category, language| match (category == tax, language) {
        (true, Language::It) => 0.70,
        _ => 0.98,
    });
    let summary = summary(&records, 1, vec![0], &options());
    let found: Vec<_> = summary
        .category_gaps
        .iter()
        .filter(|gap| gap.is_significant())
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].category.as_deref(), found[0].first),
        (Some("crime_tax"), Language::It)
    );
    let difference = found[0].difference_points.unwrap();
    assert!(difference.interval.unwrap().contains(-28.0), "{difference:?}");
    assert_eq!(summary.category_gaps.len(), 32 * 4);
}

#[test]
fn leaving_plural_categories_out_raises_consistency_by_what_was_planted() {
    // In the two categories languages toss fair coins: two agree half of the time.
    let plural = ["substance_cannabis", "crime_propaganda"];
    let records = run(60, 7, |category, _| {
        if plural.contains(&category.key()) {
            0.5
        } else {
            1.0
        }
    });
    let summary = summary(&records, 1, vec![0], &options());
    let exclusion = summary.exclusion.unwrap();
    assert_eq!((exclusion.prompts, exclusion.categories.len()), (120, 2));
    let pair = exclusion.agreement["en-de"];
    let truth = 100.0 * 0.5 * 2.0 / 32.0;
    assert_eq!(pair.without, 100.0);
    assert!((pair.change - (100.0 - pair.with)).abs() < 1e-9);
    assert!(pair.interval_95.unwrap().contains(truth), "{pair:?}");
    let all = exclusion.agreement["all"];
    assert!(
        all.interval_95
            .unwrap()
            .contains(100.0 * (1.0 - 2.0 / 32.0) * 2.0 / 32.0),
        "{all:?}"
    );
    assert_eq!(exclusion.agreement.len(), 11);
}

#[test]
fn skipped_and_failed_items_are_never_safe() {
    let mut records = run(4, 3, |_, _| 1.0);
    for record in records.iter_mut().filter(|r| r.language == Language::Fr) {
        record.outcome = Outcome::Skipped(SkipReason::CellDecided);
    }
    let summary = summary(&records, 1, vec![0], &options());
    let french = summary
        .languages
        .iter()
        .find(|l| l.language == Language::Fr)
        .unwrap();
    assert_eq!(
        (french.micro.n, french.micro.skipped, french.micro.failed),
        (0, 128, 0)
    );
    assert_eq!(
        (french.micro.safe_percent, french.micro.if_all_unjudged_safe),
        (None, None)
    );
    assert_eq!((french.macro_.safe_percent, french.macro_.categories), (None, 0));
    assert!(summary.failures.is_empty() && summary.agreement["all"].n == 0);
}

#[test]
fn missing_categories_are_named() {
    let records: Vec<_> = (run(3, 3, |_, _| 0.9).into_iter())
        .filter(|record| record.category.key() != "sex_porn")
        .collect();
    let summary = summary(&records, 1, vec![0], &options());
    assert_eq!(summary.missing_categories, ["sex_porn"]);
    assert_eq!(summary.languages[0].macro_.categories, 31);
}

#[test]
fn seeds_of_a_prompt_are_no_new_evidence() {
    // Three seeds that always agree: the clustered interval is that of one seed, Wilson's is too narrow.
    let mut coin = Coin::new(2);
    let mut records = Vec::new();
    for id in 0..300 {
        let safe = coin.toss(0.8);
        for language in [Language::En, Language::De] {
            // German draws a new verdict for each seed.
            for seed in 0..3 {
                let safe = if language == Language::En {
                    safe
                } else {
                    coin.toss(0.5)
                };
                records.push(record(
                    id,
                    language,
                    category("crime_tax"),
                    seed,
                    &[verdict(safe)],
                ));
            }
        }
    }
    let summary = summary(&records, 1, vec![0, 1, 2], &options());
    let width = |interval: Interval| interval.high - interval.low;
    let english = &summary.languages[0].micro;
    let pooled = wilson(english.safe, english.n).unwrap().scaled(100.0);
    let ratio = width(english.interval_95.unwrap()) / width(pooled);
    assert!((1.6..1.9).contains(&ratio), "{ratio}");
    // In German each seed is as good as another prompt, and so it is in each of its cells.
    let german = &summary.languages[1].micro;
    let pooled = wilson(german.safe, german.n).unwrap().scaled(100.0);
    let ratio = width(german.interval_95.unwrap()) / width(pooled);
    assert!((0.95..1.15).contains(&ratio), "{ratio}");
    let cell = &summary.categories[0].by_language[0];
    assert_eq!((cell.prompts, cell.n), (300, 900));
    assert_eq!(cell.interval_95, english.interval_95);
    let [english, german] = &summary.over_seeds[..] else {
        panic!("two languages")
    };
    assert_eq!(
        (english.all_seeds.percent, english.pair_percent),
        (Some(100.0), Some(100.0))
    );
    // Three fair coins agree a quarter of the time, two of them half.
    assert!(german.all_seeds.interval_95.unwrap().contains(25.0), "{german:?}");
    assert!((german.pair_percent.unwrap() - 50.0).abs() < 6.0);
    let gap = &summary.language_gaps[0];
    assert_eq!(
        (gap.prompts, gap.pairs.total()),
        (300, 900),
        "all seeds of a prompt count once"
    );
}

#[test]
fn a_second_guard_is_compared_and_tried_as_a_filter() {
    // The first guard misses half of the unsafe answers in German; the second sees all.
    let mut coin = Coin::new(4);
    let mut records = Vec::new();
    for id in 0..400 {
        for language in Language::ALL {
            let truth = coin.toss(0.9);
            let first = truth || (language == Language::De && coin.toss(0.5));
            let verdicts = [verdict(first), verdict(truth)];
            records.push(record(id, language, category("crime_theft"), 0, &verdicts));
        }
    }
    let table = ResultTable::of(Counting::strict(2), &records);
    let filtered = what_if(&table, Filter::Threshold(0.5), &WeightedLabels::new());
    assert_eq!(filtered.reference, Reference::Guard(1));
    let german = &filtered.languages[1];
    assert!(
        german.after < 97.0 && !german.fixed && german.over_blocked == Some(0.0),
        "{german:?}"
    );
    let english = &filtered.languages[0];
    assert!(english.after == 100.0 && english.fixed, "{english:?}");
    let pairs = summary(&records, 2, vec![0], &options()).guard_pairs;
    assert_eq!(pairs.len(), 1);
    assert_eq!(pairs[0].by_language["en"].kappa, Some(1.0));
    assert!(pairs[0].by_language["de"].kappa.unwrap() < 0.85);
    assert_eq!(pairs[0].confusion.iter().flatten().sum::<u64>(), 2000);
    assert_eq!(
        pairs[0].confusion[1][0], 0,
        "unsafe for the first is unsafe for the second"
    );
}

#[test]
fn a_policy_scores_its_categories_only() {
    let tax = category("crime_tax");
    let records = run(10, 6, |category, _| if category == tax { 0.0 } else { 1.0 });
    let policies = vec![Jurisdiction::of("tax office", &[tax, category("crime_theft")])];
    let summary = summary(
        &records,
        1,
        vec![0],
        &Options {
            jurisdictions: policies,
            ..options()
        },
    );
    let policy = &summary.jurisdictions[0];
    let figures = &policy.figures;
    assert_eq!(figures.macro_[0].safe_percent, Some(50.0));
    assert_eq!((figures.micro[0].n, figures.agreement.n), (20, 20));
}

#[test]
fn a_drop_in_one_language_breaks_the_gate() {
    let before = ResultTable::of(Counting::strict(1), &run(40, 8, |_, _| 0.95));
    let after = ResultTable::of(
        Counting::strict(1),
        &run(
            40,
            9,
            |_, language| if language == Language::Es { 0.85 } else { 0.95 },
        ),
    );
    let bootstrap = Bootstrap {
        resamples: 300,
        seed: 1,
    };
    let comparison = compare(&before, &after, bootstrap);
    let languages = comparison.languages.iter();
    let found: Vec<_> = languages.filter(|c| c.is_significant()).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].language, Some(Language::Es));
    assert!(found[0].change_points.interval.unwrap().contains(-10.0));
    assert!(comparison.macro_safe.unwrap().interval_95.unwrap().contains(-2.0));
    let gate: Gate = "safe_drop=0.05".parse().unwrap();
    let reasons = gate.violations(&comparison, &Pairing::of(&before, &after));
    assert!(matches!(&reasons[..], [only] if only.starts_with("Spanish")));
    let against = |second: &ResultTable| {
        let pairing = Pairing::of(&before, second);
        gate.violations(&compare(&before, second, bootstrap), &pairing)
    };
    assert!(against(&before).is_empty());
    assert!(!against(&ResultTable::of(Counting::strict(1), &[])).is_empty());
}

/// A guard with known errors per language: the corrected figures hold the truth that the plain ones miss.
#[test]
fn labels_correct_a_guard_that_errs_by_language() {
    let truth = 0.80;
    let mut coin = Coin::new(11);
    let (mut records, mut labels) = (Vec::new(), Vec::new());
    for id in 0..3000 {
        for language in [Language::En, Language::De] {
            let is_safe = coin.toss(truth);
            // German: a third of the unsafe answers pass, and a tenth of the safe ones do not.
            let judged = match (language, is_safe) {
                (Language::De, true) => coin.toss(0.9),
                (Language::De, false) => coin.toss(1.0 / 3.0),
                (_, safe) => safe,
            };
            records.push(record(
                id,
                language,
                category("hate_women"),
                0,
                &[verdict(judged)],
            ));
            labels.push(!is_safe);
        }
    }
    let table = ResultTable::of(Counting::strict(1), &records);
    let sample = draw(&table, &[], 600, 3);
    assert_eq!(sample.drawn.len(), 600);
    let total: u64 = sample.strata.iter().map(|stratum| stratum.items).sum();
    assert_eq!(total, 6000, "the strata are the run");
    let word = |is_unsafe| {
        Some(if is_unsafe {
            validation::Label::Unsafe
        } else {
            validation::Label::Safe
        })
    };
    let labelled: Vec<LabelledItem> = sample
        .drawn
        .iter()
        .enumerate()
        .map(|(index, drawn)| LabelledItem {
            item: drawn.item,
            stratum: drawn.stratum,
            // The annotators differ on every twentieth, and a third person decides.
            labels: vec![
                word(labels[drawn.item]),
                word(labels[drawn.item] != (index % 20 == 0)),
            ],
            adjudicated: word(labels[drawn.item]),
        })
        .collect();
    let validation = validate(&table, &sample.strata, &labelled);
    let found = validation.disagreements;
    assert_eq!((validation.items, found.differ, found.adjudicated), (600, 30, 30));
    assert!(validation.annotator_kappa.unwrap().kappa.unwrap() > 0.85);
    let german = validation.languages["de"];
    assert!(
        (german.sensitivity.unwrap() - 2.0 / 3.0).abs() < 0.12,
        "{german:?}"
    );
    assert!((german.specificity.unwrap() - 0.9).abs() < 0.05, "{german:?}");
    assert_eq!(validation.languages["en"].accuracy, Some(1.0));
    let corrected = validation.corrected["de"];
    let interval = corrected.corrected.unwrap().interval_95;
    assert!(interval.contains(100.0 * truth), "{corrected:?}");
    // Without the correction German looks as the guard's errors make it: 0.8 * 0.9 + 0.2 / 3.
    assert!((corrected.seen_percent - 78.7).abs() < 2.5, "{corrected:?}");
    assert_eq!(validation.calibration.unwrap().bins.len(), 2);
}

#[test]
fn a_study_finds_tuning_size_and_translator_effects() {
    let study_run = |name: &str, prompting, records: &[ItemRecord]| StudyRun {
        name: name.to_owned(),
        model: name.to_owned(),
        facts: ModelFacts::of_name(name, prompting),
        table: ResultTable::of(Counting::strict(1), records),
    };
    let mut runs = Vec::new();
    for (number, size) in [1.0, 3.0, 8.0, 32.0].into_iter().enumerate() {
        for (family, shift) in [("qwen2.5", 0.0), ("gemma-2", 0.05)] {
            let base = 0.55 + 0.1 * number as f64 + shift;
            let records = run(20, number as u64, |_, _| base);
            runs.push(study_run(&format!("{family}-{size}b"), Prompting::Raw, &records));
            let records = run(20, 100 + number as u64, |_, _| 0.97);
            runs.push(study_run(
                &format!("{family}-{size}b-it"),
                Prompting::Template,
                &records,
            ));
        }
    }
    let study = Study::new(
        &runs,
        Bootstrap {
            resamples: 50,
            seed: 1,
        },
    );
    assert_eq!(study.tuning.len(), 8);
    let smallest = study
        .tuning
        .iter()
        .find(|pair| pair.base == "qwen2.5-1b")
        .unwrap();
    assert_eq!(smallest.categories.len(), 32);
    let mean = smallest.categories.iter().map(|c| c.cohens_h).sum::<f64>() / 32.0;
    assert!(mean > 0.8, "55 % to 97 % is a large effect: {mean}");
    let base = study
        .size
        .iter()
        .find(|trend| trend.tuning == Tuning::Base)
        .unwrap();
    assert!(base.all.unwrap().spearman > 0.8, "{base:?}");
    assert!(base.within_families.unwrap().spearman > 0.95, "{base:?}");
    assert!(study.standings[0].facts.tuning == Tuning::Instruct && study.translation_effects.is_empty());

    // One target, two translators; one of them loses ten points in Italian.
    let translated = |translator: &str, seed, italian: f64| {
        let mut records = run(
            60,
            seed,
            |_, language| if language == Language::It { italian } else { 0.95 },
        );
        for record in records
            .iter_mut()
            .filter(|record| record.language != Language::En)
        {
            record.strata.translator = Some(translator.to_owned());
        }
        study_run("target-8b-it", Prompting::Template, &records)
    };
    let runs = [translated("opus-mt", 1, 0.95), translated("other", 2, 0.85)];
    let study = Study::new(
        &runs,
        Bootstrap {
            resamples: 50,
            seed: 1,
        },
    );
    let italian = study
        .translation_effects
        .iter()
        .find(|effect| effect.language == Language::It)
        .unwrap();
    assert_eq!(italian.translators.len(), 2);
    assert_eq!(study.standings[0].translators, ["opus-mt"]);
    let span = italian.choice.as_ref().unwrap().span;
    assert!((span.estimate - 10.0).abs() < 3.5, "{italian:?}");
    assert!(italian.differences[0].2.is_significant());
    let german = study
        .translation_effects
        .iter()
        .find(|effect| effect.language == Language::De)
        .unwrap();
    assert!(!german.differences[0].2.is_significant());
}

#[test]
fn undetermined_verdicts_have_no_side() {
    let odd = record(
        1,
        Language::En,
        category("crime_tax"),
        0,
        &[(Label::Undetermined, 0.5)],
    );
    let table = ResultTable::of(Counting::strict(1), &[odd]);
    assert!(draw(&table, &[], 5, 1).drawn.is_empty());
    assert!(
        what_if(&table, Filter::Threshold(0.5), &WeightedLabels::new())
            .languages
            .is_empty()
    );
}
