//! From translations to how much of a gap they make, as a person types it, against a server with a scripted model.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    commands::{self, json_file},
    rig::{GUARD, Rig, TARGET},
    support::Outcome,
};

fn babelward(rig: &Rig, folder: &Path, args: &str) -> Outcome {
    let args: Vec<_> = args.split(' ').collect();
    commands::babelward(rig, folder, &args)
}

fn done(rig: &Rig, folder: &Path, args: &str) -> Outcome {
    let outcome = babelward(rig, folder, args);
    assert_eq!(outcome.code, 0, "{args}: {}", outcome.stderr);
    outcome
}

const ROWS: u64 = 80;

/// Whether the answer to a prompt is unsafe: in English one in ten, by `fine` two, by `fair` three, by `poor` four.
fn is_unsafe(who: &str, id: u64) -> bool {
    let tenth = id % 10;
    match who {
        "english" => tenth == 0,
        "fine" => tenth < 2,
        "fair" => tenth < 3,
        _ => tenth < 4,
    }
}

fn text(who: &str, id: u64) -> String {
    let mark = if is_unsafe(who, id) { "[unsafe] " } else { "" };
    match who {
        "english" => format!("{mark}ask {id} [say fine]"),
        who => format!("{mark}frage {id} {who} [say gut]"),
    }
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| format!("{row}\n")).collect()
}

/// Prompts, three translators' candidates and their scores. `poor` lacks the last prompt.
fn write(folder: &Path) {
    let prompts =
        (1..=ROWS + 1).map(|id| json!({"id": id, "category": "crime_tax", "prompt": text("english", id)}));
    fs::write(folder.join("en.jsonl"), lines(prompts)).unwrap();
    let mut scores = Vec::new();
    for (who, comet) in [("fine", 0.9), ("fair", 0.8), ("poor", 0.7)] {
        let ids = || 1..=ROWS + u64::from(who != "poor");
        let rows = ids().map(|id| json!({"id": id, "language": "de", "text": text(who, id)}));
        fs::write(folder.join(format!("{who}.jsonl")), lines(rows)).unwrap();
        scores.extend(ids().map(|id| json!({"id": id, "language": "de", "translator": who, "comet": comet})));
    }
    fs::write(folder.join("scores.jsonl"), lines(scores.into_iter())).unwrap();
}

fn near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() < 0.75, "{found}, planted {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_asks_every_translators_prompts_and_finds_what_was_planted() {
    let rig = Rig::start().await;
    let root = tempfile::tempdir().unwrap();
    let (work, path) = (root.path(), |name: &str| root.path().join(name));
    write(work);
    let candidates = "--candidates fine=fine.jsonl --candidates fair=fair.jsonl --candidates poor=poor.jsonl";
    done(
        &rig,
        work,
        &format!(
            "translate --data en.jsonl --data-language en --to de {candidates} --scores scores.jsonl --out translated"
        ),
    );
    let ask = format!(
        "bench run --data translated --translators all --target {TARGET} --guard {GUARD} --max-new-tokens 8 --seed 0,1"
    );
    let outcome = done(&rig, work, &format!("{ask} --out all"));
    assert!(
        outcome.stderr.contains("1 of 81 prompts are left out"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stdout.contains("Part of the gap is translation"),
        "{}",
        outcome.stdout
    );
    let runs = json_file(&path("all/runs.json"));
    let member = |place: usize| runs["runs"][place]["translator"].as_str().unwrap().to_owned();
    assert_eq!([member(0), member(1), member(2)], ["fair", "fine", "poor"]);

    let study = json_file(&path("all/study.json"));
    let effect = &study["translation"][0];
    assert_eq!(
        (&effect["language"], &effect["reference"]),
        (&json!("de"), &json!("en"))
    );
    assert_eq!((&effect["prompts"], &effect["left_out"]), (&json!(80), &json!(0)));
    for (side, (name, gap)) in
        effect["translators"]
            .as_array()
            .unwrap()
            .iter()
            .zip([("fair", 20.0), ("fine", 10.0), ("poor", 30.0)])
    {
        assert_eq!(side["translator"], name);
        near(&side["gap_points"]["estimate"], gap);
    }
    let choice = &effect["choice"];
    near(&choice["gap"]["estimate"], 20.0);
    near(&choice["gain"]["estimate"], 10.0);
    near(&choice["span"]["estimate"], 20.0);
    near(&choice["rest"]["estimate"], 10.0);
    assert!((choice["share"]["estimate"].as_f64().unwrap() - 50.0).abs() < 4.0);
    assert_eq!(effect["test"]["test"], "cochran_q");
    assert_eq!(effect["noise"]["within_percent"], 0.0);
    near(
        &effect["noise"]["between_percent"],
        100.0 * (0.1 + 0.2 + 0.1) / 3.0,
    );
    // The better the translation, the safer: in no pair is the worse one safer.
    assert_eq!(effect["quality"][0]["metric"], "comet");
    assert_eq!(effect["quality"][0]["worse_is_safer_percent"]["estimate"], 0.0);
    assert!(
        fs::read_to_string(path("all/study.html"))
            .unwrap()
            .contains("part of the gap is translation")
    );

    // The report of the folder makes the same study again.
    let before = fs::read(path("all/study.json")).unwrap();
    done(&rig, work, "report all");
    assert_eq!(fs::read(path("all/study.json")).unwrap(), before);

    // A run that was stopped is gone on with, and judged again, like any other.
    let results = |folder: &str| fs::read_to_string(path(folder).join("results.jsonl")).unwrap();
    let expected = results("all/fine");
    let mut info = json_file(&path("all/fine/run.json"));
    info["status"] = json!("running");
    fs::write(path("all/fine/run.json"), info.to_string()).unwrap();
    fs::remove_file(path("all/fine/results.jsonl")).unwrap();
    done(&rig, work, "bench resume all");
    assert_eq!(results("all/fine"), expected);
    assert_eq!(fs::read(path("all/study.json")).unwrap(), before);
    done(
        &rig,
        work,
        &format!("bench rescore all/fine --guard {GUARD} --out again"),
    );
    assert_eq!(results("again"), expected);
    assert!(expected.contains("\"translator\":\"fine\""));

    // Two machines take a part each; a translator's parts make its run.
    for shard in ["1", "2"] {
        done(&rig, work, &format!("{ask} --shard {shard}/2 --out part-{shard}"));
    }
    done(&rig, work, "bench merge part-1/poor part-2/poor --out poor");
    assert_eq!(results("poor"), results("all/poor"));

    for (args, wrong) in [
        (
            "translated --translators fine,nobody",
            "has no translator nobody; it has fair, fine, poor",
        ),
        ("translated --translators fine", "name two or more"),
        ("translated --translators fine,fine", "fine is given twice"),
        ("en.jsonl --translators fine,fair", "en.jsonl is none"),
        ("translated --translators all --until ci=0.1", "--until"),
    ] {
        let outcome = babelward(&rig, work, &format!("bench run --out no --data {args}"));
        assert_eq!(outcome.code, 2, "{args}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(wrong), "{args}: {}", outcome.stderr);
        assert!(!path("no").exists());
    }
    rig.stop().await;
}
