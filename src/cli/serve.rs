//! `serve`: runs the service until it is asked to stop.

use std::{io, process, sync::Arc};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::{CommandError, Exit, Global, banner, config_args::ConfigArgs, wire};
use crate::{
    config::{Config, LogFormat},
    registry::Registry,
    rpc,
    telemetry::{LogStyle, init_logs, serve_metrics},
};

/// Serve models over gRPC.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Loads the models, serves them, and drains open work at the end.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let config = args.config.load(global).config?;
    if config.models.is_empty() {
        return Err(CommandError::usage(
            "no model is configured: say --model ID=PATH (and --guard ID to judge with it), or write a \
             [models.ID] table; `babelward models fetch` gets a small model and prints its path",
        )
        .into());
    }
    let style = match config.telemetry.log_format {
        LogFormat::Human => global.log_style(),
        LogFormat::Json => LogStyle::Json,
    };
    init_logs(style, &config.telemetry.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime could not be started")?;
    let served = runtime.block_on(serve(&config, global));
    // A model that is still loading cannot be stopped, and nobody waits for it.
    runtime.shutdown_background();
    served
}

async fn serve(config: &Config, global: &Global) -> anyhow::Result<Exit> {
    rpc::raise_descriptor_limit();
    let mut signals = StopSignals::new().context("the signals to stop cannot be handled")?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}; choose another --listen"))?;
    let address = listener.local_addr()?;
    let metrics = config.server.metrics_listen.map(serve_metrics).transpose()?;

    let for_devices = config.clone();
    let preparing = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let options = wire::registry_options(&for_devices)?;
        Ok((Registry::prepare(options.registry)?, options.search))
    });
    let (registry, search) = tokio::select! {
        prepared = preparing => prepared.context("reading the models stopped unexpectedly")??,
        exit = signals.next() => return Ok(exit),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        // Ready when the sender says stop, and also when the sender is gone.
        let _ = stopped.await;
    };
    let server = rpc::serve(
        listener,
        Arc::clone(&registry),
        wire::server_options(config),
        shutdown,
    );
    // Serving begins before the models are loaded, so that clients can see how far loading is.
    let mut server = tokio::spawn(server);

    tracing::info!(models = config.models.len(), %address, "loading");
    let loading = Arc::clone(&registry);
    let loading = tokio::task::spawn_blocking(move || loading.load_eager());
    tokio::select! {
        loaded = loading => loaded.context("loading stopped unexpectedly")??,
        exit = signals.next() => return Ok(exit),
        ended = &mut server => return ended?.map(|()| Exit::Failure).map_err(Into::into),
    }
    let banner = banner::Banner {
        address,
        metrics,
        registry: &registry,
        search: search.as_ref(),
        exposed: !listen.ip().is_loopback(),
    };
    match config.telemetry.log_format {
        LogFormat::Json => banner.log(),
        LogFormat::Human if global.quiet => {}
        LogFormat::Human => eprint!("{banner}"),
    }

    // The first signal begins a drain, the second ends the process.
    let stopping = tokio::spawn(async move {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
        tracing::warn!("a second signal arrived: ending without waiting for open work");
        process::exit(i32::from(Exit::Interrupted.code()));
    });
    server.await.context("the server stopped unexpectedly")??;
    stopping.abort();
    let ended = tokio::task::spawn_blocking(move || registry.shutdown()).await?;
    if !ended {
        tracing::warn!("the engine did not end in time");
    }
    Ok(Exit::Done)
}

/// SIGINT and SIGTERM.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal, and returns the exit code for when there is nothing to drain. Service managers end services
    /// with SIGTERM, so that is no failure.
    async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Done,
        }
    }
}
