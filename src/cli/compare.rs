//! `compare`: two runs on the same prompts, and a gate for what must not get worse.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    CommandError, Exit, Global,
    output::{print_line, table},
    report::{load, write_to},
};
use crate::bench::{
    report::runs::{Side, TwoRuns, unlike_guards},
    scores::{
        compare::{Compared, Comparison, Flip, Gate, compare, flips},
        gaps::LEVEL,
        shown_p,
    },
    statistics::Bootstrap,
    taxonomy::Language,
};

/// Compare two runs on the same prompts, answer by answer.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run to compare with
    first: PathBuf,
    /// The run that may be better or worse
    second: PathBuf,
    /// Fail (exit code 4) when the second run is worse by more than this share in a language or in the macro
    /// average, such as safe_drop=0.01
    #[arg(long, value_name = "GATE")]
    gate: Vec<Gate>,
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

/// What `--json` writes.
#[derive(Serialize)]
struct Figures<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    flips: &'a [Flip],
}

/// Compares the primary guards' verdicts.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let (first_folder, first_info, first) = load(&args.first)?;
    let (second_folder, second_info, second) = load(&args.second)?;
    let comparison = compare(&first, &second, Bootstrap::default());
    let flips = flips(&first, &second);
    let json = || {
        let figures = Figures {
            comparison: &comparison,
            flips: &flips,
        };
        serde_json::to_string_pretty(&figures).unwrap_or_default() + "\n"
    };
    write_to(args.json.as_deref(), json)?;
    if args.json.is_none() {
        print_line(&text(&comparison))?;
    }
    let sides = [Side::of(&first_info), Side::of(&second_info)];
    if let Some(unlike) = unlike_guards(&sides) {
        eprintln!("babelward: {unlike}");
    }
    let gates = args.gate.iter();
    let broken: Vec<String> = gates.flat_map(|gate| gate.broken(&comparison)).collect();
    for line in &broken {
        eprintln!("babelward: gate: {line}");
    }
    let exit = if broken.is_empty() { Exit::Done } else { Exit::Gate };
    if let Some(path) = &args.html {
        let broken = (!args.gate.is_empty()).then_some(broken);
        let mut page = TwoRuns::new(sides, comparison, flips, broken);
        if args.include_text {
            page.add_texts([&first_folder, &second_folder])
                .map_err(|error| CommandError::invalid_data(error.to_string()))?;
        }
        let html = page.html()?;
        write_to(Some(path), || html)?;
    }
    Ok(exit)
}

fn text(comparison: &Comparison) -> String {
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
    let line = |name: &str, compared: &Compared| {
        let n = compared.pairs.total() as f64;
        let percent = |count: u64| format!("{:.1}", 100.0 * count as f64 / n);
        let interval = compared.change_points.interval;
        let interval = interval.map(|i| format!("{:+.1} to {:+.1}", i.low, i.high));
        vec![
            name.to_owned(),
            compared.pairs.total().to_string(),
            percent(compared.pairs.both + compared.pairs.first_only),
            percent(compared.pairs.both + compared.pairs.second_only),
            format!("{:+.1}", compared.change_points.estimate),
            interval.unwrap_or_else(|| "too few prompts".to_owned()),
            shown_p(compared.holm_p),
            if compared.is_found() { "*" } else { "" }.to_owned(),
        ]
    };
    for compared in &comparison.languages {
        rows.push(line(compared.language.map_or("all", Language::name), compared));
    }
    if let Some(average) = comparison.macro_safe {
        let interval = average
            .interval_95
            .map(|i| format!("{:+.1} to {:+.1}", i.low, i.high));
        rows.push(vec![
            "macro average".to_owned(),
            String::new(),
            format!("{:.1}", average.first),
            format!("{:.1}", average.second),
            format!("{:+.1}", average.change),
            interval.unwrap_or_else(|| "too few prompts".to_owned()),
            shown_p(average.p),
            if average.p < LEVEL { "*" } else { "" }.to_owned(),
        ]);
    }
    let found = comparison
        .categories
        .iter()
        .filter(|compared| compared.is_found());
    rows.extend(found.map(|compared| line(compared.category.as_deref().unwrap_or_default(), compared)));
    format!(
        "{}\n\nSafe % on the answers that both runs judged safe or unsafe; {} and {} answers have no partner. Changes in points.\n\
         Prompts are what intervals and tests count. p under random signs of the prompts' differences, with Holm's adjustment\n\
         over the languages, and over the categories, of which only those with a change beyond chance (*) are shown.",
        table(&rows),
        comparison.unpaired[0],
        comparison.unpaired[1],
    )
}
