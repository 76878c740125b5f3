//! `run.json`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    bench::{
        confidence::CountInterval,
        settings::{DatasetInfo, RunSettings},
        taxonomy::{Category, Language},
    },
    proto,
};

/// Version of the folder's layout.
pub const FORMAT: &str = "babelward-run/2";

/// A model as the server describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelProvenance {
    /// Model id.
    pub model: String,
    /// `sha256:<hex>` of the weights; empty in imported results.
    pub model_digest: String,
    /// `sha256:<hex>` of the LoRA adapter that changed the weights; absent when there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub adapter_digest: String,
    /// Name of the policy that a guard judged by; absent for its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// `sha256:<hex>` of that policy's categories in the guard's prompt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy_digest: String,
    /// `sha256:<hex>` of the tokenizer.
    pub tokenizer_digest: String,
    /// `sha256:<hex>` of the chat template or guard prompt; empty for raw text.
    pub template_digest: String,
    /// Storage type of most weights.
    pub dtype: String,
    /// How it computes: `int8`, `bf16` or `f32`.
    #[serde(default)]
    pub precision: String,
    /// Where it computes.
    pub device: String,
    /// `BATCH_INVARIANT`, `BEST_EFFORT` or `UNSPECIFIED`.
    pub determinism: String,
    /// Version of the server.
    pub server_version: String,
}

impl ModelProvenance {
    /// What decides about results. Two models that share it give the same answers, as far as anybody can know.
    pub fn identity(&self) -> [&str; 7] {
        [
            &self.model_digest,
            &self.adapter_digest,
            &self.tokenizer_digest,
            &self.template_digest,
            &self.policy_digest,
            &self.dtype,
            &self.precision,
        ]
    }

    /// From an answer. The seed is left out: it is the item's.
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
            determinism: determinism.trim_start_matches("DETERMINISM_").to_owned(),
            server_version: provenance.server_version.clone(),
        }
    }
}

/// Who answered and who judged. More than one target, or more guards than were asked for, means that the
/// server was restarted on the way with something else that cannot change a result, such as its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunProvenance {
    /// Targets that answered.
    pub targets: BTreeSet<ModelProvenance>,
    /// Guards that judged.
    pub guards: BTreeSet<ModelProvenance>,
}

impl RunProvenance {
    /// Whether a guard has the weights of a target, adapter included: then no guard was trained as one.
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

/// What was measured and may differ from run to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Seconds since 1970-01-01 00:00 UTC; the first start of a run that was resumed.
    pub started_unix: u64,
    /// While items were sent and awaited, all sittings together.
    pub wall_seconds: f64,
    /// Prompt tokens (target's and guards') that came from the prefix cache.
    pub cached_prompt_tokens: u64,
    /// Why the run ended before its plan did: what was not asked is listed as failed.
    pub interrupted: Option<String>,
}

/// Where the results come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Origin {
    /// `bench run`.
    Run,
    /// `bench rescore`: the answers are another run's.
    Rescored {
        /// `sha256:<hex>` of that run's `results.jsonl`.
        results_digest: String,
    },
    /// `bench import`: the verdicts were made elsewhere.
    Imported {
        /// Name of the imported file.
        file: String,
        /// `sha256:<hex>` of it.
        digest: String,
    },
    /// `bench merge`.
    Merged {
        /// How many shards.
        shards: u32,
    },
}

/// The items of a run, as they stand in `plan.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInfo {
    /// `sha256:<hex>` of the whole plan's lines, all shards together; empty in imported results.
    pub digest: String,
    /// Prompts, each language counted: of this shard where the run is one.
    pub items: usize,
    /// Rows: prompts, all languages together.
    pub rows: usize,
}

/// A cell that was done before all its items were asked (`--until`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoppedCell {
    /// Its language.
    pub language: Language,
    /// Its category.
    pub category: Category,
    /// Items whose answers were used, each seed counted; the rest of the cell is skipped.
    pub asked: usize,
    /// Of these, judged safe.
    pub safe: usize,
    /// How many of all the cell's items would be judged safe: a 95 % confidence sequence, so that stopping by it
    /// does not spoil it.
    pub safe_of_all: CountInterval,
}

/// Whether the results are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Not yet: `bench resume` goes on.
    Running,
    /// Yes.
    Complete,
}

/// `run.json`. Written when the run starts, and again when it is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// [`FORMAT`].
    pub format: String,
    /// Version of this program.
    pub client_version: String,
    /// Whether `results.jsonl` is there.
    pub status: RunStatus,
    /// Where the results come from.
    pub origin: Origin,
    /// What was asked.
    pub settings: RunSettings,
    /// Of which prompts.
    pub dataset: DatasetInfo,
    /// What that makes.
    pub plan: PlanInfo,
    /// Who answered and judged.
    pub provenance: RunProvenance,
    /// What it took.
    pub measured: Measured,
    /// `sha256:<hex>` of `results.jsonl`; absent before it is there, and in runs of older versions: these are read
    /// unchecked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results_digest: Option<String>,
    /// Cells that `--until` ended early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped_cells: Vec<StoppedCell>,
}

impl RunInfo {
    /// Name of the target: the server's word, else what was asked for; `None` where neither says.
    pub fn target(&self) -> Option<&str> {
        let answered = self.provenance.targets.iter().map(|target| target.model.as_str());
        let names = answered.chain([self.settings.target.as_str()]);
        names.into_iter().find(|name| !name.is_empty())
    }

    /// The models that judged as the primary guard: more than one where a server was restarted on the way.
    pub fn primary_guards(&self) -> impl Iterator<Item = &ModelProvenance> {
        let guards = &self.settings.guards;
        let primary = guards.first().map_or("", String::as_str);
        let is_primary = move |model: &&ModelProvenance| match primary {
            // A guard that was asked for without a name is the server's default, whichever that was.
            "" => !guards.contains(&model.model),
            name => model.model == name,
        };
        self.provenance.guards.iter().filter(is_primary)
    }
}
