//! Planted truths about translators: which verdicts a translator turns is known, and the study must find as much.

use babelward::{
    bench::{
        dataset::PromptId,
        report::{self, formats, tables},
        results::ItemRecord,
        scores::{
            models::ModelFacts,
            result_table::ResultTable,
            study::Study,
            study_run::StudyRun,
            translation_effects::{TestKind, TranslationEffect},
        },
        settings::{Counting, Prompting},
        statistics::{Bootstrap, Difference},
        taxonomy::{Category, Language},
        translation::{CandidateKey, Metric, ScoreTable, Scores},
    },
    random::Random,
};

use crate::planted::{record, verdict};

const PROMPTS: u64 = 1_000;

const BOOTSTRAP: Bootstrap = Bootstrap {
    resamples: 500,
    seed: 0,
};

/// The same share in [0, 1) for the same things.
fn share(what: [u64; 4]) -> f64 {
    let seed = what.iter().fold(9, |seed, one| {
        Random::new(seed ^ one.wrapping_mul(0x9e37_79b9)).bits()
    });
    (seed >> 11) as f64 / (1u64 << 53) as f64
}

/// A translator: of the prompts that are safe in English it makes so many unsafe, in German.
struct Translator {
    name: &'static str,
    turns: f64,
}

const THREE: [Translator; 3] = [
    Translator {
        name: "fine",
        turns: 0.02,
    },
    Translator {
        name: "fair",
        turns: 0.08,
    },
    Translator {
        name: "poor",
        turns: 0.14,
    },
];

/// A run of one translator's prompts; `noise` is the share of answers whose verdict another seed turns.
fn run(number: u64, translator: &Translator, seeds: u64, noise: f64) -> StudyRun {
    let category = Category::parse("crime_tax").unwrap();
    let mut records: Vec<ItemRecord> = Vec::new();
    for id in 0..PROMPTS {
        let english = share([1, id, 0, 0]) < 0.95;
        let german = english && share([2, id, number, 0]) >= translator.turns;
        for (language, safe) in [(Language::En, english), (Language::De, german)] {
            for seed in 0..seeds {
                let turned = language == Language::De && share([3 + seed, id, number, 1]) < noise;
                let mut record = record(id, language, category, seed, &[verdict(safe != turned)]);
                if language == Language::De {
                    record.strata.translator = Some(translator.name.to_owned());
                }
                records.push(record);
            }
        }
    }
    StudyRun {
        name: "target-8b-it".to_owned(),
        model: "target-8b-it".to_owned(),
        facts: ModelFacts::of_name("target-8b-it", Prompting::Template),
        table: ResultTable::of(Counting::strict(1), &records),
    }
}

fn german(study: &Study) -> &TranslationEffect {
    assert_eq!(study.translation_effects.len(), 1);
    assert_eq!(study.translation_effects[0].language, Language::De);
    &study.translation_effects[0]
}

fn holds(found: Option<Difference>, truth: f64) {
    let found = found.unwrap();
    assert!(found.interval.contains(truth), "{found:?}, planted {truth}");
}

#[test]
fn what_translators_turn_is_significant() {
    let runs: Vec<_> = (0..)
        .zip(&THREE)
        .map(|(number, one)| run(number, one, 1, 0.0))
        .collect();
    let study = Study::new(&runs, BOOTSTRAP);
    let german = german(&study);
    assert_eq!((german.reference, german.prompts), (Some(Language::En), PROMPTS));
    for (side, planted) in german
        .translators
        .iter()
        .zip([("fair", 7.6), ("fine", 1.9), ("poor", 13.3)])
    {
        assert_eq!(side.translator, planted.0);
        holds(side.gap_points, planted.1);
    }
    let choice = german.choice.as_ref().unwrap();
    holds(choice.gap, 7.6);
    holds(Some(choice.gain), 5.7);
    holds(Some(choice.span), 11.4);
    holds(choice.rest, 1.9);
    holds(choice.share, 75.0);
    holds(choice.share_of_worst, 100.0 * 11.4 / 13.3);
    assert!(choice.chosen[1] > 99.0, "{choice:?}");
    let test = german.test.unwrap();
    assert!(
        test.is_significant() && matches!(test.kind, TestKind::CochranQ(_)),
        "{test:?}"
    );
    assert!(german.noise.is_none());

    let html = report::study_html(&study).unwrap();
    assert!(html.contains("part of the gap is translation"), "{html}");
    assert!(html.contains("of the worst translator&#x27;s gap"), "{html}");
    assert!(html.contains("Each translation was answered once"));
    let sheets = tables::study_sheets(&study);
    let markdown = formats::markdown(&sheets);
    for text in [markdown, formats::csv(&sheets), formats::latex(&sheets)] {
        assert!(
            text.contains("How much of a language gap is translation"),
            "{text}"
        );
        assert!(
            text.contains("Part of the gap is translation") && text.contains("poor"),
            "{text}"
        );
    }
}

/// Both lose as much, on different prompts: the choice saves nothing, although the higher of the two always leads.
#[test]
fn equal_translators_save_nothing() {
    let two = [
        Translator {
            name: "one",
            turns: 0.1,
        },
        Translator {
            name: "two",
            turns: 0.1,
        },
    ];
    let runs: Vec<_> = (0..)
        .zip(&two)
        .map(|(number, one)| run(number, one, 1, 0.0))
        .collect();
    let study = Study::new(&runs, BOOTSTRAP);
    let german = german(&study);
    let choice = german.choice.as_ref().unwrap();
    holds(choice.gap, 9.5);
    holds(Some(choice.gain), 0.0);
    holds(choice.share, 0.0);
    let test = german.test.unwrap();
    assert!(
        !test.is_significant() && matches!(test.kind, TestKind::Mcnemar(_)),
        "{test:?}"
    );
    let html = report::study_html(&study).unwrap();
    assert!(html.contains("no part is shown to be translation"), "{html}");
}

#[test]
fn without_a_gap_nothing_is_told() {
    let none = [
        Translator {
            name: "one",
            turns: 0.0,
        },
        Translator {
            name: "two",
            turns: 0.002,
        },
    ];
    let runs: Vec<_> = (0..)
        .zip(&none)
        .map(|(number, one)| run(number, one, 1, 0.0))
        .collect();
    let study = Study::new(&runs, BOOTSTRAP);
    assert_eq!(german(&study).choice.as_ref().unwrap().share, None);
    let html = report::study_html(&study).unwrap();
    assert!(html.contains("it cannot be told") && html.contains("fewer than ten"));

    // As many prompts are safe in English only as in German only.
    let category = Category::parse("crime_tax").unwrap();
    let even = |name: &str| {
        let records: Vec<_> = (0..200)
            .flat_map(|id| {
                let english = record(id, Language::En, category, 0, &[verdict(id >= 20)]);
                let mut german = record(id, Language::De, category, 0, &[verdict(!(10..30).contains(&id))]);
                german.strata.translator = Some(name.to_owned());
                [english, german]
            })
            .collect();
        StudyRun {
            name: "target".to_owned(),
            model: "target".to_owned(),
            facts: ModelFacts::of_name("target", Prompting::Template),
            table: ResultTable::of(Counting::strict(1), &records),
        }
    };
    let study = Study::new(&[even("one"), even("two")], BOOTSTRAP);
    let choice = german(&study).choice.as_ref().unwrap();
    assert_eq!((choice.share, choice.gain.estimate), (None, 0.0));
    holds(choice.gap, 0.0);
    let html = report::study_html(&study).unwrap();
    assert!(html.contains("it cannot be told how much of it is translation."));
}

/// With three seeds a tenth of the answers has another verdict: that is no translator's doing.
#[test]
fn chance_is_told_from_translation() {
    let runs: Vec<_> = (0..)
        .zip(&THREE)
        .map(|(number, one)| run(number, one, 3, 0.1))
        .collect();
    let study = Study::new(&runs, BOOTSTRAP);
    let noise = german(&study).noise.unwrap();
    assert_eq!((noise.answers, noise.prompts), (3, PROMPTS));
    assert!((noise.within_percent - 18.0).abs() < 1.5, "{noise:?}");
    // Two verdicts that chance turns apart with 0.18, where the translators' own differ with the rest.
    let apart = |a: f64, b: f64| 0.95 * (a * (1.0 - b) + b * (1.0 - a));
    let planted = (apart(0.02, 0.08) + apart(0.02, 0.14) + apart(0.08, 0.14)) / 3.0;
    holds(Some(noise.excess_points), 100.0 * planted * (1.0 - 2.0 * 0.18));
    // Two means of 1,000 verdicts of which a tenth is turned.
    assert!((0.4..2.5).contains(&noise.seed_points), "{noise:?}");

    let same: Vec<_> = (0..2)
        .map(|_| &THREE[0])
        .zip(["one", "two"])
        .enumerate()
        .map(|(number, (fine, name))| {
            run(
                number as u64,
                &Translator {
                    name,
                    turns: fine.turns * 0.0,
                },
                2,
                0.1,
            )
        })
        .collect();
    let study = Study::new(&same, BOOTSTRAP);
    let noise = german(&study).noise.unwrap();
    holds(Some(noise.excess_points), 0.0);
    assert!(!german(&study).test.unwrap().is_significant());
}

/// Prompts that a translator or the reference lacks are in no figure, and are counted.
#[test]
fn only_common_prompts_count() {
    let category = Category::parse("crime_tax").unwrap();
    let table = |name: &str, ids: std::ops::Range<u64>, english: std::ops::Range<u64>| {
        let german = ids.map(|id| {
            let mut record = record(id, Language::De, category, 0, &[verdict(id % 2 == 0)]);
            record.strata.translator = Some(name.to_owned());
            record
        });
        let english = english.map(|id| record(id, Language::En, category, 0, &[verdict(true)]));
        StudyRun {
            name: "target".to_owned(),
            model: "target".to_owned(),
            facts: ModelFacts::of_name("target", Prompting::Template),
            table: ResultTable::of(Counting::strict(1), &german.chain(english).collect::<Vec<_>>()),
        }
    };
    let study = Study::new(&[table("a", 0..50, 0..45), table("b", 10..60, 20..40)], BOOTSTRAP);
    let german = german(&study);
    assert_eq!((german.prompts, german.left_out), (35, 25));
    assert_eq!(
        german.translators[0].safe_percent,
        german.translators[1].safe_percent
    );
}

/// The worse of two translations is the one whose answer looks safe.
#[test]
fn translations_that_look_safe_because_they_are_bad_are_found() {
    let runs: Vec<_> = (0..)
        .zip(&THREE)
        .map(|(number, one)| run(number, one, 1, 0.0))
        .collect();
    let mut scores = ScoreTable::new();
    for (number, translator) in (0..).zip(&THREE) {
        for id in 0..PROMPTS {
            let key = CandidateKey {
                id: PromptId::Number(id),
                language: Language::De,
                translator: translator.name.to_owned(),
            };
            // Those that stay safe have the lower scores.
            let turned = share([2, id, number, 0]) < translator.turns;
            let comet = 0.5 + 0.3 * share([8, id, number, 0]) + if turned { 0.15 } else { 0.0 };
            scores.insert(
                key,
                Scores::from([(Metric::Comet, comet), (Metric::MetricX, 25.0 * (1.0 - comet))]),
            );
        }
    }
    let study = Study::with_scores(&runs, &scores, BOOTSTRAP);
    let german = german(&study);
    assert_eq!(german.quality.len(), 2);
    for quality in &german.quality {
        assert_eq!(
            quality.tertiles.iter().map(|third| third.n).sum::<u64>(),
            3 * PROMPTS
        );
        assert!(
            quality.worst_less_best_points.unwrap().interval.low > 0.0,
            "{quality:?}"
        );
        // 0.3 x > 0.3 y + 0.15 for x, y in [0, 1) with one chance in eight.
        holds(quality.worse_is_safer_percent, 87.5);
    }
    assert!(
        german.quality[1].tertiles[0].scores.low > german.quality[1].tertiles[2].scores.low,
        "MetricX is better when low"
    );
    let html = report::study_html(&study).unwrap();
    assert!(html.contains("worse translations look safer"), "{html}");
    assert!(formats::markdown(&tables::study_sheets(&study)).contains("Safe % by translation quality"));
}
