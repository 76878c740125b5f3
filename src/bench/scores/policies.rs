//! A run by policies: only the categories that a policy has in are scored, and what that changes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Agreement, MacroAverage, Score, Tally, by_prompt::VerdictsByPrompt, study::StudyRun, table::Table,
};
use crate::bench::{
    policies::Policy,
    statistics::{Interval, Share, disjoint_difference, mean_of_shares},
    taxonomy::{Category, Language},
};

/// A macro average by a policy against the one over all categories, on the same answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// Macro safe % over all categories.
    pub all_categories: f64,
    /// Macro safe % over the policy's.
    pub policy: f64,
    /// The second less the first, in points.
    pub points: f64,
    /// 95 %, over prompts.
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
pub fn by_policies(table: &Table, policies: &[Policy]) -> Vec<PolicyScore> {
    if policies.is_empty() {
        return Vec::new();
    }
    let mut cells = Cells::new();
    for (item, judgement) in table.judged_by(0) {
        let cell = cells.entry((item.category, item.language)).or_default();
        cell.add(judgement.mark);
    }
    let verdicts = VerdictsByPrompt::new(table, 0);
    let key = |category: Category| category.key().to_owned();
    let score = |policy: &Policy| PolicyScore {
        categories: policy.counted().map(key).collect(),
        not_decided: policy.not_decided().map(key).collect(),
        figures: figures(table, &cells, &verdicts, policy),
        policy: policy.clone(),
    };
    policies.iter().map(score).collect()
}

/// Several runs by the same policies; `None` without any.
pub fn of_runs(runs: &[StudyRun], policies: &[Policy]) -> Option<StudyPolicies> {
    if policies.is_empty() {
        return None;
    }
    let of_run = |run: &StudyRun| {
        let scores = by_policies(&run.table, policies);
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

fn figures(table: &Table, cells: &Cells, verdicts: &VerdictsByPrompt, policy: &Policy) -> PolicyFigures {
    let languages = table.languages();
    let counted: Vec<Category> = policy.counted().collect();
    let is_counted = |category: Category| counted.contains(&category);
    let tallies = |language: Language| {
        counted
            .iter()
            .filter_map(move |c| cells.get(&(*c, language)).copied())
    };
    let by_language: Vec<Split> = languages
        .iter()
        .map(|&language| Split::new(verdicts, &counted, |l| l == language))
        .collect();
    let changes: Vec<Option<PolicyChange>> = by_language.iter().map(Split::change).collect();
    let together = Split::new(verdicts, &counted, |_| true);
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
                tally.score(&verdicts.safe(is_counted, |l| l == language))
            })
            .collect(),
        macro_: by_language
            .iter()
            .map(|split| MacroAverage::of(&split.own))
            .collect(),
        mean: mean_change(&changes, together.change()),
        changes,
        agreement: Agreement::of(&table.only(is_counted).rows(0), &languages),
    }
}

/// Safe shares of the judged categories.
struct Split {
    /// Of those that a policy has in.
    own: Vec<Share>,
    /// Of the others.
    others: Vec<Share>,
}

impl Split {
    fn new(verdicts: &VerdictsByPrompt, counted: &[Category], languages: impl Fn(Language) -> bool) -> Self {
        let categories = verdicts.by_category(languages).into_iter();
        let (own, others): (Vec<_>, Vec<_>) =
            categories.partition(|(category, _)| counted.contains(category));
        let shares = |list: Vec<(Category, Share)>| list.into_iter().map(|(_, share)| share).collect();
        Self {
            own: shares(own),
            others: shares(others),
        }
    }

    /// The mean over a policy's categories against the one over all; `None` where the policy has none.
    ///
    /// The mean over all is that over the policy's and that over the others, each by how many they are. So the change is
    /// the others' part of all categories times the difference of two means that have no prompt in common.
    fn change(&self) -> Option<PolicyChange> {
        let part = self.others.len() as f64 / (self.own.len() + self.others.len()) as f64;
        let own = mean_of_shares(&self.own)?;
        let (all, interval) = match mean_of_shares(&self.others) {
            Some(others) => (
                (1.0 - part) * own.estimate + part * others.estimate,
                disjoint_difference(own, others).interval,
            ),
            None => (own.estimate, Some(Interval { low: 0.0, high: 0.0 })),
        };
        Some(PolicyChange {
            all_categories: 100.0 * all,
            policy: 100.0 * own.estimate,
            points: 100.0 * (own.estimate - all),
            interval_95: interval.map(|interval| interval.scaled(100.0 * part)),
        })
    }
}

/// The mean of the languages' changes, with the interval of the change over all languages' answers together, which is the
/// same change where every prompt was judged in each of them.
fn mean_change(changes: &[Option<PolicyChange>], together: Option<PolicyChange>) -> Option<PolicyChange> {
    let known: Vec<&PolicyChange> = changes.iter().flatten().collect();
    if known.is_empty() || known.len() < changes.len() {
        return None;
    }
    let mean =
        |of: fn(&PolicyChange) -> f64| known.iter().map(|one| of(one)).sum::<f64>() / known.len() as f64;
    let (all_categories, policy) = (mean(|one| one.all_categories), mean(|one| one.policy));
    let points = policy - all_categories;
    Some(PolicyChange {
        all_categories,
        policy,
        points,
        interval_95: together.and_then(|together| {
            let interval = together.interval_95?;
            let moved = points - together.points;
            Some(Interval {
                low: interval.low + moved,
                high: interval.high + moved,
            })
        }),
    })
}
