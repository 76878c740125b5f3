//! `models`: what is in a server's memory and what is to be there, and the demo's model on this machine.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::{
    Exit, Format, Global,
    global::time,
    json,
    output::{human_bytes, print_json, print_line, print_list, table},
};
use crate::{
    client::{Client, ClientError, RpcError},
    fetch,
    proto::{LoadModelRequest, Model, UnloadModelRequest},
};

/// List, watch, load, unload and fetch models.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the server's models
    #[command(visible_alias = "list")]
    Ls,
    /// Everything about one of them
    Info {
        /// Its id
        id: String,
    },
    /// Print each model, and again whenever its state changes
    Watch,
    /// Load a configured model (the server must allow it: --allow-admin)
    Load {
        /// Its id
        id: String,
        /// Never evict it to make room for another
        #[arg(long)]
        pin: bool,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
    },
    /// Unload a model; open work may finish before
    Unload {
        /// Its id
        id: String,
        /// How long open work may go on [default: 30s]
        #[arg(long, value_name = "TIME", value_parser = time)]
        drain_timeout: Option<Duration>,
    },
    /// Say what loading a model would take, and whether it fits
    Estimate {
        /// Its id
        id: String,
    },
    /// Keep a model from being evicted
    Pin {
        /// Its id
        id: String,
    },
    /// Let a model be evicted again
    Unpin {
        /// Its id
        id: String,
    },
    /// Fetch SmolLM2-135M-Instruct (94 MiB, once) and print its path
    Fetch,
}

/// Lists, watches or fetches.
pub fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Ls => global.block_on(list(global)),
        Command::Info { id } => global.block_on(info(&id, global)),
        Command::Watch => global.block_on(watch(global)),
        Command::Load { id, pin, no_wait } => {
            let request = LoadModelRequest {
                name: id,
                no_wait,
                pinned: pin.then_some(true),
            };
            global.block_on(changed(global, async |client| client.load_model(request).await))
        }
        Command::Unload { id, drain_timeout } => {
            let request = UnloadModelRequest {
                name: id,
                drain_timeout: drain_timeout.and_then(|limit| limit.try_into().ok()),
            };
            global.block_on(changed(global, async |client| client.unload_model(request).await))
        }
        Command::Pin { id } => {
            global.block_on(changed(global, async |client| client.pin_model(&id, true).await))
        }
        Command::Unpin { id } => {
            global.block_on(changed(global, async |client| client.pin_model(&id, false).await))
        }
        Command::Estimate { id } => global.block_on(estimate(&id, global)),
        Command::Fetch => fetch_model(global),
    }
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let models = global.connect().await?.list_models().await?;
    match global.format {
        Format::Human => {
            let titles = [
                "ID",
                "STATE",
                "CAN",
                "LOAD",
                "MODEL",
                "WINDOW",
                "MEMORY",
                "CACHE USED",
                "WAITING",
                "RUNNING",
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

/// Does something to a model, and prints what has become of it.
async fn changed(
    global: &Global,
    change: impl AsyncFnOnce(Client) -> Result<Model, ClientError>,
) -> anyhow::Result<Exit> {
    let model = change(global.connect().await?).await?;
    match global.format {
        Format::Human => print_line(&row(&model).join("  "))?,
        Format::Json | Format::Jsonl => print_json(global.format, &json::model(&model))?,
    }
    Ok(Exit::Done)
}

async fn estimate(id: &str, global: &Global) -> anyhow::Result<Exit> {
    let response = global.connect().await?.estimate_model(id).await?;
    if global.format != Format::Human {
        print_json(global.format, &json::estimate(&response))?;
        return Ok(Exit::Done);
    }
    let verdict = response.verdict().as_str_name();
    let verdict = verdict
        .strip_prefix("VERDICT_")
        .unwrap_or(verdict)
        .to_ascii_lowercase();
    let mut rows = vec![
        vec!["verdict".to_owned(), verdict.replace('_', " ")],
        vec!["window".to_owned(), format!("{} tokens", response.context_tokens)],
    ];
    for (name, bytes) in [
        ("weights", response.weight_bytes),
        ("buffers", response.scratch_bytes),
        ("key-value cache, least", response.kv_minimum_bytes),
        ("key-value cache, proposed", response.kv_proposed_bytes),
        ("free", response.available_bytes),
        ("budget", response.budget_bytes),
    ] {
        rows.push(vec![name.to_owned(), human_bytes(bytes)]);
    }
    for (name, models) in [
        ("would evict", response.would_evict),
        ("could unload", response.could_unload),
    ] {
        if !models.is_empty() {
            rows.push(vec![name.to_owned(), models.join(", ")]);
        }
    }
    print_line(&table(&rows))?;
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

/// The model, or what an adapter is.
fn what(model: &Model) -> String {
    match &model.adapter {
        None => format!("{} {}", model.architecture, model.dtype),
        Some(adapter) if adapter.rank == 0 => format!("adapter of {}", adapter.base),
        Some(adapter) => format!("adapter of {}, rank {}", adapter.base, adapter.rank),
    }
}

fn row(model: &Model) -> Vec<String> {
    // An adapter's own: what it shares stands beside its base.
    let memory = match &model.adapter {
        None => human_bytes(model.resident_bytes),
        Some(adapter) => format!("+{}", human_bytes(adapter.resident_bytes)),
    };
    let short = |name: &'static str, prefix| name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase();
    let capabilities: Vec<_> = model
        .capabilities()
        .map(|can| short(can.as_str_name(), "CAPABILITY_"))
        .collect();
    let mut load = short(model.load().as_str_name(), "LOAD_POLICY_");
    if model.pinned {
        load.push_str(", pinned");
    }
    // Nothing is known of one that was never read.
    let when = |known: bool, shown: String| if known { shown } else { "-".to_owned() };
    let resident = model.resident_bytes > 0;
    vec![
        model.name.clone(),
        short(model.state().as_str_name(), "STATE_"),
        capabilities.join("+"),
        load,
        when(resident || model.adapter.is_some(), what(model)),
        when(resident, format!("{} tokens", model.context_tokens)),
        when(resident, memory),
        when(resident, human_bytes(model.kv_touched_bytes)),
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
