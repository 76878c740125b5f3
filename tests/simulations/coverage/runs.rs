//! Runs, and pairs of runs, on planted truths.

use babelward::bench::taxonomy::Category;
use serde_json::Value;

use super::{
    count::Count,
    planted::{Regime, compared, program, simulate, summary},
};

/// Every category has the same share.
pub fn equal(unsafe_share: f64) -> [f64; 32] {
    [unsafe_share; 32]
}

/// A few categories have most of what is unsafe.
pub fn unequal(unsafe_share: f64) -> [f64; 32] {
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
pub struct OfRun {
    pub macro_: Count,
    pub micro: Count,
    pub all: Count,
    pub category: Count,
    pub agreement: Count,
}

impl OfRun {
    pub fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
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
pub struct Gaps {
    pub macro_interval: Count,
    pub macro_any: Count,
    pub micro_interval: Count,
    pub micro_any: Count,
    pub category_any: Count,
}

impl Gaps {
    pub fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
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
pub struct Changes {
    pub agreement: Count,
    pub policy: Count,
}

/// A policy with half of the categories in.
const IN_POLICY: usize = 16;

impl Changes {
    pub fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
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
pub struct OfTwo {
    pub language: Count,
    pub category: Count,
    pub macro_: Count,
    pub category_test: Count,
    pub any_category: Count,
    pub language_test: Count,
    pub macro_test: Count,
}

impl OfTwo {
    /// What has an interval, by name.
    pub fn intervals(&self) -> [(&Count, &str); 3] {
        [
            (&self.language, "change of a language"),
            (&self.category, "change of a category, five languages"),
            (&self.macro_, "macro change"),
        ]
    }

    /// Tests are errors only where the runs are the same.
    pub fn simulate(regime: &Regime, simulations: usize, seed: u64) -> Self {
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
