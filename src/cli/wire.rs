//! Turns the configuration into the options of registry, engine and server.

use std::{num::NonZeroUsize, sync::Arc, thread, time::SystemTime};

use super::{
    device_error::{CardSearch, DeviceError},
    devices::{self, Machine, ThisMachine},
};
use crate::{
    auth::{Authenticator, CredentialsError, Quotas},
    backend::Backend,
    config::{Config, Endpoint, Role},
    engine::{Clock, Driver, EngineConfig, TenantNames, TenantWeights},
    memory,
    model::spec::DeviceChoice,
    registry::{
        DeviceOptions, KvSize, MemoryOptions, MemoryOwner, ModelRole, ModelSpec, RegistryOptions, RemoteSpec,
        StartOptions, automatic_budget,
    },
    reload::Reload,
    remote::EndpointOptions,
    rpc::{Access, Security, ServerOptions, TimeLimits},
    tls::{ServerTls, TlsError},
};

/// What a server of this configuration is started with.
pub struct ServiceOptions {
    /// Options of the registry and its engines.
    pub registry: RegistryOptions,
    /// What the search for cards found; `None` where each model names its device.
    pub search: Option<CardSearch>,
}

/// Opens the devices that the configuration asks for. That may take seconds.
///
/// # Errors
/// When a device that the configuration names cannot be used.
pub fn registry_options(config: &Config) -> Result<ServiceOptions, DeviceError> {
    options_on(
        config,
        &ThisMachine {
            threads: threads(config),
        },
    )
}

fn options_on(config: &Config, machine: &dyn Machine) -> Result<ServiceOptions, DeviceError> {
    let devices = devices::open(&device_choices(config), machine)?;
    let local = config.models.iter().filter(|model| model.endpoint.is_none());
    let models = local.map(|model| ModelSpec {
        id: model.id.clone(),
        path: model.path.clone(),
        device: model.device.unwrap_or(config.engine.device),
        base: model.base.clone(),
        roles: model.roles.iter().copied().map(role).collect(),
        guard_kind: model.guard_kind,
        precision: model.precision,
        load: model.load,
        pinned: model.pinned,
    });
    let options = devices
        .backends
        .iter()
        .map(|backend| device_options(config, backend.as_ref()));
    let registry = RegistryOptions {
        models: models.collect(),
        max_context: config.engine.max_context.map(NonZeroUsize::get),
        precision: config.engine.precision,
        start: StartOptions {
            default_target: config.defaults.target.clone(),
            default_guard: config.defaults.guard.clone(),
            default_quality: config.defaults.quality.clone(),
            remotes: remotes(config),
            policies: config.policies.clone(),
            determinism: config.engine.deterministic,
            devices: options.collect(),
        },
        backends: devices.backends,
        unusable: devices.unusable,
    };
    Ok(ServiceOptions {
        registry,
        search: devices.search,
    })
}

/// The models that endpoints compute.
fn remotes(config: &Config) -> Vec<RemoteSpec> {
    let remotes = config.models.iter().filter_map(|model| {
        let endpoint = model.endpoint.as_ref()?;
        Some(RemoteSpec {
            roles: model.roles.iter().copied().map(role).collect(),
            guard_kind: model.guard_kind,
            tokenizer: endpoint.tokenizer.clone(),
            endpoint: endpoint_options(config, &model.id, endpoint),
        })
    });
    remotes.collect()
}

/// How the endpoint of a model is asked.
pub(super) fn endpoint_options(config: &Config, id: &str, endpoint: &Endpoint) -> EndpointOptions {
    EndpointOptions {
        id: id.to_owned(),
        url: endpoint.url.clone(),
        model: endpoint.model.clone(),
        api: endpoint.api,
        key_file: endpoint.key_file.clone(),
        ca_file: endpoint.ca_file.clone(),
        concurrency: endpoint.concurrency,
        queue: config.engine.queue_items,
        stall: endpoint.stall,
    }
}

/// The device of each model that is loaded here and no adapter; that of the engine where there are no models.
fn device_choices(config: &Config) -> Vec<DeviceChoice> {
    let models = config.models.iter();
    let models = models.filter(|model| model.base.is_none() && model.endpoint.is_none());
    let choices: Vec<_> = models
        .map(|model| model.device.unwrap_or(config.engine.device))
        .collect();
    if choices.is_empty() {
        vec![config.engine.device]
    } else {
        choices
    }
}

/// Compute threads of the processor's models.
pub(super) fn threads(config: &Config) -> usize {
    config
        .engine
        .threads
        .map_or_else(available_threads, NonZeroUsize::get)
}

fn device_options(config: &Config, backend: &dyn Backend) -> DeviceOptions {
    let (engine, device) = (&config.engine, backend.device());
    let (budget, memory_owner) = match backend.memory() {
        None => (host_budget(config), MemoryOwner::Host),
        Some(memory) => (config.device_budget.of(memory.free), MemoryOwner::Device),
    };
    DeviceOptions {
        info: device.clone(),
        memory: MemoryOptions {
            budget,
            kv: engine.kv_memory.map_or(KvSize::Auto, KvSize::Fixed),
        },
        memory_owner,
        engine: EngineConfig {
            name: format!("engine-{}", device.name),
            // The registry fills them in.
            model_names: Vec::new(),
            max_batch_sequences: engine.max_batch_sequences,
            max_batch_tokens: engine.max_batch_tokens,
            queue_items: engine.queue_items,
            queue_tokens: engine.queue_tokens,
            step_target: engine.step_target,
            cost_prior: device.cost_prior,
            execution: device.execution,
            tenant_weights: TenantWeights::new(engine.tenant_weights.iter().cloned()).with_names(
                match config.security.credentials {
                    Some(_) => TenantNames::Proven,
                    None => TenantNames::Claimed,
                },
            ),
            clock: Clock::default(),
            driver: Driver::default(),
        },
    }
}

/// How a server is protected.
pub(super) struct Protection {
    /// On its gRPC listeners.
    pub(super) security: Security,
    /// Says who may read the metrics; everybody if absent.
    pub(super) metrics_readers: Option<Arc<Authenticator>>,
    /// What is read again when its files change.
    pub(super) files: Vec<Arc<dyn Reload>>,
}

/// Reads certificates and credentials.
pub(super) fn protection(config: &Config) -> Result<Protection, ProtectionError> {
    let files = &config.security;
    let open = |files| ServerTls::open(files, SystemTime::now());
    let tls = files.tls.clone().map(open).transpose()?.map(Arc::new);
    let credentials = files.credentials.clone().map(Authenticator::open).transpose()?;
    let credentials = credentials.map(Arc::new);
    let mut reloadable: Vec<Arc<dyn Reload>> = Vec::new();
    reloadable.extend(tls.clone().map(|tls| tls as Arc<dyn Reload>));
    reloadable.extend(
        credentials
            .clone()
            .map(|credentials| credentials as Arc<dyn Reload>),
    );
    Ok(Protection {
        metrics_readers: credentials.clone().filter(|_| !files.open_metrics),
        security: Security {
            tls,
            access: credentials.map_or(Access::Open, Access::Checked),
            quotas: Quotas::new(files.quotas, files.tenant_quotas.iter().cloned()),
        },
        files: reloadable,
    })
}

/// Why certificates or credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtectionError {
    /// A certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// API keys or token keys.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Options of the server.
pub fn server_options(config: &Config) -> ServerOptions {
    let deadlines = &config.deadlines;
    ServerOptions {
        limits: config.limits.clone(),
        default_deadlines: deadlines.defaults.clone(),
        times: TimeLimits {
            longest_deadline: deadlines.longest,
            receive: deadlines.receive,
            stream_idle: deadlines.stream_idle,
            guard_heartbeat: deadlines.guard_heartbeat,
            connection_idle: config.server.connection_idle,
            connection_age: config.server.connection_age,
            ..TimeLimits::default()
        },
        drain_grace: config.server.drain_grace,
        allow_admin: config.server.allow_admin,
        decisions: config.decisions.clone(),
    }
}

/// How many threads this process may run at a time.
pub(super) fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Bytes that models may take of the host's memory. Without a configured budget it follows from the memory that the system
/// can give; where that is not known either, there is no limit.
fn host_budget(config: &Config) -> u64 {
    let automatic = || memory::available().map_or(u64::MAX, |available| automatic_budget(available.bytes));
    config.memory_budget.unwrap_or_else(automatic)
}

fn role(role: Role) -> ModelRole {
    match role {
        Role::Target => ModelRole::Target,
        Role::Guard => ModelRole::Guard,
        Role::Quality => ModelRole::Quality,
        Role::Classifier => ModelRole::Classifier,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::devices::scripted::ScriptedMachine,
        config::{FlagDevice, FlagOverrides, Inputs, load},
        model::spec::DeviceName,
        registry::DeterminismPolicy,
    };

    fn defaults() -> Config {
        load(&Inputs::default()).config.unwrap()
    }

    fn with(device: &str, values: &[(&'static str, &str)]) -> Config {
        let flags = FlagOverrides {
            devices: vec![device.parse::<FlagDevice>().unwrap()],
            values: values
                .iter()
                .map(|(key, value)| ("--flag", *key, (*value).to_owned()))
                .collect(),
            ..FlagOverrides::default()
        };
        let inputs = Inputs {
            flags,
            ..Inputs::default()
        };
        load(&inputs).config.unwrap()
    }

    /// The configuration's defaults and the server's own cannot drift apart.
    #[test]
    fn defaults_are_those_of_the_server() {
        assert_eq!(server_options(&defaults()), ServerOptions::default());
    }

    #[test]
    fn without_cards_everything_is_on_the_processor_with_at_least_one_thread() {
        let config = defaults();
        assert!(threads(&config) >= 1);
        let options = options_on(&config, &ScriptedMachine(Vec::new())).unwrap();
        let [device] = &options.registry.start.devices[..] else {
            panic!("only the processor");
        };
        assert_eq!(
            (device.info.name, device.memory_owner),
            (DeviceName::Cpu, MemoryOwner::Host)
        );
        assert!(matches!(options.search, Some(CardSearch::None(_))));
    }

    #[test]
    fn a_card_has_an_engine_and_a_budget_of_its_own() {
        let values = [
            ("memory.device_budget", "50%"),
            ("engine.deterministic", "required"),
        ];
        let machine = ScriptedMachine(vec![1000, 0]);
        let options = options_on(&with("auto", &values), &machine).unwrap().registry;
        let devices: Vec<_> = options
            .start
            .devices
            .iter()
            .map(|device| (device.engine.name.as_str(), device.memory_owner))
            .collect();
        let expected = [
            ("engine-cuda:0", MemoryOwner::Device),
            ("engine-cpu", MemoryOwner::Host),
        ];
        assert_eq!(devices, expected);
        assert_eq!(options.start.devices[0].memory.budget, 500);
        assert_eq!(options.start.determinism, DeterminismPolicy::Required);
        assert_eq!(options.unusable.len(), 1);
    }

    #[test]
    fn a_device_that_is_named_and_cannot_be_used_is_an_error() {
        let machine = ScriptedMachine(vec![0]);
        let error = options_on(&with("cuda:0", &[]), &machine).err().unwrap();
        assert_eq!(
            error.to_string(),
            "device cuda:0: it cannot be used (the driver is too old): mend it"
        );
    }
}
