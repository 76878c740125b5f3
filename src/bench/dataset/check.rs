//! Checks a prompt set before a run is spent on it: `data check`.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    DatasetError, Problem, ProblemKind, ReadOptions, Source, WrapperUse,
    assemble::{Assembled, FoundRow},
    files::Files,
    odd_length_ratio, sentences, text,
};
use crate::bench::{
    problem::{Kind as _, Severity},
    table::TableLocation,
    taxonomy::{Category, Language},
};

/// A set whose number of rows differs from M-ALERT's by at most this, in percent, is taken for M-ALERT.
const WHOLE_WITHIN_PERCENT: usize = 10;

/// Which counts a set is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expect {
    /// With M-ALERT's, if the set has about as many rows.
    #[default]
    Auto,
    /// With M-ALERT's, category by category.
    MAlert,
    /// With none.
    Any,
}

/// How many prompts of a category the set has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CategoryCount {
    /// The category's key.
    pub key: &'static str,
    /// Ids of the category in the set.
    pub rows: u64,
    /// Ids of the category in M-ALERT, as recovered from the paper's tables.
    pub m_alert: u32,
}

/// One file of the set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    /// Name of the file, as messages give it.
    pub name: String,
    /// The format as it is printed, such as `csv`.
    pub format: &'static str,
}

/// What `data check` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// What the set is called.
    pub name: String,
    /// Digest of its files, as in [`super::Dataset`].
    pub digest: String,
    /// The files that prompts were read from.
    pub files: Vec<FileInfo>,
    /// How many ids it has.
    pub rows: u64,
    /// Prompts, all languages together.
    pub prompts: u64,
    /// Prompts of each language.
    pub languages: BTreeMap<Language, u64>,
    /// Every category that occurs, and every one that is expected.
    pub categories: Vec<CategoryCount>,
    /// Whether the counts were compared with M-ALERT's.
    pub compared_with_m_alert: bool,
    /// Rows of each attack type; empty for sets that are not adversarial.
    pub attack_types: BTreeMap<String, u64>,
    /// Prompts of each translator; empty where the set does not say.
    pub translators: BTreeMap<String, u64>,
    /// ALERT's instruction wrapper.
    pub wrapper: WrapperUse,
    /// How many problems keep the set from being used.
    pub errors: u64,
    /// How many other problems there are.
    pub warnings: u64,
    /// All problems, in the order of the files.
    pub problems: Vec<Problem>,
}

impl CheckReport {
    /// Reads and checks a set.
    ///
    /// # Errors
    /// [`DatasetError::Table`] when a file cannot be read at all; what is wrong with rows is the report's content.
    pub fn of(source: &Source, options: ReadOptions, expect: Expect) -> Result<Self, DatasetError> {
        Ok(Self::of_files(Files::read(source, options)?, expect))
    }

    fn of_files(files: Files, expect: Expect) -> Self {
        let Assembled {
            found,
            languages,
            problems,
            wrapper,
        } = files.assembled;
        let mut checker = Checker {
            files: files.tables.iter().map(|(name, _)| name.as_str()).collect(),
            problems: problems.into_iter().map(|problem| (0, problem)).collect(),
        };
        checker.restore_order();
        for (file, (_, info)) in files
            .tables
            .iter()
            .enumerate()
            .filter(|(_, (_, t))| t.byte_order_mark)
        {
            let message = format!("{} begins with a byte order mark", info.format.title());
            checker.whole(file, ProblemKind::ByteOrderMark, message);
        }
        found.iter().for_each(|found| checker.texts(found));
        let counts = Counts::of(&found);
        if wrapper.prompts > 0 && wrapper.prompts < counts.prompts {
            let message = format!(
                "{} of {} prompts have ALERT's wrapper",
                wrapper.prompts, counts.prompts
            );
            checker.whole(0, ProblemKind::MixedWrapper, message);
        }
        let compare = match expect {
            Expect::MAlert => true,
            Expect::Any => false,
            Expect::Auto => counts.looks_like_m_alert(),
        };
        let categories = counts.categories(compare);
        for count in categories
            .iter()
            .filter(|c| compare && c.rows != u64::from(c.m_alert))
        {
            let message = format!(
                "{} has {} rows, M-ALERT has {}",
                count.key, count.rows, count.m_alert
            );
            checker.whole(0, ProblemKind::PromptCount, message);
        }
        let problems = checker.sorted();
        let of_severity = |wanted| problems.iter().filter(|p| p.kind.severity() == wanted).count() as u64;
        let by_language = |language: &Language| {
            let has = found
                .iter()
                .filter(|found| found.row.prompts.contains_key(language));
            (*language, has.count() as u64)
        };
        Self {
            files: files
                .tables
                .iter()
                .map(|(name, info)| FileInfo {
                    name: name.clone(),
                    format: info.format.title(),
                })
                .collect(),
            name: files.name,
            digest: files.digest,
            rows: found.len() as u64,
            prompts: counts.prompts,
            languages: languages.iter().map(by_language).collect(),
            categories,
            compared_with_m_alert: compare,
            attack_types: counts.attack_types,
            translators: counts.translators,
            wrapper,
            errors: of_severity(Severity::Error),
            warnings: of_severity(Severity::Warning),
            problems,
        }
    }
}

#[derive(Default)]
struct Counts {
    rows: usize,
    prompts: u64,
    by_category: BTreeMap<Category, u64>,
    attack_types: BTreeMap<String, u64>,
    translators: BTreeMap<String, u64>,
}

impl Counts {
    fn of(found: &[FoundRow]) -> Self {
        let mut counts = Self::default();
        for FoundRow { row, .. } in found {
            counts.rows += 1;
            counts.prompts += row.prompts.len() as u64;
            *counts.by_category.entry(row.category).or_default() += 1;
            if let Some(kind) = &row.attack_type {
                *counts.attack_types.entry(kind.clone()).or_default() += 1;
            }
            for name in row.translators.values() {
                *counts.translators.entry(name.clone()).or_default() += 1;
            }
        }
        counts
    }

    fn looks_like_m_alert(&self) -> bool {
        let whole: usize = Category::all()
            .map(|category| category.malert_prompts() as usize)
            .sum();
        self.attack_types.is_empty() && self.rows.abs_diff(whole) * 100 <= whole * WHOLE_WITHIN_PERCENT
    }

    fn categories(&self, all: bool) -> Vec<CategoryCount> {
        let counts = Category::all()
            .chain([Category::UNKNOWN])
            .map(|category| CategoryCount {
                key: category.key(),
                rows: self.by_category.get(&category).copied().unwrap_or_default(),
                m_alert: category.malert_prompts(),
            });
        counts
            .filter(|count| count.rows > 0 || (all && count.m_alert > 0))
            .collect()
    }
}

struct Checker<'a> {
    files: Vec<&'a str>,
    /// With the index of the file, by which they are sorted.
    problems: Vec<(usize, Problem)>,
}

impl Checker<'_> {
    /// Problems that were found while reading have the name of their file: finds its index.
    fn restore_order(&mut self) {
        for (file, problem) in &mut self.problems {
            *file = self
                .files
                .iter()
                .position(|name| *name == problem.file)
                .unwrap_or(0);
        }
    }

    fn push(&mut self, file: usize, mut problem: Problem) {
        if self.files.len() > 1 {
            problem.file = self.files.get(file).copied().unwrap_or_default().to_owned();
        }
        self.problems.push((file, problem));
    }

    /// Adds a problem of a whole file, or of the set.
    fn whole(&mut self, file: usize, kind: ProblemKind, message: String) {
        self.push(file, Problem::new(kind, TableLocation::Whole, None, "", message));
    }

    /// Checks each text of a prompt by itself, and beside the English one.
    fn texts(&mut self, found: &FoundRow) {
        let row = &found.row;
        let english = row.prompts.get(&Language::En);
        for (language, prompt) in &row.prompts {
            let mut problems = text::problems(prompt);
            let original = english.filter(|_| *language != Language::En);
            problems.extend(original.and_then(|english| translation_problem(english, prompt)));
            for (kind, message) in problems {
                let place = found.places.get(language).copied().unwrap_or(found.first);
                let id = Some(row.id.to_string());
                self.push(
                    found.file,
                    Problem::new(kind, place, id, language.code(), message),
                );
            }
        }
    }

    fn sorted(mut self) -> Vec<Problem> {
        self.problems
            .sort_by_key(|(file, problem)| (*file, problem.location));
        self.problems.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// The first thing that looks wrong with a translation beside the English prompt.
fn translation_problem(english: &str, translation: &str) -> Option<(ProblemKind, String)> {
    if english.trim() == translation.trim() {
        return Some((
            ProblemKind::SameAsEnglish,
            "is the same text as the English prompt".to_owned(),
        ));
    }
    if let Some(ratio) = odd_length_ratio(english, translation) {
        let message = format!("is {ratio:.2} times as long as the English prompt");
        return Some((ProblemKind::LengthRatio, message));
    }
    let (here, there) = (sentences(translation), sentences(english));
    (here < there).then(|| {
        let message = format!("has {here} sentence(s), the English prompt has {there}");
        (ProblemKind::FewerSentences, message)
    })
}
