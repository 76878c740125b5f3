//! `models`: what is resident on a server, and the demo's model on this machine.

use anyhow::Context as _;
use serde_json::json;

use super::{
    Exit, Format, Global, json,
    output::{human_bytes, print_json, print_line, print_list, table},
};
use crate::{
    client::{ClientError, RpcError},
    fetch,
    proto::Model,
};

/// List, watch and fetch models.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the server's models
    Ls,
    /// Everything about one of them
    Info {
        /// Its id
        id: String,
    },
    /// Print each model, and again whenever its state changes
    Watch,
    /// Fetch SmolLM2-135M-Instruct (94 MiB, once) and print its path
    Fetch,
}

/// Lists, watches or fetches.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Ls => global.block_on(list(global)),
        Command::Info { id } => global.block_on(info(&id, global)),
        Command::Watch => global.block_on(watch(global)),
        Command::Fetch => fetch_model(global),
    }
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let models = global.connect().await?.list_models().await?;
    match global.format {
        Format::Human => {
            let titles = [
                "ID", "STATE", "CAN", "MODEL", "WINDOW", "MEMORY", "WAITING", "RUNNING",
            ];
            let mut rows = vec![titles.map(str::to_owned).to_vec()];
            rows.extend(models.iter().map(row));
            print_line(&table(&rows))?;
        }
        Format::Json | Format::Jsonl => {
            print_list(global.format, models.iter().map(json::model).collect())?;
        }
    }
    Ok(Exit::Done)
}

async fn info(id: &str, global: &Global) -> anyhow::Result<Exit> {
    let model = global.connect().await?.get_model(id).await?;
    let value = json::model(&model);
    match (global.format, value.as_object()) {
        (Format::Human, Some(fields)) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let rows: Vec<_> = fields
                .map(|(name, value)| {
                    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    vec![name.clone(), shown]
                })
                .collect();
            print_line(&table(&rows))?;
        }
        _ => print_json(global.format, &value)?,
    }
    Ok(Exit::Done)
}

async fn watch(global: &Global) -> anyhow::Result<Exit> {
    let mut changes = global.connect().await?.watch_models().await?;
    loop {
        let next = changes.message().await;
        let next = next.map_err(|status| ClientError::Rpc(RpcError::from_status(&status)))?;
        let Some(change) = next else { return Ok(Exit::Done) };
        let Some(model) = change.model else { continue };
        match global.format {
            Format::Human => print_line(&row(&model).join("  "))?,
            // A stream of changes is a stream of lines, whichever JSON was asked for.
            Format::Json | Format::Jsonl => print_json(Format::Jsonl, &json::model(&model))?,
        }
    }
}

fn row(model: &Model) -> Vec<String> {
    let short = |name: &'static str, prefix| name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase();
    let capabilities: Vec<_> = model
        .capabilities()
        .map(|can| short(can.as_str_name(), "CAPABILITY_"))
        .collect();
    vec![
        model.name.clone(),
        short(model.state().as_str_name(), "STATE_"),
        capabilities.join("+"),
        format!("{} {}", model.architecture, model.dtype),
        format!("{} tokens", model.context_tokens),
        human_bytes(model.resident_bytes),
        model.queue_depth.to_string(),
        model.in_flight.to_string(),
    ]
}

fn fetch_model(global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let path = fetch::smollm2(global.progress())?;
    let shown = path.to_str().context("the cache's path is not UTF-8")?;
    match global.format {
        Format::Human => print_line(shown)?,
        Format::Json | Format::Jsonl => print_json(global.format, &json!({"path": shown}))?,
    }
    Ok(Exit::Done)
}
