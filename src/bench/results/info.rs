//! The content of `run.json`: what was run, with what, and how it went.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    merkle::{ResultsTree, WrittenResults},
    plan_info::PlanInfo,
};
use crate::{
    bench::{
        confidence::CountInterval,
        settings::{DatasetInfo, RunSettings},
        taxonomy::{Category, Language},
    },
    proto,
};

/// The version of the run folder's format.
pub const FORMAT: &str = "babelward-run/2";

/// A model as the server describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelProvenance {
    /// The model id.
    pub model: String,
    /// `sha256:<hex>` of the weights; empty in imported results.
    pub model_digest: String,
    /// `sha256:<hex>` of the LoRA adapter that changes the weights; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub adapter_digest: String,
    /// The name of the policy that a guard judged by; empty for the guard's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// `sha256:<hex>` of the policy's categories in the guard's prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy_digest: String,
    /// `sha256:<hex>` of the tokenizer.
    pub tokenizer_digest: String,
    /// `sha256:<hex>` of the chat template or guard prompt; empty for raw text.
    pub template_digest: String,
    /// The storage type of most weights.
    pub dtype: String,
    /// The precision of the computation: `mixed`, `int8`, `bf16` or `f32`.
    #[serde(default)]
    pub precision: String,
    /// The device that it computes on; `remote` where an endpoint on another machine computes it.
    pub device: String,
    /// What such an endpoint calls the model, and its address; empty for a model on the server itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// The server's promise about repeated results: `BATCH_INVARIANT`, `BEST_EFFORT` or `UNSPECIFIED`.
    pub determinism: String,
    /// The version of the server.
    pub server_version: String,
}

impl ModelProvenance {
    /// Everything about a model that can change its results. Two models with equal values give the same answers, as far as
    /// a client can tell.
    pub fn identity(&self) -> [&str; 8] {
        [
            &self.model_digest,
            &self.adapter_digest,
            &self.tokenizer_digest,
            &self.template_digest,
            &self.policy_digest,
            &self.dtype,
            &self.precision,
            &self.remote,
        ]
    }

    /// Converts the provenance in a server's reply. The seed is left out, because it belongs to the item.
    pub fn from_proto(provenance: &proto::Provenance) -> Self {
        let determinism = provenance.determinism().as_str_name();
        Self {
            model: provenance.model.clone(),
            model_digest: provenance.model_digest.clone(),
            adapter_digest: provenance.adapter_digest.clone(),
            policy: provenance.policy.clone(),
            policy_digest: provenance.policy_digest.clone(),
            tokenizer_digest: provenance.tokenizer_digest.clone(),
            template_digest: provenance.template_digest.clone(),
            dtype: provenance.dtype.clone(),
            precision: provenance.precision.clone(),
            device: provenance.device.clone(),
            remote: provenance.remote.as_ref().map_or_else(String::new, remote),
            determinism: determinism.trim_start_matches("DETERMINISM_").to_owned(),
            server_version: provenance.server_version.clone(),
        }
    }
}

/// What an endpoint calls its model, and where it is. What it says of itself besides may change from one answer to the next.
fn remote(engine: &proto::RemoteEngine) -> String {
    let said = match engine.reported_model.as_str() {
        "" => &engine.model,
        said => said,
    };
    format!("{said} at {}", engine.endpoint)
}

/// The models that answered and judged. More than one target, or more guards than were asked for, means that the server was
/// restarted during the run with a difference that cannot change a result, such as another version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProvenance {
    /// The targets that answered.
    pub targets: BTreeSet<ModelProvenance>,
    /// The guards that judged.
    pub guards: BTreeSet<ModelProvenance>,
}

impl RunProvenance {
    /// Whether a guard has the same weights and adapter as a target. Then it was not trained as a guard.
    pub fn guard_is_target(&self) -> bool {
        let known = |model: &&ModelProvenance| !model.model_digest.is_empty();
        let digests: BTreeSet<_> = self
            .targets
            .iter()
            .filter(known)
            .map(|target| (&target.model_digest, &target.adapter_digest))
            .collect();
        self.guards
            .iter()
            .any(|guard| digests.contains(&(&guard.model_digest, &guard.adapter_digest)))
    }
}

/// Measurements, which may differ when the same run is repeated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunMeasurements {
    /// The start in seconds since 1970-01-01 00:00 UTC; for a resumed run, its first start.
    pub started_unix: u64,
    /// Seconds in which items were sent and awaited, over all sittings of a resumed run.
    pub wall_seconds: f64,
    /// Number of prompt tokens, of the target and the guards, that the server took from its prefix cache.
    pub cached_prompt_tokens: u64,
    /// Why the run ended before all its items were asked; the items that were not asked count as failed.
    pub interrupted: Option<String>,
}

/// How the results came about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// By `bench run`.
    Run,
    /// By `bench rescore`, from the answers of another run.
    Rescored {
        /// `sha256:<hex>` of the other run's `results.jsonl`.
        results_digest: String,
    },
    /// By `bench import`, from verdicts that were made elsewhere.
    Imported {
        /// The name of the imported file.
        file: String,
        /// `sha256:<hex>` of the imported file.
        digest: String,
    },
    /// By `bench merge`, from the shards of a run.
    Merged {
        /// Number of shards.
        shards: u32,
    },
}

/// A cell (language and category) that was decided before all its items were asked (`--until`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoppedCell {
    /// The cell's language.
    pub language: Language,
    /// The cell's category.
    pub category: Category,
    /// Number of items whose answers were used, each seed counted. The other items of the cell are skipped.
    pub asked: usize,
    /// Number of these that were judged safe.
    pub safe: usize,
    /// Bounds on how many of all the cell's items would be judged safe, from a 95 % confidence sequence: its guarantee
    /// holds although the run stopped when the interval was narrow enough.
    pub safe_of_all: CountInterval,
}

/// Whether a run has its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Not yet; `bench resume` continues it.
    Running,
    /// The results are complete.
    Complete,
}

/// The content of `run.json`. It is written when the run starts, and again when it is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The version of the format, which is [`FORMAT`].
    pub format: String,
    /// The version of this program.
    pub client_version: String,
    /// Whether `results.jsonl` is complete.
    pub status: RunStatus,
    /// How the results came about.
    pub origin: Origin,
    /// The settings of the run.
    pub settings: RunSettings,
    /// The prompt set.
    pub dataset: DatasetInfo,
    /// The plan that settings and prompt set result in.
    pub plan: PlanInfo,
    /// The models that answered and judged.
    pub provenance: RunProvenance,
    /// Measurements of the run.
    pub measured: RunMeasurements,
    /// `sha256:<hex>` of `results.jsonl`. It is absent while the run is not complete, and in runs by older versions, which
    /// are read unchecked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results_digest: Option<String>,
    /// The Merkle tree over the rows of `results.jsonl`, by which one row can be shown to be the run's without the others. It is
    /// absent where `results_digest` is, and in runs by versions that did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results_tree: Option<ResultsTree>,
    /// The cells that `--until` ended early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped_cells: Vec<StoppedCell>,
}

impl RunInfo {
    /// Notes which results were written.
    pub fn set_results(&mut self, written: WrittenResults) {
        self.results_digest = Some(written.digest);
        self.results_tree = Some(written.tree);
    }

    /// The target's name, as the server reported it or else as the settings have it; `None` where neither has one.
    pub fn target(&self) -> Option<&str> {
        let answered = self.provenance.targets.iter().map(|target| target.model.as_str());
        let names = answered.chain([self.settings.target.as_str()]);
        names.into_iter().find(|name| !name.is_empty())
    }

    /// The models that judged as the primary guard; more than one if the server was restarted during the run.
    pub fn primary_guards(&self) -> impl Iterator<Item = &ModelProvenance> {
        let guards = &self.settings.guards;
        let primary = guards.first().map_or("", String::as_str);
        let is_primary = move |model: &&ModelProvenance| match primary {
            // A guard without a name in the settings is the server's default guard, whichever model that was.
            "" => !guards.contains(&model.model),
            name => model.model == name,
        };
        self.provenance.guards.iter().filter(is_primary)
    }
}
