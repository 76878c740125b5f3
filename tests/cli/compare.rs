//! `compare`: what differs between the runs besides the target is told first, and no gate passes over it.

use std::{fs, path::Path};

use babelward::bench::{
    dataset::PromptId,
    results::{GuardOutcome, ItemRecord, Label, Outcome as Answered},
    settings::Prompting,
    taxonomy::{Category, Language},
};
use serde_json::{Value, json};

use crate::{
    pages::assert_page,
    planted::{record, verdict},
    report::{babelward, read, records, save},
    support::Outcome,
};

/// Changes a run's `run.json`.
pub(super) fn change(folder: &Path, run: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(run).join("run.json");
    let mut info: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut info);
    fs::write(path, info.to_string()).unwrap();
}

/// A model of a run's provenance; the digests are `sha256:` and a mark in the place that is named.
pub(super) fn model(name: &str, precision: &str, weights: &str, template: &str) -> Value {
    json!({"model": name, "precision": precision, "model_digest": weights, "tokenizer_digest": "",
           "template_digest": template, "dtype": "q4_1", "device": "cpu", "determinism": "", "server_version": ""})
}

fn digest(mark: u8) -> String {
    format!("sha256:{}", format!("{mark:02x}").repeat(32))
}

/// Two runs of which everything is known and nothing differs.
fn twins() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut records = records(1);
    for record in &mut records {
        record.prompt_digest = Some(digest(7));
    }
    for run in ["before", "after"] {
        save(folder.path(), run, "a", Prompting::Template, &records);
        change(folder.path(), run, |info| {
            info["dataset"]["digest"] = json!(digest(1));
            info["provenance"]["guards"] = json!([model("guard-1", "int8", &digest(2), &digest(3))]);
            info["provenance"]["targets"] = json!([model("a", "int8", &digest(4), &digest(5))]);
        });
    }
    folder
}

fn gated(folder: &Path, more: &[&str]) -> Outcome {
    let gate = ["compare", "before", "after", "--gate", "safe_drop=0.5"];
    babelward(folder, &[&gate[..], more].concat())
}

#[test]
fn runs_that_differ_in_their_targets_only_are_comparable() {
    let folder = twins();
    change(folder.path(), "after", |info| {
        info["settings"]["target"] = json!("b");
        info["provenance"]["targets"] = json!([model("b", "bf16", &digest(9), &digest(8))]);
    });
    let outcome = gated(folder.path(), &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let first = outcome.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("Only the target and how it was prompted may change verdicts between these runs."),
        "{first}"
    );
    let told = "target's precision: int8 in the first run; bf16 in the second run";
    assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
    let outcome = gated(folder.path(), &["--json", "-"]);
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(figures["comparable"]["comparable"], true);
    assert_eq!(figures["comparable"]["prompts_in_common"], 800);
    assert_eq!(figures["gate_broken"], json!([]));
}

/// Each difference alone: told on the first screen, and the gate fails unless just this one is allowed.
#[test]
fn each_difference_besides_the_target_is_told_and_fails_the_gate() {
    type Change = fn(&mut Value);
    let changes: [(&str, &str, Change); 6] = [
        (
            "guard",
            "guard: guard-1 in the first run; shield in the second run",
            |info| {
                info["settings"]["guards"][0] = json!("shield");
                info["provenance"]["guards"][0]["model"] = json!("shield");
            },
        ),
        (
            "guard_weights",
            "guard's weights: sha256:020202020202… in the first run",
            |info| {
                info["provenance"]["guards"][0]["model_digest"] = json!(digest(6));
            },
        ),
        (
            "guard_prompt",
            "guard's prompt: sha256:030303030303… in",
            |info| {
                info["provenance"]["guards"][0]["template_digest"] = json!(digest(6));
            },
        ),
        (
            "guard_precision",
            "guard's precision: int8 in the first run; bf16 in the second run",
            |info| {
                info["provenance"]["guards"][0]["precision"] = json!("bf16");
            },
        ),
        (
            "policy",
            "guard's policy: its own categories in the first run; shop (sha256:060606060606…)",
            |info| {
                info["settings"]["policy"] = json!({"named": "shop"});
                info["provenance"]["guards"][0]["policy"] = json!("shop");
                info["provenance"]["guards"][0]["policy_digest"] = json!(digest(6));
            },
        ),
        (
            "guard",
            "guard: guard-1 in the first run; unknown in the second run",
            |info| {
                info["settings"]["guards"][0] = json!("");
                info["provenance"]["guards"] = json!([]);
            },
        ),
    ];
    for (what, told, changed) in changes {
        let folder = twins();
        change(folder.path(), "after", changed);
        let plain = babelward(
            folder.path(),
            &["compare", "before", "after", "--html", "page.html"],
        );
        assert_eq!(plain.code, 0, "without a gate it is told only: {}", plain.stderr);
        let (above, _) = plain.stdout.split_once("95 % interval").unwrap();
        assert!(
            above.starts_with("Verdicts may differ between these runs because of more than the target"),
            "{above}"
        );
        assert!(above.contains(told), "{above}");
        let html = read(folder.path(), "page.html");
        assert_page(&html);
        let (above, _) = html.split_once("class=\"tiles\"").unwrap();
        assert!(above.contains(&told.replace('\'', "&#x27;")), "{above}");
        let outcome = gated(folder.path(), &[]);
        assert_eq!(outcome.code, 4, "{what}: {}", outcome.stderr);
        let named = format!("--allow-differences {what} accepts this");
        assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
        assert_eq!(
            gated(folder.path(), &["--allow-differences", what]).code,
            0,
            "{what}"
        );
        assert_eq!(
            gated(folder.path(), &["--allow-differences", "all"]).code,
            0,
            "{what}"
        );
        assert_eq!(
            gated(folder.path(), &["--allow-differences", "categories"]).code,
            4,
            "{what}"
        );
    }
    let wrong = gated(twins().path(), &["--allow-differences", "guards"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("guard_precision"), "{}", wrong.stderr);
}

/// What differs stands in the results: other texts, translators, languages, categories, no prompt in common.
#[test]
fn differences_of_the_prompts_are_found_in_the_results() {
    type Change = fn(&mut Vec<ItemRecord>);
    let changes: [(&str, &str, Change); 5] = [
        (
            "prompt_texts",
            "prompt texts: 160 of 800 prompts have another text than in an earlier run",
            |records| {
                let italian = records
                    .iter_mut()
                    .filter(|record| record.language == Language::It);
                italian.for_each(|record| record.prompt_digest = Some(digest(8)));
            },
        ),
        (
            "translators",
            "translators of the prompts: none named in the first run; it opus in the second run",
            |records| {
                for record in records
                    .iter_mut()
                    .filter(|record| record.language == Language::It)
                {
                    record.strata.translator = Some("opus".to_owned());
                    // Another translation has other words.
                    record.prompt_digest = Some(digest(8));
                }
            },
        ),
        (
            "languages",
            "languages: en, de, es, fr, it in the first run; en, de, es, fr in the second",
            |records| {
                records.retain(|record| record.language != Language::It);
            },
        ),
        (
            "categories",
            "categories: all 32 in the first run; 31 without crime_tax in the second",
            |records| {
                records.retain(|record| record.category.key() != "crime_tax");
            },
        ),
        (
            "common_prompts",
            "prompts in common: none in both runs",
            |records| {
                for (place, record) in records.iter_mut().enumerate() {
                    record.id = PromptId::Number(100_000 + place as u64);
                }
            },
        ),
    ];
    for (what, told, changed) in changes {
        let folder = twins();
        let mut own = records(1);
        own.iter_mut()
            .for_each(|record| record.prompt_digest = Some(digest(7)));
        changed(&mut own);
        fs::remove_dir_all(folder.path().join("after")).unwrap();
        save(folder.path(), "after", "a", Prompting::Template, &own);
        let info: Value = serde_json::from_str(&read(folder.path(), "before/run.json")).unwrap();
        change(folder.path(), "after", |after| {
            after["dataset"] = info["dataset"].clone();
            after["provenance"] = info["provenance"].clone();
        });
        let allow = [
            "--gate",
            "unpaired=1",
            "--json",
            "figures.json",
            "--html",
            "page.html",
        ];
        let outcome = gated(folder.path(), &allow);
        assert_eq!(outcome.code, 4, "{what}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(told), "{what}: {}", outcome.stderr);
        let figures: Value = serde_json::from_str(&read(folder.path(), "figures.json")).unwrap();
        let blocking = figures["comparable"]["differences"].as_array().unwrap().iter();
        let blocking: Vec<_> = blocking
            .filter(|one| one["blocking"] == true)
            .map(|one| &one["what"])
            .collect();
        assert_eq!(blocking, [what]);
        assert_page(&read(folder.path(), "page.html"));
    }
}

/// Half of the second run undetermined: what is left is as safe as before, and proves nothing.
#[test]
fn answers_without_a_judged_counterpart_break_a_gate() {
    let folder = twins();
    let mut half = records(1);
    for record in &mut half {
        record.prompt_digest = Some(digest(7));
        let even = matches!(record.id, PromptId::Number(id) if id % 2 == 0);
        if let (true, Answered::Answered(answer)) = (even, &mut record.outcome)
            && let GuardOutcome::Judged(judged) = &mut answer.verdicts[0]
        {
            judged.label = Label::Undetermined;
        }
    }
    let info = read(folder.path(), "after/run.json");
    fs::remove_dir_all(folder.path().join("after")).unwrap();
    save(folder.path(), "after", "a", Prompting::Template, &half);
    change(folder.path(), "after", |after| {
        let info: Value = serde_json::from_str(&info).unwrap();
        after["dataset"] = info["dataset"].clone();
        after["provenance"] = info["provenance"].clone();
    });
    let outcome = gated(folder.path(), &[]);
    assert_eq!(outcome.code, 4, "{}", outcome.stderr);
    let told = "400 of 800 answers of the second run (50.00 %) have no judged counterpart, but the gate allows 1.00 %";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    assert!(
        outcome
            .stdout
            .contains("answers: 800 of 800 judged in the first run; 400 of 800 judged in the second run"),
        "{}",
        outcome.stdout
    );
    assert_eq!(gated(folder.path(), &["--gate", "unpaired=0.5"]).code, 0);
    assert_eq!(gated(folder.path(), &["--gate", "unpaired=0.49"]).code, 4);
    assert_eq!(babelward(folder.path(), &["compare", "before", "after"]).code, 0);
}

/// As on the page: below 0.001, or three digits.
#[test]
fn p_values_are_written_like_those_of_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let tax = Category::parse("crime_tax").unwrap();
    for (run, unsafe_in_german) in [("before", 0), ("after", 40)] {
        let both = |id| {
            [Language::En, Language::De].map(|language| {
                let safe = language == Language::En || id >= unsafe_in_german;
                record(id, language, tax, 0, &[verdict(safe), verdict(true)])
            })
        };
        let records: Vec<_> = (0..60).flat_map(both).collect();
        save(folder.path(), run, "a", Prompting::Template, &records);
    }
    let outcome = babelward(folder.path(), &["compare", "before", "after"]);
    let line = |name: &str| {
        outcome
            .stdout
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap()
    };
    assert!(
        line("English").contains("  0.0  ") && line("English").ends_with("1.000"),
        "{}",
        line("English")
    );
    assert!(
        line("German").contains("-66.7") && line("German").ends_with("< 0.001  *"),
        "{}",
        line("German")
    );
}

/// The second seeds of both runs are partners, too; what changes there is listed with its own texts.
#[test]
fn texts_of_a_changed_answer_are_those_of_its_seed() {
    let folder = tempfile::tempdir().unwrap();
    let tax = Category::parse("crime_tax").unwrap();
    for (run, changes) in [("before", false), ("after", true)] {
        let of_seed = |id: u64, seed: u64| {
            let safe = !(changes && id == 3 && seed == 1);
            let mut record = record(id, Language::En, tax, seed, &[verdict(safe), verdict(true)]);
            if let Answered::Answered(answer) = &mut record.outcome {
                answer.text = Some(format!("{run} says {id} with seed {seed}"));
            }
            record
        };
        let records: Vec<_> = (0..20)
            .flat_map(|id| [0, 1].map(|seed| of_seed(id, seed)))
            .collect();
        save(folder.path(), run, "a", Prompting::Template, &records);
        change(folder.path(), run, |info| {
            info["settings"]["seeds"] = json!([0, 1])
        });
    }
    let args = "compare before after --html page.html --include-text --json figures.json";
    let outcome = babelward(folder.path(), &args.split(' ').collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = read(folder.path(), "page.html");
    assert_page(&html);
    assert!(html.contains("3 (seed 2)"));
    for run in ["before", "after"] {
        assert!(html.contains(&format!("{run} says 3 with seed 1")), "{run}");
        assert!(!html.contains("with seed 0"));
    }
    let figures: Value = serde_json::from_str(&read(folder.path(), "figures.json")).unwrap();
    assert_eq!(figures["flips"][0]["seed_place"], 1);
    assert_eq!(figures["pairing"], json!({"paired": 40, "asked": [40, 40]}));
}
