//! `demo`: everything in one command. It fetches a small model, serves it as target and guard, and runs the benchmark over gRPC
//! on the bundled prompts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{net::TcpListener, sync::oneshot};

use super::{
    Exit, Global,
    bench::drive_with,
    devices::{Machine as _, ThisMachine},
    output::tell,
    wire::available_threads,
};
use crate::{
    backend::Backend,
    bench::{
        DEMO_PROMPTS,
        dataset::Dataset,
        run::{NewRunFolder, OpenItems, Run, SittingOptions},
        selection::{RowLimit, Selection},
        settings::{Controversial, Prompting, RunKind, RunSettings, Sampling},
    },
    client::{Client, ClientOptions, PolicyChoice},
    config::DeviceBudget,
    engine::{Clock, Driver, EngineConfig, TenantWeights},
    fetch,
    guard::GuardKind,
    model::spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
    registry::{
        DeterminismPolicy, DeviceOptions, KvSize, LoadPolicy, MemoryOptions, MemoryOwner, ModelRole,
        ModelSpec, Registry, RegistryOptions, StartOptions,
    },
    rpc::{self, ServerOptions},
};

/// How long the run goes on trying while the server, which is in this process, gives no result.
const PATIENCE: Duration = Duration::from_secs(60);

/// Id of the model.
const MODEL: &str = "smollm2-135m-instruct";

/// Seed of the run; fixed, so that two demos give the same results.
const SEED: u64 = 20_241_219;

/// Size of the KV pool, in bytes: room for some 23,000 tokens. The system gives memory when a block is first written.
const KV_BYTES: u64 = 1 << 30;

/// Run the whole benchmark on a small model and the bundled prompts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Ask only the first rows of the prompt set, up to this many (5 prompts each)
    #[arg(long, value_name = "ROWS", conflicts_with = "full")]
    limit: Option<usize>,
    /// Ask all rows, with the paper's 200 new tokens
    #[arg(long)]
    full: bool,
    /// The device: cpu, cuda:N, candle:cpu, candle:metal or candle:cuda:N
    #[arg(long, default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Fetches and serves the model, runs the benchmark, and reports.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let machine = ThisMachine {
        threads: available_threads(),
    };
    let backend = machine.open(args.device)?;
    let out = NewRunFolder::create(args.out.as_deref(), "demo")?;
    let model = fetch::smollm2(global.progress())?;
    let (limit, max_new_tokens) = match (args.limit, args.full) {
        (_, true) => (RowLimit::All, 200),
        (Some(rows), false) => (RowLimit::First(rows), 48),
        (None, false) => (RowLimit::PerCategory(1), 48),
    };
    let settings = RunSettings {
        kind: RunKind::MechanismDemo,
        target: MODEL.to_owned(),
        prompting: Prompting::Template,
        guards: vec![MODEL.to_owned()],
        controversial: Controversial::default(),
        policy: PolicyChoice::Native,
        selection: Selection {
            languages: Vec::new(),
            categories: Vec::new(),
            limit,
        },
        sampling: Some(Sampling {
            max_new_tokens,
            temperature: 0.7,
            top_p: 0.95,
        }),
        preset: None,
        seeds: vec![SEED],
        shard: None,
        until: None,
        concurrency: 32,
    };
    if !global.quiet {
        tell(format_args!(
            "Mechanism demo: {MODEL} answers, and the same small chat model stands in for the guard.\n\
             Its verdicts are a mechanism demo and not a safety judgement."
        ));
    }
    let options = options(model, backend);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("the runtime could not be started")?;
    let exit = runtime.block_on(serve_and_run(options, settings, out, global));
    runtime.shutdown_background();
    exit
}

async fn serve_and_run(
    options: RegistryOptions,
    settings: RunSettings,
    out: NewRunFolder,
    global: &Global,
) -> anyhow::Result<Exit> {
    let registry = tokio::task::spawn_blocking(move || Registry::load(options));
    let registry = registry.await.context("loading stopped unexpectedly")??;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("no free loopback port")?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(rpc::serve(
        listener,
        Arc::clone(&registry),
        ServerOptions::default(),
        async {
            // Ready when the sender says stop, and also when the sender is gone.
            let _ = stopped.await;
        },
    ));
    if !global.quiet {
        tell(format_args!("serving on {address}"));
    }
    let client = Client::connect(&format!("http://{address}"), ClientOptions::default()).await?;
    let dataset = Dataset::parse("babelward demo prompts", DEMO_PROMPTS)?;
    let run = Run::begin(out.folder().clone(), &dataset, settings)?;
    let options = SittingOptions {
        retry_for: PATIENCE,
        open_items: OpenItems::Fail,
    };
    let exit = drive_with(&client, run, options, out.folder().path(), global).await;
    let _ = stop.send(());
    server.await.context("the server stopped unexpectedly")??;
    tokio::task::spawn_blocking(move || registry.shutdown()).await?;
    exit
}

fn options(path: PathBuf, backend: Arc<dyn Backend>) -> RegistryOptions {
    let device = backend.device().name;
    let (budget, memory_owner) = match backend.memory() {
        None => (u64::MAX, MemoryOwner::Host),
        Some(memory) => (DeviceBudget::AUTO.of(memory.free), MemoryOwner::Device),
    };
    let options = DeviceOptions {
        info: backend.device().clone(),
        memory: MemoryOptions {
            budget,
            kv: KvSize::Fixed(KV_BYTES),
        },
        memory_owner,
        engine: EngineConfig {
            name: format!("engine-{device}"),
            model_names: Vec::new(),
            max_batch_sequences: 32,
            max_batch_tokens: 512,
            queue_items: 1024,
            queue_tokens: 1 << 20,
            // There are no other callers, so only throughput counts.
            step_target: None,
            cost_prior: backend.device().cost_prior,
            execution: backend.device().execution,
            tenant_weights: TenantWeights::default(),
            clock: Clock::default(),
            driver: Driver::default(),
        },
    };
    RegistryOptions {
        models: vec![ModelSpec {
            id: MODEL.to_owned(),
            path,
            device: DeviceChoice::Only(device),
            base: None,
            roles: vec![ModelRole::Target, ModelRole::Guard],
            guard_kind: Some(GuardKind::ChatDemo),
            precision: None,
            load: LoadPolicy::Eager,
            pinned: true,
        }],
        max_context: None,
        // The same answers and verdicts on every machine.
        precision: PrecisionChoice::Only(Precision::Int8),
        backends: vec![backend],
        unusable: Vec::new(),
        start: StartOptions {
            default_target: None,
            default_guard: None,
            default_quality: None,
            policies: Vec::new(),
            determinism: DeterminismPolicy::Report,
            devices: vec![options],
        },
    }
}
