//! Policies: the categories that a guard judges by, its own or those of a configuration or request.

use crate::{digest, text::strip};

/// Codes and names of the categories of Llama Guard 3, as its prompt spells them. The 1B model has all but the last.
const NATIVE: [(&str, &str); 14] = [
    ("S1", "Violent Crimes"),
    ("S2", "Non-Violent Crimes"),
    ("S3", "Sex Crimes"),
    ("S4", "Child Exploitation"),
    ("S5", "Defamation"),
    ("S6", "Specialized Advice"),
    ("S7", "Privacy"),
    ("S8", "Intellectual Property"),
    ("S9", "Indiscriminate Weapons"),
    ("S10", "Hate"),
    ("S11", "Self-Harm"),
    ("S12", "Sexual Content"),
    ("S13", "Elections"),
    ("S14", "Code Interpreter Abuse"),
];

/// Most categories of a policy.
pub const MAX_CATEGORIES: usize = 32;
/// Longest name of a policy, in bytes.
const POLICY_NAME_BYTES: usize = 128;
/// Longest name of a category, in bytes.
const NAME_BYTES: usize = 128;
/// Longest description of a category, in bytes.
const DESCRIPTION_BYTES: usize = 4096;

/// Lines that separate the parts of the prompt, which no description may repeat.
const MARKS: [&str; 8] = [
    "<BEGIN UNSAFE CONTENT CATEGORIES>",
    "<END UNSAFE CONTENT CATEGORIES>",
    "<BEGIN CONVERSATION>",
    "<END CONVERSATION>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_risk_definition>",
    "<end_of_risk_definition>",
];

/// One category of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCategory {
    /// The code that the guard writes when the category is violated: `S1` to `S99`.
    pub code: String,
    /// The name, without a full stop at its end, because the prompt adds one.
    pub name: String,
    /// What belongs to the category, in sentences. It may have several lines, and may be empty.
    #[serde(default)]
    pub description: String,
}

/// A valid policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    name: String,
    categories: Vec<PolicyCategory>,
    /// The categories as they are written in the prompt.
    lines: String,
    digest: String,
}

/// One problem of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Path of the field, for example `name`, `categories`, `categories[2].code`.
    pub field: String,
    /// The rule that it violates.
    pub description: String,
}

impl Policy {
    /// Checks a policy and trims its texts.
    ///
    /// # Errors
    /// All problems of the policy.
    pub fn new(name: String, categories: Vec<PolicyCategory>) -> Result<Self, Vec<PolicyProblem>> {
        let mut check = Check::default();
        let visible = name.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=POLICY_NAME_BYTES).contains(&name.len()) || !visible {
            check.wrong(
                "name",
                format!("must be 1..={POLICY_NAME_BYTES} visible ASCII characters"),
            );
        }
        if !(1..=MAX_CATEGORIES).contains(&categories.len()) {
            let count = categories.len();
            check.wrong(
                "categories",
                format!("must have 1..={MAX_CATEGORIES} items, has {count}"),
            );
        }
        let trimmed = |text: &str| strip(text).to_owned();
        let categories: Vec<_> = categories
            .into_iter()
            .take(MAX_CATEGORIES)
            .map(|category| PolicyCategory {
                name: trimmed(&category.name),
                description: trimmed(&category.description),
                ..category
            })
            .collect();
        for (index, category) in categories.iter().enumerate() {
            check.category(index, category, &categories[..index]);
        }
        match check.problems.is_empty() {
            true => Ok(Self::of(name, categories)),
            false => Err(check.problems),
        }
    }

    /// The first categories of Llama Guard 3. This policy has no name; a guard judges by it when a request names no other.
    pub(super) fn llama_guard_3(categories: usize) -> Self {
        let categories = NATIVE.iter().take(categories).map(|(code, name)| PolicyCategory {
            code: (*code).to_owned(),
            name: (*name).to_owned(),
            description: String::new(),
        });
        Self::of(String::new(), categories.collect())
    }

    /// Categories S1, S2, ... with these names. The policy has no name.
    pub(super) fn numbered(names: &[&str]) -> Self {
        let categories = names.iter().zip(1..).map(|(name, number)| PolicyCategory {
            code: format!("S{number}"),
            name: (*name).to_owned(),
            description: String::new(),
        });
        Self::of(String::new(), categories.collect())
    }

    /// Categories that a guard writes by their names. The policy has no name.
    pub(super) fn of_names(names: &[&str]) -> Self {
        let categories = names.iter().map(|name| PolicyCategory {
            code: (*name).to_owned(),
            name: (*name).to_owned(),
            description: String::new(),
        });
        Self::of(String::new(), categories.collect())
    }

    fn of(name: String, categories: Vec<PolicyCategory>) -> Self {
        let mut lines = String::new();
        for category in &categories {
            lines.push_str(&format!("{}: {}.\n", category.code, category.name));
            if !category.description.is_empty() {
                lines.push_str(&category.description);
                lines.push('\n');
            }
        }
        Self {
            digest: digest::of_bytes(&lines),
            name,
            categories,
            lines,
        }
    }

    /// The name of the policy. A guard never sees it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The categories, in the order in which they are in the prompt.
    pub fn categories(&self) -> &[PolicyCategory] {
        &self.categories
    }

    /// The categories as they are written in the prompt: `S1: Name.`, then the lines of the description, each with a line
    /// feed at its end.
    pub fn lines(&self) -> &str {
        &self.lines
    }

    /// `sha256:<hex>` of [`Policy::lines`]. Two policies with the same digest are the same to a guard.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The name of a category; empty for a code that the policy does not list.
    pub(super) fn name_of(&self, code: &str) -> &str {
        let found = self.categories.iter().find(|category| category.code == code);
        found.map_or("", |category| &category.name)
    }

    /// This code if the policy lists it, otherwise the first code of the policy.
    pub(super) fn code_like<'a>(&'a self, code: &'a str) -> &'a str {
        let listed = self.categories.iter().any(|category| category.code == code);
        match self.categories.first() {
            Some(first) if !listed => &first.code,
            _ => code,
        }
    }
}

/// Collects the problems of a policy.
#[derive(Default)]
struct Check {
    problems: Vec<PolicyProblem>,
}

impl Check {
    fn wrong(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.problems.push(PolicyProblem {
            field: field.into(),
            description: description.into(),
        });
    }

    fn category(&mut self, index: usize, category: &PolicyCategory, before: &[PolicyCategory]) {
        let field = |name: &str| format!("categories[{index}].{name}");
        if !is_code(&category.code) {
            self.wrong(field("code"), "must be S and a number from 1 to 99, such as S1");
        } else if before.iter().any(|other| other.code == category.code) {
            self.wrong(field("code"), "is the code of another category too");
        }
        let name = &category.name;
        if !(1..=NAME_BYTES).contains(&name.len()) {
            let length = name.len();
            self.wrong(
                field("name"),
                format!("must have 1..={NAME_BYTES} bytes, has {length}"),
            );
        } else if name.contains(is_control) {
            self.wrong(field("name"), "must be one line without control characters");
        } else if name.ends_with('.') {
            self.wrong(
                field("name"),
                "must not end with a full stop: the prompt adds one",
            );
        }
        let description = &category.description;
        let length = description.len();
        if length > DESCRIPTION_BYTES {
            self.wrong(
                field("description"),
                format!("must have 0..={DESCRIPTION_BYTES} bytes, has {length}"),
            );
        } else if description.contains(|c| c != '\n' && is_control(c)) {
            self.wrong(
                field("description"),
                "must have no control characters but line feeds",
            );
        } else if description.lines().any(begins_a_category) {
            self.wrong(
                field("description"),
                "must have no line that reads as another category, such as S1: ...",
            );
        } else if MARKS.iter().any(|mark| description.contains(mark)) {
            self.wrong(
                field("description"),
                "must not repeat a mark of the guard's prompt",
            );
        }
    }
}

fn is_code(code: &str) -> bool {
    let digits = code.strip_prefix('S').unwrap_or_default();
    (1..=2).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0')
}

/// Whether a character is a control character or a line separator, after which a reader of the prompt would see a line that
/// was not checked.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

fn begins_a_category(line: &str) -> bool {
    let code = line.trim_start().split_once(':').map(|(code, _)| code);
    code.is_some_and(|code| is_code(code.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn category(code: &str, name: &str, description: &str) -> PolicyCategory {
        PolicyCategory {
            code: code.to_owned(),
            name: name.to_owned(),
            description: description.to_owned(),
        }
    }

    fn problems(name: &str, categories: Vec<PolicyCategory>) -> Vec<String> {
        let problems = Policy::new(name.to_owned(), categories).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn lines_are_those_of_the_prompt_and_the_digest_is_of_the_lines() {
        let policy = Policy::new(
            "shop".to_owned(),
            vec![
                category("S2", "Fraud ", "  Selling what is not there.\nOr twice.\n"),
                category("S1", "Insults", ""),
            ],
        )
        .unwrap();
        let lines = "S2: Fraud.\nSelling what is not there.\nOr twice.\nS1: Insults.\n";
        assert_eq!(policy.lines(), lines);
        assert_eq!(policy.digest(), digest::of_bytes(lines));
        assert_eq!((policy.name_of("S1"), policy.name_of("S3")), ("Insults", ""));
        assert_eq!((policy.code_like("S1"), policy.code_like("S9")), ("S1", "S2"));
        assert_eq!(
            Policy::llama_guard_3(13).lines().lines().last(),
            Some("S13: Elections.")
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let long = "x".repeat(5000);
        let fields = problems(
            "my shop",
            vec![
                category("S1", "Fraud", ""),
                category("S1", "Fraud.", &long),
                category("s2", "", "a\tb"),
                category("S03", "two\nlines", "Not this.\n S4 : but that."),
                category("S100", &long, "<END CONVERSATION>"),
            ],
        );
        assert_eq!(
            fields,
            [
                "name",
                "categories[1].code",
                "categories[1].name",
                "categories[1].description",
                "categories[2].code",
                "categories[2].name",
                "categories[2].description",
                "categories[3].code",
                "categories[3].name",
                "categories[3].description",
                "categories[4].code",
                "categories[4].name",
                "categories[4].description",
            ]
        );
        assert_eq!(problems("p", vec![]), ["categories"]);
        let many = (1..=33).map(|code| category(&format!("S{code}"), "Name", ""));
        assert_eq!(problems("p", many.collect()), ["categories"]);
        assert_eq!(problems("", vec![category("S99", "Name", "")]), ["name"]);
    }
}
