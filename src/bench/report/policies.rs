//! Tables of scores by policy.

use super::tables::{Cell, Sheet, header, percent, plain, range};
use crate::bench::{
    policies::{Policy, Ruling},
    scores::policies::{PolicyChange, PolicyScore, StudyPolicies},
    summary::Summary,
    taxonomy::Category,
};

/// The languages by all categories and by each policy, the changes, and what the policies say.
pub(super) fn sheets(summary: &Summary) -> Vec<Sheet> {
    if summary.policies.is_empty() {
        return Vec::new();
    }
    let policies: Vec<&Policy> = summary.policies.iter().map(|score| &score.policy).collect();
    vec![languages(summary), changes(summary), decisions(&policies)]
}

fn names<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Vec<String> {
    let names = policies.into_iter().map(|policy| policy.name.clone());
    ["all categories".to_owned()].into_iter().chain(names).collect()
}

fn languages(summary: &Summary) -> Sheet {
    let mut rows: Vec<Vec<Cell>> = summary
        .languages
        .iter()
        .enumerate()
        .map(|(place, language)| {
            let by_policy = summary.policies.iter().map(|score| {
                let average = score.figures.macro_.get(place);
                percent(average.and_then(|average| average.safe_percent))
            });
            let all = [plain(&language.name), percent(language.macro_.safe_percent)];
            all.into_iter().chain(by_policy).collect()
        })
        .collect();
    let mean = |of: fn(&PolicyChange) -> f64| {
        move |score: &PolicyScore| percent(score.figures.mean.as_ref().map(of))
    };
    let all = summary.policies.first().map(mean(|mean| mean.all_categories));
    let by_policy = summary.policies.iter().map(mean(|mean| mean.policy));
    rows.push([plain("Mean")].into_iter().chain(all).chain(by_policy).collect());
    Sheet {
        title: "Macro safe % over all categories, and over those that each policy has in".to_owned(),
        header: header(
            "language",
            names(summary.policies.iter().map(|score| &score.policy)),
        ),
        rows,
        total: true,
    }
}

fn changes(summary: &Summary) -> Sheet {
    let mut rows = Vec::new();
    for score in &summary.policies {
        let figures = &score.figures;
        for (place, language) in summary.languages.iter().enumerate() {
            let average = figures.macro_.get(place).copied();
            let change = figures.changes.get(place).copied().flatten();
            rows.push(change_row(
                [score.policy.name.as_str(), &language.name],
                (
                    figures.micro.get(place).map(|score| score.n),
                    average.map(|average| average.categories),
                ),
                average.and_then(|average| average.interval_95),
                change,
            ));
        }
        rows.push(change_row(
            [score.policy.name.as_str(), "mean"],
            (None, None),
            None,
            figures.mean,
        ));
    }
    Sheet {
        title: "What each policy changes in the macro safe %, in points, with 95 % intervals over prompts"
            .to_owned(),
        header: header("policy", CHANGE_NAMES.map(str::to_owned)),
        rows,
        total: false,
    }
}

const CHANGE_NAMES: [&str; 8] = [
    "language",
    "n",
    "categories",
    "all categories %",
    "policy %",
    "95 % interval",
    "change",
    "95 % interval of the change",
];

fn change_row(
    names: [&str; 2],
    (n, categories): (Option<u64>, Option<usize>),
    interval: Option<crate::bench::statistics::Interval>,
    change: Option<PolicyChange>,
) -> Vec<Cell> {
    let count = |value: Option<String>| plain(value.unwrap_or_default());
    let mut row = names.map(plain).to_vec();
    row.extend([
        count(n.map(|n| n.to_string())),
        count(categories.map(|n| n.to_string())),
        percent(change.map(|change| change.all_categories)),
        percent(change.map(|change| change.policy)),
        range(interval),
        signed(change),
        range(change.and_then(|change| change.interval_95)),
    ]);
    row
}

fn signed(change: Option<PolicyChange>) -> Cell {
    plain(change.map_or_else(String::new, |change| format!("{:+.2}", change.points)))
}

fn decisions(policies: &[&Policy]) -> Sheet {
    let mut rows = Vec::new();
    for policy in policies {
        for decision in &policy.decisions {
            let ruling = match decision.ruling {
                Ruling::In => "in",
                Ruling::Out => "out",
            };
            rows.push(
                [
                    &policy.name,
                    decision.category.key(),
                    ruling,
                    &decision.reason,
                    &decision.source,
                ]
                .map(plain)
                .to_vec(),
            );
        }
        let open = policy.not_decided();
        rows.extend(open.map(|category| {
            [&policy.name, category.key(), "not decided", "", ""]
                .map(plain)
                .to_vec()
        }));
    }
    Sheet {
        title: "What the policies say; only categories that are in are scored".to_owned(),
        header: header(
            "policy",
            ["category", "ruling", "reason", "source"].map(str::to_owned),
        ),
        rows,
        total: false,
    }
}

/// Keys of the categories of which each policy says nothing.
pub(super) fn not_decided(study: Option<&StudyPolicies>) -> Vec<Vec<&'static str>> {
    let policies = study.into_iter().flat_map(|study| &study.policies);
    policies
        .map(|policy| policy.not_decided().map(Category::key).collect())
        .collect()
}

/// The runs of a study by each policy, the changes, and what the policies say.
pub(super) fn study_sheets(study: &StudyPolicies) -> Vec<Sheet> {
    let rows = study.runs.iter().map(|run| {
        let by_policy = run.by_policy.iter();
        let by_policy = by_policy.map(|figures| percent(figures.mean.map(|mean| mean.policy)));
        let all = [plain(&run.name), percent(run.all_categories)];
        all.into_iter().chain(by_policy).collect()
    });
    let by_policy = Sheet {
        title: "Mean macro safe % by model, over all categories and by policy".to_owned(),
        header: header("model", names(&study.policies)),
        rows: rows.collect(),
        total: false,
    };
    let mut rows = Vec::new();
    for (place, policy) in study.policies.iter().enumerate() {
        for run in &study.runs {
            let mean = run.by_policy.get(place).and_then(|figures| figures.mean);
            rows.push(vec![
                plain(&policy.name),
                plain(&run.name),
                percent(mean.map(|mean| mean.policy)),
                signed(mean),
                range(mean.and_then(|mean| mean.interval_95)),
            ]);
        }
    }
    let names = ["model", "mean macro safe %", "change", "95 % interval"];
    let changes = Sheet {
        title: "What each policy changes by model, in points".to_owned(),
        header: header("policy", names.map(str::to_owned)),
        rows,
        total: false,
    };
    let policies: Vec<&Policy> = study.policies.iter().collect();
    vec![by_policy, changes, decisions(&policies)]
}
