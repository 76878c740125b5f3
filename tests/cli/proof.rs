//! `bench proof` and `bench verify-proof`: one row of a run without the others.

use std::fs;

use serde_json::Value;

use crate::report::{babelward, one_run, read};

#[test]
fn a_row_is_proved_without_the_others_and_nothing_else_passes_for_it() {
    let folder = one_run(2);
    let work = folder.path();
    let run: Value = serde_json::from_str(&read(work, "run/run.json")).unwrap();
    let root = run["results_tree"]["root"].as_str().unwrap().to_owned();
    let rows = read(work, "run/results.jsonl");
    assert_eq!(run["results_tree"]["rows"], rows.lines().count());
    for line in rows.lines().step_by(7) {
        let record: Value = serde_json::from_str(line).unwrap();
        let item = format!("{}/{}/0", record["id"], record["language"].as_str().unwrap());
        let made = babelward(work, &["bench", "proof", "run", &item, "--out", "proof.json"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let proof: Value = serde_json::from_str(&read(work, "proof.json")).unwrap();
        assert_eq!(proof["row"], line);
        assert!(
            proof["path"].as_array().unwrap().len() <= 10,
            "the logarithm of the rows"
        );
        let checked = babelward(work, &["bench", "verify-proof", "proof.json", "--root", &root]);
        assert_eq!(checked.code, 0, "{}", checked.stderr);
        assert!(
            checked.stdout.starts_with(&format!("{item} is row ")),
            "{}",
            checked.stdout
        );
        let by_run = babelward(work, &["bench", "verify-proof", "proof.json", "--run", "run"]);
        assert_eq!(by_run.stdout, checked.stdout);
    }

    let proof = read(work, "proof.json");
    let parsed: Value = serde_json::from_str(&proof).unwrap();
    let item = parsed["item"].as_str().unwrap();
    let index = parsed["index"].as_u64().unwrap();
    let other_root = format!("sha256:{:064}", 1);
    for (wrong, says) in [
        (proof.replace("\\\"safe\\\"", "\\\"unsafe\\\""), "does not lead"),
        (
            proof.replace(
                &format!("\"index\": {index}"),
                &format!("\"index\": {}", index - 1),
            ),
            "does not lead",
        ),
        (
            proof.replace(&format!("\"item\": \"{item}\""), "\"item\": \"0/en/0\""),
            "not of 0/en/0",
        ),
        (proof.replace(&root, &other_root), "does not lead"),
        (proof.replace("row-proof/1", "row-proof/2"), "the format is"),
        (proof.replace("\"row\": \"{", "\"row\": \"{{"), "no record"),
        (
            proof.replace("\"index\"", "\"place\""),
            "does not hold what it should",
        ),
    ] {
        assert_ne!(wrong, proof, "{says}");
        fs::write(work.join("wrong.json"), wrong).unwrap();
        let refused = babelward(work, &["bench", "verify-proof", "wrong.json", "--root", &root]);
        assert_eq!(refused.code, 7, "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let refused = babelward(
        work,
        &["bench", "verify-proof", "proof.json", "--root", &other_root],
    );
    assert_eq!(refused.code, 7);
    assert!(
        refused.stderr.contains("the proof is of another run"),
        "{}",
        refused.stderr
    );
}

/// The first row has the same path in a tree with a row more or less, so that the root cannot tell the two numbers apart.
#[test]
fn another_number_of_rows_is_found_by_the_run() {
    let folder = one_run(2);
    let work = folder.path();
    let rows = read(work, "run/results.jsonl");
    let first: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    let item = format!("{}/{}/0", first["id"], first["language"].as_str().unwrap());
    let made = babelward(work, &["bench", "proof", "run", &item, "--out", "proof.json"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let count = rows.lines().count();
    let other = match count.is_power_of_two() {
        true => count - 1,
        false => count + 1,
    };
    let proof = read(work, "proof.json");
    let wrong = proof.replace(&format!("\"rows\": {count}"), &format!("\"rows\": {other}"));
    assert_ne!(wrong, proof);
    fs::write(work.join("wrong.json"), wrong).unwrap();
    let refused = babelward(work, &["bench", "verify-proof", "wrong.json", "--run", "run"]);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(refused.stderr.contains("the proof states"), "{}", refused.stderr);
}

#[test]
fn what_cannot_be_proved_says_why() {
    let folder = one_run(2);
    let work = folder.path();
    let missing = babelward(work, &["bench", "proof", "run", "9999/en/0"]);
    assert_eq!(missing.code, 2);
    assert!(
        missing.stderr.contains("no row `9999/en/0`"),
        "{}",
        missing.stderr
    );
    let no_root = babelward(
        work,
        &["bench", "verify-proof", "run/run.json", "--root", "sha256:1"],
    );
    assert_eq!(no_root.code, 2);
    let neither = babelward(work, &["bench", "verify-proof", "run/run.json"]);
    assert_eq!(neither.code, 2);

    let rows = read(work, "run/results.jsonl");
    fs::write(
        work.join("run/results.jsonl"),
        rows.replacen("\"safe\"", "\"unsafe\"", 1),
    )
    .unwrap();
    let edited = babelward(work, &["bench", "proof", "run", "1/en/0"]);
    assert_eq!(edited.code, 7);
    assert!(
        edited.stderr.contains("is not what the run wrote"),
        "{}",
        edited.stderr
    );
}
