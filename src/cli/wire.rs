//! Turns the configuration into the options of registry, engine and server.

use std::{num::NonZeroUsize, sync::Arc, thread};

use crate::{
    backend::{Backend, cpu::CpuBackend},
    config::{Config, Role},
    engine::{Clock, EngineConfig, TenantWeights},
    memory,
    registry::{
        DeviceOptions, KvSize, MemoryOptions, ModelRole, ModelSpec, RegistryOptions, StartOptions,
        automatic_budget,
    },
    rpc::{ServerOptions, TimeLimits},
};

/// Options of the registry and its engine.
pub fn registry_options(config: &Config) -> RegistryOptions {
    let models = config.models.iter().map(|model| ModelSpec {
        id: model.id.clone(),
        path: model.path.clone(),
        // The processor, which is the only device.
        device: None,
        base: model.base.clone(),
        roles: model.roles.iter().copied().map(role).collect(),
        guard_kind: model.guard_kind,
        precision: model.precision,
        load: model.load,
        pinned: model.pinned,
    });
    let engine = &config.engine;
    let cpu = CpuBackend::new(engine.threads.map_or_else(available_threads, NonZeroUsize::get));
    let device = DeviceOptions {
        info: cpu.device().clone(),
        memory: memory_options(config),
        engine: EngineConfig {
            name: "engine-cpu".to_owned(),
            // The registry fills them in.
            model_names: Vec::new(),
            max_batch_sequences: engine.max_batch_sequences,
            max_batch_tokens: engine.max_batch_tokens,
            queue_items: engine.queue_items,
            queue_tokens: engine.queue_tokens,
            step_target: engine.step_target,
            cost_prior: cpu.device().cost_prior,
            execution: cpu.device().execution,
            tenant_weights: TenantWeights::new(engine.tenant_weights.iter().cloned()),
            clock: Clock::default(),
        },
    };
    RegistryOptions {
        models: models.collect(),
        max_context: engine.max_context.map(NonZeroUsize::get),
        precision: engine.precision,
        backends: vec![Arc::new(cpu)],
        start: StartOptions {
            default_target: config.defaults.target.clone(),
            default_guard: config.defaults.guard.clone(),
            default_quality: config.defaults.quality.clone(),
            policies: config.policies.clone(),
            devices: vec![device],
        },
    }
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
            connection_idle: config.server.connection_idle,
            connection_age: config.server.connection_age,
            ..TimeLimits::default()
        },
        drain_grace: config.server.drain_grace,
        allow_admin: config.server.allow_admin,
    }
}

/// How many threads this process may run at a time.
pub(super) fn available_threads() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// How much memory models may take. Without a configured budget it follows from the memory that the system can give; where
/// that is not known either, there is no limit.
pub(super) fn memory_options(config: &Config) -> MemoryOptions {
    let automatic = || memory::available().map_or(u64::MAX, |available| automatic_budget(available.bytes));
    MemoryOptions {
        budget: config.memory_budget.unwrap_or_else(automatic),
        kv: config.engine.kv_memory.map_or(KvSize::Auto, KvSize::Fixed),
    }
}

fn role(role: Role) -> ModelRole {
    match role {
        Role::Target => ModelRole::Target,
        Role::Guard => ModelRole::Guard,
        Role::Quality => ModelRole::Quality,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    /// The configuration's defaults and the server's own cannot drift apart.
    #[test]
    fn defaults_are_those_of_the_server() {
        let config = load(&Inputs::default()).config.unwrap();
        assert_eq!(server_options(&config), ServerOptions::default());
    }

    #[test]
    fn automatic_threads_are_at_least_one() {
        let config = load(&Inputs::default()).config.unwrap();
        assert!(available_threads() >= 1);
        assert_eq!(registry_options(&config).backends.len(), 1);
    }
}
