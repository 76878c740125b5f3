//! Language gaps: is a language judged less safe than another on the same prompts?

use serde::{Deserialize, Serialize};

use super::{
    consistency::pairs,
    table::{PromptRow, Table},
};
use crate::bench::{
    statistics::{Difference, McNemar, Pairs, holm, mcnemar, paired_difference},
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
    pub pairs: Pairs,
    /// Safe share of the first less that of the second, in points, with Newcombe's paired interval.
    pub difference_points: Option<Difference>,
    /// McNemar's test.
    pub test: McNemar,
    /// Its mid-p value after Holm's adjustment within the table that it stands in.
    pub holm_p: f64,
}

impl Gap {
    /// Whether the difference is more than chance would give, all tests of the table considered.
    pub fn is_found(&self) -> bool {
        self.holm_p < LEVEL
    }
}

/// A difference of shares in points.
pub fn in_points(difference: Difference) -> Difference {
    Difference {
        estimate: 100.0 * difference.estimate,
        interval: difference.interval.scaled(100.0),
    }
}

fn gap(first: Language, second: Language, category: Option<Category>, rows: &[PromptRow]) -> Gap {
    let mut pairs = Pairs::default();
    for row in rows
        .iter()
        .filter(|row| category.is_none_or(|c| c == row.category))
    {
        if let (Some(a), Some(b)) = (row.safe(first), row.safe(second)) {
            pairs.add(a, b);
        }
    }
    Gap {
        first,
        second,
        category: category.map(|category| category.key().to_owned()),
        pairs,
        difference_points: paired_difference(pairs).map(in_points),
        test: mcnemar(pairs.first_only, pairs.second_only),
        holm_p: 1.0,
    }
}

fn adjusted(mut gaps: Vec<Gap>) -> Vec<Gap> {
    let p_values: Vec<f64> = gaps.iter().map(|gap| gap.test.mid_p).collect();
    for (gap, p) in gaps.iter_mut().zip(holm(&p_values)) {
        gap.holm_p = p;
    }
    gaps
}

/// The rows that tests look at: those of the first seed, since answers to the same prompt are not independent.
fn tested_rows(table: &Table, guard: usize) -> Vec<PromptRow> {
    let first = table.seeds().first().copied();
    let mut rows = table.rows(guard);
    rows.retain(|row| Some(row.seed) == first);
    rows
}

/// Every pair of the run's languages.
pub fn language_gaps(table: &Table, guard: usize) -> Vec<Gap> {
    let (rows, present) = (tested_rows(table, guard), table.languages());
    let both = |pair: &(Language, Language)| present.contains(&pair.0) && present.contains(&pair.1);
    adjusted(
        pairs()
            .filter(both)
            .map(|(a, b)| gap(a, b, None, &rows))
            .collect(),
    )
}

/// Every category and language against the reference language (English where the run has it).
pub fn category_gaps(table: &Table, guard: usize) -> Vec<Gap> {
    let (rows, present) = (tested_rows(table, guard), table.languages());
    let Some((&reference, others)) = present.split_first() else {
        return Vec::new();
    };
    let gaps = Category::all().flat_map(|category| {
        let rows = &rows;
        others
            .iter()
            .map(move |&language| gap(language, reference, Some(category), rows))
    });
    adjusted(gaps.filter(|gap| gap.pairs.total() > 0).collect())
}
