//! Whether prediction sets hold what they promise: runs are planted with scores and true labels, the binary fits a calibrator to
//! the labels, and fresh texts of the same kind are judged by it. Of the texts of a language that are unsafe, the share whose set
//! lacks `unsafe` is at most the error rate, and likewise for safe ones.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use babelward::{
    bench::{
        results::{FolderError, ItemRecord, Label, ModelProvenance, RunFolder},
        taxonomy::{Category, Language},
    },
    calibrator::{Calibrator, PredictionSet, read_calibrator},
    random::Random,
};
use serde_json::{Value, json};

use crate::planted::{info, record};

/// Error rates of safe and of unsafe texts.
const SAFE_RATE: f64 = 0.1;
const UNSAFE_RATE: f64 = 0.2;

/// Fresh texts of each language and label that each calibrator is asked about.
const FRESH: usize = 200;

/// How the scores of a population are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scores {
    /// All different.
    Continuous,
    /// One decimal, so that most are equal to others.
    Tied,
}

/// Numbers of labelled texts of a language.
#[derive(Debug, Clone, Copy)]
struct Counts {
    language: Language,
    safe: usize,
    unsafe_: usize,
}

const fn counts(language: Language, safe: usize, unsafe_: usize) -> Counts {
    Counts {
        language,
        safe,
        unsafe_,
    }
}

/// Skewed: a language with many labels, one with few unsafe ones, one with too few unsafe ones for the rate of 0.2 to leave any
/// out (`1 / (3 + 1) > 0.2`), and one in which hardly a text is safe.
const LANGUAGES: [Counts; 4] = [
    counts(Language::En, 120, 60),
    counts(Language::De, 80, 9),
    counts(Language::Es, 60, 3),
    counts(Language::It, 8, 40),
];

struct Population {
    random: Random,
    scores: Scores,
}

impl Population {
    fn new(seed: u64, scores: Scores) -> Self {
        Self {
            random: Random::new(seed),
            scores,
        }
    }

    fn share(&mut self) -> f64 {
        (self.random.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The score of a text. The guard is good in English and poor in Italian, where it calls everything unsafe.
    fn score(&mut self, language: Language, is_unsafe: bool) -> f64 {
        let (draws, shift) = match language {
            Language::En => (4, 0.0),
            Language::De => (3, -0.1),
            Language::Es => (2, 0.0),
            Language::Fr | Language::It => (2, 0.3),
        };
        let drawn: Vec<f64> = (0..draws).map(|_| self.share()).collect();
        let score = match is_unsafe {
            true => drawn.into_iter().fold(0.0, f64::max),
            false => drawn.into_iter().fold(1.0, f64::min),
        };
        let score = (score + shift + 0.2) / 1.6;
        match self.scores {
            Scores::Continuous => score,
            Scores::Tied => (score * 10.0).round() / 10.0,
        }
    }
}

/// Plants a run whose primary guard is known, with these records.
fn write_run(folder: &Path, records: Vec<ItemRecord>) {
    let folder = RunFolder::create(&folder.join("run")).unwrap();
    let mut info = info("planted", 1, vec![0]);
    let digest = |name: u32| format!("sha256:{name:064}");
    info.provenance.guards.insert(ModelProvenance {
        model: "guard-1".to_owned(),
        model_digest: digest(1),
        tokenizer_digest: digest(2),
        template_digest: digest(3),
        precision: "int8".to_owned(),
        ..ModelProvenance::default()
    });
    let records = records.into_iter().map(Ok::<_, FolderError>);
    info.set_results(folder.write_records(records).unwrap());
    folder.write_info(&info).unwrap();
}

fn judged(id: u64, language: Language, score: f64) -> ItemRecord {
    let category = Category::parse("crime_tax").unwrap();
    let label = if score > 0.5 { Label::Unsafe } else { Label::Safe };
    record(id, language, category, 0, &[(label, score)])
}

fn babelward(folder: &Path, arguments: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_babelward"))
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {stderr}");
}

fn fitted(folder: &Path) -> Calibrator {
    babelward(
        folder,
        &format!(
            "validate calibrate run --out calibrator.json --safe-error-rate {SAFE_RATE} --unsafe-error-rate {UNSAFE_RATE}"
        ),
    );
    read_calibrator(&folder.join("calibrator.json")).unwrap()
}

/// Fits a calibrator to a run of which every answer is labelled.
fn fit_all(population: &mut Population) -> Calibrator {
    let folder = tempfile::tempdir().unwrap();
    let mut records = Vec::new();
    let (mut strata, mut labels): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for (number, counts) in (0..).zip(LANGUAGES) {
        let language = counts.language;
        strata.push(
            json!({"language": language, "judged_unsafe": false, "items": counts.safe + counts.unsafe_}),
        );
        for at in 0..counts.safe + counts.unsafe_ {
            let is_unsafe = at >= counts.safe;
            let id = number * 1000 + at as u64;
            records.push(judged(id, language, population.score(language, is_unsafe)));
            labels.push(json!({
                "item": format!("{id}/{}/0", language.code()),
                "stratum": number,
                "labels": [if is_unsafe { "unsafe" } else { "safe" }],
            }));
        }
    }
    write_run(folder.path(), records);
    let stored = json!({"strata": strata, "labels": labels}).to_string();
    fs::write(folder.path().join("run/labels.json"), stored).unwrap();
    fitted(folder.path())
}

/// How often the sets of fresh texts lack the texts' own label.
#[derive(Debug, Clone, Default)]
struct Missed {
    /// One share for each calibrator.
    shares: Vec<f64>,
    /// Sets that are both or neither, of all texts.
    uncertain: usize,
}

impl Missed {
    fn mean(&self) -> f64 {
        self.shares.iter().sum::<f64>() / self.shares.len() as f64
    }

    /// The standard error of the mean: calibrators differ, and so do the texts that each is asked about.
    fn error(&self) -> f64 {
        let (mean, count) = (self.mean(), self.shares.len() as f64);
        let squares: f64 = self.shares.iter().map(|share| (share - mean).powi(2)).sum();
        (squares / (count - 1.0) / count).sqrt()
    }
}

fn ask(
    calibrator: &Calibrator,
    population: &mut Population,
    language: Language,
    is_unsafe: bool,
    missed: &mut Missed,
) {
    let mut without = 0;
    for _ in 0..FRESH {
        let score = population.score(language, is_unsafe);
        let set = calibrator.calibrate(score, Some(language.code())).set;
        let lacking = if is_unsafe {
            PredictionSet::Safe
        } else {
            PredictionSet::Unsafe
        };
        without += usize::from(set == lacking || set == PredictionSet::Neither);
        missed.uncertain += usize::from(matches!(set, PredictionSet::Both | PredictionSet::Neither));
    }
    missed.shares.push(without as f64 / FRESH as f64);
}

/// What fresh texts of each language and label miss, over so many calibrators.
fn simulate(
    scores: Scores,
    simulations: u64,
    fit: impl Fn(&mut Population) -> Calibrator,
) -> [[Missed; 2]; 4] {
    let mut missed: [[Missed; 2]; 4] = Default::default();
    for seed in 0..simulations {
        let mut population = Population::new(seed, scores);
        let calibrator = fit(&mut population);
        for (counts, missed) in LANGUAGES.iter().zip(&mut missed) {
            let [safe, unsafe_] = missed;
            ask(&calibrator, &mut population, counts.language, false, safe);
            ask(&calibrator, &mut population, counts.language, true, unsafe_);
        }
    }
    missed
}

/// The share that is left out on average where all scores are different: of `n` labelled texts and a fresh one, the fresh one is
/// among the `floor(rate * (n + 1))` strangest.
fn exact(labels: usize, rate: f64) -> f64 {
    let places = (labels + 1) as f64;
    // A whole number of places is one although its product may end in ...9999.
    (rate * places + 1e-9).floor() / places
}

#[test]
fn sets_lack_a_label_as_often_as_stated_in_every_language() {
    let found = simulate(Scores::Continuous, 150, fit_all);
    for (counts, missed) in LANGUAGES.iter().zip(&found) {
        for (missed, labels, rate) in [
            (&missed[0], counts.safe, SAFE_RATE),
            (&missed[1], counts.unsafe_, UNSAFE_RATE),
        ] {
            let (mean, allowed) = (missed.mean(), 4.0 * missed.error() + 1e-12);
            let exact = exact(labels, rate);
            assert!(exact <= rate);
            assert!(
                (mean - exact).abs() <= allowed,
                "{counts:?}: {mean} {exact} {allowed}"
            );
        }
    }
    let [_, _, spanish, italian] = &found;
    assert_eq!(
        spanish[1].mean(),
        0.0,
        "three labels leave nothing out at a rate of 0.2"
    );
    assert_eq!(
        italian[0].mean(),
        0.0,
        "eight labels leave nothing out at a rate of 0.1"
    );
    assert!(
        spanish[1].uncertain > 0,
        "what nothing is known of stays uncertain"
    );
}

#[test]
fn sets_of_tied_scores_lack_a_label_at_most_as_often_as_stated() {
    let found = simulate(Scores::Tied, 80, fit_all);
    let mut all = 0.0;
    for (counts, missed) in LANGUAGES.iter().zip(&found) {
        for (missed, rate) in missed.iter().zip([SAFE_RATE, UNSAFE_RATE]) {
            let most = rate + 4.0 * missed.error();
            assert!(missed.mean() <= most, "{counts:?}: {missed:?}");
            all += missed.mean();
        }
    }
    assert!(all > 0.0, "a set that never lacks anything would say nothing");
}

/// The English and German texts of a run, of which a stratified sample is drawn and labelled: verdicts are drawn with other
/// probabilities than they occur with, which the weights make good.
fn fit_sample(population: &mut Population) -> Calibrator {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut records = Vec::new();
    let mut sheet = "item,label\n".to_owned();
    let mut truths = std::collections::HashMap::new();
    for id in 0..600 {
        for language in [Language::En, Language::De] {
            let is_unsafe = population.share() < 0.15;
            records.push(judged(id, language, population.score(language, is_unsafe)));
            truths.insert(format!("{id}/{}/0", language.code()), is_unsafe);
        }
    }
    write_run(path, records);
    babelward(path, "validate sample run --out labels -n 300");
    let sample = fs::read_to_string(path.join("labels/sample.jsonl")).unwrap();
    for line in sample.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let item = entry["item"].as_str().unwrap();
        sheet += &format!("{item},{}\n", if truths[item] { "unsafe" } else { "safe" });
    }
    fs::write(path.join("a.csv"), sheet).unwrap();
    babelward(path, "validate score run --key labels/key.json a.csv");
    fitted(path)
}

#[test]
fn labels_of_a_stratified_sample_are_weighted() {
    let found = simulate(Scores::Continuous, 40, fit_sample);
    for (counts, missed) in LANGUAGES.iter().zip(&found).take(2) {
        for (missed, rate) in missed.iter().zip([SAFE_RATE, UNSAFE_RATE]) {
            let (mean, error) = (missed.mean(), missed.error());
            assert!(mean <= rate + 3.0 * error, "{counts:?}: {mean} {error}");
            // Without weights the labels of one verdict would count too much, and these bounds would be far off.
            assert!(mean >= 0.4 * rate, "{counts:?}: {mean}");
        }
    }
    let [_, _, spanish, _] = &found;
    assert_eq!(
        spanish[0].uncertain,
        40 * FRESH,
        "a language without a label is always uncertain"
    );
}
