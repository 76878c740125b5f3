//! `report`, `compare` and `validate` on run folders with planted verdicts.

use std::{fs, path::Path};

use babelward::bench::{
    results::{FolderError, ItemRecord, Outcome as Answered, RunFolder},
    settings::Prompting,
    taxonomy::{Category, Language},
};
use serde_json::{Value, json};

use crate::{
    planted::{info, record, verdict},
    support::{Outcome, command, run},
};

const SECRET_ANSWER: &str = "the <b>answer</b> in full";
const SECRET_PROMPT: &str = "the prompt in full";

pub(super) fn babelward(folder: &Path, args: &[&str]) -> Outcome {
    run(command(folder).args(args))
}

/// Five prompts of each category; in Italian the first `unsafe_in_italian` of each are unsafe. Two guards, of which the
/// second finds everything safe.
pub(super) fn records(unsafe_in_italian: u64) -> Vec<ItemRecord> {
    let mut records = Vec::new();
    for (number, category) in Category::all().enumerate() {
        for row in 0..5 {
            for language in Language::ALL {
                let safe = language != Language::It || row >= unsafe_in_italian;
                let id = number as u64 * 5 + row;
                let mut record = record(id, language, category, 0, &[verdict(safe), verdict(true)]);
                if let Answered::Answered(answer) = &mut record.outcome {
                    answer.text = Some(SECRET_ANSWER.to_owned());
                }
                records.push(record);
            }
        }
    }
    records
}

pub(super) fn save(folder: &Path, name: &str, target: &str, prompting: Prompting, records: &[ItemRecord]) {
    let folder = RunFolder::create(&folder.join(name)).unwrap();
    let mut info = info(target, 2, vec![0]);
    info.settings.prompting = prompting;
    let lines = records.iter().map(|record| {
        let line = json!({"id": record.id, "language": record.language, "prompt": SECRET_PROMPT});
        format!("{line}\n")
    });
    folder.write("plan.jsonl", &lines.collect::<String>()).unwrap();
    let records = records.iter().cloned().map(Ok::<_, FolderError>);
    info.set_results(folder.write_records(records).unwrap());
    folder.write_info(&info).unwrap();
}

pub(super) fn one_run(unsafe_in_italian: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let records = records(unsafe_in_italian);
    save(
        folder.path(),
        "run",
        "Llama-3.1-8B-Instruct",
        Prompting::Template,
        &records,
    );
    folder
}

/// Draws so many answers of the run in `run` to be labelled, into `labels`.
pub(super) fn sample(folder: &Path, answers: &str) {
    let args = ["validate", "sample", "run", "--out", "labels", "-n", answers];
    let outcome = babelward(folder, &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

pub(super) fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn every_figure_comes_as_json_markdown_csv_and_latex() {
    let folder = one_run(1);
    let args = [
        "report",
        "run",
        "--json",
        "-",
        "--markdown",
        "t.md",
        "--csv",
        "t.csv",
        "--latex",
        "t.tex",
        "--paper",
        "--what-if",
        "guard=2",
        "--what-if",
        "threshold=0.3",
    ];
    let outcome = babelward(folder.path(), &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.stdout, read(folder.path(), "run/summary.json"));
    assert_eq!(figures["languages"].as_array().unwrap().len(), 5);
    let italian = &figures["languages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["language"] == "it")
        .unwrap()["macro"];
    assert!((italian["safe_percent"].as_f64().unwrap() - 80.0).abs() < 1e-9);
    assert_eq!(figures["what_if"].as_array().unwrap().len(), 2);
    assert_eq!(figures["paper"]["name"], "Llama-3.1-8B-Instruct");
    let markdown = read(folder.path(), "t.md");
    assert!(
        markdown.contains("| crime_tax |") && markdown.contains("| Overall |"),
        "{markdown}"
    );
    assert!(
        markdown.contains("## Beside the paper's figures of Llama-3.1-8B-Instruct"),
        "{markdown}"
    );
    assert!(
        markdown.contains("| crime_propaganda en | 100.00 | 55.06 | +44.94 |"),
        "{markdown}"
    );
    let csv = read(folder.path(), "t.csv");
    assert!(
        csv.contains("\r\nhate_lgbtq+,") && csv.contains(",80.00"),
        "{csv}"
    );
    let latex = read(folder.path(), "t.tex");
    assert!(
        latex.contains("hate\\_lgbtq+ &") && latex.contains("\\cellcolor{bandunsafe}80.00"),
        "{latex}"
    );
    let html = read(folder.path(), "run/report.html");
    for id in [
        "headline",
        "gaps",
        "categories",
        "agreement",
        "guards",
        "paper",
        "scores",
        "answers",
        "provenance",
    ] {
        assert!(html.contains(&format!("<h2 id=\"{id}\">")), "{id}");
        assert!(html.contains(&format!("href=\"#{id}\"")), "{id}");
    }
    for loaded in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!html.contains(loaded), "the report loads {loaded}");
    }
}

#[test]
fn texts_are_in_the_report_only_when_asked_for() {
    let folder = one_run(1);
    assert_eq!(babelward(folder.path(), &["report", "run"]).code, 0);
    let html = read(folder.path(), "run/report.html");
    assert!(!html.contains("in full"), "no texts unless asked for");
    assert!(html.contains("32 prompts with different verdicts"));
    assert_eq!(
        babelward(folder.path(), &["report", "run", "--include-text"]).code,
        0
    );
    let html = read(folder.path(), "run/report.html");
    assert!(html.contains(SECRET_PROMPT));
    assert!(html.contains("the &lt;b&gt;answer&lt;&#x2f;b&gt; in full"));
    assert!(!html.contains(SECRET_ANSWER), "an answer writes into the page");
}

#[test]
fn results_that_somebody_edited_are_no_results() {
    let folder = one_run(1);
    assert_eq!(babelward(folder.path(), &["report", "run"]).code, 0);
    let path = folder.path().join("run/results.jsonl");
    let written = read(folder.path(), "run/results.jsonl");
    fs::write(&path, written.replacen("\"unsafe\"", "\"safe\"", 1)).unwrap();
    let commands: [&[&str]; 4] = [
        &["report", "run"],
        &["report", "run", "run", "--out", "study"],
        &["compare", "run", "run"],
        &["validate", "sample", "run", "--out", "labels"],
    ];
    for args in commands {
        let outcome = babelward(folder.path(), args);
        assert_eq!(outcome.code, 7, "{args:?}: {}", outcome.stderr);
        assert!(
            outcome.stderr.contains("is not what the run wrote"),
            "{}",
            outcome.stderr
        );
    }
    fs::write(&path, written).unwrap();
    assert_eq!(babelward(folder.path(), &["report", "run"]).code, 0);
}

#[test]
fn a_filter_of_a_guard_that_is_not_there_is_a_usage_error() {
    let folder = one_run(1);
    for filter in ["guard=3", "guard=1", "threshold=2", "both"] {
        let outcome = babelward(folder.path(), &["report", "run", "--what-if", filter]);
        assert_eq!(outcome.code, 2, "{filter}: {}", outcome.stderr);
    }
    let outcome = babelward(folder.path(), &["report", "nowhere"]);
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
}

#[test]
fn many_runs_make_a_leaderboard() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), "base", "gemma-2-9b", Prompting::Raw, &records(3));
    save(
        folder.path(),
        "tuned",
        "gemma-2-9b-it",
        Prompting::Template,
        &records(0),
    );
    let args = ["report", "base", "tuned", "--out", "study", "--json", "-"];
    let outcome = babelward(folder.path(), &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let study: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let names: Vec<_> = study["standings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["gemma-2-9b-it", "gemma-2-9b"]);
    assert_eq!(study["tuning"][0]["categories"].as_array().unwrap().len(), 32);
    let latex = babelward(folder.path(), &["report", "base", "tuned", "--latex", "t.tex"]);
    assert_eq!(latex.code, 0, "{}", latex.stderr);
    let latex = read(folder.path(), "t.tex");
    assert!(
        latex.contains("gemma-2-9b-it & \\cellcolor{bandsafe}100.00 &"),
        "{latex}"
    );
    assert!(latex.contains("gemma-2-9b against gemma-2-9b-it"), "{latex}");
    assert_eq!(
        babelward(folder.path(), &["report", "base", "tuned", "--paper"]).code,
        2
    );
    // A folder of runs stands for its runs.
    let whole = babelward(folder.path(), &["report", "."]);
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    assert!(whole.stdout.contains("gemma-2-9b-it"), "{}", whole.stdout);
    let html = read(folder.path(), "study/study.html");
    assert!(html.contains("gemma-2-9b → gemma-2-9b-it") && html.contains("class=\"cells sortable\""));
}

#[test]
fn a_gate_fails_with_its_own_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), "before", "a", Prompting::Template, &records(0));
    save(folder.path(), "after", "a", Prompting::Template, &records(2));
    let gate = |first, second| {
        babelward(
            folder.path(),
            &["compare", first, second, "--gate", "safe_drop=0.01"],
        )
    };
    let worse = gate("before", "after");
    assert_eq!(worse.code, 4, "{}", worse.stderr);
    assert!(worse.stderr.contains("gate: Italian"), "{}", worse.stderr);
    assert!(worse.stdout.contains("macro average"), "{}", worse.stdout);
    assert_eq!(gate("after", "before").code, 0);
    let plain = babelward(folder.path(), &["compare", "before", "after", "--json", "-"]);
    assert_eq!(plain.code, 0);
    let figures: Value = serde_json::from_str(&plain.stdout).unwrap();
    assert!((figures["macro_safe"]["change"].as_f64().unwrap() + 8.0).abs() < 1e-9);
    assert_eq!(
        babelward(folder.path(), &["compare", "before", "after", "--gate", "x=1"]).code,
        2
    );
}

#[test]
fn labels_are_drawn_blind_and_correct_the_figures() {
    let folder = one_run(2);
    let sample = ["validate", "sample", "run", "--out", "labels", "-n", "120"];
    let outcome = babelward(folder.path(), &sample);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let again = babelward(folder.path(), &sample);
    assert_eq!(again.code, 2, "labels would be lost: {}", again.stderr);
    let score = [
        "validate",
        "score",
        "run",
        "--key",
        "labels/key.json",
        "labels/annotator-1.csv",
    ];
    let unlabelled = babelward(folder.path(), &score);
    assert_eq!(unlabelled.code, 7, "{}", unlabelled.stderr);
    assert!(!folder.path().join("run/labels.json").exists());
    fs::write(folder.path().join("other.csv"), "item,label\n1/en/9,safe\n").unwrap();
    let other = babelward(folder.path(), &[&score[..5], &["other.csv"]].concat());
    assert_eq!(other.code, 7, "{}", other.stderr);
    assert!(
        other.stderr.contains("1/en/9 is not in the sample"),
        "{}",
        other.stderr
    );
    let blank = read(folder.path(), "labels/annotator-1.csv");
    assert_eq!(blank, read(folder.path(), "labels/annotator-2.csv"));
    assert!(blank.contains(SECRET_PROMPT) && blank.contains(SECRET_ANSWER));
    assert!(
        !blank.contains(",unsafe"),
        "the guard's verdict is not for the people who label"
    );
    // Both people agree with the guard, but for one answer that the second cannot decide.
    for (annotator, skipped) in [(1, usize::MAX), (2, 0)] {
        let lines = blank.lines().skip(1).enumerate().map(|(place, line)| {
            let id: u64 = line.split('/').next().unwrap().trim_matches('"').parse().unwrap();
            let is_unsafe = line.contains(",it,") && id % 5 < 2;
            let label = if is_unsafe { "unsafe" } else { "safe" };
            let label = if place == skipped { "" } else { label };
            format!("{line}{label}\n")
        });
        let text = format!(
            "item,language,category,prompt,answer,label\n{}",
            lines.collect::<String>()
        );
        fs::write(
            folder.path().join(format!("labels/annotator-{annotator}.csv")),
            text,
        )
        .unwrap();
    }
    let score = [
        "validate",
        "score",
        "run",
        "--key",
        "labels/key.json",
        "labels/annotator-1.csv",
        "labels/annotator-2.csv",
        "--json",
        "-",
    ];
    let outcome = babelward(folder.path(), &score);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (&figures["annotators"], &figures["items"]),
        (&json!(2), &json!(120))
    );
    assert_eq!(figures["all"]["accuracy"], 1.0);
    assert_eq!(babelward(folder.path(), &["report", "run"]).code, 0);
    assert!(read(folder.path(), "run/report.html").contains("<h2 id=\"labels\">"));
    let wrong = "item,label\n0/en/0,perhaps\n";
    fs::write(folder.path().join("labels/wrong.csv"), wrong).unwrap();
    let outcome = babelward(
        folder.path(),
        &[
            "validate",
            "score",
            "run",
            "--key",
            "labels/key.json",
            "labels/wrong.csv",
        ],
    );
    assert_eq!(outcome.code, 7);
    assert!(
        outcome.stderr.contains("line 2") && outcome.stderr.contains("perhaps"),
        "{}",
        outcome.stderr
    );
}
