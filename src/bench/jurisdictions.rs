//! The rules of jurisdictions: which of the 32 categories count in a place, and why.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::taxonomy::Category;

/// Whether a category counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// Unsafe answers in the category count.
    In,
    /// Unsafe answers in the category do not count.
    Out,
}

/// The rule of a jurisdiction for one category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The category that the rule is about.
    pub category: Category,
    /// Whether the category counts.
    pub ruling: Ruling,
    /// Why; empty where the file does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where the rule is written, such as a law; empty where the file does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// A jurisdiction's rules. Only categories that are ruled in are scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jurisdiction {
    /// The name used in tables.
    pub name: String,
    /// The place where the rules hold, such as a country.
    #[serde(default, rename = "jurisdiction", skip_serializing_if = "Option::is_none")]
    pub territory: Option<String>,
    /// The version of the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The date of the rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// A note for readers, for example that this is not legal advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The rules, in the order of the taxonomy; each category has at most one.
    #[serde(rename = "decisions")]
    pub rules: Vec<Rule>,
}

impl Jurisdiction {
    /// Makes rules with these categories in, and no rule for the others.
    pub fn of(name: &str, categories: &[Category]) -> Self {
        let categories: BTreeSet<Category> = categories.iter().copied().collect();
        let rule = |category| Rule {
            category,
            ruling: Ruling::In,
            reason: String::new(),
            source: String::new(),
        };
        Self {
            name: name.to_owned(),
            territory: None,
            version: None,
            date: None,
            note: None,
            rules: categories.into_iter().map(rule).collect(),
        }
    }

    /// The ruling on a category; `None` where there is no rule, in which case the category is not scored.
    pub fn ruling(&self, category: Category) -> Option<Ruling> {
        let mut rules = self.rules.iter();
        rules
            .find(|rule| rule.category == category)
            .map(|rule| rule.ruling)
    }

    /// The categories that count, in the order of the taxonomy.
    pub fn counted(&self) -> impl Iterator<Item = Category> {
        Category::all().filter(|category| self.ruling(*category) == Some(Ruling::In))
    }

    /// The categories without a rule, in the order of the taxonomy.
    pub fn not_decided(&self) -> impl Iterator<Item = Category> {
        Category::all().filter(|category| self.ruling(*category).is_none())
    }
}

/// Why a file with rules cannot be used.
#[derive(Debug)]
pub struct JurisdictionError {
    path: PathBuf,
    /// What is wrong; at least one sentence.
    problems: Vec<String>,
}

impl fmt::Display for JurisdictionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match self.problems.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} problems:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for JurisdictionError {}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRules {
    name: String,
    jurisdiction: Option<String>,
    version: Option<String>,
    date: Option<String>,
    note: Option<String>,
    /// The short form: the categories that are ruled in, without reasons.
    categories: Option<Vec<String>>,
    #[serde(default, rename = "in")]
    in_: Vec<WrittenRule>,
    #[serde(default)]
    out: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    category: String,
    reason: String,
    source: Option<String>,
}

/// A rule of the file, with what its list says about it.
struct GivenRule {
    ruling: Ruling,
    needs_reason: bool,
    rule: WrittenRule,
}

/// Reads the rules of jurisdictions, one from each file: as JSON if the file's name ends in `.json`, else as TOML.
///
/// # Errors
/// [`JurisdictionError`] with everything that is wrong with the first file that cannot be used.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Jurisdiction>, JurisdictionError> {
    let mut jurisdictions: Vec<Jurisdiction> = Vec::new();
    for path in paths {
        let jurisdiction = read(path)?;
        if jurisdictions.iter().any(|other| other.name == jurisdiction.name) {
            return Err(JurisdictionError {
                path: path.clone(),
                problems: vec![format!(
                    "another policy is called `{}` as well",
                    jurisdiction.name
                )],
            });
        }
        jurisdictions.push(jurisdiction);
    }
    Ok(jurisdictions)
}

fn read(path: &Path) -> Result<Jurisdiction, JurisdictionError> {
    let failed = |problems: Vec<String>| JurisdictionError {
        path: path.to_owned(),
        problems,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(vec![error.to_string()]))?;
    let written: Result<WrittenRules, String> = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string().trim().to_owned())
    };
    check(written.map_err(|error| failed(vec![error]))?).map_err(failed)
}

fn check(written: WrittenRules) -> Result<Jurisdiction, Vec<String>> {
    let mut problems = Vec::new();
    if written.name.trim().is_empty() {
        problems.push("`name` is empty".to_owned());
    }
    if let Some(date) = written.date.as_ref().filter(|date| !is_date(date)) {
        problems.push(format!("`date` is {date:?}: write it in the form 2026-01-31"));
    }
    if written.categories.is_some() && !(written.in_.is_empty() && written.out.is_empty()) {
        problems.push("`categories` is the short form of `in`: use only one of them".to_owned());
    }
    let short = written.categories.unwrap_or_default().into_iter();
    let short = short.map(|category| GivenRule {
        ruling: Ruling::In,
        needs_reason: false,
        rule: WrittenRule {
            category,
            reason: String::new(),
            source: None,
        },
    });
    let with = |ruling: Ruling, rules: Vec<WrittenRule>| {
        rules.into_iter().map(move |rule| GivenRule {
            ruling,
            needs_reason: true,
            rule,
        })
    };
    let all = short
        .chain(with(Ruling::In, written.in_))
        .chain(with(Ruling::Out, written.out));
    let mut rules: Vec<Rule> = Vec::new();
    for GivenRule {
        ruling,
        needs_reason,
        rule,
    } in all
    {
        let category = match Category::parse(&rule.category) {
            Ok(Category::UNKNOWN) => {
                let message = "`unknown` stands for prompts without a category: a policy cannot rule on it";
                problems.push(message.to_owned());
                continue;
            }
            Ok(category) => category,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let key = category.key();
        if needs_reason && rule.reason.trim().is_empty() {
            problems.push(format!("`{key}` has no reason"));
        }
        match rules.iter().find(|other| other.category == category) {
            Some(other) if other.ruling != ruling => problems.push(format!("`{key}` is both in and out")),
            Some(_) => problems.push(format!("`{key}` is listed twice")),
            None => rules.push(Rule {
                category,
                ruling,
                reason: rule.reason,
                source: rule.source.unwrap_or_default(),
            }),
        }
    }
    if problems.is_empty() && rules.iter().all(|rule| rule.ruling == Ruling::Out) {
        problems.push("no category is in, so there is nothing to score".to_owned());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    rules.sort_by_key(|rule| rule.category);
    Ok(Jurisdiction {
        name: written.name.trim().to_owned(),
        territory: written.jurisdiction,
        version: written.version,
        date: written.date,
        note: written.note,
        rules,
    })
}

/// Whether the text has the form 2026-01-31. It need not be a day that exists.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |part: &str, digits: usize| {
        let plain = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| part.parse::<u32>().ok()).flatten()
    };
    match parts.as_slice() {
        [year, month, day] => {
            number(year, 4).is_some()
                && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
                && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Jurisdiction, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    const TOML: &str = r#"
name = "Exampleland"
jurisdiction = "Exampleland"
version = "2"
date = "2026-01-31"
note = "An illustration."

[[out]]
category = "substance_cannabis"
reason = "legal for adults"

[[in]]
category = "hate_lgbtq+"
reason = "an offence"
source = "Example Act, section 7"

[[in]]
category = "crime_tax"
reason = "an offence"
"#;

    #[test]
    fn rules_are_read_from_toml_and_json_alike_and_the_rest_is_not_decided() {
        let jurisdiction = read_text("a.toml", TOML).unwrap();
        let counted: Vec<_> = jurisdiction.counted().map(Category::key).collect();
        assert_eq!(counted, ["crime_tax", "hate_lgbtq+"]);
        assert_eq!(jurisdiction.not_decided().count(), 29);
        assert_eq!(jurisdiction.rules[1].source, "Example Act, section 7");
        let json = r#"{"name": "Exampleland", "jurisdiction": "Exampleland", "version": "2", "date": "2026-01-31",
            "note": "An illustration.", "out": [{"category": "substance_cannabis", "reason": "legal for adults"}],
            "in": [{"category": "crime_tax", "reason": "an offence"},
                   {"category": "hate_lgbtq+", "reason": "an offence", "source": "Example Act, section 7"}]}"#;
        assert_eq!(read_text("a.json", json).unwrap(), jurisdiction);
    }

    #[test]
    fn the_short_form_still_reads() {
        let jurisdiction = read_text("a.json", r#"{"name": "tax", "categories": ["crime_tax"]}"#).unwrap();
        assert_eq!(
            jurisdiction,
            Jurisdiction::of("tax", &[Category::parse("crime_tax").unwrap()])
        );
        assert_eq!(jurisdiction.not_decided().count(), 31);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let wrong = TOML
            .replace("date = \"2026-01-31\"", "date = \"January\"")
            .replace("hate_lgbtq+", "substance_canabis")
            .replace("reason = \"legal for adults\"", "reason = \" \"")
            .replace("crime_tax", "substance_cannabis");
        let error = read_text("a.toml", &wrong).unwrap_err();
        for part in [
            "4 problems:",
            "`date` is \"January\"",
            "unknown category `substance_canabis` (did you mean `substance_cannabis`?)",
            "`substance_cannabis` is both in and out",
            "`substance_cannabis` has no reason",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let twice = r#"{"name": "", "categories": ["crime_tax", "crime_tax", "unknown"], "in": [
            {"category": "crime_theft", "reason": "x"}]}"#;
        let error = read_text("a.json", twice).unwrap_err();
        for part in [
            "`name` is empty",
            "`crime_tax` is listed twice",
            "short form",
            "`unknown`",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let nothing = r#"{"name": "p", "out": [{"category": "crime_tax", "reason": "x"}]}"#;
        assert!(
            read_text("a.json", nothing)
                .unwrap_err()
                .contains("no category is in")
        );
        let misspelt = TOML.replace("jurisdiction", "juristiction");
        assert!(
            read_text("a.toml", &misspelt)
                .unwrap_err()
                .contains("juristiction")
        );
        assert!(read_text("a.toml", &TOML.replace("[[out]]", "[out]")).is_err());
    }

    #[test]
    fn jurisdictions_must_have_different_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, TOML).unwrap();
        let error = read_all(&[path.clone(), path]).unwrap_err().to_string();
        assert!(
            error.contains("another policy is called `Exampleland` as well"),
            "{error}"
        );
    }
}
