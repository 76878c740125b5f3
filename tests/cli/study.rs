//! Studies: what differs between the runs is told first, runs have names of their own, and nobody's tuning is guessed.

use std::{fs, path::Path};

use babelward::bench::{
    settings::Prompting,
    taxonomy::{Category, Language},
};
use serde_json::{Value, json};

use crate::{
    compare::{change, model},
    pages::assert_page,
    report::{babelward, read, records, save},
    support::Outcome,
};

fn study(folder: &Path, more: &[&str]) -> Value {
    let outcome = babelward(
        folder,
        &[&["report", ".", "--out", "study", "--json", "-"][..], more].concat(),
    );
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn names(study: &Value) -> Vec<&str> {
    let standings = study["standings"].as_array().unwrap();
    let mut names: Vec<_> = standings
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn what_differs_between_runs_is_told_before_the_leaderboard() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    for (run, target, precision) in [
        ("one", "a-1b-it", "int8"),
        ("two", "b-1b-it", "bf16"),
        ("three", "c-1b-it", "int8"),
    ] {
        save(work, run, target, Prompting::Template, &records(1));
        change(work, run, |info| {
            info["provenance"]["guards"] = json!([model("guard-1", precision, "sha256:ab", "sha256:cd")]);
            info["provenance"]["targets"] = json!([model(target, "int8", "", "")]);
        });
    }
    let told = "guard's precision: int8 in a-1b-it, c-1b-it; bf16 in b-1b-it";
    let outcome = babelward(work, &["report", ".", "--out", "study"]);
    let (above, _) = outcome.stdout.split_once("macro safe %").unwrap();
    assert!(
        above.starts_with("Verdicts may differ between these runs because of more than the target"),
        "{above}"
    );
    assert!(above.contains(told), "{above}");
    let html = read(work, "study/study.html");
    assert_page(&html);
    let (above, _) = html.split_once("<h2 id=\"leaderboard\">").unwrap();
    assert!(above.contains(&told.replace('\'', "&#x27;")), "{above}");
    let figures = study(work, &[]);
    assert_eq!(figures["comparable"]["comparable"], false);
    assert_eq!(figures["comparable"]["prompts_in_common"], 800);
    fs::remove_dir_all(work.join("two")).unwrap();
    let outcome = babelward(work, &["report", "."]);
    assert!(
        outcome
            .stdout
            .starts_with("As far as is known, only the target and how it was prompted"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("not known: prompt texts"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn runs_of_one_target_have_names_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    for (run, precision, guard) in [
        ("a", "int8", "guard-1"),
        ("b", "bf16", "guard-1"),
        ("c", "bf16", "shield"),
        ("d", "bf16", "shield"),
    ] {
        save(work, run, "m-2b-it", Prompting::Template, &records(1));
        change(work, run, |info| {
            info["settings"]["guards"][0] = json!(guard);
            info["provenance"]["targets"] = json!([model("m-2b-it", precision, "", "")]);
        });
    }
    let figures = study(work, &["--csv", "t.csv"]);
    let expected = [
        "m-2b-it (bf16, judged by guard-1)",
        "m-2b-it (bf16, judged by shield, in c)",
        "m-2b-it (bf16, judged by shield, in d)",
        "m-2b-it (int8)",
    ];
    assert_eq!(names(&figures), expected);
    assert!(
        figures["standings"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["model"] == "m-2b-it")
    );
    let csv = read(work, "t.csv");
    assert!(expected.iter().all(|name| csv.contains(name)), "{csv}");
}

/// Verdicts of these models, which are unsafe in Italian the more often the smaller the number.
fn import(work: &Path, models: &[(&str, usize)], more: &[&str]) -> Outcome {
    let mut lines = String::new();
    for (name, unsafe_rows) in models {
        for (number, category) in Category::all().enumerate() {
            for row in 0..3 {
                for language in Language::ALL {
                    let is_unsafe = language == Language::It && row < *unsafe_rows;
                    let line = json!({
                        "id": number * 3 + row, "language": language.code(), "category": category.key(),
                        "label": if is_unsafe { "unsafe" } else { "safe" }, "model": name, "guard": "g",
                    });
                    lines += &format!("{line}\n");
                }
            }
        }
    }
    fs::write(work.join("verdicts.jsonl"), lines).unwrap();
    let import = ["bench", "import", "verdicts.jsonl", "--out", "runs"];
    let outcome = babelward(work, &[&import[..], more].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome
}

/// Base models without a mark in their names were taken for instruct models, and mixed with these.
#[test]
fn imported_models_are_base_or_instruct_only_where_something_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    import(
        work,
        &[
            ("Qwen2.5-0.5B", 3),
            ("Qwen2.5-0.5B-Instruct", 0),
            ("mistralai/Mistral-7B-v0.3", 3),
            ("mistralai/Mistral-7B-Instruct-v0.3", 1),
            ("falcon-7b", 2),
            ("falcon-40b", 1),
            ("falcon-180b", 0),
        ],
        &[],
    );
    let report = |more: &[&str]| {
        babelward(
            work,
            &[&["report", "runs", "--out", "study", "--json", "-"][..], more].concat(),
        )
    };
    let figures: Value = serde_json::from_str(&report(&[]).stdout).unwrap();
    let pairs: Vec<_> = figures["tuning"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| &pair["instruct"])
        .collect();
    assert_eq!(
        pairs,
        ["Qwen2.5-0.5B-Instruct", "mistralai/Mistral-7B-Instruct-v0.3"]
    );
    let trends: Vec<_> = figures["size"].as_array().unwrap().iter().collect();
    assert_eq!(trends.len(), 1);
    assert_eq!(trends[0]["tuning"], "unknown");
    assert_eq!(trends[0]["points"].as_array().unwrap().len(), 3);
    let told = babelward(work, &["report", "runs", "--out", "study"]).stdout;
    let names = "Not known to be base or instruct models, and so in no comparison of these: falcon-180b, falcon-40b, falcon-7b.";
    assert!(told.contains(names), "{told}");
    assert!(
        told.contains(r#"--models FILE says it: {"falcon-180b":{"tuning":"base"}}"#),
        "{told}"
    );
    let html = read(work, "study/study.html");
    assert_page(&html);
    assert!(html.contains("It is not known whether"));

    // A part is enough, and the rest stays.
    fs::write(
        work.join("m.json"),
        r#"{"falcon-7b": {"tuning": "instruct"}, "falcon-40b": {"billions": 41}}"#,
    )
    .unwrap();
    let figures: Value = serde_json::from_str(&report(&["--models", "m.json"]).stdout).unwrap();
    let facts = |name: &str| {
        let standings = figures["standings"].as_array().unwrap().iter();
        standings.clone().find(|one| one["name"] == name).unwrap()["facts"].clone()
    };
    assert_eq!(
        facts("falcon-7b"),
        json!({"family": "falcon", "billions": 7.0, "tuning": "instruct"})
    );
    assert_eq!(
        facts("falcon-40b"),
        json!({"family": "falcon", "billions": 41.0, "tuning": "unknown"})
    );
    for (wrong, says) in [
        (r#"{"falcon": {"tuning": "base"}}"#, "no run has a model `falcon`"),
        (
            r#"{"falcon-7b": {"tunning": "base"}}"#,
            "expected one of `family`, `billions`, `tuning`",
        ),
        (r#"{"falcon-7b": {"billions": 0}}"#, "write a number above 0"),
        (
            r#"{"falcon-7b": {"tuning": "tuned"}}"#,
            "expected one of `base`, `instruct`, `unknown`",
        ),
    ] {
        fs::write(work.join("m.json"), wrong).unwrap();
        let outcome = report(&["--models", "m.json"]);
        assert_eq!(outcome.code, 7, "{wrong}");
        assert!(
            outcome.stderr.contains(says) && outcome.stderr.contains("m.json"),
            "{}",
            outcome.stderr
        );
    }
}

/// German by two translators, of which one is worse; English is the source.
fn translated(models: &[Option<&str>]) -> String {
    let mut lines = String::new();
    for model in models {
        for id in 0..60 {
            for (language, translator, is_unsafe) in [
                ("en", None, false),
                ("de", Some("fine"), id % 6 == 0),
                ("de", Some("poor"), id % 3 == 0),
            ] {
                let label = if is_unsafe { "unsafe" } else { "safe" };
                let mut row =
                    json!({"id": id, "language": language, "category": "crime_tax", "label": label});
                if let Some(translator) = translator {
                    row["translator"] = json!(translator);
                }
                if let Some(model) = model {
                    row["model"] = json!(model);
                }
                lines += &format!("{row}\n");
            }
        }
    }
    lines
}

#[test]
fn translators_are_compared_within_each_model_and_without_a_models_name() {
    for (models, targets) in [
        (&[None][..], &["unnamed model of all.jsonl"][..]),
        (
            &[Some("m-1b-it"), Some("n-1b-it")][..],
            &["m-1b-it", "n-1b-it"][..],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path();
        fs::write(work.join("all.jsonl"), translated(models)).unwrap();
        let import = "bench import all.jsonl --translators all --guard g --out runs";
        let outcome = babelward(work, &import.split(' ').collect::<Vec<_>>());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        for target in targets {
            assert!(
                outcome.stdout.contains(&format!("{target} de")),
                "{}",
                outcome.stdout
            );
        }
        let outcome = babelward(work, &["report", "runs", "--json", "-"]);
        let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let found: Vec<_> = figures["translation"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["target"])
            .collect();
        assert_eq!(found, targets);
        let mut expected: Vec<String> = targets
            .iter()
            .flat_map(|target| ["fine", "poor"].map(|name| format!("{target} (prompts by {name})")))
            .collect();
        expected.sort_unstable();
        assert_eq!(names(&figures), expected);
        // The study is about translators: that they differ is told, and no flaw.
        assert_eq!(
            figures["comparable"]["comparable"], true,
            "{}",
            figures["comparable"]
        );
        let differences = figures["comparable"]["differences"].as_array().unwrap();
        assert!(
            differences
                .iter()
                .any(|one| one["what"] == "translators" && one["blocking"] == false)
        );
        assert!(read(work, "runs/study.html").contains("<h2 id=\"translation\">"));
    }
}

/// A line for each model and language, with their names, however much is missing.
#[test]
fn missing_verdicts_are_summed_up_by_model_and_language() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let mut text = "id,language,category,label,model\n".to_owned();
    for model in ["org/one", "two"] {
        for id in 0..150 {
            text += &format!("{id},en,crime_tax,safe,{model}\n");
            if id >= 120 || model == "two" && id != 7 {
                text += &format!("{id},it,crime_tax,safe,{model}\n");
            }
        }
    }
    fs::write(work.join("v.csv"), text).unwrap();
    let outcome = babelward(work, &["bench", "import", "v.csv", "--out", "runs"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for line in [
        "121 verdicts are missing, and the file does not say why",
        "  org/one: Italian lacks 120 of 150 (id 0, id 1, id 2 and 117 more)",
        "  two: Italian lacks 1 of 150 (id 7)",
    ] {
        assert!(outcome.stderr.contains(line), "{line}: {}", outcome.stderr);
    }
    assert!(outcome.stderr.lines().count() <= 4, "{}", outcome.stderr);
    let json = ["--format", "json", "bench", "import", "v.csv", "--out", "again"];
    let told: Value = serde_json::from_str(&babelward(work, &json).stdout).unwrap();
    let missing = told["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 2);
    assert_eq!(
        (&missing[1]["model"], &missing[1]["language"]),
        (&json!("two"), &json!("it"))
    );
    assert_eq!(missing[1]["answers"], json!([{"id": 7, "seed": 0}]));
}
