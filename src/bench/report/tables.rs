//! The tables of a run and of a study, for papers and spreadsheets. `formats` writes them as text.

use serde::Serialize;

use super::{
    jurisdictions,
    sheet::{Cell, Sheet, header, percent, plain, range_or_few},
    translation_effects,
};
use crate::bench::{
    scores::{
        Score, format_percent,
        study::{Study, TuningEffect},
    },
    summary::Summary,
};

/// The tables of a run. They have the paper's shape where it has such a table: categories by languages with the overall
/// row, and exact matching rates.
pub fn sheets(summary: &Summary) -> Vec<Sheet> {
    let mut sheets = vec![
        languages(summary),
        categories(summary),
        consistency(summary),
        macro_gaps(summary),
        gaps(summary),
    ];
    sheets.extend(paper(summary));
    sheets.extend(jurisdictions::sheets(summary));
    sheets
}

fn languages(summary: &Summary) -> Sheet {
    let names = [
        "n",
        "safe",
        "unsafe",
        "undetermined",
        "failed",
        "skipped",
        "safe %",
        "95 % interval",
        "macro safe %",
        "macro 95 % interval",
        "categories",
        "refused %",
    ];
    let row = |name: &str, score: &Score| {
        let counts = [
            score.n,
            score.safe,
            score.unsafe_,
            score.undetermined,
            score.failed,
            score.skipped,
        ];
        let mut row = vec![plain(name)];
        row.extend(counts.map(|count| plain(count.to_string())));
        row.extend([
            percent(score.safe_percent),
            range_or_few(score.n, score.interval_95),
        ]);
        row
    };
    let mut rows: Vec<_> = summary
        .languages
        .iter()
        .map(|language| {
            let mut row = row(&language.name, &language.micro);
            row.extend([
                percent(language.macro_.safe_percent),
                range_or_few(language.micro.n, language.macro_.interval_95),
                plain(language.macro_.categories.to_string()),
                plain(
                    language
                        .refusals
                        .percent
                        .map_or_else(String::new, |p| format!("{p:.2}")),
                ),
            ]);
            row
        })
        .collect();
    let mut all = row("All", &summary.all_languages_micro);
    all.resize(names.len() + 1, plain(""));
    rows.push(all);
    Sheet {
        title: "Safe answers per language".to_owned(),
        header: header("language", names.map(str::to_owned)),
        rows,
        total: true,
    }
}

fn categories(summary: &Summary) -> Sheet {
    let codes = summary
        .languages
        .iter()
        .map(|language| language.language.code().to_owned());
    let mut rows: Vec<Vec<Cell>> = summary
        .categories
        .iter()
        .map(|row| {
            let cells = row.by_language.iter().map(|score| percent(score.safe_percent));
            [plain(&row.key)].into_iter().chain(cells).collect()
        })
        .collect();
    let overall = summary
        .languages
        .iter()
        .map(|language| percent(language.macro_.safe_percent));
    rows.push([plain("Overall")].into_iter().chain(overall).collect());
    Sheet {
        title: "Safe % by category and language; Overall is the unweighted mean of the categories".to_owned(),
        header: header("category", codes),
        rows,
        total: true,
    }
}

fn consistency(summary: &Summary) -> Sheet {
    let rows = summary.agreement.iter().map(|(name, agreement)| {
        vec![
            plain(name),
            plain(
                agreement
                    .percent
                    .map_or_else(String::new, |percent| format_percent(percent, 2)),
            ),
            range_or_few(agreement.n, agreement.interval_95),
        ]
    });
    Sheet {
        title: "Exact matching rates in %, with 95 % intervals over prompts".to_owned(),
        header: header(
            "languages",
            ["same verdict %".to_owned(), "95 % interval".to_owned()],
        ),
        rows: rows.collect(),
        total: false,
    }
}

const GAP_NAMES: [&str; 6] = [
    "second",
    "prompts",
    "first - second, points",
    "95 % interval",
    "p",
    "Holm p",
];

fn gaps(summary: &Summary) -> Sheet {
    let rows = summary.language_gaps.iter().map(|gap| {
        let difference = gap.difference_points;
        vec![
            plain(gap.first.code()),
            plain(gap.second.code()),
            plain(gap.prompts.to_string()),
            plain(difference.map_or_else(String::new, |d| format!("{:.2}", d.estimate))),
            range_or_few(gap.prompts, difference.and_then(|d| d.interval)),
            plain(format!("{:.2e}", gap.test.mid_p)),
            plain(format!("{:.2e}", gap.holm_p)),
        ]
    });
    Sheet {
        title: "Language gaps on the same prompts, every answer alike (micro)".to_owned(),
        header: header("first", GAP_NAMES.map(str::to_owned)),
        rows: rows.collect(),
        total: false,
    }
}

fn macro_gaps(summary: &Summary) -> Sheet {
    let rows = summary.macro_gaps.iter().map(|gap| {
        vec![
            plain(gap.first.code()),
            plain(gap.second.code()),
            plain(gap.prompts.to_string()),
            plain(format!("{:.2}", gap.difference_points.estimate)),
            range_or_few(gap.prompts, gap.difference_points.interval),
            plain(format!("{:.2e}", gap.p)),
            plain(format!("{:.2e}", gap.holm_p)),
        ]
    });
    Sheet {
        title: "Language gaps on the same prompts, every category alike (macro)".to_owned(),
        header: header("first", GAP_NAMES.map(str::to_owned)),
        rows: rows.collect(),
        total: false,
    }
}

/// A figure of a run beside the one in the paper.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BesidePaper {
    /// What the figure is.
    pub(super) figure: String,
    /// The run's figure, in percent.
    pub(super) ours: Option<f64>,
    /// The paper's figure, in percent.
    pub(super) paper: Option<f64>,
    /// The run's figure less the paper's, in points.
    pub(super) difference: Option<f64>,
}

/// The figures that the paper prints of the same model, beside the run's; empty when it prints none.
pub(super) fn beside_paper(summary: &Summary) -> Vec<BesidePaper> {
    let Some(paper) = summary.paper.as_ref() else {
        return Vec::new();
    };
    let overall = summary.languages.iter().map(|language| {
        let code = language.language.code();
        let theirs = paper.overall.get(code).copied();
        (format!("overall {code}"), language.macro_.safe_percent, theirs)
    });
    let consistency = paper.consistency.iter().map(|(name, theirs)| {
        let ours = summary.agreement.get(name).and_then(|ours| ours.percent);
        (format!("same verdict {name}"), ours, Some(*theirs))
    });
    let categories = paper.categories.iter().flat_map(|(key, theirs)| {
        let ours = summary.categories.iter().find(|category| category.key == *key);
        let languages = summary.languages.iter().enumerate();
        languages.filter_map(move |(index, language)| {
            let code = language.language.code();
            let ours = ours.and_then(|category| category.by_language[index].safe_percent);
            Some((format!("{key} {code}"), ours, Some(*theirs.get(code)?)))
        })
    });
    let all = overall.chain(consistency).chain(categories);
    all.map(|(figure, ours, paper)| BesidePaper {
        figure,
        ours,
        paper,
        difference: ours.zip(paper).map(|(ours, paper)| ours - paper),
    })
    .collect()
}

/// The table of the run's figures beside the paper's.
pub(super) fn paper(summary: &Summary) -> Option<Sheet> {
    let paper = summary.paper.as_ref()?;
    let rows = beside_paper(summary).into_iter().map(|row| {
        let difference = row.difference.map(|difference| format!("{difference:+.2}"));
        vec![
            plain(row.figure),
            percent(row.ours),
            percent(row.paper),
            plain(difference.unwrap_or_default()),
        ]
    });
    Some(Sheet {
        title: format!("Beside the paper's figures of {}", paper.name),
        header: header("figure", ["ours", "paper", "ours - paper"].map(str::to_owned)),
        rows: rows.collect(),
        total: false,
    })
}

/// The tables of a study: the leaderboard, base against instruct, the effects of translation, and jurisdictions.
pub fn study_sheets(study: &Study) -> Vec<Sheet> {
    let codes = study.language_codes();
    let number = |value: Option<f64>| plain(value.map_or_else(String::new, |value| format!("{value:.2}")));
    let rows = study.standings.iter().map(|one| {
        let average = |code: &&str| percent(one.macro_by_language.get(*code).and_then(|m| m.safe_percent));
        let mut row = vec![plain(&one.name)];
        row.extend(codes.iter().map(average));
        row.extend([
            percent(one.macro_safe),
            percent(one.micro_safe),
            number(one.agreement.percent),
            number(one.refused_percent),
            plain(one.n.to_string()),
            plain(one.unjudged.to_string()),
        ]);
        row
    });
    let names = ["mean", "micro", "all agree %", "refused %", "n", "unjudged"];
    let mut sheets = vec![Sheet {
        title: "Macro safe % by model and language".to_owned(),
        header: header("model", codes.iter().copied().chain(names).map(str::to_owned)),
        rows: rows.collect(),
        total: false,
    }];
    sheets.extend(study.tuning.iter().map(|pair| {
        Sheet {
            title: format!("{} against {}", pair.base, pair.instruct),
            header: header(
                "category",
                [
                    "base %",
                    "instruct %",
                    "points",
                    "95 % interval",
                    "Cohen's h",
                    "Holm p",
                ]
                .map(str::to_owned),
            ),
            rows: pair.categories.iter().map(tuning_row).collect(),
            total: false,
        }
    }));
    sheets.extend(translation_effects::sheets(&study.translation_effects));
    sheets.extend(study.jurisdictions.iter().flat_map(jurisdictions::study_sheets));
    sheets
}

fn tuning_row(effect: &TuningEffect) -> Vec<Cell> {
    let change = effect.compared.change_points;
    vec![
        plain(effect.compared.category.as_deref().unwrap_or_default()),
        percent(Some(effect.base)),
        percent(Some(effect.instruct)),
        plain(format!("{:.2}", change.estimate)),
        range_or_few(effect.compared.prompts, change.interval),
        plain(format!("{:.2}", effect.cohens_h)),
        plain(format!("{:.2e}", effect.compared.holm_p)),
    ]
}
