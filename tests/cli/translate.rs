//! `translate` with candidates from files: no server is needed to choose.

use std::fs;

use serde_json::{Value, json};

use crate::support::{command, run};

/// The second prompt has a German candidate and no French one: it is not in the set, and neither is that candidate.
#[test]
fn a_candidate_of_an_excluded_prompt_does_not_count_as_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let prompts = "id,category,prompt\n1,crime_tax,One question?\n2,crime_tax,Two questions?\n";
    fs::write(work.join("en.csv"), prompts).unwrap();
    let candidates = "id,language,text\n1,de,Eine Frage?\n1,fr,Une question ?\n2,de,Zwei Fragen?\n2,fr,\n";
    fs::write(work.join("opus.csv"), candidates).unwrap();
    let args = "translate --data en.csv --data-language en --to de,fr --candidates opus=opus.csv --select order --out out";
    let outcome = run(command(work).args(args.split(' ')));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stdout.contains("0 without, 1 left out"),
        "{}",
        outcome.stdout
    );
    let read = |name: &str| fs::read_to_string(work.join("out").join(name)).unwrap();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(
        (&summary["complete"], &summary["excluded"]),
        (&json!(1), &json!(1))
    );
    let chosen: Vec<_> = summary["translators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|own| (own["language"].as_str().unwrap(), own["chosen"].as_u64().unwrap()))
        .collect();
    assert_eq!(chosen, [("de", 1), ("fr", 1)]);
    let all = summary["chosen"].as_array().unwrap().last().unwrap();
    let counts = ["chosen", "left_out", "without"].map(|name| all[name].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 1]);
    let told = read("candidates.jsonl");
    let candidates: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let in_set = candidates.iter().filter(|one| one["chosen"] == true).count();
    assert_eq!(in_set, 2, "what is chosen is what the set has: {told}");
    assert!(
        told.contains("the prompt has no good candidate in French"),
        "{told}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&read("excluded.jsonl")).unwrap()["without"],
        json!(["fr"])
    );
}
