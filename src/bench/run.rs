//! Sends a plan to a server and keeps what comes back.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use tonic::Code;

use super::{
    plan::{ItemKey, Plan, PlanItem},
    results::{
        Answer, AnswerTokens, Failure, FinishReason, GuardOutcome, GuardTokens, ItemRecord, Label, Measured,
        ModelProvenance, Outcome, PlanInfo, RunProvenance, Verdict,
    },
    settings::{Prompting, RunSettings},
    taxonomy::Language,
};
use crate::{
    client::{Client, ClientError, ItemResult, RpcError, ScoreItem, StreamOptions, code_name},
    digest,
    proto::{
        Conversation, GenerateRequest, JudgeOptions, Message, Role, SamplingParams, ScoreRequest,
        ScoreResponse, ScoredSample, StoppingParams, Usage, generate_request::Prompt,
    },
};

/// What a run tells whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BenchEvent {
    /// An item has ended.
    Ended {
        /// Its language.
        language: Language,
        /// Its verdict; `None` when it failed.
        label: Option<Label>,
        /// Tokens that were computed for it: prompts and texts of target and guard, less what was cached.
        computed_tokens: u64,
    },
}

/// A run in progress. Whatever happens to it, what has been judged stays.
pub struct Run {
    plan: Plan,
    settings: RunSettings,
    records: BTreeMap<(ItemKey, u64), ItemRecord>,
    provenance: RunProvenance,
    measured: Measured,
    began: Option<Instant>,
}

/// A run that has ended: one record for each item of the plan, sorted by id, then language.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedRun {
    /// All of them.
    pub records: Vec<ItemRecord>,
    /// Who answered and judged.
    pub provenance: RunProvenance,
    /// What it took.
    pub measured: Measured,
}

impl Run {
    /// Nothing is sent yet.
    pub fn new(plan: Plan, settings: RunSettings) -> Self {
        Self {
            plan,
            settings,
            records: BTreeMap::new(),
            provenance: RunProvenance::default(),
            measured: Measured::default(),
            began: None,
        }
    }

    /// Items that have ended.
    pub fn ended(&self) -> usize {
        self.records.len()
    }

    /// Items of the plan.
    pub fn planned(&self) -> usize {
        self.plan.items.len() * self.settings.seeds.len()
    }

    /// What `run.json` says of the plan.
    pub fn plan_info(&self) -> PlanInfo {
        self.plan.info()
    }

    /// Sends everything and waits for the results. May be dropped at any time; [`Run::finish`] then says what
    /// became of the rest.
    ///
    /// # Errors
    /// [`ClientError`] when the stream could not be kept up; items that failed are results.
    pub async fn drive(
        &mut self,
        client: &Client,
        on_event: &mut dyn FnMut(BenchEvent),
    ) -> Result<(), ClientError> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        self.measured.started_unix = since_epoch.map_or(0, |since| since.as_secs());
        let (plan, settings) = (&self.plan, &self.settings);
        let asked = || {
            settings
                .seeds
                .iter()
                .flat_map(|&seed| plan.items.iter().map(move |item| (item, seed)))
        };
        let by_wire_id: BTreeMap<_, _> = asked()
            .map(|(item, seed)| (item.wire_id(seed), (item, seed)))
            .collect();
        let items = asked().map(|(item, seed)| ScoreItem {
            id: item.wire_id(seed),
            request: request(item, seed, settings),
        });
        let options = StreamOptions {
            window: settings.concurrency,
            item_timeout: None,
        };
        let (records, provenance, measured) = (&mut self.records, &mut self.provenance, &mut self.measured);
        let mut on_result = |id: &str, result: ItemResult| {
            // The client hands back only ids that it was given.
            let Some(&(item, seed)) = by_wire_id.get(id) else {
                return;
            };
            let outcome = outcome(result);
            if let Outcome::Answered(_) = &outcome.outcome {
                provenance.targets.extend(outcome.target);
                provenance.guards.extend(outcome.guard);
            }
            measured.cached_prompt_tokens += outcome.cached_tokens;
            measured.wall_seconds = began.elapsed().as_secs_f64();
            let record = ItemRecord::new(item, seed, outcome.outcome);
            on_event(BenchEvent::Ended {
                language: record.language,
                label: record.judged().map(|judged| judged.label),
                computed_tokens: outcome.computed_tokens,
            });
            records.insert((item.key.clone(), seed), record);
        };
        client
            .score_stream(items.collect(), &options, &mut on_result)
            .await
    }

    /// Ends the run; items without a result are failed for the reason given.
    pub fn finish(mut self, unanswered: &Failure) -> FinishedRun {
        for item in &self.plan.items {
            for &seed in &self.settings.seeds {
                self.records.entry((item.key.clone(), seed)).or_insert_with(|| {
                    self.measured.interrupted = Some(unanswered.message.clone());
                    ItemRecord::new(item, seed, Outcome::Failed(unanswered.clone()))
                });
            }
        }
        FinishedRun {
            records: self.records.into_values().collect(),
            provenance: self.provenance,
            measured: self.measured,
        }
    }
}

/// What to say of items that a broken run did not get to.
pub fn unanswered(error: &ClientError) -> Failure {
    let (code, reason) = match error {
        ClientError::Rpc(error) | ClientError::StreamGaveUp { last: error, .. } => {
            (error.code, error.reason.as_deref().unwrap_or("NOT_ANSWERED"))
        }
        ClientError::Unreachable { .. } => (Code::Unavailable, "UNREACHABLE"),
        ClientError::Protocol(_) => (Code::Internal, "PROTOCOL"),
        ClientError::BadAddress { .. } | ClientError::DuplicateId(_) => (Code::InvalidArgument, "NOT_SENT"),
    };
    Failure {
        code: code_name(code).to_owned(),
        reason: Some(reason.to_owned()),
        message: error.to_string(),
    }
}

/// What to say of items that an interrupted run did not get to.
pub fn interrupted() -> Failure {
    Failure {
        code: code_name(Code::Cancelled).to_owned(),
        reason: Some("INTERRUPTED".to_owned()),
        message: "the run was interrupted".to_owned(),
    }
}

fn request(item: &PlanItem, seed: u64, settings: &RunSettings) -> ScoreRequest {
    let prompt = match settings.prompting {
        Prompting::Raw => Prompt::Text(item.prompt.clone()),
        Prompting::Template => Prompt::Conversation(Conversation {
            messages: vec![Message {
                role: Role::User.into(),
                content: item.prompt.clone(),
            }],
        }),
    };
    ScoreRequest {
        generate: Some(GenerateRequest {
            model: settings.target.clone(),
            prompt: Some(prompt),
            sampling: Some(SamplingParams {
                temperature: Some(settings.temperature),
                top_p: Some(settings.top_p),
                seed: Some(item.seed(seed)),
                ..SamplingParams::default()
            }),
            stopping: Some(StoppingParams {
                max_new_tokens: settings.max_new_tokens,
                ..StoppingParams::default()
            }),
            ..GenerateRequest::default()
        }),
        judge: Some(JudgeOptions {
            model: settings.guards.first().cloned().unwrap_or_default(),
        }),
        samples: 1,
        keep_text: true,
    }
}

/// A result with what goes elsewhere than into its record.
struct Received {
    outcome: Outcome,
    target: Option<ModelProvenance>,
    guard: Option<ModelProvenance>,
    cached_tokens: u64,
    computed_tokens: u64,
}

impl Received {
    fn failed(error: RpcError) -> Self {
        Self {
            outcome: Outcome::Failed(Failure {
                code: code_name(error.code).to_owned(),
                reason: error.reason,
                message: error.message,
            }),
            target: None,
            guard: None,
            cached_tokens: 0,
            computed_tokens: 0,
        }
    }
}

fn outcome(result: ItemResult) -> Received {
    match result.and_then(only_sample).and_then(judged) {
        Ok(received) => received,
        Err(error) => Received::failed(error),
    }
}

fn incomplete(what: &str) -> RpcError {
    RpcError::local(
        Code::Internal,
        "INCOMPLETE_ANSWER",
        format!("the answer has {what}"),
    )
}

fn only_sample(response: ScoreResponse) -> Result<ScoredSample, RpcError> {
    let count = response.samples.len();
    let mut samples = response.samples.into_iter();
    match (samples.next(), samples.next()) {
        (Some(sample), None) => Ok(sample),
        _ => Err(incomplete(&format!("{count} samples, not 1"))),
    }
}

fn judged(sample: ScoredSample) -> Result<Received, RpcError> {
    let verdict = sample.verdict.ok_or_else(|| incomplete("no verdict"))?;
    let label = match verdict.label() {
        crate::proto::Label::Safe => Label::Safe,
        crate::proto::Label::Unsafe => Label::Unsafe,
        crate::proto::Label::Undetermined => Label::Undetermined,
        crate::proto::Label::Unspecified => return Err(incomplete("no label")),
    };
    if digest::of_bytes(&sample.text) != sample.text_digest {
        return Err(incomplete("a text that does not fit its digest"));
    }
    let usage = sample.usage.unwrap_or_default();
    let guard_usage = verdict.usage.unwrap_or_default();
    let all = |usage: &Usage| u64::from(usage.prompt_tokens) + u64::from(usage.completion_tokens);
    let cached_tokens = u64::from(usage.cached_prompt_tokens) + u64::from(guard_usage.cached_prompt_tokens);
    Ok(Received {
        target: sample
            .generation_provenance
            .as_ref()
            .map(ModelProvenance::from_proto),
        guard: verdict.provenance.as_ref().map(ModelProvenance::from_proto),
        cached_tokens,
        computed_tokens: (all(&usage) + all(&guard_usage)).saturating_sub(cached_tokens),
        outcome: Outcome::Answered(Answer {
            finish_reason: FinishReason::from_proto(sample.finish_reason),
            tokens: AnswerTokens {
                prompt: usage.prompt_tokens,
                completion: usage.completion_tokens,
            },
            text_digest: Some(sample.text_digest),
            text: Some(sample.text),
            verdicts: vec![GuardOutcome::Judged(Verdict {
                label,
                unsafe_score: verdict.unsafe_score.filter(|score| score.is_finite()),
                label_mass: Some(verdict.label_mass),
                raw_output: verdict.raw_output,
                categories: verdict
                    .categories
                    .into_iter()
                    .map(|named| named.category)
                    .collect(),
                tokens: GuardTokens {
                    prompt: guard_usage.prompt_tokens,
                    completion: guard_usage.completion_tokens,
                },
            })],
        }),
    })
}
