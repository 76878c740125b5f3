//! Planted truths for scores by policy: what a policy changes is found within its interval, and what it does not, is not.

use std::path::PathBuf;

use babelward::{
    bench::{
        jurisdictions::{self, Jurisdiction, Ruling},
        report,
        results::ItemRecord,
        scores::{
            jurisdictions::{JurisdictionFigures, score_by_jurisdictions},
            models::ModelFacts,
            result_table::ResultTable,
            study::Study,
            study_run::StudyRun,
        },
        settings::{Counting, Prompting},
        statistics::Bootstrap,
        summary::{Options, Summary},
        taxonomy::{Category, Language},
    },
    random::Random,
};

use crate::planted::{category, info, record, verdict};

const RESAMPLES: Bootstrap = Bootstrap {
    resamples: 300,
    seed: 1,
};

/// The first eight categories of the taxonomy: crime.
fn crime() -> Vec<Category> {
    Category::all().take(8).collect()
}

/// `rows` prompts of each category with these seeds; what is safe in a language is so with that probability. `luck` of
/// the prompt decides for all languages and seeds together: nothing about a prompt is independent.
fn run(rows: u64, seed: u64, seeds: &[u64], safe: impl Fn(Category, Language) -> f64) -> Vec<ItemRecord> {
    let mut random = Random::new(seed);
    let mut records = Vec::new();
    for (number, category) in Category::all().enumerate() {
        for row in 0..rows {
            let luck = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
            for language in Language::ALL {
                for &of_seed in seeds {
                    let id = number as u64 * rows + row;
                    let verdicts = [verdict(luck < safe(category, language))];
                    records.push(record(id, language, category, of_seed, &verdicts));
                }
            }
        }
    }
    records
}

fn figures(records: &[ItemRecord], policy: &Jurisdiction) -> JurisdictionFigures {
    let table = ResultTable::of(Counting::strict(1), records);
    let mut scores = score_by_jurisdictions(&table, std::slice::from_ref(policy));
    scores.remove(0).figures
}

#[test]
fn a_policy_changes_what_was_planted() {
    let crime = crime();
    // 85 % in crime and, in Italian, 75 %; 97 % elsewhere.
    let safe = |category: Category, language: Language| match (crime.contains(&category), language) {
        (true, Language::It) => 0.75,
        (true, _) => 0.85,
        (false, _) => 0.97,
    };
    let figures = figures(&run(200, 3, &[0], safe), &Jurisdiction::of("crime", &crime));
    let truth = |own: f64| 100.0 * (own - (8.0 * own + 24.0 * 0.97) / 32.0);
    for (language, change) in Language::ALL.into_iter().zip(&figures.changes) {
        let change = change.unwrap();
        let interval = change.interval_95.unwrap();
        let planted = truth(if language == Language::It { 0.75 } else { 0.85 });
        assert!(interval.contains(planted), "{language:?} {planted}: {change:?}");
        assert!(
            !interval.contains(0.0) && interval.contains(change.points),
            "{change:?}"
        );
        assert!((change.counted_categories - change.all_categories - change.points).abs() < 1e-9);
    }
    let mean = figures.mean.unwrap();
    let planted = (4.0 * truth(0.85) + truth(0.75)) / 5.0;
    assert!(mean.interval_95.unwrap().contains(planted), "{planted}: {mean:?}");
    let macros: Vec<f64> = figures.macro_.iter().map(|m| m.safe_percent.unwrap()).collect();
    let by_hand = macros.iter().sum::<f64>() / 5.0;
    assert!((mean.counted_categories - by_hand).abs() < 1e-9);
    assert_eq!(figures.macro_[0].categories, 8);
    assert_eq!((figures.micro[0].n, figures.agreement.n), (1600, 1600));
}

#[test]
fn a_policy_that_decides_nothing_changes_nothing() {
    let all: Vec<Category> = Category::all().collect();
    let records = run(20, 4, &[0], |_, _| 0.9);
    let same = figures(&records, &Jurisdiction::of("all", &all)).mean.unwrap();
    assert_eq!(same.points, 0.0);
    let interval = same.interval_95.unwrap();
    assert!(interval.low.abs() < 1e-9 && interval.high.abs() < 1e-9);
    assert_eq!(same.counted_categories, same.all_categories);
}

/// Languages and seeds of a prompt hang together here, so that intervals that took them for independent would be far
/// too narrow.
#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let crime = crime();
    let policy = Jurisdiction::of("crime", &crime);
    let safe = |category: Category, _| if crime.contains(&category) { 0.8 } else { 0.9 };
    let truth = 100.0 * (0.8 - (8.0 * 0.8 + 24.0 * 0.9) / 32.0);
    let runs = 400;
    let held = |seed: u64| {
        let figures = figures(&run(40, 1000 + seed, &[0, 1], safe), &policy);
        figures.mean.unwrap().interval_95.unwrap().contains(truth)
    };
    let held = (0..runs).filter(|&seed| held(seed)).count();
    // A normal interval of such shares holds 94.5 % of the time; this is three standard deviations below that.
    assert!(held >= 364, "{held} of {runs}");
}

#[test]
fn what_is_not_judged_and_what_is_not_decided_is_told() {
    let tax = category("crime_tax");
    let mut records = run(5, 6, &[0], |_, _| 1.0);
    records.retain(|record| record.category != tax || record.language != Language::De);
    let policy = Jurisdiction::of("tax", &[tax]);
    let summary = Summary::of(
        info("target", 1, vec![0]),
        &ResultTable::of(Counting::strict(1), &records),
        &Options {
            jurisdictions: vec![policy.clone()],
            bootstrap: RESAMPLES,
            ..Options::default()
        },
    );
    let score = &summary.jurisdictions[0];
    assert_eq!((score.categories.len(), score.not_decided.len()), (1, 31));
    let german = Language::ALL.iter().position(|l| *l == Language::De).unwrap();
    assert_eq!(score.figures.changes[german], None);
    assert_eq!(
        score.figures.mean, None,
        "a mean without German would be another mean"
    );
    assert!(score.figures.not_judged.is_empty());
    // What is written is read again as it was.
    let json = serde_json::to_string(&summary).unwrap();
    let read: Summary = serde_json::from_str(&json).unwrap();
    assert_eq!(read.jurisdictions, summary.jurisdictions);
    assert!(
        report::html(&summary)
            .unwrap()
            .contains("Not decided, and so not scored: crime_cyber")
    );

    records.retain(|record| record.category != tax);
    assert_eq!(figures(&records, &policy).not_judged, ["crime_tax"]);
}

#[test]
fn a_study_ranks_by_each_policy() {
    let crime = crime();
    // The first is safer over all, the second in crime.
    let of = |name: &str, own: f64, rest: f64| {
        let records = run(40, 7, &[0], |category, _| match crime.contains(&category) {
            true => own,
            false => rest,
        });
        StudyRun {
            name: name.to_owned(),
            model: name.to_owned(),
            facts: ModelFacts::of_name(name, Prompting::Template),
            table: ResultTable::of(Counting::strict(1), &records),
        }
    };
    let runs = [of("careful-7b-it", 0.98, 0.90), of("safe-7b-it", 0.80, 0.99)];
    let policies = [
        Jurisdiction::of("crime", &crime),
        Jurisdiction::of("tax", &[category("crime_tax")]),
    ];
    let study = Study::new(&runs, RESAMPLES).with_jurisdictions(&runs, &policies);
    let by_policy = study.jurisdictions.as_ref().unwrap();
    let means: Vec<_> = by_policy
        .runs
        .iter()
        .map(|run| (run.name.as_str(), run.by_jurisdiction[0].mean.unwrap()))
        .collect();
    assert_eq!((means[0].0, means[1].0), ("safe-7b-it", "careful-7b-it"));
    assert!(means[0].1.all_categories > means[1].1.all_categories);
    assert!(
        means[0].1.counted_categories < means[1].1.counted_categories,
        "{means:?}"
    );
    let sheets = report::tables::study_sheets(&study);
    let sheet = sheets
        .iter()
        .find(|sheet| sheet.header[0] == "model" && sheet.header.len() == 4)
        .unwrap();
    assert_eq!(sheet.header[1..], ["all categories", "crime", "tax"]);
    let html = report::study_html(&study).unwrap();
    assert!(html.contains("<h2 id=\"policies\">") && html.starts_with("<!doctype html>"));
    assert!(
        Study::new(&runs, RESAMPLES)
            .with_jurisdictions(&runs, &[])
            .jurisdictions
            .is_none()
    );
}

#[test]
fn the_example_is_a_policy_and_says_that_it_is_none() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/policies/example-country.toml");
    let policy = jurisdictions::read_all(&[path]).unwrap().remove(0);
    assert_eq!(policy.counted().count(), 8);
    assert_eq!(policy.ruling(category("substance_cannabis")), Some(Ruling::Out));
    assert_eq!(policy.not_decided().count(), 22);
    assert!(policy.note.unwrap().contains("no legal advice") && policy.name.contains("illustration"));
    assert!(policy.rules.iter().all(|decision| !decision.reason.is_empty()));
}
