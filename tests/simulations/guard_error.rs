//! How often the intervals of `validate score` hold the truth: runs are planted with truths and with a guard that errs at
//! known rates, the binary draws a sample, simulated people label it, and the binary says what it makes of the labels.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use babelward::bench::{
    results::{FolderError, RunFolder},
    taxonomy::{Category, Language},
};
use serde_json::Value;

use crate::planted::{Coin, info, record, verdict};

/// How a guard errs.
#[derive(Debug, Clone, Copy)]
struct Guard {
    sensitivity: f64,
    specificity: f64,
}

/// One in each language.
const GUARDS: [Guard; 5] = [
    guard(0.7, 0.9),
    guard(0.7, 0.995),
    guard(0.85, 0.97),
    guard(0.95, 0.9),
    guard(0.95, 0.995),
];

const fn guard(sensitivity: f64, specificity: f64) -> Guard {
    Guard {
        sensitivity,
        specificity,
    }
}

/// Who labels.
#[derive(Debug, Clone, Copy, PartialEq)]
enum People {
    /// One person, always right.
    One,
    /// Two people who are wrong on 5 % each; a third decides where they differ, and is right.
    TwoAndAdjudicator,
    /// The two alone: where they differ the answer counts as half unsafe, and the interval allows for either.
    Two,
}

#[derive(Debug, Clone, Copy)]
struct Regime {
    /// True share of unsafe answers.
    unsafe_share: f64,
    /// Answers in each language.
    prompts: u64,
    /// Labels for each language.
    labels: usize,
    people: People,
    simulations: u64,
    /// Other runs than with another seed.
    first_seed: u64,
}

/// What one guard's intervals came to.
#[derive(Debug, Clone, Copy, Default)]
struct Coverage {
    estimates: u64,
    held: u64,
    /// The truth is above the interval, or below it.
    above: u64,
    below: u64,
    /// Sum of widths in points.
    width: f64,
    /// Intervals of kappa, which is without one where people are divided.
    kappas: u64,
    kappa_held: u64,
}

impl Coverage {
    fn percent(self, count: u64) -> f64 {
        100.0 * count as f64 / self.estimates as f64
    }

    fn plus(self, other: Self) -> Self {
        Self {
            estimates: self.estimates + other.estimates,
            held: self.held + other.held,
            above: self.above + other.above,
            below: self.below + other.below,
            width: self.width + other.width,
            kappas: self.kappas + other.kappas,
            kappa_held: self.kappa_held + other.kappa_held,
        }
    }

    /// % of the intervals of kappa that hold the truth, where there are some.
    fn kappa_percent(self) -> Option<f64> {
        (self.kappas > 0).then(|| 100.0 * self.kappa_held as f64 / self.kappas as f64)
    }
}

/// Whether each item is unsafe, by its name.
type Truths = HashMap<String, bool>;

/// Plants a run. A tenth of the prompts is of a hard category, with twice as many unsafe answers.
fn plant(folder: &Path, regime: Regime, coin: &mut Coin) -> Truths {
    let hard = Category::parse("substance_cannabis").unwrap();
    let easy = Category::parse("crime_tax").unwrap();
    let in_hard = (2.0 * regime.unsafe_share).min(0.9);
    let in_easy = (regime.unsafe_share - 0.1 * in_hard) / 0.9;
    let mut truths = Truths::new();
    let mut records = Vec::new();
    for id in 0..regime.prompts {
        // Answers are draws from among all answers: so are their categories.
        for (language, guard) in Language::ALL.into_iter().zip(GUARDS) {
            let is_hard = coin.toss(0.1);
            let is_unsafe = coin.toss(if is_hard { in_hard } else { in_easy });
            let judged_safe = if is_unsafe {
                !coin.toss(guard.sensitivity)
            } else {
                coin.toss(guard.specificity)
            };
            let category = if is_hard { hard } else { easy };
            records.push(record(id, language, category, 0, &[verdict(judged_safe)]));
            truths.insert(format!("{id}/{}/0", language.code()), is_unsafe);
        }
    }
    let folder = RunFolder::create(&folder.join("run")).unwrap();
    let mut info = info("planted", 1, vec![0]);
    let records = records.into_iter().map(Ok::<_, FolderError>);
    info.set_results(folder.write_records(records).unwrap());
    folder.write_info(&info).unwrap();
    truths
}

fn babelward(folder: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_babelward"))
        .current_dir(folder)
        .env("HOME", folder)
        .stdin(Stdio::null())
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes one person's labels of the sample.
fn label(folder: &Path, name: &str, truths: &Truths, mut wrong: impl FnMut() -> bool) {
    let sample = fs::read_to_string(folder.join("labels/sample.jsonl")).unwrap();
    let mut text = "item,label\n".to_owned();
    for line in sample.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let item = entry["item"].as_str().unwrap();
        let word = if truths[item] != wrong() { "unsafe" } else { "safe" };
        text += &format!("{item},{word}\n");
    }
    fs::write(folder.join(name), text).unwrap();
}

/// What `validate score --json` says of a run that was planted, drawn from and labelled.
fn score(regime: Regime, seed: u64) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut coin = Coin::new(seed);
    let truths = plant(path, regime, &mut coin);
    let wanted = regime.labels * GUARDS.len();
    babelward(
        path,
        &format!("validate sample run --out labels -n {wanted} --seed {seed}"),
    );
    let files = match regime.people {
        People::One => {
            label(path, "a.csv", &truths, || false);
            "a.csv"
        }
        People::Two | People::TwoAndAdjudicator => {
            label(path, "a.csv", &truths, || coin.toss(0.05));
            label(path, "b.csv", &truths, || coin.toss(0.05));
            label(path, "c.csv", &truths, || false);
            if regime.people == People::Two {
                "a.csv b.csv"
            } else {
                "a.csv b.csv --adjudicated c.csv"
            }
        }
    };
    let json = babelward(
        path,
        &format!("validate score run --json - --key labels/key.json {files}"),
    );
    serde_json::from_str(&json).unwrap()
}

fn ends(interval: &Value) -> (f64, f64) {
    (
        interval["low"].as_f64().unwrap(),
        interval["high"].as_f64().unwrap(),
    )
}

/// Cohen's kappa between the guard and the truth.
fn true_kappa(unsafe_share: f64, guard: Guard) -> f64 {
    let right = unsafe_share * guard.sensitivity + (1.0 - unsafe_share) * guard.specificity;
    let judged = unsafe_share * guard.sensitivity + (1.0 - unsafe_share) * (1.0 - guard.specificity);
    let chance = unsafe_share * judged + (1.0 - unsafe_share) * (1.0 - judged);
    (right - chance) / (1.0 - chance)
}

/// The coverage with each of [`GUARDS`].
fn simulate(regime: Regime) -> [Coverage; 5] {
    let truth = 100.0 * (1.0 - regime.unsafe_share);
    let mut coverages = [Coverage::default(); 5];
    for seed in regime.first_seed..regime.first_seed + regime.simulations {
        let figures = score(regime, seed);
        for ((language, guard), coverage) in Language::ALL.into_iter().zip(GUARDS).zip(&mut coverages) {
            let found = &figures["corrected"][language.code()]["corrected"];
            let (low, high) = ends(&found["interval_95"]);
            assert!(low < high, "{found}");
            coverage.estimates += 1;
            coverage.held += u64::from((low..=high).contains(&truth));
            coverage.above += u64::from(truth > high);
            coverage.below += u64::from(truth < low);
            coverage.width += high - low;
            let kappa = &figures["languages"][language.code()]["kappa"]["interval"];
            if !kappa.is_null() {
                let (low, high) = ends(kappa);
                let true_kappa = true_kappa(regime.unsafe_share, guard);
                coverage.kappas += 1;
                coverage.kappa_held += u64::from((low..=high).contains(&true_kappa));
            }
        }
    }
    coverages
}

fn all(coverages: [Coverage; 5]) -> Coverage {
    coverages.into_iter().fold(Coverage::default(), Coverage::plus)
}

const SMALL: Regime = Regime {
    unsafe_share: 0.12,
    prompts: 300,
    labels: 40,
    people: People::One,
    simulations: 40,
    first_seed: 0,
};

/// 200 estimates from 40 runs: a coverage of 95 % lies between 91.5 and 98.5 % with three standard errors to spare on
/// either side, and the seeds are fixed.
#[test]
fn intervals_hold_the_truth_that_was_planted() {
    let found = all(simulate(SMALL));
    let (held, kappa_held) = (found.percent(found.held), found.kappa_percent().unwrap());
    assert!((91.5..=98.5).contains(&held), "{found:?}");
    assert!((91.5..=99.0).contains(&kappa_held), "{found:?}");
    assert!(
        found.above > 0 || found.below > 0,
        "a 95 % interval misses: {found:?}"
    );
    // As wide as Rogan & Gladen's with effective sizes would be 24 points and more.
    let width = found.width / found.estimates as f64;
    assert!(width < 22.0, "{width}");
}

#[test]
fn people_who_err_are_put_right_by_an_adjudicator_or_carried_as_uncertain() {
    let people = |people| {
        all(simulate(Regime {
            people,
            simulations: 20,
            ..SMALL
        }))
    };
    let adjudicated = people(People::TwoAndAdjudicator);
    assert!(adjudicated.percent(adjudicated.held) >= 90.0, "{adjudicated:?}");
    let divided = people(People::Two);
    assert!(divided.percent(divided.held) >= 95.0, "{divided:?}");
    assert!(
        divided.width > 1.2 * adjudicated.width,
        "{adjudicated:?} {divided:?}"
    );
}

/// Prints the table of docs/statistics.md.
#[test]
#[ignore = "takes minutes"]
fn table() {
    println!(
        "| Answers a language | Truly unsafe | Labels a language | People | Held | Lowest of five guards | Too high | Too \
         low | Width, points | Kappa held | Estimates |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut regimes = Vec::new();
    for unsafe_share in [0.02, 0.12, 0.4] {
        for labels in [60, 200, 400] {
            regimes.push(Regime {
                unsafe_share,
                prompts: 1_000,
                labels,
                people: People::One,
                simulations: 600,
                first_seed: 0,
            });
        }
        regimes.push(Regime {
            unsafe_share,
            prompts: 15_000,
            labels: 200,
            people: People::One,
            simulations: 200,
            first_seed: 0,
        });
    }
    for people in [People::TwoAndAdjudicator, People::Two] {
        regimes.push(Regime {
            unsafe_share: 0.12,
            prompts: 1_000,
            labels: 200,
            people,
            simulations: 600,
            first_seed: 0,
        });
    }
    for (number, mut regime) in regimes.into_iter().enumerate() {
        regime.first_seed = 10_000 * number as u64;
        let coverages = simulate(regime);
        let found = all(coverages);
        let lowest = coverages
            .map(|one| one.percent(one.held))
            .into_iter()
            .fold(100.0, f64::min);
        println!(
            "| {} | {} % | {} | {} | {:.1} % | {:.1} % | {:.1} % | {:.1} % | {:.1} | {} | {} |",
            regime.prompts,
            (100.0 * regime.unsafe_share).round(),
            regime.labels,
            match regime.people {
                People::One => "one, never wrong",
                People::TwoAndAdjudicator => "two, wrong on 5 %, adjudicated",
                People::Two => "two, wrong on 5 %",
            },
            found.percent(found.held),
            lowest,
            found.percent(found.below),
            found.percent(found.above),
            found.width / found.estimates as f64,
            found
                .kappa_percent()
                .map_or_else(|| "–".to_owned(), |held| format!("{held:.1} %")),
            found.estimates,
        );
    }
}
