//! `report`: makes summary and report of a run folder again, from its results.

use std::path::PathBuf;

use super::{CommandError, Exit, Global, bench};
use crate::bench::{
    results::RunFolder,
    summary::{self, Summary},
};

/// Make a run's summary and report again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run folder
    dir: PathBuf,
    /// Write every figure as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Reads `results.jsonl`, writes `summary.json` and `report.html`.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let folder = RunFolder::open(&args.dir);
    let (info, records) = folder
        .load()
        .map_err(|e| CommandError::invalid_data(e.to_string()))?;
    let summary = Summary::new(info, &records);
    bench::write_report(&folder, &summary)?;
    match args.json {
        Some(path) if path.as_os_str() == "-" => println!("{}", serde_json::to_string_pretty(&summary)?),
        Some(path) => std::fs::write(&path, serde_json::to_string_pretty(&summary)? + "\n")?,
        None => {
            print!("{}", summary::table(&summary));
            println!("\nreport  {}", folder.file("report.html").display());
        }
    }
    Ok(Exit::Done)
}
