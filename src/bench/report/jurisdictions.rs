//! Tables of scores by the rules of jurisdictions.

use super::sheet::{Cell, Sheet, header, percent, plain, range};
use crate::bench::{
    jurisdictions::{Jurisdiction, Ruling},
    scores::jurisdictions::{JurisdictionChange, JurisdictionScore, StudyJurisdictions},
    statistics::Interval,
    summary::Summary,
    taxonomy::Category,
};

/// The languages' scores over all categories and by each jurisdiction, the changes, and the rules.
pub(super) fn sheets(summary: &Summary) -> Vec<Sheet> {
    if summary.jurisdictions.is_empty() {
        return Vec::new();
    }
    let all: Vec<&Jurisdiction> = summary
        .jurisdictions
        .iter()
        .map(|score| &score.jurisdiction)
        .collect();
    vec![languages(summary), changes(summary), rules(&all)]
}

fn names<'a>(jurisdictions: impl IntoIterator<Item = &'a Jurisdiction>) -> Vec<String> {
    let names = jurisdictions.into_iter().map(|one| one.name.clone());
    ["all categories".to_owned()].into_iter().chain(names).collect()
}

fn languages(summary: &Summary) -> Sheet {
    let mut rows: Vec<Vec<Cell>> = summary
        .languages
        .iter()
        .enumerate()
        .map(|(index, language)| {
            let by_jurisdiction = summary.jurisdictions.iter().map(|score| {
                let average = score.figures.macro_.get(index);
                percent(average.and_then(|average| average.safe_percent))
            });
            let all = [plain(&language.name), percent(language.macro_.safe_percent)];
            all.into_iter().chain(by_jurisdiction).collect()
        })
        .collect();
    let mean = |of: fn(&JurisdictionChange) -> f64| {
        move |score: &JurisdictionScore| percent(score.figures.mean.as_ref().map(of))
    };
    let all = summary
        .jurisdictions
        .first()
        .map(mean(|mean| mean.all_categories));
    let by_jurisdiction = summary
        .jurisdictions
        .iter()
        .map(mean(|mean| mean.counted_categories));
    rows.push(
        [plain("Mean")]
            .into_iter()
            .chain(all)
            .chain(by_jurisdiction)
            .collect(),
    );
    Sheet {
        title: "Macro safe % over all categories, and over those that each policy has in".to_owned(),
        header: header(
            "language",
            names(summary.jurisdictions.iter().map(|score| &score.jurisdiction)),
        ),
        rows,
        total: true,
    }
}

fn changes(summary: &Summary) -> Sheet {
    let mut rows = Vec::new();
    for score in &summary.jurisdictions {
        let figures = &score.figures;
        for (index, language) in summary.languages.iter().enumerate() {
            let average = figures.macro_.get(index).copied();
            let change = figures.changes.get(index).copied().flatten();
            rows.push(
                ChangeRow {
                    jurisdiction: &score.jurisdiction.name,
                    language: &language.name,
                    n: figures.micro.get(index).map(|score| score.n),
                    categories: average.map(|average| average.categories),
                    interval: average.and_then(|average| average.interval_95),
                    change,
                }
                .cells(),
            );
        }
        rows.push(
            ChangeRow {
                jurisdiction: &score.jurisdiction.name,
                language: "mean",
                n: None,
                categories: None,
                interval: None,
                change: figures.mean,
            }
            .cells(),
        );
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

/// A row of the table of changes.
struct ChangeRow<'a> {
    jurisdiction: &'a str,
    language: &'a str,
    /// Number of judged answers in the categories that count.
    n: Option<u64>,
    /// Number of categories that count and have a judged answer.
    categories: Option<usize>,
    /// The interval of the macro average over the categories that count.
    interval: Option<Interval>,
    change: Option<JurisdictionChange>,
}

impl ChangeRow<'_> {
    fn cells(&self) -> Vec<Cell> {
        let count = |value: Option<String>| plain(value.unwrap_or_default());
        let change = self.change;
        vec![
            plain(self.jurisdiction),
            plain(self.language),
            count(self.n.map(|n| n.to_string())),
            count(self.categories.map(|n| n.to_string())),
            percent(change.map(|change| change.all_categories)),
            percent(change.map(|change| change.counted_categories)),
            range(self.interval),
            signed(change),
            range(change.and_then(|change| change.interval_95)),
        ]
    }
}

fn signed(change: Option<JurisdictionChange>) -> Cell {
    plain(change.map_or_else(String::new, |change| format!("{:+.2}", change.points)))
}

fn rules(jurisdictions: &[&Jurisdiction]) -> Sheet {
    let mut rows = Vec::new();
    for jurisdiction in jurisdictions {
        for rule in &jurisdiction.rules {
            let ruling = match rule.ruling {
                Ruling::In => "in",
                Ruling::Out => "out",
            };
            rows.push(
                [
                    &jurisdiction.name,
                    rule.category.key(),
                    ruling,
                    &rule.reason,
                    &rule.source,
                ]
                .map(plain)
                .to_vec(),
            );
        }
        let undecided = jurisdiction.not_decided();
        rows.extend(undecided.map(|category| {
            [&jurisdiction.name, category.key(), "not decided", "", ""]
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

/// For each jurisdiction, the keys of the categories without a rule.
pub(super) fn not_decided(study: Option<&StudyJurisdictions>) -> Vec<Vec<&'static str>> {
    let jurisdictions = study.into_iter().flat_map(|study| &study.jurisdictions);
    jurisdictions
        .map(|jurisdiction| jurisdiction.not_decided().map(Category::key).collect())
        .collect()
}

/// The scores of a study's runs by each jurisdiction, the changes, and the rules.
pub(super) fn study_sheets(study: &StudyJurisdictions) -> Vec<Sheet> {
    let rows = study.runs.iter().map(|run| {
        let by_jurisdiction = run.by_jurisdiction.iter();
        let by_jurisdiction =
            by_jurisdiction.map(|figures| percent(figures.mean.map(|mean| mean.counted_categories)));
        let all = [plain(&run.name), percent(run.all_categories)];
        all.into_iter().chain(by_jurisdiction).collect()
    });
    let by_jurisdiction = Sheet {
        title: "Mean macro safe % by model, over all categories and by policy".to_owned(),
        header: header("model", names(&study.jurisdictions)),
        rows: rows.collect(),
        total: false,
    };
    let mut rows = Vec::new();
    for (index, jurisdiction) in study.jurisdictions.iter().enumerate() {
        for run in &study.runs {
            let mean = run.by_jurisdiction.get(index).and_then(|figures| figures.mean);
            rows.push(vec![
                plain(&jurisdiction.name),
                plain(&run.name),
                percent(mean.map(|mean| mean.counted_categories)),
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
    let all: Vec<&Jurisdiction> = study.jurisdictions.iter().collect();
    vec![by_jurisdiction, changes, rules(&all)]
}
