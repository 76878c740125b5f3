//! `config`: what the configuration is, where each value came from, and what is wrong with it.

use serde_json::json;

use super::{
    Exit, Format, Global,
    config_args::ConfigArgs,
    output::{counted, print_json, print_line, print_list, table},
};
use crate::config::{Loaded, Origin};

/// Show or check the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print every value and where it came from
    Show(ConfigArgs),
    /// List everything that is wrong
    Check(ConfigArgs),
}

/// Runs the subcommand.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Show(config) => show(&config.load(global), global.format),
        Command::Check(config) => check(&config.load(global), global.format),
    }
}

/// Prints every value, also of a configuration that is not valid: that is when people look at it.
fn show(loaded: &Loaded, format: Format) -> anyhow::Result<Exit> {
    match format {
        Format::Human => {
            let rows: Vec<_> = loaded
                .entries
                .iter()
                .map(|entry| {
                    let value = entry.value.clone().unwrap_or_else(|| "(not set)".to_owned());
                    vec![entry.key.clone(), value, entry.origin.to_string()]
                })
                .collect();
            print_line(&table(&rows))?;
        }
        Format::Json | Format::Jsonl => {
            let entries = loaded.entries.iter().map(|entry| {
                let source = match entry.origin {
                    Origin::Default => "default",
                    Origin::File(_) => "file",
                    Origin::Env(_) => "env",
                    Origin::Flag(_) => "flag",
                };
                let origin = entry.origin.to_string();
                json!({"key": entry.key, "value": entry.value, "source": source, "origin": origin})
            });
            print_list(format, entries.collect())?;
        }
    }
    match &loaded.config {
        Ok(_) => Ok(Exit::Done),
        Err(error) => Err(error.clone().into()),
    }
}

fn check(loaded: &Loaded, format: Format) -> anyhow::Result<Exit> {
    let file = loaded.file.as_ref().map(|path| path.display().to_string());
    let config = match &loaded.config {
        Ok(config) => config,
        Err(error) if format == Format::Human => return Err(error.clone().into()),
        Err(error) => {
            let problems = error.problems.iter().map(|problem| {
                let origin = problem.origin.as_ref().map(Origin::to_string);
                json!({"key": problem.key, "origin": origin, "reason": problem.reason, "fix": problem.fix})
            });
            let problems: Vec<_> = problems.collect();
            print_json(
                format,
                &json!({"valid": false, "file": file, "problems": problems}),
            )?;
            return Ok(Exit::of_error(&error.clone().into()));
        }
    };
    if format == Format::Human {
        let read = file.map_or_else(|| "no file".to_owned(), |file| format!("file {file}"));
        let models = counted(config.models.len(), "model", "models");
        print_line(&format!("the configuration is valid ({read}, {models})"))?;
    } else {
        let models: Vec<_> = config.models.iter().map(|model| model.id.as_str()).collect();
        print_json(format, &json!({"valid": true, "file": file, "models": models}))?;
    }
    Ok(Exit::Done)
}
