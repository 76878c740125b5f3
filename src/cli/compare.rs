//! `compare`: two runs on the same prompts, and a gate for what must not get worse.

use std::path::PathBuf;

use super::{
    Exit, Global,
    output::{print_line, table, tell, write_to},
};
use crate::bench::{
    analysis::{TextsInReport, compare_runs},
    report::comparability::ComparabilityText,
    scores::{
        SIGNIFICANCE_LEVEL,
        comparable::Pairing,
        compare::{Comparison, PartComparison},
        format_change, format_p_value, format_percent,
        gate::{AllowedDifference, Gate, Gates},
    },
    statistics::Interval,
    taxonomy::Language,
};

/// Compare two runs on the same prompts, answer by answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run to compare with
    first: PathBuf,
    /// The run that may be better or worse
    second: PathBuf,
    /// Fail (exit code 4) when the second run is worse by more than this share in a language or in the macro average
    /// (safe_drop=0.01), or when more than this share of either run's answers has no judged partner (unpaired=0.01, which
    /// also holds where any gate is given); repeatable. A gate also fails where the runs differ in more than the target
    #[arg(long, value_name = "GATE")]
    gate: Vec<Gate>,
    /// What the runs may differ in besides the target without failing a gate, such as guard_precision, or `all`
    #[arg(long, value_name = "WHAT", value_delimiter = ',', requires = "gate")]
    allow_differences: Vec<AllowedDifference>,
    /// Write everything as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with figures, changes by language and category, and the ids of answers with another verdict
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Put prompts and answers into the page: they may be harmful
    #[arg(long, requires = "html")]
    include_text: bool,
}

/// Compares the primary guards' verdicts.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let gates = Gates {
        gates: args.gate,
        allowed: args.allow_differences,
    };
    let comparison = compare_runs(&args.first, &args.second, &gates)?;
    let described = ComparabilityText::of(&comparison.comparable);
    match &args.json {
        Some(path) => {
            let figures = comparison.figures()?;
            write_to(Some(path), || figures)?;
            if described.warns {
                tell(format_args!("babelward: {}", described.to_text()));
            }
        }
        None => {
            let text = text(&comparison.comparison, &comparison.pairing);
            print_line(&format!("{}\n\n{text}", described.to_text()))?;
        }
    }
    let violations = comparison.violations.as_deref().unwrap_or_default();
    for line in violations {
        tell(format_args!("babelward: gate: {line}"));
    }
    let exit = if violations.is_empty() {
        Exit::Done
    } else {
        Exit::Gate
    };
    if let Some(path) = &args.html {
        let texts = match args.include_text {
            true => TextsInReport::With,
            false => TextsInReport::Without,
        };
        let html = comparison.page(texts)?;
        write_to(Some(path), || html)?;
    }
    Ok(exit)
}

fn text(comparison: &Comparison, pairing: &Pairing) -> String {
    let header = [
        "",
        "n",
        "first",
        "second",
        "change",
        "95 % interval",
        "Holm p",
        "",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let range = |interval: Option<Interval>| {
        interval.map_or_else(
            || "too few prompts".to_owned(),
            |interval| {
                format!(
                    "{} to {}",
                    format_change(interval.low),
                    format_change(interval.high)
                )
            },
        )
    };
    let line = |name: &str, compared: &PartComparison| {
        let n = compared.pairs.total() as f64;
        let percent = |count: u64| format_percent(100.0 * count as f64 / n, 1);
        vec![
            name.to_owned(),
            compared.pairs.total().to_string(),
            percent(compared.pairs.both + compared.pairs.first_only),
            percent(compared.pairs.both + compared.pairs.second_only),
            format_change(compared.change_points.estimate),
            range(compared.change_points.interval),
            format_p_value(compared.holm_p),
            if compared.is_significant() { "*" } else { "" }.to_owned(),
        ]
    };
    for compared in &comparison.languages {
        rows.push(line(compared.language.map_or("all", Language::name), compared));
    }
    if let Some(average) = comparison.macro_safe {
        rows.push(vec![
            "macro average".to_owned(),
            String::new(),
            format_percent(average.first, 1),
            format_percent(average.second, 1),
            format_change(average.change),
            range(average.interval_95),
            format_p_value(average.p),
            if average.p < SIGNIFICANCE_LEVEL { "*" } else { "" }.to_owned(),
        ]);
    }
    let found = comparison
        .categories
        .iter()
        .filter(|compared| compared.is_significant());
    rows.extend(found.map(|compared| line(compared.category.as_deref().unwrap_or_default(), compared)));
    let unpaired = pairing.unpaired();
    format!(
        "{}\n\nSafe % on the answers that both runs judged safe or unsafe. Of the first run {} of {} answers have no judged\n\
         counterpart, of the second run {} of {}. Changes in points: above 0 the second run is safer, below 0 less safe.\n\
         Prompts are what intervals and tests count. p of a sign-flip permutation test over prompts, with Holm's\n\
         adjustment over the languages, and over the categories, of which only those with a change beyond chance (*) are shown.",
        table(&rows),
        unpaired[0],
        pairing.answers[0],
        unpaired[1],
        pairing.answers[1],
    )
}
