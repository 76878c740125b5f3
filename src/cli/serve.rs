//! `serve`: runs the service until it is asked to stop.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    process,
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use super::{CommandError, Exit, Global, banner, collector, config_args::ConfigArgs, wire};
use crate::{
    config::{Config, LogFormat},
    http,
    registry::Registry,
    reload::keep_current,
    rpc,
    telemetry::{
        AccessLog, LogStyle, MetricsOptions, Refresh, Tracer, init_server_logs, serve_metrics, start_traces,
    },
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
    let calls = match config.telemetry.access_log {
        true => AccessLog::Written,
        false => AccessLog::LeftOut,
    };
    init_server_logs(style, &config.telemetry.log_level, calls);
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
    let hang_ups = hang_ups(config).context("the signal to read files again cannot be handled")?;
    let listen = config.server.listen;
    let listener = bind_to(listen, "--listen").await?;
    let address = listener.local_addr()?;
    let http_listener = bind(config.server.http_listen, "--http-listen").await?;
    let http = http_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let admin_listener = bind(config.server.admin_listen, "--admin-listen").await?;
    let admin = admin_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let protection = wire::protection(config)?;
    let collector = collector::collector(config)?;
    let health = watch::Sender::default();
    let refresh = Refresh::default();
    let metrics_options = MetricsOptions {
        tls: protection.security.tls.clone(),
        readers: protection.metrics_readers.clone(),
        health: health.subscribe(),
        refresh: refresh.clone(),
    };
    let metrics = config.server.metrics_listen;
    let metrics = metrics
        .map(|listen| serve_metrics(listen, metrics_options))
        .transpose()?;
    let (tracer, export) = match collector.map(start_traces).transpose()? {
        Some((tracer, export)) => (tracer, Some(export)),
        None => (Tracer::off(), None),
    };
    if let Some(hang_ups) = hang_ups {
        let (hang_up, looks) = mpsc::channel(1);
        tokio::spawn(keep_current(
            protection.files.clone(),
            config.security.reload_interval,
            looks,
        ));
        tokio::spawn(on_hang_up(hang_ups, hang_up));
    }

    let for_devices = config.clone();
    let preparing = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let options = wire::registry_options(&for_devices)?;
        Ok((Registry::prepare(options.registry)?, options.search))
    });
    let (registry, search) = tokio::select! {
        prepared = preparing => prepared.context("reading the models stopped unexpectedly")??,
        exit = signals.next() => return Ok(exit),
    };
    let counted = Arc::clone(&registry);
    refresh.by(move || counted.record_totals());
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        // Ready when the sender says stop, and also when the sender is gone.
        let _ = stopped.await;
    };
    let is_tls = protection.security.tls.is_some();
    let has_auth = config.security.credentials.is_some();
    let server = rpc::serve_on(
        rpc::Listeners {
            calls: listener,
            admin: admin_listener,
            http: http_listener
                .map(|listener| http_port(listener, config))
                .transpose()?,
            security: protection.security,
            health,
            tracer,
        },
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
        http,
        admin,
        metrics,
        is_tls,
        has_auth,
        registry: &registry,
        search: search.as_ref(),
        exposed: config.server.is_exposed(),
        traces: config
            .telemetry
            .traces
            .as_ref()
            .map(|traces| traces.endpoint.as_str()),
    };
    match config.telemetry.log_format {
        LogFormat::Json => banner.log(),
        LogFormat::Human if global.quiet => {}
        // A server whose log is on a full disk serves all the same.
        LogFormat::Human => drop(write!(io::stderr().lock(), "{banner}")),
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
    if let Some(export) = export {
        export.shutdown().await;
    }
    let ended = tokio::task::spawn_blocking(move || registry.shutdown()).await?;
    if !ended {
        tracing::warn!("the engine did not end in time");
    }
    Ok(Exit::Done)
}

/// A listener of this flag, if its address is set.
async fn bind(listen: Option<SocketAddr>, flag: &str) -> anyhow::Result<Option<TcpListener>> {
    match listen {
        Some(listen) => bind_to(listen, flag).await.map(Some),
        None => Ok(None),
    }
}

async fn bind_to(listen: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).await;
    listener.with_context(|| format!("cannot listen on {listen}; choose another {flag}"))
}

fn http_port(listener: TcpListener, config: &Config) -> anyhow::Result<rpc::HttpListener> {
    let router =
        http::router(config.doors.clone()).context("the descriptors of the services cannot be read")?;
    Ok(rpc::HttpListener { listener, router })
}

/// SIGHUP, where there are files to read again. It is caught before they are read for the first time: whoever replaces one
/// and says so must not end the server. A server without such files leaves the signal to the system, so that closing its
/// terminal ends it.
fn hang_ups(config: &Config) -> io::Result<Option<Signal>> {
    let security = &config.security;
    let has_files = security.tls.is_some() || security.credentials.is_some();
    has_files.then(|| signal(SignalKind::hangup())).transpose()
}

/// Asks for a look at certificates, keys and token keys whenever the process gets SIGHUP.
async fn on_hang_up(mut signals: Signal, ask: mpsc::Sender<()>) {
    while signals.recv().await.is_some() {
        // If there is one to come already, it sees what has changed.
        let _ = ask.try_send(());
    }
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
