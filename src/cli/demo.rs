//! `demo`: everything in one command. It fetches a small model and, where a hub has it, a small guard, serves both, and runs the
//! benchmark over gRPC on the bundled prompts. Where no hub answers, the small model stands in for the guard.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

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
    errors::with_causes,
    fetch::{self, HubModel},
    guard::GuardKind,
    memory::{self, human_bytes},
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

/// The guard that is fetched where a hub has it.
const GUARD: HubModel = HubModel::Qwen3GuardGen06B;

/// Memory that is needed beside the guard's files, in bytes: the target, buffers, and the part of the KV pools that a run of this
/// size touches.
const BESIDE_GUARD_BYTES: u64 = 1 << 30;

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DemoGuard {
    /// The target, which is no guard and stands in for one.
    StandIn,
    /// [`GUARD`].
    Guard,
}

impl DemoGuard {
    const ALL: [Self; 2] = [Self::Guard, Self::StandIn];

    fn name(self) -> &'static str {
        match self {
            Self::StandIn => GuardKind::ChatDemo.name(),
            Self::Guard => GUARD.name(),
        }
    }
}

impl FromStr for DemoGuard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|guard| guard.name() == text);
        found.ok_or_else(|| {
            format!(
                "the demo's guards are {}",
                Self::ALL.map(Self::name).join(" and ")
            )
        })
    }
}

/// Run the whole benchmark on a small model and the bundled prompts.
///
/// The answers are judged by Qwen3Guard-Gen 0.6B, which is fetched once (1.2 GB) from a Hugging Face hub. Where none answers, the
/// small model judges itself, and its verdicts mean nothing.
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
    /// The guard: qwen3guard-gen-0.6b, or chat-demo, which is the small model itself [default: the first where a hub has it]
    #[arg(long, value_name = "GUARD")]
    guard_model: Option<DemoGuard>,
    /// Folder for the results; must not hold anything yet
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Fetches and serves the models, runs the benchmark, and reports.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let machine = ThisMachine {
        threads: available_threads(),
    };
    let backend = machine.open(args.device)?;
    let out = NewRunFolder::create(args.out.as_deref(), "demo")?;
    let model = fetch::smollm2(global.progress())?;
    let guard = guard(args.guard_model, backend.as_ref(), global)?;
    let (limit, max_new_tokens) = match (args.limit, args.full) {
        (_, true) => (RowLimit::All, 200),
        (Some(rows), false) => (RowLimit::First(rows), 48),
        (None, false) => (RowLimit::PerCategory(1), 48),
    };
    let settings = RunSettings {
        kind: match guard {
            Some(_) => RunKind::Demo,
            None => RunKind::MechanismDemo,
        },
        target: MODEL.to_owned(),
        prompting: Prompting::Template,
        guards: vec![guard.as_ref().map_or(MODEL, |_| GUARD.name()).to_owned()],
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
        match guard {
            Some(_) => tell(format_args!("Demo: {MODEL} answers, and {GUARD} judges.")),
            None => tell(format_args!(
                "Mechanism demo: {MODEL} answers, and the same small chat model stands in for the guard.\n\
                 Its verdicts are a mechanism demo and not a safety judgement."
            )),
        }
    }
    let options = options(model, guard, backend);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.context("the runtime could not be started")?;
    let exit = runtime.block_on(serve_and_run(options, settings, out, global));
    runtime.shutdown_background();
    exit
}

/// The folder of the guard, which is fetched if it is not there; `None` where the target stands in. If nobody has asked for one of
/// the two, what is in the guard's way is told in a line.
fn guard(
    asked: Option<DemoGuard>,
    backend: &dyn Backend,
    global: &Global,
) -> anyhow::Result<Option<PathBuf>> {
    match asked {
        Some(DemoGuard::StandIn) => Ok(None),
        Some(DemoGuard::Guard) => fetch_guard(backend, global).map(Some),
        None => match fetch_guard(backend, global) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) => {
                if !global.quiet {
                    tell(format_args!(
                        "{GUARD} does not judge this time: {}",
                        with_causes(error.as_ref())
                    ));
                }
                Ok(None)
            }
        },
    }
}

/// Fetches the guard if it is not there, and there is memory for it.
fn fetch_guard(backend: &dyn Backend, global: &Global) -> anyhow::Result<PathBuf> {
    let offer = GUARD.offer()?;
    // A device's own memory has the KV pools of both models as a whole, and only a part of it is for models; the system provides
    // the host's memory as it is touched.
    let (free, pools) = match backend.memory() {
        Some(memory) => (Some(DeviceBudget::AUTO.of(memory.free)), 2 * KV_BYTES),
        None => (memory::available().map(|available| available.bytes), 0),
    };
    let needed = offer
        .bytes
        .saturating_add(BESIDE_GUARD_BYTES)
        .saturating_add(pools);
    if let Some(free) = free.filter(|free| *free < needed) {
        anyhow::bail!(
            "{} of memory are free, and it needs {}",
            human_bytes(free),
            human_bytes(needed)
        );
    }
    if offer.missing_bytes > 0 && !global.quiet {
        tell(format_args!(
            "fetching {GUARD} once: {} (--guard-model {} does without)",
            human_bytes(offer.missing_bytes),
            DemoGuard::StandIn.name()
        ));
    }
    Ok(GUARD.fetch(global.progress())?)
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

fn options(target: PathBuf, guard: Option<PathBuf>, backend: Arc<dyn Backend>) -> RegistryOptions {
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
    let spec = |id: &str, path: PathBuf, roles: Vec<ModelRole>, guard_kind: Option<GuardKind>| ModelSpec {
        id: id.to_owned(),
        path,
        device: DeviceChoice::Only(device),
        base: None,
        roles,
        guard_kind,
        precision: None,
        load: LoadPolicy::Eager,
        pinned: true,
    };
    let models = match guard {
        None => {
            let both = vec![ModelRole::Target, ModelRole::Guard];
            vec![spec(MODEL, target, both, Some(GuardKind::ChatDemo))]
        }
        Some(folder) => {
            let kind = Some(GuardKind::Qwen3GuardGen);
            vec![
                spec(MODEL, target, vec![ModelRole::Target], None),
                spec(GUARD.name(), folder, vec![ModelRole::Guard], kind),
            ]
        }
    };
    RegistryOptions {
        models,
        max_context: None,
        // The same answers and verdicts on every machine.
        precision: PrecisionChoice::Only(Precision::Int8),
        backends: vec![backend],
        unusable: Vec::new(),
        start: StartOptions {
            default_target: None,
            default_guard: None,
            default_quality: None,
            remotes: Vec::new(),
            policies: Vec::new(),
            determinism: DeterminismPolicy::Report,
            devices: vec![options],
        },
    }
}
