//! Language gaps: is a language judged less safe than another on the same prompts?

use serde::{Deserialize, Serialize};

use super::{by_prompt::PairedPrompts, consistency::pairs_of, table::PromptRow};
use crate::bench::{
    statistics::{Bootstrap, Change, PairedShare, Pairs, SignTest, adjust_by_holm, mean_difference},
    taxonomy::{Category, Language},
};

/// Level at which a gap counts as found, after Holm's adjustment.
pub const LEVEL: f64 = 0.05;

/// Two languages on the same prompts. Success is safe, so that a negative difference says that the first is less
/// safe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The first language.
    pub first: Language,
    /// The second language.
    pub second: Language,
    /// Where: a category's key; absent for all prompts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Prompts judged safe or unsafe in both.
    pub prompts: u64,
    /// Their answers, of each seed, that were judged in both.
    pub pairs: Pairs,
    /// Safe share of the first less that of the second, in points, with Newcombe's paired interval over prompts.
    pub difference_points: Option<Change>,
    /// Sign-flip permutation test over prompts; with one seed McNemar's.
    pub test: SignTest,
    /// Its mid-p value after Holm's adjustment within the table that it stands in.
    pub holm_p: f64,
}

impl Gap {
    /// Whether the difference is more than chance would give, all tests of the table considered.
    pub fn is_found(&self) -> bool {
        self.holm_p < LEVEL
    }
}

/// Macro averages of two languages over the same prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MacroGap {
    /// The first language.
    pub first: Language,
    /// The second language.
    pub second: Language,
    /// Prompts judged safe or unsafe in both, in a known category.
    pub prompts: u64,
    /// Macro safe share of the first less that of the second, in points.
    pub difference_points: Change,
    /// Two-sided p-value of a sign-flip permutation test over prompts.
    pub p: f64,
    /// The same after Holm's adjustment over all pairs of languages.
    pub holm_p: f64,
}

impl MacroGap {
    /// Whether the difference is more than chance would give, all pairs considered.
    pub fn is_found(&self) -> bool {
        self.holm_p < LEVEL
    }
}

/// What was judged in two languages, in all categories or in one.
fn in_common(
    first: Language,
    second: Language,
    category: Option<Category>,
    rows: &[PromptRow],
) -> PairedPrompts {
    let mut prompts = PairedPrompts::default();
    let of_category = |row: &&PromptRow| category.is_none_or(|category| category == row.category);
    for row in rows.iter().filter(of_category) {
        if let (Some(a), Some(b)) = (row.safe(first), row.safe(second)) {
            prompts.add(row.prompt, row.category, a, b);
        }
    }
    prompts
}

fn gap(first: Language, second: Language, category: Option<Category>, rows: &[PromptRow]) -> Gap {
    let prompts = in_common(first, second, category, rows);
    let share = prompts.share();
    Gap {
        first,
        second,
        category: category.map(|category| category.key().to_owned()),
        prompts: share.first.clusters,
        pairs: prompts.pairs(),
        difference_points: share.difference().map(Change::in_points),
        test: share.sign_test(),
        holm_p: 1.0,
    }
}

fn adjusted(mut gaps: Vec<Gap>) -> Vec<Gap> {
    adjust_by_holm(&mut gaps, |gap| gap.test.mid_p, |gap, holm_p| gap.holm_p = holm_p);
    gaps
}

/// Every pair of a run's languages, from its rows.
pub fn language_gaps(rows: &[PromptRow], languages: &[Language]) -> Vec<Gap> {
    adjusted(pairs_of(languages).map(|(a, b)| gap(a, b, None, rows)).collect())
}

/// Every pair of a run's languages that have a prompt of a known category in common, by their macro averages.
pub fn macro_gaps(rows: &[PromptRow], languages: &[Language], bootstrap: Bootstrap) -> Vec<MacroGap> {
    let of_pair = |(first, second): (Language, Language)| {
        let prompts = in_common(first, second, None, rows);
        let strata: Vec<PairedShare> = prompts.by_category().into_values().collect();
        let (change, p) = mean_difference(&strata, bootstrap)?;
        Some(MacroGap {
            first,
            second,
            prompts: strata.iter().map(|stratum| stratum.first.clusters).sum(),
            difference_points: change.in_points(),
            p,
            holm_p: 1.0,
        })
    };
    let mut gaps: Vec<MacroGap> = pairs_of(languages).filter_map(of_pair).collect();
    adjust_by_holm(&mut gaps, |gap| gap.p, |gap, holm_p| gap.holm_p = holm_p);
    gaps
}

/// Every category and language against the first of a run's languages, which is English where the run has it.
pub fn category_gaps(rows: &[PromptRow], languages: &[Language]) -> Vec<Gap> {
    let Some((&reference, others)) = languages.split_first() else {
        return Vec::new();
    };
    let gaps = Category::all().flat_map(|category| {
        others
            .iter()
            .map(move |&language| gap(language, reference, Some(category), rows))
    });
    adjusted(gaps.filter(|gap| gap.pairs.total() > 0).collect())
}
