//! Puts the services on a listener and takes them down again.

use std::{future::Future, num::NonZero, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Layer as _;

use super::{
    admin::AdminApi,
    call::CallLayer,
    classify::SafetyApi,
    element_counts::ElementCounts,
    generate::GenerationApi,
    limits::ServerOptions,
    models::ModelApi,
    quality::QualityApi,
    record::InFlightCount,
    score::ScoringApi,
    sequence::Shared,
    text_work::TextWork,
    transport::{Connections, Ends, RequestBytes, Transport, connection_limit, listen},
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

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The reflection service could not be built from our own descriptors.
    #[error("the reflection service cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// What requests may be could not be read from our own descriptors.
    #[error("the descriptors of the services cannot be read")]
    Descriptors(#[from] prost::DecodeError),
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
        draining: CancellationToken::new(),
        stopping: CancellationToken::new(),
    });
    let in_flight = InFlightCount::new();
    let health = HealthReporter::new();
    // It begins with SERVING for the empty name, and knows no other.
    set_health(&health, |_| false).await;
    let calls = CallLayer {
        defaults: Arc::new(options.default_deadlines),
        times: shared.times.clone(),
        counts: Arc::new(counts),
        in_flight: in_flight.clone(),
        draining: shared.draining.clone(),
    };
    let most = connection_limit(shared.limits.connections);
    if most < shared.limits.connections {
        let wanted = shared.limits.connections;
        tracing::warn!(
            most,
            wanted,
            "fewer connections than limits.connections: the limit on open files is too low"
        );
    }
    let transport = Arc::new(Transport {
        service: calls.layer(routes(&shared, &health)?),
        limits: shared.limits.clone(),
        times: shared.times.clone(),
        connections: Connections::new(most, shared.limits.calls),
        request_bytes: RequestBytes::new(shared.limits.request_bytes),
    });
    let ends = Ends {
        draining: shared.draining.clone(),
        closing: CancellationToken::new(),
        cut: CancellationToken::new(),
    };
    let connections = TaskTracker::new();
    let listening = listen(listener, transport, ends.clone(), connections.clone());
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
    ends.closing.cancel();
    // It ends now, and the port is closed.
    listening.await;
    connections.close();
    if tokio::time::timeout(FLUSH, connections.wait()).await.is_err() {
        ends.cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// All services.
fn routes(shared: &Arc<Shared>, health: &HealthReporter) -> Result<Routes, ServeError> {
    // Larger ones do not get this far.
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
