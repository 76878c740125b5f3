//! `bench import`: verdicts of another harness become a run like any other.

use std::{fs, path::Path};

use babelward::bench::taxonomy::{Category, Language};
use serde_json::{Value, json};

use crate::support::{Outcome, command, run};

fn babelward(folder: &Path, args: &[&str]) -> Outcome {
    run(command(folder).args(args))
}

fn json_of(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr))
}

/// Three prompts of each category in all languages; Italian answers to the first are unsafe.
fn verdicts(model: &str, with_texts: bool) -> String {
    let mut lines = String::new();
    for (number, category) in Category::all().enumerate() {
        for row in 0..3 {
            for language in Language::ALL {
                let is_unsafe = language == Language::It && row == 0;
                let mut line = json!({
                    "id": number * 3 + row, "language": language.code(), "category": category.key(),
                    "label": if is_unsafe { "unsafe" } else { "safe" }, "model": model,
                });
                if with_texts {
                    line["prompt"] = json!("the prompt in full");
                    line["answer"] = json!("the answer in full");
                    line["unsafe_score"] = json!(if is_unsafe { 0.9 } else { 0.25 });
                }
                lines += &format!("{line}\n");
            }
        }
    }
    lines
}

#[test]
fn imported_verdicts_are_reported_compared_and_validated_like_a_run() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ours.jsonl"), verdicts("a", true)).unwrap();
    fs::write(folder.path().join("theirs.jsonl"), verdicts("b", false)).unwrap();
    for name in ["ours", "theirs"] {
        let file = format!("{name}.jsonl");
        let outcome = babelward(folder.path(), &["bench", "import", &file, "--out", name]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains("Italian"), "{}", outcome.stdout);
    }
    let outcome = babelward(folder.path(), &["report", "ours", "--json", "-"]);
    let figures = json_of(&outcome);
    let italian = &figures["languages"][4];
    assert_eq!(
        (&italian["micro"]["n"], &italian["micro"]["unsafe"]),
        (&json!(96), &json!(32))
    );
    assert_eq!(figures["disagreements"]["total"], 32);
    assert_eq!(figures["disagreements"]["shown"][0]["verdicts"]["it"], "unsafe");
    assert!(!outcome.stdout.contains("in full"), "no texts among the figures");
    let origin = &figures["run"]["origin"];
    assert_eq!(
        (&origin["kind"], &origin["file"]),
        (&json!("imported"), &json!("ours.jsonl"))
    );
    let settings = &figures["run"]["settings"];
    assert_eq!(
        (&settings["prompting"], &settings["kind"]),
        (&json!("unknown"), &json!("unknown"))
    );
    assert_eq!(settings.get("temperature"), None);
    let html = fs::read_to_string(folder.path().join("ours/report.html")).unwrap();
    for part in [
        "imported from ours.jsonl (sha256:",
        "length and sampling unknown",
        "<dt>Prompt set</dt><dd>unknown</dd>",
        "weights and chat template unknown",
        "Tokens, times, and why answers ended are unknown.",
    ] {
        assert!(html.contains(part), "{part}");
    }
    let outcome = babelward(folder.path(), &["compare", "ours", "theirs"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let sample = ["validate", "sample", "ours", "--out", "labels", "-n", "20"];
    assert_eq!(babelward(folder.path(), &sample).code, 0);
    let labels = fs::read_to_string(folder.path().join("labels/annotator-1.csv")).unwrap();
    assert!(labels.contains("the prompt in full") && labels.contains("the answer in full"));
    let resumed = babelward(folder.path(), &["bench", "resume", "ours"]);
    assert_eq!(resumed.code, 2);
    assert!(resumed.stderr.contains("was imported"), "{}", resumed.stderr);
    let again = babelward(folder.path(), &["bench", "import", "ours.jsonl", "--out", "ours"]);
    assert_eq!(again.code, 2, "nothing is overwritten");
}

/// The rows in English belong to both translators; those in the others are one's alone.
#[test]
fn verdicts_on_several_translators_prompts_become_a_run_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let row = |id: u64, language: &str, translator: Option<&str>, is_unsafe: bool| {
        let label = if is_unsafe { "unsafe" } else { "safe" };
        let mut row =
            json!({"id": id, "language": language, "category": "crime_tax", "label": label, "model": "m"});
        if let Some(translator) = translator {
            row["translator"] = json!(translator);
        }
        format!("{row}\n")
    };
    let rows = (0..60).map(|id| {
        row(id, "en", None, false)
            + &row(id, "de", Some("fine"), id % 6 == 0)
            + &row(id, "de", Some("poor"), id % 3 == 0)
    });
    fs::write(work.join("all.jsonl"), rows.collect::<String>()).unwrap();
    let import = |translators: &str, out: &str| {
        let args = [
            "bench",
            "import",
            "all.jsonl",
            "--translators",
            translators,
            "--out",
            out,
        ];
        babelward(work, &args)
    };
    let outcome = import("all", "runs");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("Part of the gap is translation"),
        "{}",
        outcome.stdout
    );
    let study = json_of(&babelward(work, &["report", "runs", "--json", "-"]));
    let german = &study["translation"][0];
    assert_eq!(
        (&german["prompts"], &german["reference"]),
        (&json!(60), &json!("en"))
    );
    assert_eq!(german["test"]["test"], "mcnemar");
    let gaps = german["translators"].as_array().unwrap().iter();
    let gaps: Vec<_> = gaps
        .map(|side| side["gap_points"]["estimate"].as_f64().unwrap().round())
        .collect();
    assert_eq!(gaps, [17.0, 33.0]);
    for wrong in ["fine", "fine,fine", "fine,other"] {
        let outcome = import(wrong, "none");
        assert_eq!(outcome.code, 2, "{wrong}");
        assert!(
            outcome
                .stderr
                .contains("two or more of those that the file has: fine, poor"),
            "{}",
            outcome.stderr
        );
    }
    let together = babelward(work, &["bench", "import", "all.jsonl", "--out", "none"]);
    assert_eq!(together.code, 7);
    assert!(together.stderr.contains("--translators"), "{}", together.stderr);
}

#[test]
fn a_file_of_several_models_becomes_a_folder_of_runs() {
    let folder = tempfile::tempdir().unwrap();
    let both = verdicts("org/one", false) + &verdicts("org/two", false);
    fs::write(folder.path().join("both.jsonl"), both).unwrap();
    let import = [
        "--format",
        "json",
        "bench",
        "import",
        "both.jsonl",
        "--out",
        "study",
    ];
    let outcome = babelward(folder.path(), &import);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let runs = json_of(&outcome);
    assert_eq!(runs["runs"][1]["folder"], "study/org-two");
    let study = json_of(&babelward(folder.path(), &["report", "study", "--json", "-"]));
    assert_eq!(study["standings"].as_array().unwrap().len(), 2);
    let one = [
        "bench",
        "import",
        "both.jsonl",
        "--out",
        "one",
        "--model",
        "org/one",
    ];
    assert_eq!(babelward(folder.path(), &one).code, 0);
    assert!(folder.path().join("one/run.json").exists());
    let none = [
        "bench",
        "import",
        "both.jsonl",
        "--out",
        "none",
        "--model",
        "three",
    ];
    assert_eq!(babelward(folder.path(), &none).code, 2);
    assert!(!folder.path().join("none").exists());
}

#[test]
fn every_problem_of_a_file_is_listed_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let text = "id,language,category,label\n1,en,crime_tax,safe\n1,en,crime_tax,safe\n2,en,crime_taxes,no\n";
    fs::write(folder.path().join("bad.csv"), text).unwrap();
    let import = ["bench", "import", "bad.csv", "--out", "run"];
    let outcome = babelward(folder.path(), &import);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (7, ""));
    for part in [
        "3 problems",
        "line 3",
        "did you mean `crime_tax`?",
        "fix: write safe, unsafe, controversial or undetermined",
    ] {
        assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
    }
    let problems = json_of(&babelward(
        folder.path(),
        &[&["--format", "json"], &import[..]].concat(),
    ));
    let kinds: Vec<_> = problems["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            (
                problem["kind"].as_str().unwrap(),
                problem["line"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [("duplicate", 3), ("unknown_category", 4), ("unknown_label", 4)]
    );
    assert!(!folder.path().join("run").exists());
}

/// 97 of 98 are 98.98 %, which one digit would make a safe model of.
#[test]
fn a_share_is_not_rounded_into_another_band() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let row = |model: &str, id: u32, label: &str| {
        let row =
            json!({"id": id, "language": "en", "category": "crime_tax", "label": label, "model": model});
        format!("{row}\n")
    };
    let rows = (0..98).map(|id| {
        let label = if id == 0 { "unsafe" } else { "safe" };
        row("one-1b-it", id, label) + &row("other-2b-it", id, "safe")
    });
    fs::write(work.join("all.jsonl"), rows.collect::<String>()).unwrap();
    let imported = babelward(work, &["bench", "import", "all.jsonl", "--out", "runs"]);
    let study = babelward(work, &["report", "runs/one-1b-it", "runs/other-2b-it"]);
    let compared = babelward(work, &["compare", "runs/other-2b-it", "runs/one-1b-it"]);
    for said in [&imported.stdout, &study.stdout, &compared.stdout] {
        assert!(said.contains("98.98") && !said.contains("99.0 "), "{said}");
    }
}
