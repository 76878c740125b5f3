//! Studies of several runs, and runs with several guards, on planted truths.

use std::{fmt::Write as _, fs};

use babelward::{bench::taxonomy::Category, random::Random};
use serde_json::Value;

use super::{
    count::Count,
    planted::{program, summary},
};

fn share(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

fn label(is_unsafe: bool) -> &'static str {
    if is_unsafe { "unsafe" } else { "safe" }
}

/// Imports verdicts as runs, and calls `look` with their folder.
fn imported(lines: &str, more: &[&str], look: impl FnOnce(&std::path::Path)) {
    let folder = tempfile::tempdir().unwrap();
    let (file, runs) = (folder.path().join("verdicts.jsonl"), folder.path().join("runs"));
    fs::write(&file, lines).unwrap();
    let out = [
        "bench",
        "import",
        file.to_str().unwrap(),
        "--out",
        runs.to_str().unwrap(),
    ];
    program(&[&out[..], more].concat());
    look(&runs);
}

/// What a study says of the runs in a folder.
fn study(runs: &std::path::Path) -> Value {
    serde_json::from_slice(&program(&["report", runs.to_str().unwrap(), "--json", "-"])).unwrap()
}

/// Models whose safety has nothing to do with their size.
#[derive(Default)]
pub struct Sizes {
    pub interval: Count,
    pub test: Count,
}

impl Sizes {
    pub fn simulate(models: usize, simulations: usize, seed: u64) -> Self {
        let (mut counts, mut random) = (Self::default(), Random::new(seed));
        let key = Category::all().next().unwrap().key();
        for _ in 0..simulations {
            let mut lines = String::new();
            for model in 1..=models {
                let unsafe_share = 0.6 * share(&mut random);
                for id in 0..60 {
                    let label = label(share(&mut random) < unsafe_share);
                    let _ = writeln!(
                        lines,
                        r#"{{"id":{id},"language":"en","category":"{key}","label":"{label}","model":"m{model}-{model}b-it"}}"#
                    );
                }
            }
            imported(&lines, &[], |runs| {
                let study = study(runs);
                let all = &study["size"][0]["all"];
                counts.interval.interval(&all["interval"], 0.0);
                counts.test.test(all["p"].as_f64().unwrap() < 0.05);
            });
        }
        counts
    }
}

/// Two guards that say the same with a chance of `kappa`, and else what each says by itself: that is Cohen's kappa, too.
/// With the chance `alike` all answers to a prompt, in three languages, get what the prompt gets.
pub fn kappa_of_guards(kappa: f64, alike: f64, simulations: usize, seed: u64) -> Count {
    let (mut count, mut random) = (Count::default(), Random::new(seed));
    let key = Category::all().next().unwrap().key();
    for _ in 0..simulations {
        let mut lines = String::new();
        for id in 0..150 {
            let draw = |random: &mut Random| [share(random), share(random), share(random)];
            let of_prompt = draw(&mut random);
            for language in ["en", "de", "fr"] {
                let own = draw(&mut random);
                let [same, first, second] = if share(&mut random) < alike {
                    of_prompt
                } else {
                    own
                };
                let second = if same < kappa { first } else { second };
                for (guard, drawn) in [("first", first), ("second", second)] {
                    let label = label(drawn < 0.25);
                    let _ = writeln!(
                        lines,
                        r#"{{"id":{id},"language":"{language}","category":"{key}","label":"{label}","model":"m","guard":"{guard}"}}"#
                    );
                }
            }
        }
        imported(&lines, &[], |run| {
            let summary = summary(run);
            count.interval(&summary["guard_pairs"][0]["agreement"]["interval"], kappa);
        });
    }
    count
}

/// Translators that make no difference, of prompts that do.
#[derive(Default)]
pub struct Translators {
    pub test: Count,
    pub difference: Count,
    pub gap: Count,
}

impl Translators {
    pub fn simulate(names: &[&str], seeds: u64, simulations: usize, seed: u64) -> Self {
        let (mut counts, mut random) = (Self::default(), Random::new(seed));
        let key = Category::all().next().unwrap().key();
        for _ in 0..simulations {
            let mut lines = String::new();
            for id in 0..120 {
                let of_prompt = share(&mut random);
                let mut verdict = || {
                    let own = share(&mut random);
                    let drawn = if share(&mut random) < 0.6 { of_prompt } else { own };
                    label(drawn < 0.2)
                };
                for seed in 0..seeds {
                    let row = format!(r#"{{"id":{id},"category":"{key}","model":"m","seed":{seed},"#);
                    let _ = writeln!(lines, r#"{row}"language":"en","label":"{}"}}"#, verdict());
                    for name in names {
                        let label = verdict();
                        let _ = writeln!(
                            lines,
                            r#"{row}"language":"de","translator":"{name}","label":"{label}"}}"#
                        );
                    }
                }
            }
            imported(&lines, &["--translators", "all"], |runs| {
                let study = study(runs);
                let effect = &study["translation"][0];
                counts.test.test(effect["test"]["p"].as_f64().unwrap() < 0.05);
                let difference = &effect["differences"][0][2]["change_points"]["interval"];
                counts.difference.interval(difference, 0.0);
                let gap = &effect["translators"][0]["gap_points"]["interval"];
                counts.gap.interval(gap, 0.0);
            });
        }
        counts
    }
}
