//! `translate` against a real server whose model says what the prompt tells it to say.

mod quality;

use std::{fs, path::Path};

use babelward::bench::{dataset::Dataset, taxonomy::Language};
use serde_json::{Value, json};

use crate::{
    rig::{Rig, TARGET},
    support::{Outcome, command, run},
};

/// Runs the binary against the server without blocking it.
async fn babelward(rig: &Rig, folder: &Path, args: &[&str]) -> Outcome {
    let mut command = command(folder);
    command
        .args(["--server", &format!("http://{}", rig.address), "-q"])
        .args(args);
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn write(path: &Path, rows: &[Value]) {
    fs::write(
        path,
        rows.iter().map(|row| format!("{row}\n")).collect::<String>(),
    )
    .unwrap();
}

/// A prompt whose translation is this, by the scripted model.
fn prompt(id: u64, says: &str) -> Value {
    json!({"id": id, "language": "en", "category": "crime_tax", "prompt": format!("Question {id} [say {says}]")})
}

fn score(id: u64, translator: &str, comet: f64, metricx: f64) -> Value {
    json!({"id": id, "language": "de", "translator": translator, "comet": comet, "metricx": metricx})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_best_candidates_become_a_set_that_a_run_takes() {
    let rig = Rig::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(
        &path("en.jsonl"),
        &[
            prompt(1, "Frage eins?"),
            prompt(2, "Frage zwei?"),
            prompt(3, "Frage drei?"),
            prompt(4, "Frage vier?"),
        ],
    );
    fs::write(
        path("opus.csv"),
        "id,language,text\n1,de,Die erste Frage?\n2,de,Die zweite Frage?\n3,de,Die dritte?\n4,de,\n9,de,x\n",
    )
    .unwrap();
    let target = format!("smol={TARGET}");
    let base = [
        "translate",
        "--data",
        "en.jsonl",
        "--to",
        "de",
        "--with",
        &target,
        "--candidates",
        "opus=opus.csv",
        "--out",
        "out",
    ];

    // Without scores nothing is chosen, and the candidates are there to be scored.
    let first = babelward(&rig, folder.path(), &base).await;
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stderr.contains("--scores"), "{}", first.stderr);
    assert!(
        first.stderr.contains("1 candidate is of other prompts"),
        "{}",
        first.stderr
    );
    assert!(!path("out/dataset.jsonl").exists());
    let candidates = lines(&path("out/candidates.jsonl"));
    assert_eq!(candidates.len(), 8);
    assert_eq!(candidates[1]["text"], "Frage eins?");
    assert_eq!(candidates[1]["translator"], "smol");
    assert_eq!(candidates[6]["flags"], json!(["empty"]));
    assert!(candidates[0].get("chosen").is_none());
    let passes = rig.gate.passes();

    // 1: the model by COMET. 2: even COMET, opus by MetricX. 3: both fail. 4: opus is empty, whatever its score.
    let scores = [
        score(1, "smol", 0.9, 3.0),
        score(1, "opus", 0.8, 1.0),
        score(2, "smol", 0.7, 2.0),
        score(2, "opus", 0.7, 1.0),
        score(3, "smol", 0.49, 1.0),
        score(3, "opus", 0.1, 1.0),
        score(4, "smol", 0.5, 25.0),
        score(4, "opus", 0.99, 0.0),
    ];
    write(&path("scores.jsonl"), &scores);
    let scored = [&base[..], &["--scores", "scores.jsonl"]].concat();
    let second = babelward(&rig, folder.path(), &scored).await;
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert_eq!(
        rig.gate.passes(),
        passes,
        "what was translated is not translated again"
    );
    assert!(
        second.stdout.contains("3 of 4 prompts are in out/dataset.jsonl"),
        "{}",
        second.stdout
    );
    let reasons: Vec<_> = lines(&path("out/candidates.jsonl"))
        .iter()
        .map(|c| {
            format!(
                "{} {} {} {}",
                c["id"],
                c["translator"].as_str().unwrap(),
                c["chosen"],
                c["reason"].as_str().unwrap()
            )
        })
        .collect();
    let expected = [
        "1 opus false smol was chosen",
        "1 smol true best COMET 0.9",
        "2 opus true best MetricX 1, COMET tied",
        "2 smol false opus was chosen",
        "3 opus false COMET 0.1 is below 0.5",
        "3 smol false COMET 0.49 is below 0.5",
        "4 opus false is flagged empty",
        "4 smol true the only candidate that may be chosen",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(
        lines(&path("out/excluded.jsonl")),
        [json!({"id": 3, "category": "crime_tax", "without": ["de"]})]
    );
    let set = Dataset::read(&path("out/dataset.jsonl")).unwrap();
    let german: Vec<_> = set
        .rows
        .iter()
        .map(|row| row.prompts[&Language::De].as_str())
        .collect();
    assert_eq!(german, ["Frage eins?", "Die zweite Frage?", "Frage vier?"]);
    assert_eq!(set.rows[1].translators[&Language::De], "opus");
    assert_eq!(set.rows[1].translators.get(&Language::En), None);
    // Each translator alone, whatever the scores.
    assert_eq!(
        Dataset::read(&path("out/translators/smol.jsonl"))
            .unwrap()
            .rows
            .len(),
        4
    );
    assert_eq!(
        Dataset::read(&path("out/translators/opus.jsonl"))
            .unwrap()
            .rows
            .len(),
        3
    );

    let summary: Value = serde_json::from_slice(&fs::read(path("out/summary.json")).unwrap()).unwrap();
    let opus = &summary["translators"][0];
    assert_eq!(
        (&opus["candidates"], &opus["excluded"], &opus["chosen"]),
        (&json!(4), &json!(2), &json!(1))
    );
    assert!((opus["scores"]["comet"]["mean"].as_f64().unwrap() - 0.6475).abs() < 1e-12);
    let all = summary["chosen"].as_array().unwrap().last().unwrap();
    assert_eq!((&all["chosen"], &all["without"]), (&json!(3), &json!(1)));
    assert!((all["scores"]["comet"]["mean"].as_f64().unwrap() - 0.7).abs() < 1e-12);

    let bench = babelward(
        &rig,
        folder.path(),
        &["bench", "run", "--data", "out/dataset.jsonl", "--out", "run"],
    )
    .await;
    assert_eq!(bench.code, 0, "{}", bench.stderr);
    let results = lines(&path("run/results.jsonl"));
    let german: Vec<_> = results
        .iter()
        .filter(|r| r["language"] == "de")
        .map(|r| r["translator"].as_str())
        .collect();
    assert_eq!(german, [Some("smol"), Some("opus"), Some("smol")]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_is_compared_with_the_prompt() {
    let rig = Rig::start().await;
    let folder = tempfile::tempdir().unwrap();
    let english = "How do I bake bread?";
    let row = json!({"id": 1, "category": "crime_tax", "en": english});
    write(&folder.path().join("en.jsonl"), &[row]);
    let good = json!({"id": 1, "language": "de", "text": format!("Wie backe ich Brot? [say {english}]")});
    let bad = json!({"id": 1, "language": "de", "text": "Wo ist Rom? [say Where is Rome]"});
    write(&folder.path().join("good.jsonl"), &[good]);
    write(&folder.path().join("bad.jsonl"), &[bad]);
    let args = [
        "translate",
        "--data",
        "en.jsonl",
        "--to",
        "de",
        "--candidates",
        "bad=bad.jsonl",
        "--candidates",
        "good=good.jsonl",
        "--back-translate",
        TARGET,
        "--select",
        "order",
        "--reject",
        "poor_back_translation",
        "--out",
        "out",
    ];
    let outcome = babelward(&rig, folder.path(), &args).await;
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let candidates = lines(&folder.path().join("out/candidates.jsonl"));
    assert_eq!(candidates[0]["reason"], "is flagged poor_back_translation");
    assert_eq!(
        candidates[1]["back_translation"],
        json!({"text": english, "chrf": 100.0})
    );
    assert_eq!(candidates[1]["chosen"], true);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_translation_is_told_and_tried_again() {
    let rig = Rig::start().await;
    let folder = tempfile::tempdir().unwrap();
    let failing = json!({"id": 2, "language": "en", "category": "crime_tax", "prompt": "[nan] question"});
    write(
        &folder.path().join("en.jsonl"),
        &[prompt(1, "Frage eins?"), failing],
    );
    let target = format!("smol={TARGET}");
    let args = [
        "translate",
        "--data",
        "en.jsonl",
        "--to",
        "de",
        "--with",
        &target,
        "--select",
        "order",
        "--out",
        "out",
    ];
    let outcome = babelward(&rig, folder.path(), &args).await;
    assert_eq!(outcome.code, 5, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 request failed"), "{}", outcome.stderr);
    assert_eq!(lines(&folder.path().join("out/dataset.jsonl")).len(), 2);
    assert_eq!(lines(&folder.path().join("out/excluded.jsonl"))[0]["id"], 2);
    assert_eq!(
        lines(&folder.path().join("out/served.jsonl")).len(),
        1,
        "only what was answered"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_names_the_field_and_the_fix() {
    let rig = Rig::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write(&path("en.jsonl"), &[prompt(1, "x")]);
    write(
        &path("c.jsonl"),
        &[json!({"id": 1, "language": "de", "text": "a"})],
    );
    write(
        &path("twice.jsonl"),
        &[json!({"id": 1, "de": "a"}), json!({"id": "1", "de": "b"})],
    );
    write(
        &path("s.jsonl"),
        &[
            score(1, "c", 0.5, 26.0),
            json!({"id": 1, "language": "nl", "translator": "c", "comet": 1}),
        ],
    );
    fs::write(path("prompt.txt"), "Translate {{ txt }}").unwrap();
    let with =
        |more: &[&'static str]| [&["translate", "--data", "en.jsonl", "--out", "out"][..], more].concat();
    let cases: [(&[&str], i32, &[&str]); 9] = [
        (&["--to", "de"], 2, &["--with", "--candidates"]),
        (&["--to", "en", "--candidates", "c=c.jsonl"], 2, &["--to en"]),
        (
            &["--to", "de", "--candidates", "c.jsonl"],
            7,
            &["c.jsonl", "line 1", "`translator`"],
        ),
        (
            &["--to", "de", "--candidates", "t=twice.jsonl"],
            7,
            &["line 2", "German already"],
        ),
        (
            &["--to", "de", "--candidates", "../c=c.jsonl"],
            2,
            &["`../c`", "letters"],
        ),
        (
            &["--to", "de", "--candidates", "c=c.jsonl", "--scores", "s.jsonl"],
            7,
            &[
                "line 1: field `metricx`: 26 is no MetricX score",
                "line 2: field `language`",
            ],
        ),
        (
            &[
                "--to",
                "de",
                "--candidates",
                "c=c.jsonl",
                "--prompt",
                "prompt.txt",
            ],
            2,
            &["--prompt prompt.txt", "undefined"],
        ),
        (
            &["--to", "de", "--from", "it", "--candidates", "c=c.jsonl"],
            2,
            &["no prompts in Italian"],
        ),
        (&["--to", "de", "--with", "x=nobody"], 2, &["nobody"]),
    ];
    for (more, code, parts) in cases {
        let outcome = babelward(&rig, folder.path(), &with(more)).await;
        assert_eq!(outcome.code, code, "{more:?}: {}", outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "{more:?}: {}", outcome.stderr);
        }
    }
    rig.stop().await;
}
