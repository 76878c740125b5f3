//! Checks whether the configured models fit into this machine's memory.

use super::check::{Check, Outcome};
use crate::{
    cli::wire,
    config::{Config, LoadPolicy},
    memory::{self, human_bytes},
    model::spec::Precision,
    registry::{MemoryNeed, SurveyedModel, survey},
};

/// Checks the budget and each model against it. Nothing is loaded.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let budget = wire::memory_options(config).budget;
    // A path that cannot be read is reported by the check of its model.
    let options = wire::registry_options(config);
    let models = survey(&options).unwrap_or_default();
    let architecture = options
        .start
        .devices
        .first()
        .map_or("", |device| device.info.architecture.as_str());
    let mut checks = vec![total(budget, &models)];
    checks.extend(models.iter().filter_map(|model| {
        let need = model.need.as_ref().ok()?;
        Some(one(budget, architecture, model, need))
    }));
    checks
}

/// Checks whether all models that are loaded at the start fit together.
fn total(budget: u64, models: &[SurveyedModel]) -> Check {
    let eager = models.iter().filter(|model| model.policy == LoadPolicy::Eager);
    let least = eager.filter_map(|model| Some(model.need.as_ref().ok()?.least()));
    let least = least.fold(0, u64::saturating_add);
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

fn computed(precision: Precision, architecture: &str) -> String {
    format!("computed in {} on {architecture}", precision.name())
}

fn one(budget: u64, architecture: &str, model: &SurveyedModel, need: &MemoryNeed) -> Check {
    let name = format!("memory of {}", model.ids.join(", "));
    let found = format!(
        "{} weights, {} buffers, key-value cache from {} to {} ({}, {})",
        human_bytes(need.weights),
        human_bytes(need.scratch),
        human_bytes(need.kv_min),
        human_bytes(need.kv_max),
        model.policy.name(),
        computed(model.precision, architecture)
    );
    let outcome = if need.least() > budget {
        let fix = format!(
            "it needs {} alone: choose a smaller model, or raise memory.budget",
            human_bytes(need.least())
        );
        Outcome::Fail(fix)
    } else {
        Outcome::Ok
    };
    Check::new(&name, found, outcome)
}
