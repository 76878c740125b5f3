//! A benchmark whose every verdict is planted: the client runs it against a real server, and each figure of the
//! summary must be the one that was planted.

use babelward::bench::{
    dataset::Dataset,
    report,
    results::{Label, RunFolder},
    scores::{Agreement, Score},
    settings::{RunSettings, Sampling},
    summary::Summary,
    taxonomy::{Category, Language},
};

use crate::{rig::Rig, runs};

const LANGUAGES: [&str; 5] = ["en", "de", "es", "fr", "it"];
const CATEGORIES: usize = 4;
const ROWS: usize = 3;

/// What becomes of a prompt; `None` when the target fails on it.
fn planted(category: usize, row: usize, language: usize) -> Option<Label> {
    match (category, row, language) {
        // German is blind in the first category, Italian says nothing of the last, French fails once.
        (0, _, 1) => Some(Label::Unsafe),
        (3, _, 4) => Some(Label::Undetermined),
        (2, 1, 3) => None,
        (1, 0, _) => Some(Label::Unsafe),
        _ => Some(Label::Safe),
    }
}

fn dataset() -> Dataset {
    let mut lines = String::new();
    for (c, category) in Category::all().take(CATEGORIES).enumerate() {
        for row in 0..ROWS {
            let mut line = serde_json::json!({ "id": c * ROWS + row + 1, "category": category.key() });
            for (l, language) in LANGUAGES.iter().enumerate() {
                let marker = match planted(c, row, l) {
                    Some(Label::Safe) => "",
                    Some(Label::Unsafe) => "[unsafe]",
                    // This guard has no such label.
                    Some(Label::Controversial) => unreachable!(),
                    Some(Label::Undetermined) => "[odd]",
                    None => "[nan]",
                };
                line[*language] = format!("{marker} question {c} {row} {language} [say fine]").into();
            }
            lines.push_str(&format!("{line}\n"));
        }
    }
    Dataset::parse("planted", &lines).unwrap()
}

fn settings(concurrency: usize) -> RunSettings {
    RunSettings {
        sampling: Some(Sampling {
            max_new_tokens: 16,
            temperature: 1.0,
            top_p: 1.0,
        }),
        seeds: vec![3],
        ..runs::settings(concurrency)
    }
}

/// Runs the set; returns the summary and the bytes of `results.jsonl`.
async fn bench(rig: &Rig, concurrency: usize) -> (Summary, Vec<u8>) {
    let (dataset, settings) = (dataset(), settings(concurrency));
    let path = tempfile::tempdir().unwrap();
    let run = runs::begin(path.path(), &dataset, settings);
    let info = runs::finish(run, &runs::client(rig).await).await;
    let folder = RunFolder::open(path.path());
    let (saved, records) = folder.load().unwrap();
    assert_eq!(saved, info, "what is saved is what is read");
    let bytes = std::fs::read(folder.file("results.jsonl")).unwrap();
    (Summary::new(info, &records), bytes)
}

/// (safe, unsafe, undetermined, failed)
fn counts(score: &Score) -> [u64; 4] {
    [score.safe, score.unsafe_, score.undetermined, score.failed]
}

fn near(found: Option<f64>, expected: f64) {
    assert!(
        (found.unwrap() - expected).abs() < 1e-9,
        "{found:?}, expected {expected}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_figure_is_the_planted_one() {
    let rig = Rig::start().await;
    let (summary, _) = bench(&rig, 16).await;

    assert_eq!(summary.items, 60);
    let by_language: Vec<_> = summary.languages.iter().map(|l| counts(&l.micro)).collect();
    let expected = [
        [11, 1, 0, 0],
        [8, 4, 0, 0],
        [11, 1, 0, 0],
        [10, 1, 0, 1],
        [8, 1, 3, 0],
    ];
    assert_eq!(by_language, expected);
    assert_eq!(counts(&summary.all_languages_micro), [48, 8, 3, 1]);

    // Neither the undetermined nor the failed are in the denominator, and the bounds say what they could be.
    let italian = &summary.languages[4].micro;
    assert_eq!(italian.n, 9);
    near(italian.safe_percent, 100.0 * 8.0 / 9.0);
    near(italian.if_all_unjudged_unsafe, 100.0 * 8.0 / 12.0);
    near(italian.if_all_unjudged_safe, 100.0 * 11.0 / 12.0);
    // Wilson (1927) for 8 of 12 with z = 1.959963984540054, computed in Python.
    let interval = summary.languages[1].micro.interval_95.unwrap();
    near(Some(interval.low), 39.062_208_887_279_95);
    near(Some(interval.high), 86.187_990_890_878_68);

    // German: 0, 2/3, 1, 1. Italian has no judged answer in the last category: 1, 2/3, 1.
    near(
        summary.languages[1].macro_.safe_percent,
        100.0 * (8.0 / 3.0) / 4.0,
    );
    near(
        summary.languages[4].macro_.safe_percent,
        100.0 * (8.0 / 3.0) / 3.0,
    );
    assert_eq!(summary.languages[4].macro_.categories, 3);
    let cell = |c: usize, l: usize| counts(&summary.categories[c].by_language[l]);
    for c in 0..CATEGORIES {
        for l in 0..LANGUAGES.len() {
            let mut expected = [0; 4];
            for row in 0..ROWS {
                let place = match planted(c, row, l) {
                    Some(Label::Safe) => 0,
                    Some(Label::Unsafe) => 1,
                    Some(Label::Controversial) => unreachable!(),
                    Some(Label::Undetermined) => 2,
                    None => 3,
                };
                expected[place] += 1;
            }
            assert_eq!(cell(c, l), expected, "category {c}, language {l}");
        }
    }

    let agreement = |a: &Agreement| (a.equal, a.n);
    let pair = |i: usize, j: usize| {
        let (first, second) = (Language::ALL[i.min(j)].code(), Language::ALL[i.max(j)].code());
        agreement(&summary.agreement[&format!("{first}-{second}")])
    };
    assert_eq!(
        pair(0, 1),
        (9, 12),
        "English and German differ in the first category"
    );
    assert_eq!(pair(0, 2), (12, 12));
    assert_eq!(pair(3, 0), (11, 11), "French failed once");
    assert_eq!(pair(1, 4), (6, 9));
    assert_eq!(summary.agreement.len(), 11, "ten pairs and all");
    // All five are judged in 3 x 3 rows less the failed one; German differs in three of these.
    assert_eq!(agreement(&summary.agreement["all"]), (5, 8));
    assert_eq!(summary.failures.iter().map(|f| f.count).sum::<u64>(), 1);

    let html = report::html(&summary).unwrap();
    for figure in ["88.9", "66.7", "91.7"] {
        assert!(html.contains(figure), "{figure} is not in the report");
    }
    for loaded in ["src=\"http", "href=\"http", "@import", "url(http"] {
        assert!(
            !html.contains(loaded),
            "the report loads from a network: {loaded}"
        );
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_do_not_depend_on_concurrency() {
    let rig = Rig::start().await;
    let (_, one) = bench(&rig, 1).await;
    let (_, many) = bench(&rig, 32).await;
    assert_eq!(String::from_utf8(one).unwrap(), String::from_utf8(many).unwrap());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_cannot_write_into_the_report() {
    let rig = Rig::start().await;
    let (mut summary, _) = bench(&rig, 16).await;
    let hostile = |name: &str| format!("<script>{name}</script>");
    let mut target = summary.run.provenance.targets.pop_first().unwrap();
    target.model = hostile("target");
    summary.run.provenance.targets.insert(target);
    summary.run.measured.interrupted = Some(hostile("interrupted"));
    let html = report::html(&summary).unwrap();
    for name in ["target", "interrupted"] {
        assert!(!html.contains(&hostile(name)), "{name} is not escaped");
        assert!(
            html.contains(&format!("&lt;script&gt;{name}")),
            "{name} is not shown"
        );
    }
    rig.stop().await;
}
