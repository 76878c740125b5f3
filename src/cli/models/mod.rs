//! `models`: a server's models, which of them are in memory, and files of models on this machine.

mod fetch;
mod show;

use std::time::Duration;

use self::fetch::FetchArgs;
pub(in crate::cli) use self::show::state;
use super::{
    Connection, Exit, Format, Global,
    arguments::time,
    json,
    output::{print_json, print_line, print_list, table},
};
use crate::{
    client::{Client, ClientError, RpcError},
    proto::{EstimateModelRequest, LoadModelRequest, Model, Precision, UnloadModelRequest},
};

/// List, watch, load, unload and fetch models.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the server's models
    #[command(visible_alias = "list")]
    Ls(Connection),
    /// Show everything about one model
    Info(ModelRef),
    /// Print each model, and again whenever its state changes
    Watch(Connection),
    /// Load a configured model (the server must allow it: --allow-admin)
    Load {
        #[command(flatten)]
        one: ModelRef,
        /// Never evict it to make room for another
        #[arg(long)]
        pin: bool,
        /// Do not wait until it is ready
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        how: PrecisionArg,
    },
    /// Unload a model; open work may finish before (the server must allow it)
    Unload {
        #[command(flatten)]
        one: ModelRef,
        /// How long open work may go on [default: 30s]
        #[arg(long, value_name = "TIME", value_parser = time)]
        drain_timeout: Option<Duration>,
    },
    /// Show how much memory loading a model would take, and whether it fits (the server must allow it)
    Estimate {
        #[command(flatten)]
        one: ModelRef,
        #[command(flatten)]
        how: PrecisionArg,
    },
    /// Keep a model from being evicted (the server must allow it)
    Pin(ModelRef),
    /// Let a model be evicted again (the server must allow it)
    Unpin(ModelRef),
    /// Fetch a model from a Hugging Face hub, or without a name SmolLM2-135M-Instruct (94 MiB), or with --sha256 a file of yours,
    /// unless it is there, and print its path
    Fetch(FetchArgs),
}

/// Which model of which server.
#[derive(Debug, clap::Args)]
struct ModelRef {
    /// The model's id, as `models ls` shows it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    connection: Connection,
}

/// In which precision a model computes.
#[derive(Debug, clap::Args)]
struct PrecisionArg {
    /// Precision of the computation: mixed, int8, bf16 or f32 [default: as it is configured]
    #[arg(long)]
    precision: Option<crate::model::spec::Precision>,
}

impl PrecisionArg {
    fn to_proto(&self) -> Precision {
        self.precision.map_or(Precision::Unspecified, Precision::from)
    }
}

impl Args {
    /// The connection flags of the subcommands that call a server.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.command {
            Command::Ls(connection) | Command::Watch(connection) => Some(connection),
            Command::Load { one, .. } | Command::Unload { one, .. } | Command::Estimate { one, .. } => {
                Some(&one.connection)
            }
            Command::Info(one) | Command::Pin(one) | Command::Unpin(one) => Some(&one.connection),
            Command::Fetch(_) => None,
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Ls(_) => global.block_on(list(global)),
        Command::Info(one) => global.block_on(info(&one.id, global)),
        Command::Watch(_) => global.block_on(watch(global)),
        Command::Load {
            one,
            pin,
            no_wait,
            how,
        } => {
            let request = LoadModelRequest {
                name: one.id,
                no_wait,
                pinned: pin.then_some(true),
                precision: how.to_proto().into(),
            };
            global.block_on(change_model(global, async |client| {
                client.load_model(request).await
            }))
        }
        Command::Unload { one, drain_timeout } => {
            let request = UnloadModelRequest {
                name: one.id,
                drain_timeout: drain_timeout.and_then(|limit| limit.try_into().ok()),
            };
            global.block_on(change_model(global, async |client| {
                client.unload_model(request).await
            }))
        }
        Command::Pin(one) => global.block_on(change_model(global, async |client| {
            client.pin_model(&one.id, true).await
        })),
        Command::Unpin(one) => global.block_on(change_model(global, async |client| {
            client.pin_model(&one.id, false).await
        })),
        Command::Estimate { one, how } => {
            let request = EstimateModelRequest {
                name: one.id,
                precision: how.to_proto().into(),
            };
            global.block_on(estimate(request, global))
        }
        Command::Fetch(args) => fetch::run(args, global),
    }
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let models = global.connect().await?.list_models().await?;
    match global.format {
        Format::Human => {
            if models.is_empty() {
                print_line("the server has no models")?;
            } else {
                print_line(&show::list(&models))?;
            }
        }
        Format::Json | Format::Jsonl => {
            let models: anyhow::Result<_> = models.iter().map(json::message).collect();
            print_list(global.format, models?)?;
        }
    }
    Ok(Exit::Done)
}

/// Changes a model, and prints its new state.
async fn change_model(
    global: &Global,
    change: impl AsyncFnOnce(Client) -> Result<Model, ClientError>,
) -> anyhow::Result<Exit> {
    let model = change(global.connect().await?).await?;
    match global.format {
        Format::Human => print_line(&show::list(&[model]))?,
        Format::Json | Format::Jsonl => print_json(global.format, &json::message(&model)?)?,
    }
    Ok(Exit::Done)
}

async fn estimate(request: EstimateModelRequest, global: &Global) -> anyhow::Result<Exit> {
    let response = global.connect().await?.estimate_model(request).await?;
    if global.format != Format::Human {
        print_json(global.format, &json::message(&response)?)?;
        return Ok(Exit::Done);
    }
    print_line(&table(&show::estimate(response)))?;
    Ok(Exit::Done)
}

async fn info(id: &str, global: &Global) -> anyhow::Result<Exit> {
    let model = global.connect().await?.get_model(id).await?;
    match global.format {
        Format::Human => print_line(&table(&show::details(&model)))?,
        Format::Json | Format::Jsonl => print_json(global.format, &json::message(&model)?)?,
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
            Format::Human => print_line(&show::change(&model))?,
            // Changes have no end, so each is printed as one line, also with --format json.
            Format::Json | Format::Jsonl => print_json(Format::Jsonl, &json::message(&model)?)?,
        }
    }
}
