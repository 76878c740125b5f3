//! What every page of ours keeps to, so that it can be read with a keyboard, a screen reader, a phone, in the dark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use babelward::bench::{
    settings::Prompting,
    taxonomy::{Category, Language},
};
use serde_json::json;

use crate::{
    compare::{change, model},
    planted::{record, verdict},
    report::{babelward, one_run, read, records, sample, save},
};

/// A start tag with what follows it up to the next tag; end tags have a name that starts with `/`.
#[derive(Debug)]
struct Tag {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

impl Tag {
    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// Our templates quote every attribute and escape every `<` of a text.
fn tags(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut found = BTreeMap::new();
        while let Some((key, value)) = attributes.split_once("=\"") {
            let (value, more) = value.split_once('"').expect("a value ends");
            let key = key.split_whitespace().last().unwrap_or("").to_owned();
            assert!(found.insert(key, value.to_owned()).is_none(), "twice in <{tag}>");
            attributes = more;
        }
        // Scripts and styles are no markup.
        let end = match name {
            "style" | "script" => after.find(&format!("</{name}")).expect("it ends"),
            _ => after.find('<').unwrap_or(after.len()),
        };
        tags.push(Tag {
            name: name.trim_end_matches('/').to_lowercase(),
            attributes: found,
            text: after[..end].trim().to_owned(),
        });
        rest = &after[end..];
    }
    tags
}

fn count(tags: &[Tag], name: &str) -> usize {
    tags.iter().filter(|tag| tag.name == name).count()
}

/// Asserts what every page keeps to.
pub(super) fn assert_page(html: &str) {
    let tags = tags(html);
    for once in ["h1", "main", "nav"] {
        assert_eq!(count(&tags, once), 1, "{once}");
    }
    assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"));
    assert!(html.contains("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"));
    for loaded in ["http://", "https://", "src=\"", "@import", "url(", "<link"] {
        assert!(!html.contains(loaded), "the page loads {loaded}");
    }
    for name in [
        "table", "section", "div", "figure", "svg", "details", "thead", "tbody",
    ] {
        assert_eq!(count(&tags, name), count(&tags, &format!("/{name}")), "{name}");
    }
    names_are_unique(&tags);
    headings_go_down_one_level_at_a_time(&tags);
    for (place, tag) in tags.iter().enumerate() {
        match tag.name.as_str() {
            "table" => {
                assert_eq!(tags[place + 1].name, "caption", "a table without a caption");
                let around = &tags[place - 1];
                assert_eq!(
                    around.get("class"),
                    Some("scroll"),
                    "a table may be wider than a phone"
                );
                assert_eq!(around.get("tabindex"), Some("0"), "keys must scroll it");
                assert!(around.get("aria-label").is_some_and(|label| !label.is_empty()));
            }
            "th" => {
                let named = !tag.text.is_empty() || !tags[place + 1].text.is_empty();
                assert!(
                    matches!(tag.get("scope"), Some("col" | "row")) && named,
                    "{tag:?}"
                );
            }
            "svg" => {
                let described = tag.get("aria-label").is_some_and(|label| !label.is_empty());
                assert!(tag.get("role") == Some("img") && described, "{tag:?}");
            }
            "circle" | "rect" | "polyline" => assert_eq!(tags[place + 1].name, "title", "{tag:?}"),
            "figure" => assert!(tag.get("role").is_none(), "a figure is a figure"),
            "details" => assert_eq!(tags[place + 1].name, "summary"),
            "button" | "label" => assert!(!tag.text.is_empty(), "{tag:?}"),
            _ => {}
        }
    }
}

fn names_are_unique(tags: &[Tag]) {
    let mut ids = BTreeSet::new();
    for id in tags.iter().filter_map(|tag| tag.get("id")) {
        assert!(ids.insert(id), "the id {id} is there twice");
    }
    let wanted = tags.iter().flat_map(|tag| {
        [
            tag.get("href").and_then(|href| href.strip_prefix('#')),
            tag.get("aria-labelledby"),
        ]
    });
    for id in wanted.flatten() {
        assert!(ids.contains(id), "nothing has the id {id}");
    }
}

fn headings_go_down_one_level_at_a_time(tags: &[Tag]) {
    let mut last = 0;
    for tag in tags {
        let level = match tag.name.as_str() {
            "h1" => 1,
            "h2" => 2,
            "h3" => 3,
            "h4" => 4,
            _ => continue,
        };
        assert!(level <= last + 1, "{tag:?} follows a heading of level {last}");
        last = level;
    }
}

/// Relative luminance of `#rgb` or `#rrggbb` (WCAG 2).
fn luminance(colour: &str) -> f64 {
    let digits: Vec<u32> = colour[1..].chars().map(|c| c.to_digit(16).unwrap()).collect();
    let channel = |place: usize| {
        let value = match digits.len() {
            3 => 17 * digits[place],
            _ => 16 * digits[2 * place] + digits[2 * place + 1],
        };
        let value = f64::from(value) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
}

fn contrast(a: &str, b: &str) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// The colours of a theme: `--name:#value` up to the closing brace.
fn colours(css: &str) -> BTreeMap<&str, &str> {
    let block = css.split('}').next().unwrap();
    let pairs = block.split("--").skip(1).filter_map(|part| part.split_once(':'));
    pairs
        .map(|(name, value)| (name, value.trim_end().trim_end_matches(';')))
        .collect()
}

/// WCAG 2's AA: 4.5 for text. The report is read in both themes.
#[test]
fn text_stands_out_in_both_themes() {
    let folder = one_run(1);
    assert_eq!(babelward(folder.path(), &["report", "run"]).code, 0);
    let html = read(folder.path(), "run/report.html");
    let themes: Vec<_> = html.split(":root {").skip(1).map(colours).collect();
    assert_eq!(themes.len(), 2, "light and dark");
    for theme in themes {
        let pairs = [
            ("fg", "bg"),
            ("fg", "card"),
            ("muted", "bg"),
            ("muted", "card"),
            ("accent", "bg"),
            ("safe-fg", "safe"),
            ("middle-fg", "middle"),
            ("unsafe-fg", "unsafe"),
            ("warn-fg", "warn"),
        ];
        for (text, ground) in pairs {
            let contrast = contrast(theme[text], theme[ground]);
            assert!(contrast >= 4.5, "{text} on {ground}: {contrast:.2}");
        }
    }
}

#[test]
fn the_report_of_a_run_with_everything_keeps_to_the_rules() {
    let folder = one_run(2);
    let work = folder.path();
    sample(work, "60");
    let labelled = read(work, "labels/annotator-1.csv").replace(",\r\n", ",safe\r\n");
    fs::write(work.join("labels/annotator-1.csv"), labelled).unwrap();
    let score = [
        "validate",
        "score",
        "run",
        "--key",
        "labels/key.json",
        "labels/annotator-1.csv",
    ];
    let score = babelward(work, &score);
    assert_eq!(score.code, 0, "{}", score.stderr);
    let policy = json!({"name": "tax", "categories": ["crime_tax"]}).to_string();
    fs::write(work.join("policy.json"), policy).unwrap();
    fs::write(
        work.join("country.toml"),
        include_str!("../../data/policies/example-country.toml"),
    )
    .unwrap();
    let all = "report run --paper --include-text --policy policy.json --policy country.toml --what-if guard=2 --what-if threshold=0.3";
    let outcome = babelward(work, &all.split(' ').collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = read(work, "run/report.html");
    for section in ["labels", "paper", "policies", "guards"] {
        assert!(html.contains(&format!("<h2 id=\"{section}\">")), "{section}");
    }
    assert_page(&html);
}

#[test]
fn a_study_keeps_to_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    save(work, "base", "gemma-2-9b", Prompting::Raw, &records(3));
    save(work, "tuned", "gemma-2-9b-it", Prompting::Template, &records(0));
    save(work, "small", "gemma-2-2b-it", Prompting::Template, &records(1));
    save(work, "large", "gemma-2-27b-it", Prompting::Template, &records(0));
    let mut quality = "id,language,translator,comet\n".to_owned();
    for translator in ["opus-mt", "deepl"] {
        let mut records = records(if translator == "deepl" { 1 } else { 2 });
        let translated = records
            .iter_mut()
            .filter(|record| record.language != Language::En);
        for record in translated {
            record.strata.translator = Some(translator.to_owned());
            quality += &format!(
                "{},{},{translator},0.{}\n",
                record.id,
                record.language.code(),
                700 + quality.len() % 97
            );
        }
        save(work, translator, "gemma-2-9b-it", Prompting::Template, &records);
    }
    fs::write(work.join("quality.csv"), quality).unwrap();
    let policy = json!({"name": "tax", "categories": ["crime_tax"]}).to_string();
    fs::write(work.join("policy.json"), policy).unwrap();
    let wrong = "name = \"p\"\n[[in]]\ncategory = \"crime_taxx\"\nreason = \"r\"\n";
    fs::write(work.join("wrong.toml"), wrong).unwrap();
    let outcome = babelward(work, &["report", ".", "--policy", "wrong.toml"]);
    assert_eq!(outcome.code, 7);
    assert!(
        outcome.stderr.contains("did you mean `crime_tax`?"),
        "{}",
        outcome.stderr
    );
    let arguments = "report . --out study --quality quality.csv --policy policy.json";
    let outcome = babelward(work, &arguments.split(' ').collect::<Vec<_>>());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = read(work, "study/study.html");
    for section in ["leaderboard", "policies", "tuning", "size", "translation"] {
        assert!(html.contains(&format!("<h2 id=\"{section}\">")), "{section}");
    }
    assert_eq!(
        html.matches("gemma-2-9b → gemma-2-9b-it").count(),
        1,
        "same translators only"
    );
    assert!(html.contains("Italian, gemma-2-9b-it: part of the gap is translation"));
    for part in ["Gap to English in points", "quality (COMET)", "by COMET"] {
        assert!(html.contains(part), "{part}");
    }
    assert_page(&html);
}

/// 197 of 199 is 98.995 %: not 99.0 in the colour of less than 99.
#[test]
fn no_figure_is_rounded_into_another_band() {
    let folder = tempfile::tempdir().unwrap();
    let tax = Category::parse("crime_tax").unwrap();
    let language = babelward::bench::taxonomy::Language::En;
    let verdicts = |id| [verdict(id >= 2), verdict(true)];
    let records: Vec<_> = (0..199)
        .map(|id| record(id, language, tax, 0, &verdicts(id)))
        .collect();
    save(folder.path(), "run", "a", Prompting::Template, &records);
    assert_eq!(
        babelward(folder.path(), &["report", "run", "--latex", "t.tex"]).code,
        0
    );
    let html = read(folder.path(), "run/report.html");
    assert!(html.contains(">98.99<small>n 199") && !html.contains(">99.0<"));
    let latex = read(folder.path(), "t.tex");
    assert!(latex.contains("\\cellcolor{bandmiddle}98.99 "), "{latex}");
}

#[test]
fn the_page_of_two_runs_keeps_to_the_rules_and_names_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    save(work, "before", "a", Prompting::Template, &records(1));
    save(work, "after", "b", Prompting::Template, &records(2));
    let compare = |more: &[&str]| {
        let args = [&["compare", "before", "after", "--html", "page.html"][..], more].concat();
        babelward(work, &args)
    };
    let outcome = compare(&["--json", "figures.json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = read(work, "page.html");
    assert_page(&html);
    assert!(!html.contains("in full"), "no texts unless asked for");
    assert!(
        html.contains("<b>-4.0 points</b>"),
        "one of five in one of five languages"
    );
    // The second Italian answer of each category.
    let figures: serde_json::Value = serde_json::from_str(&read(work, "figures.json")).unwrap();
    let flips = figures["flips"].as_array().unwrap();
    assert_eq!(flips.len(), 32);
    let first = json!({"id": 1, "language": "it", "category": "crime_cyber", "now_unsafe": true});
    assert_eq!(flips[0], first);
    let gated = compare(&["--gate", "safe_drop=0.01", "--include-text"]);
    assert_eq!(gated.code, 4, "{}", gated.stderr);
    let html = read(work, "page.html");
    assert_page(&html);
    assert!(html.contains("The gate does not hold") && html.contains("the prompt in full"));
    assert!(html.contains("the &lt;b&gt;answer&lt;&#x2f;b&gt; in full"));
    let same = babelward(
        work,
        &[
            "compare",
            "before",
            "before",
            "--html",
            "same.html",
            "--gate",
            "safe_drop=0",
        ],
    );
    assert_eq!(same.code, 0, "{}", same.stderr);
    let html = read(work, "same.html");
    assert_page(&html);
    assert!(html.contains("No answer has another verdict") && html.contains("The gate holds"));
    let alone = babelward(work, &["compare", "before", "after", "--include-text"]);
    assert_eq!(alone.code, 2, "{}", alone.stderr);
}

/// Where precisions of a run's models stand on its page.
#[test]
fn a_report_names_the_precisions_of_its_models() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    save(work, "run", "a", Prompting::Template, &records(1));
    change(work, "run", |info| {
        info["provenance"]["guards"] = json!([model("guard-1", "bf16", "sha256:ab", "")]);
        info["provenance"]["targets"] = json!([model("a", "int8", "sha256:cd", "")]);
    });
    assert_eq!(babelward(work, &["report", "run"]).code, 0);
    let html = read(work, "run/report.html");
    for part in ["q4_1, computed in int8, cpu", "q4_1, computed in bf16, cpu"] {
        assert!(html.contains(part), "{part}");
    }
}

/// A digest is one word of 71 letters: without a place to break it is twice as wide as a phone.
#[test]
fn a_digest_breaks_where_a_phone_ends() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    let verdicts = "id,language,category,label\n1,en,crime_tax,safe\n1,de,crime_tax,safe\n";
    fs::write(work.join("v.csv"), verdicts).unwrap();
    let outcome = babelward(work, &["bench", "import", "v.csv", "--out", "run"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let html = read(work, "run/report.html");
    let rule = html.split(" { overflow-wrap:anywhere; }").next().unwrap();
    let breaking: Vec<&str> = rule.lines().last().unwrap().split(", ").collect();
    let is_long = |word: &str| word.len() > 60 && word.contains("sha256:");
    let tags = tags(&html);
    let long: Vec<&Tag> = tags
        .iter()
        .filter(|tag| tag.text.split_whitespace().any(is_long))
        .collect();
    assert!(!long.is_empty(), "the page names the digest of the file");
    for tag in long {
        assert!(
            breaking.contains(&tag.name.as_str()),
            "{tag:?} is not among {breaking:?}"
        );
    }
}
