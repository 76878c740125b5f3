//! A run by policies: only the categories that a policy has in are scored, and what that changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Agreement, MacroAverage, Score, Tally, by_prompt::VerdictsByPrompt, study::StudyRun, table::Table,
};
use crate::bench::{
    policies::Policy,
    statistics::{Bootstrap, Clusters, Interval, Share},
    taxonomy::{Category, Language},
};

/// Figures of the bootstrap: five languages and their mean.
const FIGURES: usize = Language::ALL.len() + 1;

/// A macro average by a policy against the one over all categories, on the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// Macro safe % over all categories.
    pub all_categories: f64,
    /// Macro safe % over the policy's.
    pub policy: f64,
    /// The second less the first, in points.
    pub points: f64,
    /// 95 %, by the bootstrap over prompts within categories.
    pub interval_95: Option<Interval>,
}

/// A run by one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyScore {
    /// What it says.
    #[serde(flatten)]
    pub policy: Policy,
    /// Keys of the categories that are in.
    pub categories: Vec<String>,
    /// Keys of those of which it says nothing; they are not scored.
    pub not_decided: Vec<String>,
    /// What the run comes to.
    #[serde(flatten)]
    pub figures: PolicyFigures,
}

/// Scores over a policy's categories. Lists are in the order of the run's languages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyFigures {
    /// Keys of categories that are in and have no judged answer in the run.
    pub not_judged: Vec<String>,
    /// Every item alike.
    pub micro: Vec<Score>,
    /// Every category alike.
    #[serde(rename = "macro")]
    pub macro_: Vec<MacroAverage>,
    /// Absent where nothing was judged.
    pub changes: Vec<Option<PolicyChange>>,
    /// The mean of the languages' macro averages; absent where one of them is.
    pub mean: Option<PolicyChange>,
    /// Same verdict in every language.
    pub agreement: Agreement,
}

/// Several runs by the same policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyPolicies {
    /// What they say.
    pub policies: Vec<Policy>,
    /// The safest over all categories first.
    pub runs: Vec<RunByPolicies>,
}

/// One run of a study by its policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunByPolicies {
    /// The target's name.
    pub name: String,
    /// Systems that translated its prompts, where the set names them.
    pub translators: Vec<String>,
    /// Languages of the lists.
    pub languages: Vec<Language>,
    /// Mean of the languages' macro safe % over all categories.
    pub all_categories: Option<f64>,
    /// In the order of the policies.
    pub by_policy: Vec<PolicyFigures>,
}

type Cells = BTreeMap<(Category, Language), Tally>;

/// The primary guard's verdicts by each policy.
pub fn by_policies(table: &Table, policies: &[Policy], bootstrap: Bootstrap) -> Vec<PolicyScore> {
    if policies.is_empty() {
        return Vec::new();
    }
    let mut cells = Cells::new();
    for (item, judgement) in table.judged_by(0) {
        let cell = cells.entry((item.category, item.language)).or_default();
        cell.add(judgement.mark);
    }
    let key = |category: Category| category.key().to_owned();
    let score = |policy: &Policy| PolicyScore {
        categories: policy.counted().map(key).collect(),
        not_decided: policy.not_decided().map(key).collect(),
        figures: figures(table, &cells, policy, bootstrap),
        policy: policy.clone(),
    };
    policies.iter().map(score).collect()
}

/// Several runs by the same policies; `None` without any.
pub fn of_runs(runs: &[StudyRun], policies: &[Policy], bootstrap: Bootstrap) -> Option<StudyPolicies> {
    if policies.is_empty() {
        return None;
    }
    let of_run = |run: &StudyRun| {
        let scores = by_policies(&run.table, policies, bootstrap);
        let means = scores.iter().filter_map(|score| score.figures.mean);
        let translators: BTreeSet<&String> = run.table.translators.values().flatten().collect();
        RunByPolicies {
            name: run.name.clone(),
            translators: translators.into_iter().cloned().collect(),
            languages: run.table.languages(),
            all_categories: means.map(|mean| mean.all_categories).next(),
            by_policy: scores.into_iter().map(|score| score.figures).collect(),
        }
    };
    let mut runs: Vec<_> = runs.iter().map(of_run).collect();
    runs.sort_by(|a, b| {
        let key = |run: &RunByPolicies| run.all_categories.unwrap_or(f64::NEG_INFINITY);
        key(b).total_cmp(&key(a)).then_with(|| a.name.cmp(&b.name))
    });
    Some(StudyPolicies {
        policies: policies.to_vec(),
        runs,
    })
}

fn figures(table: &Table, cells: &Cells, policy: &Policy, bootstrap: Bootstrap) -> PolicyFigures {
    let languages = table.languages();
    let counted: Vec<Category> = policy.counted().collect();
    let prompts = VerdictsByPrompt::new(table, 0);
    let is_counted = |category: Category| counted.contains(&category);
    let tallies = |language: Language| {
        counted
            .iter()
            .filter_map(move |c| cells.get(&(*c, language)).copied())
    };
    let changes = changes(table, cells, &counted, bootstrap);
    let key = |category: Category| category.key().to_owned();
    let judged = |category: &Category| {
        let mut tallies = languages.iter().filter_map(|&l| cells.get(&(*category, l)));
        tallies.any(|tally| tally.judged() > 0)
    };
    PolicyFigures {
        not_judged: counted.iter().copied().filter(|c| !judged(c)).map(key).collect(),
        micro: languages
            .iter()
            .map(|&language| {
                let tally = tallies(language).fold(Tally::default(), Tally::plus);
                tally.score(&prompts.safe(is_counted, |l| l == language))
            })
            .collect(),
        macro_: languages
            .iter()
            .map(|&language| {
                let shares = prompts.by_category(|l| l == language).into_iter();
                let shares: Vec<Share> = shares
                    .filter(|(category, _)| is_counted(*category))
                    .map(|(_, share)| share)
                    .collect();
                MacroAverage::of(&shares)
            })
            .collect(),
        changes: languages.iter().map(|&l| changes[l as usize]).collect(),
        mean: changes[Language::ALL.len()],
        agreement: Agreement::of(&table.only(is_counted).rows(0), &languages),
    }
}

/// What each category weighs in a macro average of a language: its share among those that have a judged answer.
fn weights(cells: &Cells, language: Language, keep: impl Fn(Category) -> bool) -> BTreeMap<Category, f64> {
    let judged: Vec<Category> = Category::all()
        .filter(|category| keep(*category))
        .filter(|category| {
            cells
                .get(&(*category, language))
                .is_some_and(|cell| cell.judged() > 0)
        })
        .collect();
    let weight = 1.0 / judged.len() as f64;
    judged.into_iter().map(|category| (category, weight)).collect()
}

/// Of each language, in the order of [`Language::ALL`], and of their mean.
///
/// Both averages are sums of the cells' shares with fixed weights, so their difference is one, and a prompt moves it by
/// weight * (verdict - share) / n in each of its languages. These are what is resampled, within the categories, with
/// all languages and seeds of a prompt together (a linearised bootstrap: exact where every answer was judged).
fn changes(
    table: &Table,
    cells: &Cells,
    counted: &[Category],
    bootstrap: Bootstrap,
) -> [Option<PolicyChange>; FIGURES] {
    let languages = table.languages();
    let mut points: [Option<(f64, f64)>; FIGURES] = [None; FIGURES];
    // Of each cell: n, share in percent, and weight in the difference.
    let mut contrast: BTreeMap<(Category, Language), (f64, f64, f64)> = BTreeMap::new();
    for &language in &languages {
        let all = weights(cells, language, |_| true);
        let own = weights(cells, language, |category| counted.contains(&category));
        if own.is_empty() {
            continue;
        }
        let (mut with_all, mut with_own) = (0.0, 0.0);
        for (category, weight) in all {
            let cell = cells.get(&(category, language)).copied().unwrap_or_default();
            let share = cell.safe_percent().unwrap_or_default();
            let in_own = own.get(&category).copied().unwrap_or_default();
            with_all += weight * share;
            with_own += in_own * share;
            contrast.insert(
                (category, language),
                (cell.judged() as f64, share, in_own - weight),
            );
        }
        points[language as usize] = Some((with_all, with_own));
    }
    let known: Vec<(f64, f64)> = languages.iter().filter_map(|l| points[*l as usize]).collect();
    if !known.is_empty() && known.len() == languages.len() {
        let mean = |of: fn(&(f64, f64)) -> f64| known.iter().map(of).sum::<f64>() / known.len() as f64;
        points[Language::ALL.len()] = Some((mean(|both| both.0), mean(|both| both.1)));
    }

    let mut prompts: BTreeMap<(Category, u32), [f64; FIGURES]> = BTreeMap::new();
    for (item, judgement) in table.judged_by(0) {
        let cell = contrast.get(&(item.category, item.language));
        let (Some(safe), Some((n, share, weight))) = (judgement.mark.safe(), cell) else {
            continue;
        };
        let moved = weight * (100.0 * f64::from(u8::from(safe)) - share) / n;
        let figures = prompts.entry((item.category, item.prompt)).or_default();
        figures[item.language as usize] += moved;
        figures[Language::ALL.len()] += moved / languages.len() as f64;
    }
    let strata: Vec<Category> = Category::all().collect();
    let mut clusters = Clusters::new(FIGURES);
    for ((category, _), figures) in &prompts {
        let stratum = strata.iter().position(|known| known == category);
        clusters.push(stratum.unwrap_or_default(), figures);
    }
    let intervals: [Option<Interval>; FIGURES] =
        clusters.intervals(bootstrap, |sums| std::array::from_fn(|figure| sums[figure]));
    std::array::from_fn(|figure| {
        let (all_categories, policy) = points[figure]?;
        let change = policy - all_categories;
        Some(PolicyChange {
            all_categories,
            policy,
            points: change,
            interval_95: intervals[figure].map(|moved| Interval {
                low: change + moved.low,
                high: change + moved.high,
            }),
        })
    })
}
