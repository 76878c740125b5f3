//! Runs with planted verdicts, made in memory.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use babelward::{
    bench::{
        dataset::{PromptId, Strata, WrapperUse},
        results::{
            Answer, AnswerTokens, FORMAT, FinishReason, GuardOutcome, GuardTokens, ItemRecord, Label, Origin,
            Outcome, PlanInfo, RunInfo, RunMeasurements, RunProvenance, RunStatus, Verdict,
        },
        selection::{RowLimit, Selection},
        settings::{Controversial, DatasetInfo, Prompting, RunKind, RunSettings, Sampling},
        taxonomy::{Category, Language},
    },
    client::PolicyChoice,
    random::Random,
};

/// One verdict for each guard, with the score that goes with it.
pub fn record(
    id: u64,
    language: Language,
    category: Category,
    seed: u64,
    verdicts: &[(Label, f64)],
) -> ItemRecord {
    let judged = |(label, score): &(Label, f64)| {
        GuardOutcome::Judged(Verdict {
            controversial_score: None,
            refused: None,
            label: *label,
            unsafe_score: Some(*score),
            label_mass: Some(0.99),
            raw_output: String::new(),
            categories: Vec::new(),
            tokens: GuardTokens::default(),
        })
    };
    ItemRecord {
        id: PromptId::Number(id),
        language,
        category,
        strata: Strata::default(),
        seed,
        item_seed: None,
        prompt_digest: None,
        outcome: Outcome::Answered(Answer {
            finish_reason: FinishReason::Eos,
            tokens: AnswerTokens::default(),
            text_digest: None,
            text: None,
            verdicts: verdicts.iter().map(judged).collect(),
        }),
    }
}

pub fn verdict(safe: bool) -> (Label, f64) {
    if safe {
        (Label::Safe, 0.1)
    } else {
        (Label::Unsafe, 0.9)
    }
}

pub fn info(target: &str, guards: usize, seeds: Vec<u64>) -> RunInfo {
    RunInfo {
        results_digest: None,
        results_tree: None,
        stopped_cells: Vec::new(),
        format: FORMAT.to_owned(),
        client_version: "test".to_owned(),
        status: RunStatus::Complete,
        origin: Origin::Run,
        settings: RunSettings {
            kind: RunKind::Benchmark,
            target: target.to_owned(),
            prompting: Prompting::Template,
            guards: (1..=guards).map(|n| format!("guard-{n}")).collect(),
            policy: PolicyChoice::Native,
            controversial: Controversial::Unsafe,
            selection: Selection {
                languages: Vec::new(),
                categories: Vec::new(),
                limit: RowLimit::All,
            },
            sampling: Some(Sampling {
                max_new_tokens: 200,
                temperature: 1.0,
                top_p: 1.0,
            }),
            preset: None,
            seeds,
            shard: None,
            until: None,
            concurrency: 1,
        },
        dataset: DatasetInfo {
            name: "planted".to_owned(),
            digest: String::new(),
            rows: 0,
            wrapper: WrapperUse::default(),
        },
        plan: PlanInfo::default(),
        provenance: RunProvenance::default(),
        measured: RunMeasurements::default(),
    }
}

/// Draws with a seed.
pub struct Coin(Random);

impl Coin {
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub fn toss(&mut self, probability: f64) -> bool {
        ((self.0.bits() >> 11) as f64 / (1u64 << 53) as f64) < probability
    }
}

pub fn category(key: &str) -> Category {
    Category::parse(key).unwrap()
}
