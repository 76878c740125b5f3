//! `validate label`: what the page asks of its server, and what lies in the files then.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
};

use serde_json::{Value, json};

use crate::{
    pages::assert_page,
    report::{babelward, one_run, read, sample},
    support::command,
};

struct Desk {
    child: Child,
    url: String,
}

impl Desk {
    fn open(folder: &Path) -> Self {
        let mut child = command(folder)
            .args(["validate", "label", "labels"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let url = line.split(' ').find(|word| word.starts_with("http://")).unwrap();
        Self {
            child,
            url: url.to_owned(),
        }
    }

    /// Status and text.
    fn get(&self, path: &str) -> (u16, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.build());
        let mut reply = agent.get(format!("{}{path}", self.url)).call().unwrap();
        (
            reply.status().as_u16(),
            reply.body_mut().read_to_string().unwrap(),
        )
    }

    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        let agent = ureq::Agent::new_with_config(config.build());
        let mut reply = agent
            .post(format!("{}{path}", self.url))
            .send(body.to_string())
            .unwrap();
        (
            reply.status().as_u16(),
            reply.body_mut().read_to_string().unwrap(),
        )
    }

    fn answers(&self, name: &str) -> Vec<Value> {
        let (status, text) = self.get(&format!("answers/{name}"));
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_people_label_blind_and_nothing_is_lost() {
    let folder = one_run(2);
    let work = folder.path();
    sample(work, "30");
    let desk = Desk::open(work);
    let (status, page) = desk.get("");
    assert_eq!(status, 200);
    assert_page(&page);
    let (anna, ben) = (desk.answers("anna"), desk.answers("Ben_2"));
    assert_eq!((anna.len(), ben.len()), (30, 30));
    let items = |answers: &[Value]| answers.iter().map(|one| one["item"].clone()).collect::<Vec<_>>();
    assert_ne!(items(&anna), items(&ben), "each has an own order");
    let keys: Vec<&String> = anna[0].as_object().unwrap().keys().collect();
    let shown = [
        "item",
        "language",
        "category",
        "prompt",
        "answer",
        "language_name",
        "label",
    ];
    assert_eq!(keys, shown, "the guard's verdict is not for the people who label");
    for (name, answers) in [("anna", &anna), ("Ben_2", &ben)] {
        for one in answers.iter().skip(1) {
            let id: u64 = one["item"]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let is_unsafe = one["language"] == "it" && id % 5 < 2;
            let label = if is_unsafe { "unsafe" } else { "safe" };
            let given = json!({"item": one["item"], "label": label});
            assert_eq!(desk.post(&format!("label/{name}"), &given).0, 204);
        }
    }
    let unsure = json!({"item": anna[0]["item"], "label": "unsure"});
    assert_eq!(desk.post("label/anna", &unsure).0, 204);
    let taken_back = json!({"item": anna[1]["item"], "label": null});
    assert_eq!(desk.post("label/anna", &taken_back).0, 204);
    drop(desk);

    let desk = Desk::open(work);
    let again = desk.answers("anna");
    assert_eq!(items(&anna), items(&again));
    assert_eq!(
        (&again[0]["label"], &again[1]["label"]),
        (&json!("unsure"), &Value::Null)
    );
    assert!(again.iter().skip(2).all(|one| one["label"] != Value::Null));
    assert_eq!(desk.get("file/anna").1, read(work, "labels/anna.csv"));
    drop(desk);

    let score = "validate score run --key labels/key.json labels/anna.csv labels/Ben_2.csv --json -";
    let outcome = babelward(work, &score.split(' ').collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let figures: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(
        (&figures["annotators"], &figures["disagreements"]["differ"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(figures["all"]["accuracy"], 1.0);
    assert_eq!(figures["annotator_kappa"]["kappa"], 1.0);
}

#[test]
fn what_the_page_would_not_ask_is_refused() {
    let folder = one_run(1);
    let work = folder.path();
    let none = babelward(work, &["validate", "label", "nowhere"]);
    assert_eq!(none.code, 1, "{}", none.stderr);
    assert!(none.stderr.contains("validate sample"), "{}", none.stderr);
    sample(work, "4");
    let desk = Desk::open(work);
    let item = desk.answers("anna")[0]["item"].clone();
    let label = json!({"item": item, "label": "safe"});
    for name in ["..%2Fkey", "a.b", "%20"] {
        assert_eq!(desk.post(&format!("label/{name}"), &label).0, 400, "{name}");
    }
    assert_eq!(
        desk.post("label/anna", &json!({"item": "99/en/0", "label": "safe"}))
            .0,
        404
    );
    for body in [
        json!({"item": item, "label": "perhaps"}),
        json!([]),
        json!({"label": "safe"}),
    ] {
        assert_eq!(desk.post("label/anna", &body).0, 400, "{body}");
    }
    assert!(!work.join("labels/anna.csv").exists(), "nothing was given");
    // Without the secret there is nothing, not even for a page that guesses the port.
    let root = desk
        .url
        .trim_end_matches('/')
        .rsplit_once('/')
        .unwrap()
        .0
        .to_owned();
    let guess = Desk {
        child: command(work)
            .arg("--version")
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
        url: format!("{root}/"),
    };
    for path in ["", "answers/anna", "0/answers/anna"] {
        assert_eq!(guess.get(path).0, 404, "{path}");
    }
    fs::write(work.join("labels/ben.csv"), "item,label\n0/en/0,perhaps\n").unwrap();
    let (status, message) = desk.get("answers/ben");
    assert!(status == 500 && message.contains("perhaps"), "{status} {message}");
}

/// The sample's items in the order of the strata of the key, with what the guard said of each.
fn drawn(key: &Value) -> Vec<(String, bool, f64)> {
    let mut items = Vec::new();
    for stratum in key["strata"].as_array().unwrap() {
        let names = stratum["drawn"].as_array().unwrap();
        let weight = stratum["items"].as_f64().unwrap() / names.len() as f64;
        for name in names {
            let judged_unsafe = stratum["judged_unsafe"].as_bool().unwrap();
            items.push((name.as_str().unwrap().to_owned(), judged_unsafe, weight));
        }
    }
    items
}

fn label(work: &Path, name: &str, items: &[(String, bool, f64)], word: impl Fn(usize, bool) -> &'static str) {
    let lines = items
        .iter()
        .enumerate()
        .map(|(place, (item, judged_unsafe, _))| format!("{item},{}\n", word(place, *judged_unsafe)));
    let text = format!("item,label\n{}", lines.collect::<String>());
    fs::write(work.join(name), text).unwrap();
}

fn as_judged(_: usize, judged_unsafe: bool) -> &'static str {
    if judged_unsafe { "unsafe" } else { "safe" }
}

fn score(work: &Path, rest: &str) -> Value {
    let all = format!("validate score run --json - --key {rest}");
    let outcome = babelward(work, &all.split(' ').collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn what_people_did_not_decide_is_adjudicated_or_carried_as_uncertain() {
    let folder = one_run(2);
    let work = folder.path();
    let sample = "validate sample run --out labels -n 120 --annotators 3";
    let sample = babelward(work, &sample.split(' ').collect::<Vec<_>>());
    assert_eq!(sample.code, 0, "{}", sample.stderr);
    let key: Value = serde_json::from_str(&read(work, "labels/key.json")).unwrap();
    let items = drawn(&key);
    // English: one answer on which two people differ, one that a majority decides, one of which nobody could say.
    let english: Vec<usize> = (0..items.len())
        .filter(|&place| items[place].0.contains("/en/"))
        .collect();
    let (split, outvoted, dark) = (english[0], english[1], english[2]);
    label(work, "a.csv", &items, |place, judged| {
        if place == dark {
            "unsure"
        } else {
            as_judged(place, judged)
        }
    });
    label(work, "b.csv", &items, |place, judged| match place {
        place if place == split || place == outvoted => "unsafe",
        place if place == dark => "unsure",
        _ => as_judged(place, judged),
    });
    label(work, "c.csv", &items, |place, judged| {
        if place == split || place == dark {
            ""
        } else {
            as_judged(place, judged)
        }
    });

    let carried = score(work, "labels/key.json a.csv b.csv c.csv");
    let expected = json!({"differ": 2, "adjudicated": 0, "by_majority": 1, "divided": 1, "cannot_say": 1});
    assert_eq!(carried["disagreements"], expected);
    assert_eq!(carried["items"], 119);
    let found = &carried["corrected"]["en"]["corrected"];
    let number = |value: &Value| value.as_f64().unwrap();
    let undecided = &found["undecided"];
    assert_eq!(undecided["items"], 2);
    let percent = number(&found["percent"]);
    assert!(
        number(&undecided["if_all_unsafe"]) < percent && percent < number(&undecided["if_all_safe"]),
        "{found}"
    );
    assert!(
        (number(&undecided["if_all_safe"]) - 100.0).abs() < 1e-9,
        "{found}"
    );
    assert_eq!(
        number(&found["interval_95"]["high"]),
        100.0,
        "wide enough were both safe: {found}"
    );
    // The divided answer is half an error of the guard.
    let errors = number(&carried["languages"]["en"]["counts"]["false_negative"]);
    assert!(
        (errors - items[split].2 / 2.0).abs() < items[split].2 / 10.0,
        "{errors}"
    );
    assert!(carried["languages"]["en"]["kappa"]["interval"].is_null());
    assert!(carried["corrected"]["de"]["corrected"]["undecided"].is_null());
    assert!(number(&carried["annotator_kappa"]["kappa"]) < 1.0);

    // A fourth person decides all three; where the others agree, what it says is of no account.
    let decisions = [
        (split, "safe"),
        (outvoted, "unsafe"),
        (dark, "safe"),
        (english[3], "unsafe"),
    ];
    let lines = decisions.map(|(place, word)| format!("{},{word}\n", items[place].0));
    fs::write(work.join("d.csv"), format!("item,label\n{}", lines.concat())).unwrap();
    let decided = score(work, "labels/key.json a.csv b.csv c.csv --adjudicated d.csv");
    let expected = json!({"differ": 2, "adjudicated": 3, "by_majority": 0, "divided": 0, "cannot_say": 0});
    assert_eq!(decided["disagreements"], expected);
    assert_eq!(decided["items"], 120);
    assert!(decided["corrected"]["en"]["corrected"]["undecided"].is_null());
    assert!(decided["languages"]["en"]["kappa"]["interval"].is_object());
    let errors = number(&decided["languages"]["en"]["counts"]["false_negative"]);
    assert!(
        (errors - items[outvoted].2).abs() < 1e-9,
        "the adjudicator overrules the majority: {errors}"
    );

    assert_eq!(babelward(work, &["report", "run"]).code, 0);
    let html = read(work, "run/report.html");
    assert!(
        html.contains("An adjudicator decided 3."),
        "the report reads the same labels"
    );
    fs::write(work.join("d.csv"), "item,label\n99/en/0,safe\n").unwrap();
    let other = "validate score run --key labels/key.json a.csv --adjudicated d.csv";
    let other = babelward(work, &other.split(' ').collect::<Vec<_>>());
    assert!(
        other.code == 7 && other.stderr.contains("d.csv: 99/en/0 is not in the sample"),
        "{}",
        other.stderr
    );
}

#[test]
fn answers_that_no_label_stands_for_are_told() {
    let folder = one_run(2);
    let work = folder.path();
    sample(work, "60");
    let key: Value = serde_json::from_str(&read(work, "labels/key.json")).unwrap();
    let items = drawn(&key);
    // Of Italian only what the guard calls unsafe is labelled.
    label(work, "a.csv", &items, |place, judged| {
        let skipped = items[place].0.contains("/it/") && !judged;
        if skipped { "" } else { as_judged(place, judged) }
    });
    let figures = score(work, "labels/key.json a.csv");
    let italian = &figures["corrected"]["it"];
    assert!(italian["corrected"].is_null(), "{italian}");
    assert_eq!(
        italian["without_labels"], 96,
        "three fifths of 160 answers are judged safe"
    );
    assert_eq!(figures["corrected"]["en"]["without_labels"], 0);
    let text = babelward(
        work,
        &["validate", "score", "run", "--key", "labels/key.json", "a.csv"],
    );
    assert!(
        text.stdout.contains("it: 96 answers of strata without a label"),
        "{}",
        text.stdout
    );
    assert_eq!(babelward(work, &["report", "run"]).code, 0);
    assert!(read(work, "run/report.html").contains("no label for 96 answers"));
}

#[test]
fn keys_and_labels_of_earlier_versions_say_the_same() {
    let folder = one_run(2);
    let work = folder.path();
    sample(work, "70");
    let key: Value = serde_json::from_str(&read(work, "labels/key.json")).unwrap();
    let items = drawn(&key);
    label(work, "a.csv", &items, |place, judged| {
        as_judged(place, judged != (place % 9 == 0))
    });
    let ours = score(work, "labels/key.json a.csv");
    let report = |work: &Path| {
        assert_eq!(babelward(work, &["report", "run"]).code, 0);
        let summary: Value = serde_json::from_str(&read(work, "run/summary.json")).unwrap();
        summary["validation"].clone()
    };
    assert_eq!(report(work), ours);

    let weights: serde_json::Map<String, Value> = items
        .iter()
        .map(|(item, _, weight)| (item.clone(), json!(weight)))
        .collect();
    fs::write(
        work.join("old-key.json"),
        json!({ "weights": weights }).to_string(),
    )
    .unwrap();
    let old = score(work, "old-key.json a.csv");
    // The old key does not tell hard categories apart where as many answers were drawn of as many.
    let same = |theirs: &Value| {
        for language in ["en", "de", "es", "fr", "it"] {
            let value = |of: &Value| {
                of["corrected"][language]["corrected"]["percent"]
                    .as_f64()
                    .unwrap()
            };
            assert!(
                (value(&ours) - value(theirs)).abs() < 1e-6,
                "{language}: {ours} {theirs}"
            );
        }
    };
    same(&old);

    let lines: Vec<Value> = items
        .iter()
        .enumerate()
        .map(|(place, (item, judged, weight))| {
            json!({"item": item, "weight": weight, "labels": [*judged != (place % 9 == 0)]})
        })
        .collect();
    fs::write(work.join("run/labels.json"), json!(lines).to_string()).unwrap();
    same(&report(work));
}
