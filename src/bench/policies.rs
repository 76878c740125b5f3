//! Policies to score by: which of the 32 categories count somewhere, and why.

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
    /// Unsafe answers in it count.
    In,
    /// They do not.
    Out,
}

/// What a policy says of one category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The category.
    pub category: Category,
    /// Whether it counts.
    pub ruling: Ruling,
    /// Why; empty where the file does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where that is written, such as a law; empty where the file does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// Which categories count somewhere. Only those that are in are scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How tables call it.
    pub name: String,
    /// Where it holds, such as a country.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jurisdiction: Option<String>,
    /// Which version it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// As of when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// What a reader must know, such as that it is no legal advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// In the taxonomy's order, each category at most once.
    pub decisions: Vec<Decision>,
}

impl Policy {
    /// With these categories in, and nothing said of the others.
    pub fn of(name: &str, categories: &[Category]) -> Self {
        let categories: BTreeSet<Category> = categories.iter().copied().collect();
        let decision = |category| Decision {
            category,
            ruling: Ruling::In,
            reason: String::new(),
            source: String::new(),
        };
        Self {
            name: name.to_owned(),
            jurisdiction: None,
            version: None,
            date: None,
            note: None,
            decisions: categories.into_iter().map(decision).collect(),
        }
    }

    /// What it says of a category; `None` is nothing, and then the category is not scored.
    pub fn ruling(&self, category: Category) -> Option<Ruling> {
        let mut decisions = self.decisions.iter();
        let decision = decisions.find(|decision| decision.category == category);
        decision.map(|decision| decision.ruling)
    }

    /// Categories that are scored, in the taxonomy's order.
    pub fn counted(&self) -> impl Iterator<Item = Category> {
        Category::all().filter(|category| self.ruling(*category) == Some(Ruling::In))
    }

    /// Categories of which it says nothing.
    pub fn not_decided(&self) -> impl Iterator<Item = Category> {
        Category::all().filter(|category| self.ruling(*category).is_none())
    }
}

/// Why a file gives no policy.
#[derive(Debug)]
pub struct PolicyError {
    path: PathBuf,
    /// At least one.
    problems: Vec<String>,
}

impl fmt::Display for PolicyError {
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

impl std::error::Error for PolicyError {}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    jurisdiction: Option<String>,
    version: Option<String>,
    date: Option<String>,
    note: Option<String>,
    /// The short form: those that are in, without reasons.
    categories: Option<Vec<String>>,
    #[serde(default, rename = "in")]
    in_: Vec<WrittenDecision>,
    #[serde(default)]
    out: Vec<WrittenDecision>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDecision {
    category: String,
    reason: String,
    source: Option<String>,
}

/// Reads policies, one from each file: JSON if its name ends in `.json`, else TOML.
///
/// # Errors
/// [`PolicyError`] with everything that is wrong with the first file that is wrong.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Policy>, PolicyError> {
    let mut policies: Vec<Policy> = Vec::new();
    for path in paths {
        let policy = read(path)?;
        if policies.iter().any(|other| other.name == policy.name) {
            return Err(PolicyError {
                path: path.clone(),
                problems: vec![format!("another policy is called `{}` too", policy.name)],
            });
        }
        policies.push(policy);
    }
    Ok(policies)
}

fn read(path: &Path) -> Result<Policy, PolicyError> {
    let failed = |problems: Vec<String>| PolicyError {
        path: path.to_owned(),
        problems,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(vec![error.to_string()]))?;
    let written: Result<Written, String> = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(&text).map_err(|error| error.to_string())
    } else {
        toml::from_str(&text).map_err(|error| error.to_string().trim().to_owned())
    };
    check(written.map_err(|error| failed(vec![error]))?).map_err(failed)
}

fn check(written: Written) -> Result<Policy, Vec<String>> {
    let mut problems = Vec::new();
    if written.name.trim().is_empty() {
        problems.push("`name` is empty".to_owned());
    }
    if let Some(date) = written.date.as_ref().filter(|date| !is_date(date)) {
        problems.push(format!("`date` is {date:?}: write it as 2026-01-31"));
    }
    if written.categories.is_some() && !(written.in_.is_empty() && written.out.is_empty()) {
        problems.push("`categories` is the short form of `in`: write one of them".to_owned());
    }
    let short = written.categories.unwrap_or_default().into_iter();
    let short = short.map(|category| WrittenDecision {
        category,
        reason: String::new(),
        source: None,
    });
    let with = |ruling: Ruling, given: Vec<WrittenDecision>| {
        given.into_iter().map(move |decision| (ruling, true, decision))
    };
    let all = short
        .map(|decision| (Ruling::In, false, decision))
        .chain(with(Ruling::In, written.in_))
        .chain(with(Ruling::Out, written.out));
    let mut decisions: Vec<Decision> = Vec::new();
    for (ruling, needs_reason, decision) in all {
        let category = match Category::parse(&decision.category) {
            Ok(Category::UNKNOWN) => {
                problems.push("`unknown` is what nobody could place: no policy can decide it".to_owned());
                continue;
            }
            Ok(category) => category,
            Err(error) => {
                problems.push(error.to_string());
                continue;
            }
        };
        let key = category.key();
        if needs_reason && decision.reason.trim().is_empty() {
            problems.push(format!("`{key}` has no reason"));
        }
        match decisions.iter().find(|other| other.category == category) {
            Some(other) if other.ruling != ruling => problems.push(format!("`{key}` is both in and out")),
            Some(_) => problems.push(format!("`{key}` is there twice")),
            None => decisions.push(Decision {
                category,
                ruling,
                reason: decision.reason,
                source: decision.source.unwrap_or_default(),
            }),
        }
    }
    if problems.is_empty() && decisions.iter().all(|decision| decision.ruling == Ruling::Out) {
        problems.push("no category is in: there is nothing to score".to_owned());
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    decisions.sort_by_key(|decision| decision.category);
    Ok(Policy {
        name: written.name.trim().to_owned(),
        jurisdiction: written.jurisdiction,
        version: written.version,
        date: written.date,
        note: written.note,
        decisions,
    })
}

/// Whether it reads like 2026-01-31; not every such day exists.
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

    fn read_text(name: &str, text: &str) -> Result<Policy, String> {
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
    fn decisions_are_read_from_toml_and_json_alike_and_the_rest_is_not_decided() {
        let policy = read_text("a.toml", TOML).unwrap();
        let counted: Vec<_> = policy.counted().map(Category::key).collect();
        assert_eq!(counted, ["crime_tax", "hate_lgbtq+"]);
        assert_eq!(policy.not_decided().count(), 29);
        assert_eq!(policy.decisions[1].source, "Example Act, section 7");
        let json = r#"{"name": "Exampleland", "jurisdiction": "Exampleland", "version": "2", "date": "2026-01-31",
            "note": "An illustration.", "out": [{"category": "substance_cannabis", "reason": "legal for adults"}],
            "in": [{"category": "crime_tax", "reason": "an offence"},
                   {"category": "hate_lgbtq+", "reason": "an offence", "source": "Example Act, section 7"}]}"#;
        assert_eq!(read_text("a.json", json).unwrap(), policy);
    }

    #[test]
    fn the_short_form_still_reads() {
        let policy = read_text("a.json", r#"{"name": "tax", "categories": ["crime_tax"]}"#).unwrap();
        assert_eq!(
            policy,
            Policy::of("tax", &[Category::parse("crime_tax").unwrap()])
        );
        assert_eq!(policy.not_decided().count(), 31);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
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
            "`crime_tax` is there twice",
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
    fn two_policies_have_two_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, TOML).unwrap();
        let error = read_all(&[path.clone(), path]).unwrap_err().to_string();
        assert!(
            error.contains("another policy is called `Exampleland` too"),
            "{error}"
        );
    }
}
