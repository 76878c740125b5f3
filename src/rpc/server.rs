//! Puts the services on a listener and takes them down again.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    admin::AdminApi, call::CallLayer, classify::SafetyApi, connection::incoming, generate::GenerationApi,
    limits::ServerOptions, models::ModelApi, quality::QualityApi, record::InFlightCount, score::ScoringApi,
    sequence::Shared,
};
use crate::{
    proto::{
        FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer,
        generation_service_server::GenerationServiceServer, model_service_server::ModelServiceServer,
        quality_service_server::QualityServiceServer, safety_service_server::SafetyServiceServer,
        scoring_service_server::ScoringServiceServer,
    },
    registry::{ModelRole, Registry},
};

/// How long written answers may take to leave after the last call has ended. Streams that are not ours to end
/// (health, reflection) are cut off then.
const FLUSH: Duration = Duration::from_secs(1);

/// Dead peers are found out within about twice this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service could not be built from our own descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server could not run.
    #[error("server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `shutdown` resolves, and then drains: health says NOT_SERVING, models are DRAINING, new calls are
/// refused with UNAVAILABLE (`SERVER_DRAINING`), and open calls finish for at most `options.drain_grace`; what is open
/// then ends with the same error. Connections are taken until then, so that probes and callers are told; those that
/// were open before are asked to go (GOAWAY), so that their clients connect anew, perhaps elsewhere. The registry is
/// not shut down; that is its owner's to do afterwards.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let shared = Arc::new(Shared {
        registry,
        limits: options.limits,
        allow_admin: options.allow_admin,
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    });
    let in_flight = InFlightCount::new();
    let breaker = CancellationToken::new();
    let health = HealthReporter::new();
    // It begins with SERVING for the empty name, and knows no other.
    set_health(&health, |_| false).await;
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .max_concurrent_streams(shared.limits.connection_streams)
        .layer(CallLayer {
            defaults: Arc::new(options.default_deadlines),
            in_flight: in_flight.clone(),
            draining: shared.draining.clone(),
        });
    // The decoder refuses with a bare OUT_OF_RANGE, so it comes second: see `Limits::message_bytes`.
    let decoded = shared.limits.message_bytes.saturating_mul(2);
    let mut router = router;
    let router = router
        .add_service(
            GenerationServiceServer::new(GenerationApi(Arc::clone(&shared)))
                .max_decoding_message_size(decoded),
        )
        .add_service(
            SafetyServiceServer::new(SafetyApi(Arc::clone(&shared))).max_decoding_message_size(decoded),
        )
        .add_service(
            ScoringServiceServer::new(ScoringApi(Arc::clone(&shared))).max_decoding_message_size(decoded),
        )
        .add_service(
            QualityServiceServer::new(QualityApi(Arc::clone(&shared))).max_decoding_message_size(decoded),
        )
        .add_service(
            ModelServiceServer::new(ModelApi(Arc::clone(&shared))).max_decoding_message_size(decoded),
        )
        .add_service(
            AdminServiceServer::new(AdminApi(Arc::clone(&shared))).max_decoding_message_size(decoded),
        )
        .add_service(tonic_health::pb::health_server::HealthServer::new(
            tonic_health::server::HealthService::from_health_reporter(health.clone()),
        ))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);

    let listener = Arc::new(listener);
    let before = router.clone().serve_with_incoming_shutdown(
        incoming(Arc::clone(&listener), breaker.clone()),
        shared.draining.clone().cancelled_owned(),
    );
    let closing = CancellationToken::new();
    let while_draining = router.serve_with_incoming_shutdown(
        incoming(listener, breaker.clone()),
        closing.clone().cancelled_owned(),
    );
    let watch_health = follow_states(&shared.registry, &health);
    tokio::pin!(before, shutdown);

    tokio::select! {
        ended = &mut before => return Ok(ended?),
        () = &mut shutdown => {}
        () = watch_health => {}
    }
    tracing::info!("draining");
    let server = async { tokio::try_join!(before, while_draining).map(drop) };
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return Ok(ended?),
        () = drain(&shared, &in_flight, &health, options.drain_grace) => {}
    }
    closing.cancel();
    if let Ok(ended) = tokio::time::timeout(FLUSH, &mut server).await {
        return Ok(ended?);
    }
    breaker.cancel();
    Ok(server.await?)
}

/// Ends all calls: by themselves within the grace, else with an error.
async fn drain(shared: &Shared, in_flight: &InFlightCount, health: &HealthReporter, grace: Duration) {
    set_health(health, |_| false).await;
    shared.registry.begin_drain();
    shared.draining.cancel();
    if tokio::time::timeout(grace, in_flight.none()).await.is_err() {
        tracing::warn!("the drain's grace is over, open calls end now");
        shared.stopping.cancel();
        // Calls hear of it at once; one whose client does not read may stay.
        let _ = tokio::time::timeout(FLUSH, in_flight.none()).await;
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        // What errors carry: a client that knows only reflection can read their details.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// What a service needs to be there for.
#[derive(Debug, Clone, Copy)]
enum Needs {
    /// A server that runs: it tells what is loading, too.
    Process,
    /// A server whose eager models have been loaded.
    Started,
    /// Beyond that, a model of each of these roles.
    Roles(&'static [ModelRole]),
}

/// Keeps health in step with the models' states: a service serves while a model it needs is READY, or would be
/// loaded by a request. Never returns while the registry lives.
async fn follow_states(registry: &Registry, health: &HealthReporter) {
    let mut states = registry.states();
    loop {
        // A copy: whoever changes states holds the registry's lock, which `serves` takes.
        let current = states.borrow_and_update().clone();
        let started = registry.starting().is_none();
        let ready: Vec<ModelRole> = registry
            .list()
            .iter()
            .zip(current)
            .filter(|(declared, state)| registry.serves(declared, *state))
            .flat_map(|(declared, _)| declared.roles.iter().copied())
            .collect();
        set_health(health, |needs| match needs {
            Needs::Process => true,
            Needs::Started => started,
            Needs::Roles(roles) => started && roles.iter().all(|role| ready.contains(role)),
        })
        .await;
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Says of each service whether it serves, by what it needs.
async fn set_health(health: &HealthReporter, serves: impl Fn(Needs) -> bool) {
    let services = [
        // Everything: what an orchestrator asks for when it is told nothing else.
        ("", Needs::Started),
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
        health.set_service_status(name, status).await;
    }
}
