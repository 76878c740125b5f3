//! Serves all services on a listener, until the server is asked to stop and has drained.

use std::{future::Future, num::NonZero, sync::Arc, time::Duration};

use axum::Router;
use futures::future::{OptionFuture, join};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Layer as _;

use super::{
    admin::AdminApi,
    call_layer::{self, CallLayer},
    classify::SafetyApi,
    element_counts::ElementCounts,
    entrance::{Access, AdminCalls, Entrance},
    gen_ai,
    generate::GenerationApi,
    limits::ServerOptions,
    models::ModelApi,
    quality::QualityApi,
    record::InFlightCount,
    score::ScoringApi,
    sequence::Shared,
    shadow_log::ShadowLog,
    text_work::TextWork,
    transport::{
        Connections, HttpPort, Incoming, RequestBudget, Shutdown, TenantUses, Transport, connection_limit,
        listen, serve_http1, serve_http2,
    },
    verdict_counts::VerdictCounts,
};
use crate::{
    auth::Quotas,
    proto::{
        FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer,
        generation_service_server::GenerationServiceServer, model_service_server::ModelServiceServer,
        quality_service_server::QualityServiceServer, safety_service_server::SafetyServiceServer,
        scoring_service_server::ScoringServiceServer,
    },
    registry::{ModelRole, Registry},
    telemetry::{ServiceHealth, Tracer},
    tls::ServerTls,
};

/// How long written answers may take to be sent after the last call has ended. Streams of health and reflection, which this
/// server does not end itself, are closed after that.
const FLUSH: Duration = Duration::from_secs(1);

/// Most connections of the listener that is for AdminService alone.
const ADMIN_CONNECTIONS: usize = 64;

/// Most open calls of that listener.
const ADMIN_CALLS: usize = 256;

/// Memory for the requests of health checks, which strangers may send. Each may have a few kilobytes.
const CHECK_MEMORY: usize = 8 << 20;

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service could not be built from our own descriptors.
    #[error("the reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The lists of requests could not be read from our own descriptors.
    #[error("the descriptors of the services cannot be read")]
    Descriptors(#[from] prost::DecodeError),
}

/// Where a server listens, and how it is protected there.
pub struct Listeners<L = TcpListener> {
    /// For calls.
    pub calls: L,
    /// For AdminService, which is then not answered on the other one. Everything else is answered on both.
    pub admin: Option<L>,
    /// For callers that speak HTTP/1.1, if there is one.
    pub http: Option<HttpListener<L>>,
    /// Who may call, and how.
    pub security: Security,
    /// Takes the spans of calls that are traced.
    pub tracer: Tracer,
    /// Is told which services serve, as gRPC health tells callers.
    pub health: watch::Sender<ServiceHealth>,
}

/// Where the HTTP port listens, and what answers there.
pub struct HttpListener<L = TcpListener> {
    /// For its connections.
    pub listener: L,
    /// What makes calls of requests; see [`crate::http`].
    pub router: Router,
}

/// Who may call, and how. Without anything of it, a server should be reached by its own machine only.
#[derive(Clone, Default)]
pub struct Security {
    /// TLS on all listeners.
    pub tls: Option<Arc<ServerTls>>,
    /// Who may call.
    pub access: Access,
    /// How much each tenant may ask for.
    pub quotas: Quotas,
}

impl<L> Listeners<L> {
    /// One listener for everything, without TLS and authentication.
    pub fn unprotected(calls: L) -> Self {
        Self {
            calls,
            admin: None,
            http: None,
            security: Security::default(),
            tracer: Tracer::off(),
            health: watch::Sender::default(),
        }
    }
}

/// [`serve_on`] one listener for everything, without TLS and authentication.
///
/// # Errors
/// As [`serve_on`].
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    serve_on(Listeners::unprotected(listener), registry, options, shutdown).await
}

/// Serves until `shutdown` resolves, and then drains: health reports NOT_SERVING, models are DRAINING, new calls are refused
/// with UNAVAILABLE (`SERVER_DRAINING`), and open calls may finish within `options.drain_grace`; those that are still open
/// then end with the same error. Connections are accepted until then, so that probes and callers get an answer; those that
/// were open before are asked to close (GOAWAY), so that their clients reconnect, perhaps to another server. The registry
/// is not shut down; its owner does that afterwards.
///
/// # Errors
/// When the services cannot be set up.
pub async fn serve_on<L: Incoming + Sync>(
    listeners: Listeners<L>,
    registry: Arc<Registry>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let Listeners {
        calls: listener,
        admin: admin_listener,
        http,
        security,
        tracer,
        health,
    } = listeners;
    gen_ai::describe();
    let counts = ElementCounts::new(FILE_DESCRIPTOR_SET, &options.limits)?;
    let shared = Arc::new(Shared {
        registry,
        texts: TextWork::new(
            std::thread::available_parallelism().map_or(1, NonZero::get),
            options.limits.text_memory,
        ),
        limits: options.limits,
        times: options.times,
        allow_admin: options.allow_admin,
        quotas: security.quotas.clone(),
        decisions: options.decisions,
        shadow_log: ShadowLog::default(),
        verdicts: VerdictCounts::default(),
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    });
    let in_flight = InFlightCount::new();
    let health = Health {
        reporter: HealthReporter::new(),
        told: health,
    };
    // The reporter begins with SERVING for the empty name, and knows no other service.
    health.set(|_| false).await;
    let calls = CallLayer {
        defaults: Arc::new(options.default_deadlines),
        times: shared.times.clone(),
        counts: Arc::new(counts),
        in_flight: in_flight.clone(),
        draining: shared.draining.clone(),
        entrance: Entrance {
            access: security.access.clone(),
            admin_calls: match admin_listener {
                Some(_) => AdminCalls::Elsewhere,
                None => AdminCalls::Here,
            },
            quotas: security.quotas.clone(),
        },
        tracer,
    };
    let most = connection_limit(shared.limits.connections);
    if most < shared.limits.connections {
        let wanted = shared.limits.connections;
        tracing::warn!(
            most,
            wanted,
            "the limit on open files allows fewer connections than limits.connections"
        );
    }
    let routes = routes(&shared, &health.reporter)?;
    let request_budget = RequestBudget::new(shared.limits.request_bytes);
    let transport = |calls: &CallLayer, most: usize, most_calls: usize| {
        Arc::new(Transport {
            service: calls.layer(routes.clone()),
            refuse: call_layer::too_many_calls,
            tls: security.tls.clone(),
            limits: shared.limits.clone(),
            times: shared.times.clone(),
            connections: Connections::new(most, most_calls),
            request_budget: Arc::clone(&request_budget),
            check_budget: RequestBudget::new(CHECK_MEMORY),
            tenants: TenantUses::new(most, most_calls, &request_budget),
        })
    };
    let stages = Shutdown {
        draining: shared.draining.clone(),
        closing: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let connections = TaskTracker::new();
    let main = transport(&calls, most, shared.limits.calls);
    let http_listening = http.map(|http| {
        let port = Arc::new(HttpPort {
            transport: Arc::clone(&main),
            router: http.router,
        });
        // Connections of both ports have one limit.
        let open = Arc::clone(&main.connections);
        listen(
            http.listener,
            open,
            stages.clone(),
            connections.clone(),
            move |accepted| serve_http1(accepted, Arc::clone(&port)),
        )
    });
    let open = Arc::clone(&main.connections);
    let listening = listen(
        listener,
        open,
        stages.clone(),
        connections.clone(),
        move |accepted| serve_http2(accepted, Arc::clone(&main)),
    );
    let admin_listening = admin_listener.map(|listener| {
        let calls = CallLayer {
            entrance: Entrance {
                admin_calls: AdminCalls::Here,
                ..calls.entrance.clone()
            },
            ..calls.clone()
        };
        // Callers of the other listener cannot keep operators out.
        let admin = transport(&calls, ADMIN_CONNECTIONS, ADMIN_CALLS);
        let open = Arc::clone(&admin.connections);
        listen(
            listener,
            open,
            stages.clone(),
            connections.clone(),
            move |accepted| serve_http2(accepted, Arc::clone(&admin)),
        )
    });
    let listening = async {
        let others = join(
            OptionFuture::from(admin_listening),
            OptionFuture::from(http_listening),
        );
        join(listening, others).await;
    };
    let watch_health = follow_states(&shared.registry, &health);
    tokio::pin!(listening);

    tokio::select! {
        () = &mut listening => {}
        () = shutdown => {}
        () = watch_health => {}
    }
    tracing::info!("draining");
    tokio::select! {
        () = &mut listening => {}
        () = drain(&shared, &in_flight, &health, options.drain_grace) => {}
    }
    stages.closing.cancel();
    // The listener ends now, which closes the port.
    listening.await;
    connections.close();
    if tokio::time::timeout(FLUSH, connections.wait()).await.is_err() {
        stages.abort.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// All services.
fn routes(shared: &Arc<Shared>, health: &HealthReporter) -> Result<Routes, ServeError> {
    // The transport refuses larger messages before they get here.
    let decoded = usize::MAX;
    let routes = Routes::new(
        GenerationServiceServer::new(GenerationApi(Arc::clone(shared))).max_decoding_message_size(decoded),
    )
    .add_service(SafetyServiceServer::new(SafetyApi(Arc::clone(shared))).max_decoding_message_size(decoded))
    .add_service(ScoringServiceServer::new(ScoringApi(Arc::clone(shared))).max_decoding_message_size(decoded))
    .add_service(QualityServiceServer::new(QualityApi(Arc::clone(shared))).max_decoding_message_size(decoded))
    .add_service(ModelServiceServer::new(ModelApi(Arc::clone(shared))).max_decoding_message_size(decoded))
    .add_service(AdminServiceServer::new(AdminApi(Arc::clone(shared))).max_decoding_message_size(decoded))
    .add_service(tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health.clone()),
    ))
    .add_service(reflection().build_v1()?)
    .add_service(reflection().build_v1alpha()?);
    Ok(routes.prepare())
}

/// Ends all calls: they may finish within the grace period, and end with an error after it.
async fn drain(shared: &Shared, in_flight: &InFlightCount, health: &Health, grace: Duration) {
    health.set(|_| false).await;
    shared.registry.begin_drain();
    shared.draining.cancel();
    if tokio::time::timeout(grace, in_flight.wait_for_none())
        .await
        .is_err()
    {
        tracing::warn!("the grace period of the drain is over; open calls end now");
        shared.stopping.cancel();
        // Calls end at once, except those whose client does not read.
        let _ = tokio::time::timeout(FLUSH, in_flight.wait_for_none()).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        // The types of error details, so that a client which knows only reflection can read them.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// What a service needs in order to serve.
#[derive(Debug, Clone, Copy)]
enum Needs {
    /// A running server. It also reports which models are being loaded.
    Process,
    /// A server whose eager models have been loaded.
    Started,
    /// In addition, all devices: a lost one comes back only when the server is restarted.
    Devices,
    /// In addition, a model with each of these roles.
    Roles(&'static [ModelRole]),
}

/// Updates health whenever the state of a model changes. A service serves while each model that it needs is READY, or would
/// be loaded by a request. Does not return while the registry exists.
async fn follow_states(registry: &Registry, health: &Health) {
    let mut states = registry.states();
    loop {
        // The states are copied, because states change under the registry's lock, which `serves` takes too.
        let current = states.borrow_and_update().clone();
        let started = registry.starting().is_none();
        let devices = registry.has_all_devices();
        let ready: Vec<ModelRole> = registry
            .list()
            .iter()
            .zip(current)
            .filter(|(declared, state)| registry.serves(declared, *state))
            .flat_map(|(declared, _)| declared.roles.iter().copied())
            .collect();
        health
            .set(|needs| match needs {
                Needs::Process => true,
                Needs::Started => started,
                Needs::Devices => started && devices,
                Needs::Roles(roles) => started && roles.iter().all(|role| ready.contains(role)),
            })
            .await;
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the health of all services.
struct Health {
    reporter: HealthReporter,
    /// For those who ask over HTTP.
    told: watch::Sender<ServiceHealth>,
}

impl Health {
    /// Sets the health of each service by what it needs.
    async fn set(&self, serves: impl Fn(Needs) -> bool) {
        let services = [
            // The server as a whole, which orchestrators ask for unless they are configured otherwise.
            ("", Needs::Devices),
            (
                GenerationServiceServer::<GenerationApi>::NAME,
                Needs::Roles(&[ModelRole::Target]),
            ),
            (
                SafetyServiceServer::<SafetyApi>::NAME,
                Needs::Roles(&[ModelRole::Guard]),
            ),
            (
                ScoringServiceServer::<ScoringApi>::NAME,
                Needs::Roles(&[ModelRole::Target, ModelRole::Guard]),
            ),
            (
                QualityServiceServer::<QualityApi>::NAME,
                Needs::Roles(&[ModelRole::Quality]),
            ),
            (ModelServiceServer::<ModelApi>::NAME, Needs::Process),
            (AdminServiceServer::<AdminApi>::NAME, Needs::Started),
        ];
        for (name, needs) in services {
            let status = if serves(needs) {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            self.reporter.set_service_status(name, status).await;
        }
        let told = services.map(|(name, needs)| (name, serves(needs)));
        self.told.send_replace(ServiceHealth::from_iter(told));
    }
}
