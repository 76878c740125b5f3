//! Results that are built to have the paper's figures give these figures back, to the digits it prints.

use std::collections::BTreeMap;

use babelward::bench::{
    paper::{self, PaperModel},
    scores::result_table::ResultTable,
    settings::Counting,
    statistics::Bootstrap,
    summary::{Options, Summary},
    taxonomy::{Category, Language},
};

use crate::planted::{info, record, verdict};

const PROMPTS: usize = 14_763;

fn summary(model: &PaperModel, safe: impl Fn(Category, usize, usize, Language) -> bool) -> Summary {
    let mut records = Vec::new();
    let mut id = 0;
    for category in Category::all() {
        for place in 0..category.malert_prompts() as usize {
            for language in Language::ALL {
                let verdicts = [verdict(safe(category, place, id, language))];
                records.push(record(id as u64, language, category, 0, &verdicts));
            }
            id += 1;
        }
    }
    assert_eq!(id, PROMPTS);
    let options = Options {
        paper: true,
        // Only point estimates are asked for.
        bootstrap: Bootstrap {
            resamples: 2,
            seed: 0,
        },
        ..Options::default()
    };
    Summary::of(
        info(&model.name, 1, vec![0]),
        &ResultTable::of(Counting::strict(1), &records),
        &options,
    )
}

fn printed(percent: Option<f64>) -> String {
    format!("{:.2}", percent.unwrap())
}

/// Table 6: the prompts on which a language differs from English are laid one language after another around a
/// circle that is as long as the number of prompts on which any differs.
#[test]
fn consistency_of_table_6_comes_back() {
    let models: Vec<_> = (paper::published().models.iter())
        .filter(|model| !model.consistency.is_empty())
        .collect();
    assert_eq!(models.len(), 10);
    for model in models {
        let differ = |name: &str| ((1.0 - model.consistency[name] / 100.0) * PROMPTS as f64).round() as usize;
        let any = differ("all");
        let mut start = 0;
        let mut arcs: BTreeMap<Language, (usize, usize)> = BTreeMap::new();
        for language in &Language::ALL[1..] {
            let length = differ(&format!("en-{}", language.code()));
            arcs.insert(*language, (start, length));
            start = (start + length) % any;
        }
        let safe = |_: Category, _: usize, id: usize, language: Language| match arcs.get(&language) {
            Some((start, length)) => id >= any || (id + any - start) % any >= *length,
            None => true,
        };
        let summary = summary(model, safe);
        for language in &Language::ALL[1..] {
            let ours = summary.agreement[&format!("en-{}", language.code())].percent;
            let theirs = Some(model.consistency[&format!("en-{}", language.code())]);
            assert_eq!(
                printed(ours),
                printed(theirs),
                "{} en-{}",
                model.name,
                language.code()
            );
        }
        let theirs = Some(model.consistency["all"]);
        assert_eq!(
            printed(summary.agreement["all"].percent),
            printed(theirs),
            "{}",
            model.name
        );
        assert_eq!(summary.paper.as_ref(), Some(model));
    }
}

/// Safe prompts of each category, so that the unweighted mean of the shares is the wanted one.
fn safe_counts(wanted: f64) -> BTreeMap<Category, usize> {
    let mut counts: BTreeMap<Category, usize> = Category::all()
        .map(|category| {
            let n = f64::from(category.malert_prompts());
            (category, (n * wanted / 100.0).round() as usize)
        })
        .collect();
    let mean = |counts: &BTreeMap<Category, usize>| {
        let shares = counts
            .iter()
            .map(|(c, count)| *count as f64 / f64::from(c.malert_prompts()));
        100.0 * shares.sum::<f64>() / 32.0
    };
    // What rounding moved, the category with the finest steps puts right.
    let fine = Category::parse("crime_injury").unwrap();
    let step = 100.0 / (32.0 * f64::from(fine.malert_prompts()));
    let steps = ((wanted - mean(&counts)) / step).round() as i64;
    let count = counts.get_mut(&fine).unwrap();
    *count = (*count as i64 + steps) as usize;
    counts
}

/// The rows "Overall" are macro averages; a category's cells come back, too.
#[test]
fn overall_rows_come_back_as_macro_averages() {
    for model in &paper::published().models {
        let counts: Vec<_> = Language::ALL
            .iter()
            .map(|language| safe_counts(model.overall[language.code()]))
            .collect();
        let summary = summary(model, |category, place, _, language| {
            place < counts[language as usize][&category]
        });
        assert!(summary.missing_categories.is_empty());
        for language in &summary.languages {
            assert_eq!(language.macro_.categories, 32);
            let theirs = model.overall[language.language.code()];
            let ours = printed(language.macro_.safe_percent);
            assert_eq!(ours, printed(Some(theirs)), "{} {}", model.name, language.name);
        }
    }
}
