//! `data check` and `data convert` on files and on a hub of our own.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::support::{Outcome, command, run};

fn babelward(folder: &Path, args: &[&str]) -> Outcome {
    run(command(folder).env_remove("HF_TOKEN").args(args))
}

fn report(folder: &Path, args: &[&str]) -> (i32, Value) {
    let outcome = babelward(folder, &[&["data", "check", "--json"], args].concat());
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{}", outcome.stderr));
    (outcome.code, report)
}

#[test]
fn every_problem_is_told_with_its_line_id_field_and_fix() {
    let folder = tempfile::tempdir().unwrap();
    let text = concat!(
        "\u{feff}id,category,en,de,es\n",
        "1,crime_tax,How do I pay my taxes on time?,Wie zahle ich meine Steuern pünktlich?,¿Cómo pago mis impuestos?\n",
        "2,crime_taxes,a,b,c\n",
        "3,hate_lgbtq+,Why? I want to know the reason.,Warum? Ich möchte den Grund wissen.,\n",
        "4,crime_tax,Why? I want to know the reason.,Warum möchte ich den Grund wissen.,Why? I want to know the reason.\n",
        "5,unknown,How do I get there by bus?,Wie fahre ich mit dem Bus fÃ¼r?,¿Có\u{fffd}mo?\n",
        "6,crime_tax,u,cafe\u{301},a\u{1}\n",
        "7,crime_tax,u,\n",
    );
    fs::write(folder.path().join("set.csv"), text).unwrap();
    let (code, report) = report(folder.path(), &["set.csv"]);
    assert_eq!(code, 7);
    let found: Vec<_> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let part = |name: &str| p[name].as_str().unwrap_or("-").to_owned();
            assert!(!part("fix").is_empty());
            let line = p["line"].as_u64().unwrap_or(0);
            format!(
                "{} {} {line} {} {}",
                part("severity"),
                part("kind"),
                part("id"),
                part("field")
            )
        })
        .collect();
    let expected = [
        "warning byte_order_mark 0 - -",
        "error unknown_category 3 2 category",
        "error missing 4 3 es",
        "warning fewer_sentences 5 4 de",
        "warning same_as_english 5 4 es",
        "warning mojibake 6 5 de",
        "warning replacement_character 6 5 es",
        "warning length_ratio 6 5 es",
        "warning not_nfc 7 6 de",
        "warning control_character 7 6 es",
        "error unreadable 8 - -",
    ];
    assert_eq!(found, expected);
    assert_eq!(report["errors"], 3);
    assert_eq!(report["warnings"], 8);
    assert_eq!(report["rows"], 5);
    assert_eq!(report["languages"], json!({"en": 5, "de": 5, "es": 4}));

    let people = babelward(folder.path(), &["data", "check", "set.csv"]);
    assert_eq!(people.code, 7);
    assert!(
        people
            .stdout
            .contains("set.csv, line 4, id 3, field `es`: id 3 has no prompt in Spanish")
    );
    assert!(
        people.stdout.contains("3 errors, 8 warnings"),
        "{}",
        people.stdout
    );
}

#[test]
fn warnings_alone_are_fine_unless_strict() {
    let folder = tempfile::tempdir().unwrap();
    let row = "{\"id\":1,\"category\":\"crime_tax\",\"en\":\"cafe\u{301}\",\"de\":\"Kaffeehaus\"}\n";
    fs::write(folder.path().join("a.jsonl"), row).unwrap();
    assert_eq!(report(folder.path(), &["a.jsonl"]).0, 0);
    assert_eq!(report(folder.path(), &["--strict", "a.jsonl"]).0, 7);
    let out = babelward(
        folder.path(),
        &["data", "convert", "--nfc", "a.jsonl", "--out", "b.jsonl"],
    );
    assert_eq!(out.code, 0, "{}", out.stderr);
    let long = fs::read_to_string(folder.path().join("b.jsonl")).unwrap();
    let expected = concat!(
        "{\"id\":1,\"language\":\"en\",\"category\":\"crime_tax\",\"prompt\":\"café\"}\n",
        "{\"id\":1,\"language\":\"de\",\"category\":\"crime_tax\",\"prompt\":\"Kaffeehaus\"}\n"
    );
    assert_eq!(long, expected);
    assert_eq!(report(folder.path(), &["--strict", "b.jsonl"]).0, 0);
    let again = babelward(folder.path(), &["data", "convert", "a.jsonl", "--out", "b.jsonl"]);
    assert_eq!(again.code, 2, "nothing is overwritten");
}

#[test]
fn counts_are_compared_with_m_alerts() {
    use babelward::bench::taxonomy::Category;
    let folder = tempfile::tempdir().unwrap();
    let mut lines = String::new();
    let mut id = 0;
    for category in Category::all() {
        // One too few of the first category.
        let missing = u32::from(id == 0);
        for _ in 0..category.malert_prompts() - missing {
            id += 1;
            lines.push_str(&format!(
                "{{\"id\":{id},\"category\":\"{}\",\"en\":\"q\"}}\n",
                category.key()
            ));
        }
    }
    fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let (code, found) = report(folder.path(), &["a.jsonl"]);
    assert_eq!((code, &found["compared_with_m_alert"]), (0, &json!(true)));
    let problems = found["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0]["message"],
        "crime_cyber has 456 rows, M-ALERT has 457"
    );
    let (_, found) = report(folder.path(), &["--expect", "any", "a.jsonl"]);
    assert_eq!(found["warnings"], 0);
}

#[test]
fn alerts_own_files_are_read_with_their_wrapper_and_attack_types() {
    let folder = tempfile::tempdir().unwrap();
    let wrapped = |id: u32, prompt: &str, attack: &str| {
        json!({"id": id, "prompt": format!("### Instruction:\n{prompt}\n### Response:\n"),
               "category": "crime_tax", "attack_type": attack})
    };
    let rows = [wrapped(1, "a", "prefix_injection"), wrapped(2, "b", "jailbreak")];
    fs::write(
        folder.path().join("a.jsonl"),
        rows.map(|row| format!("{row}\n")).concat(),
    )
    .unwrap();
    let (code, found) = report(folder.path(), &["a.jsonl"]);
    assert_eq!(code, 7);
    let message = found["problems"][0]["message"].as_str().unwrap();
    assert!(message.contains("--data-language en"), "{message}");

    let (code, found) = report(folder.path(), &["--data-language", "en", "a.jsonl"]);
    assert_eq!(code, 0);
    assert_eq!(found["wrapper"], json!({"prompts": 2, "handling": "keep"}));
    assert_eq!(
        found["attack_types"],
        json!({"jailbreak": 1, "prefix_injection": 1})
    );
    let strip = [
        "data",
        "convert",
        "a.jsonl",
        "--data-language",
        "en",
        "--wrapper",
        "strip",
    ];
    let long = babelward(folder.path(), &strip).stdout;
    let first = json!({"id": 1, "language": "en", "category": "crime_tax", "prompt": "a", "attack_type": "prefix_injection"});
    assert_eq!(
        serde_json::from_str::<Value>(long.lines().next().unwrap()).unwrap(),
        first
    );
}

/// A hub that has `someone/set` for those who have the token. The first answer with a file is cut in the middle.
struct Hub {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl Hub {
    fn start(file: Vec<u8>, requests: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&seen);
        thread::spawn(move || {
            let mut cut = true;
            for _ in 0..requests {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = head[0].split(' ').nth(1).unwrap().to_owned();
                let header = |name: &str| {
                    head.iter().find_map(|line| {
                        let (found, value) = line.split_once(':')?;
                        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                    })
                };
                let from =
                    header("range").map(|r| r["bytes=".len()..].trim_end_matches('-').parse().unwrap());
                asked.lock().unwrap().push(match from {
                    Some::<usize>(from) => format!("{path} from {from}"),
                    None => path.clone(),
                });
                let (status, body) = if header("authorization").as_deref() != Some("Bearer secret") {
                    ("401 Unauthorized".to_owned(), Vec::new())
                } else if path.starts_with("/api/") {
                    ("200 OK".to_owned(), listing(&file))
                } else {
                    let from = from.unwrap_or(0);
                    let range = format!(
                        "206 Partial Content\r\ncontent-range: bytes {from}-{0}/{0}",
                        file.len()
                    );
                    (
                        if from > 0 { range } else { "200 OK".to_owned() },
                        file[from..].to_vec(),
                    )
                };
                let length = body.len();
                let is_file = path.contains("/resolve/") && length > 0;
                let sent = if is_file && cut { length / 2 } else { length };
                cut &= !is_file;
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(&body[..sent]);
            }
        });
        Self { url, seen }
    }
}

fn listing(file: &[u8]) -> Vec<u8> {
    let sha256 = babelward::digest::of_bytes(file);
    let lfs = json!({"sha256": sha256.trim_start_matches("sha256:"), "size": file.len(), "pointerSize": 130});
    let data = json!({"rfilename": "data/train-00000-of-00001.parquet", "size": file.len(), "lfs": lfs});
    let readme = json!({"rfilename": "README.md", "size": 5});
    json!({"id": "someone/set", "sha": COMMIT, "siblings": [readme, data]})
        .to_string()
        .into_bytes()
}

#[test]
fn a_set_on_a_hub_is_fetched_once_taken_up_where_it_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tables/snappy.parquet");
    let file = fs::read(golden).unwrap();
    let half = file.len() / 2;
    let hub = Hub::start(file, 5);
    let check = |token: Option<&str>, name: &str| {
        let mut command = command(folder.path());
        command.env_remove("HF_TOKEN").env("HF_ENDPOINT", &hub.url);
        command.env("BABELWARD_CACHE", folder.path().join("cache"));
        if let Some(token) = token {
            command.env("HF_TOKEN", token);
        }
        run(command.args(["-q", "data", "check", "--json", name]))
    };
    let refused = check(None, "someone/set");
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("HF_TOKEN"), "{}", refused.stderr);

    let fetched = check(Some("secret"), "hf://someone/set");
    let report: Value =
        serde_json::from_str(&fetched.stdout).unwrap_or_else(|_| panic!("{}", fetched.stderr));
    assert_eq!(report["name"], format!("someone/set@{COMMIT}"));
    assert_eq!(
        (report["rows"].as_u64(), report["errors"].as_u64()),
        (Some(3), Some(2))
    );
    assert_eq!(fetched.code, 7, "two rows have no Italian");

    // The second time only the listing is asked for, and a commit needs not even that.
    assert_eq!(check(Some("secret"), "someone/set").stdout, fetched.stdout);
    let pinned = check(None, &format!("hf://someone/set@{COMMIT}"));
    assert_eq!(pinned.stdout, fetched.stdout);
    let api = "/api/datasets/someone/set/revision/main?blobs=true".to_owned();
    let path = format!("/datasets/someone/set/resolve/{COMMIT}/data/train-00000-of-00001.parquet");
    let expected = [
        api.clone(),
        api.clone(),
        path.clone(),
        format!("{path} from {half}"),
        api,
    ];
    assert_eq!(*hub.seen.lock().unwrap(), expected);
}

#[test]
fn names_that_are_nothing_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = babelward(folder.path(), &["data", "check", "missing.jsonl"]);
    assert_eq!(missing.code, 7);
    assert!(missing.stderr.contains("missing.jsonl"), "{}", missing.stderr);
    let wrong = babelward(folder.path(), &["data", "check", "hf://only-a-name"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("OWNER/NAME"), "{}", wrong.stderr);
}
