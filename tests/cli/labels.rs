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
    report::{babelward, one_run, read},
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
    let sample = babelward(
        work,
        &["validate", "sample", "run", "--out", "labels", "-n", "30"],
    );
    assert_eq!(sample.code, 0, "{}", sample.stderr);
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
        (&figures["annotators"], &figures["disagreements"]),
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
    let sample = babelward(work, &["validate", "sample", "run", "--out", "labels", "-n", "4"]);
    assert_eq!(sample.code, 0, "{}", sample.stderr);
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
