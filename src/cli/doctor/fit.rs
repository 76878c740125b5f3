//! Checks whether the configured models fit into the memory of their devices.

use super::check::{Check, Outcome};
use crate::{
    config::LoadPolicy,
    memory::{self, human_bytes},
    model::spec::Precision,
    registry::{
        DeviceOptions, MemoryNeed, MemoryOwner, RegistryOptions, SurveyedModel, passed_over_text, survey,
    },
};

/// Checks each budget, and each model against that of its device. Nothing is loaded.
pub(super) fn checks(options: &RegistryOptions) -> Vec<Check> {
    // A path that cannot be read is reported by the check of its model.
    let models = survey(options).unwrap_or_default();
    let devices = &options.start.devices;
    let on_host = |model: &SurveyedModel| devices[model.device].memory_owner == MemoryOwner::Host;
    let host = devices
        .iter()
        .find(|device| device.memory_owner == MemoryOwner::Host);
    let mut checks: Vec<Check> = host
        .map(|device| host_total(device, least(&models, on_host)))
        .into_iter()
        .collect();
    for (index, device) in devices.iter().enumerate() {
        if device.memory_owner == MemoryOwner::Device {
            checks.push(device_total(
                device,
                least(&models, |model| model.device == index),
            ));
        }
    }
    checks.extend(models.iter().filter_map(|model| {
        let need = model.need.as_ref().ok()?;
        Some(one(&devices[model.device], model, need))
    }));
    checks
}

/// Bytes that these models need at least which are loaded at the start.
fn least(models: &[SurveyedModel], is_there: impl Fn(&SurveyedModel) -> bool) -> u64 {
    let eager = models
        .iter()
        .filter(|model| model.policy == LoadPolicy::Eager && is_there(model));
    let least = eager.filter_map(|model| Some(model.need.as_ref().ok()?.least()));
    least.fold(0, u64::saturating_add)
}

/// Checks whether all models in the host's memory that are loaded at the start fit together.
fn host_total(device: &DeviceOptions, least: u64) -> Check {
    let budget = device.memory.budget;
    let available = match memory::available() {
        Some(found) => format!("{} available ({})", human_bytes(found.bytes), found.source),
        None => "not known on this system".to_owned(),
    };
    let budget_shown = match budget {
        u64::MAX => "no limit for models".to_owned(),
        bytes => format!("{} for models", human_bytes(bytes)),
    };
    let found = format!(
        "{available}, {budget_shown}, {} needed at the start",
        human_bytes(least)
    );
    let beyond = memory::available().is_some_and(|found| budget != u64::MAX && budget > found.bytes);
    let outcome = if least > budget {
        let fix = "choose smaller models, load some lazily (models.ID.load = \"lazy\"), lower engine.kv_memory \
                   (--kv-memory 128MiB), or raise memory.budget";
        Outcome::Fail(fix.to_owned())
    } else if beyond {
        Outcome::Warn("memory.budget is more than there is: lower it, or say auto".to_owned())
    } else {
        Outcome::Ok
    };
    Check::new("memory", found, outcome)
}

/// Checks whether all models of a device with memory of its own that are loaded at the start fit together.
fn device_total(device: &DeviceOptions, least: u64) -> Check {
    let budget = device.memory.budget;
    let found = format!(
        "{} for models, {} needed at the start",
        human_bytes(budget),
        human_bytes(least)
    );
    let outcome = if least > budget {
        let fix = "choose smaller models or another device for some (models.ID.device), load some lazily \
                   (models.ID.load = \"lazy\"), lower engine.kv_memory (--kv-memory 128MiB), or raise \
                   memory.device_budget";
        Outcome::Fail(fix.to_owned())
    } else {
        Outcome::Ok
    };
    Check::new(&format!("memory on {}", device.info.name), found, outcome)
}

fn computed(precision: Precision, device: &DeviceOptions) -> String {
    format!(
        "computed in {} on {} ({})",
        precision.name(),
        device.info.name,
        device.info.architecture
    )
}

fn one(device: &DeviceOptions, model: &SurveyedModel, need: &MemoryNeed) -> Check {
    let name = format!("memory of {}", model.ids.join(", "));
    let mut found = format!(
        "{} weights, {} buffers, key-value cache from {} to {} ({}, {})",
        human_bytes(need.weights),
        human_bytes(need.scratch),
        human_bytes(need.kv_min),
        human_bytes(need.kv_max),
        model.policy.name(),
        computed(model.precision, device)
    );
    let outcome = if need.least() > device.memory.budget {
        let fix = format!(
            "it needs {} alone: choose a smaller model or another device, or raise {}",
            human_bytes(need.least()),
            match device.memory_owner {
                MemoryOwner::Host => "memory.budget",
                MemoryOwner::Device => "memory.device_budget",
            }
        );
        Outcome::Fail(fix)
    } else if model.passed_over.is_empty() {
        Outcome::Ok
    } else {
        found = format!("{found}; {}", passed_over_text(&model.passed_over));
        let fix = format!(
            "mend that, or say where it is to be (--device {}={})",
            model.ids[0], device.info.name
        );
        Outcome::Warn(fix)
    };
    Check::new(&name, found, outcome)
}
