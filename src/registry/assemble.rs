//! Gives an opened model to the engine, builds the entries that requests use, and pins the prefixes of guard prompts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use tracing::Span;

use super::{
    declare::DeclaredGroup,
    device::Device,
    error::RegistryError,
    loader::OpenedModel,
    model::{Declared, ModelEntry, ModelRole, Resident, ResidentAdapter},
};
use crate::{
    backend::AdapterIndex,
    classifier::TextClassifier,
    engine::{
        CancelFlag, EngineHandle, Event, OutputSpec, Priority, SequenceError, SequenceRequest, SubmitError,
        Tenant,
    },
    guard::{Guard, GuardError, GuardEvidence, GuardKind, Policy},
    quality::PairEncoder,
    text::TokenizerError,
};

/// How long the policy text of a guard waits when the queue is full.
const QUEUE_PATIENCE: Duration = Duration::from_secs(60);

/// Gives a model to the engine, and computes and pins the prefixes of its guards' prompts. Returns one entry for each of
/// the ids that stand for it. `scratch_bytes` are the bytes of buffers that its steps will take; `policies` are those that
/// requests may let guards judge by.
pub(super) fn install(
    device: &Device,
    opened: OpenedModel,
    group: &DeclaredGroup,
    policies: &BTreeMap<String, Arc<Policy>>,
    scratch_bytes: u64,
) -> Result<Vec<Arc<ModelEntry>>, RegistryError> {
    let declared = group.members.as_slice();
    let engine = &device.engine;
    let guards: Vec<_> = declared
        .iter()
        .map(|declared| guard_of(declared, &opened))
        .collect::<Result<_, _>>()?;
    let quality = pair_encoder(declared, &opened)?;
    let classifier = text_classifier(declared, &opened)?;
    let limits = opened.loaded.model.limits().clone();
    // Metrics name a model by the first id that stands for it.
    let name = declared.first().map_or("", |declared| declared.id.as_str());
    let index = engine.add_model(name, opened.loaded.model)?;
    let resident = Arc::new(Resident {
        index,
        tokenizer: opened.tokenizer,
        template: opened.template,
        architecture: opened.loaded.architecture,
        parameters: opened.loaded.parameters,
        dtype: opened.loaded.dtype,
        precision: opened.loaded.precision,
        device: Arc::clone(&device.info),
        passed_over: group.passed_over.clone(),
        determinism: opened.loaded.determinism,
        engine: engine.clone(),
        weight_bytes: opened.loaded.weight_bytes,
        kv_bytes: opened.loaded.kv_bytes,
        scratch_bytes,
        digest: opened.digest,
        limits,
        ready_at: SystemTime::now(),
    });
    let adapters: Vec<_> = opened
        .loaded
        .adapters
        .into_iter()
        .zip(opened.adapter_digests)
        .collect();
    let entries: Vec<_> = declared
        .iter()
        .zip(guards)
        .map(|(declared, guard)| {
            let adapter = declared.adapter.as_ref().and_then(|declared| {
                let (adapter, digest) = adapters.get(declared.index.0)?;
                Some(Arc::new(ResidentAdapter {
                    index: declared.index,
                    base: declared.base.clone(),
                    rank: adapter.rank,
                    parameters: adapter.parameters,
                    resident_bytes: adapter.resident_bytes,
                    digest: digest.clone(),
                }))
            });
            Arc::new(ModelEntry {
                id: declared.id.clone(),
                roles: declared.roles.clone(),
                resident: Arc::clone(&resident),
                adapter,
                guard,
                quality: quality.clone(),
                classifier: classifier.clone(),
                group: declared.group,
            })
        })
        .collect();
    if let Err(error) = pin_prefixes(engine, &entries, policies) {
        engine.remove_model(index).wait();
        return Err(error);
    }
    Ok(entries)
}

fn guard_of(declared: &Declared, opened: &OpenedModel) -> Result<Option<Arc<Guard>>, RegistryError> {
    if !declared.has(ModelRole::Guard) {
        return Ok(None);
    }
    let evidence = GuardEvidence {
        template: opened.template.as_ref().map(|template| template.source()),
        names: &opened.names,
        layers: opened.loaded.layers,
    };
    let tokenizer = Arc::clone(&opened.tokenizer);
    let guard = match &opened.verdict_heads {
        Some(heads) => Guard::with_heads(declared.guard_kind, tokenizer, heads),
        None => {
            let kind = declared.guard_kind.or_else(|| GuardKind::detect(&evidence));
            kind.ok_or(GuardError::Unknown)
                .and_then(|kind| Guard::new(kind, tokenizer, opened.template.clone()))
        }
    };
    guard
        .map(|guard| Some(Arc::new(guard)))
        .map_err(|source| RegistryError::Guard {
            id: declared.id.clone(),
            source,
        })
}

fn pair_encoder(
    declared: &[Arc<Declared>],
    opened: &OpenedModel,
) -> Result<Option<Arc<PairEncoder>>, RegistryError> {
    let Some(kind) = opened.estimator else {
        return Ok(None);
    };
    let encoder = PairEncoder::new(
        kind,
        Arc::clone(&opened.tokenizer),
        opened.loaded.model.limits().vocab_size,
    );
    encoder
        .map(|encoder| Some(Arc::new(encoder)))
        .map_err(|source| tokenizer_error(declared, source))
}

fn text_classifier(
    declared: &[Arc<Declared>],
    opened: &OpenedModel,
) -> Result<Option<Arc<TextClassifier>>, RegistryError> {
    let Some(labels) = opened.labels.clone() else {
        return Ok(None);
    };
    let limits = opened.loaded.model.limits();
    let classifier = TextClassifier::new(
        Arc::clone(&opened.tokenizer),
        labels,
        limits.context_length,
        limits.vocab_size,
    );
    classifier
        .map(|classifier| Some(Arc::new(classifier)))
        .map_err(|source| tokenizer_error(declared, source))
}

/// The error of a model whose tokenizer does not fit, by the first id that stands for it.
fn tokenizer_error(declared: &[Arc<Declared>], source: TokenizerError) -> RegistryError {
    let id = declared.first().map_or("", |declared| declared.id.as_str());
    RegistryError::Tokenizer {
        id: id.to_owned(),
        source,
    }
}

/// Queues a sequence, and waits while the queue is full.
fn submit(
    engine: &EngineHandle,
    request: impl Fn() -> SequenceRequest,
    id: &str,
) -> Result<(), RegistryError> {
    let began = Instant::now();
    loop {
        match engine.submit(request()) {
            Ok(()) => return Ok(()),
            Err(SubmitError::QueueFull { retry_after }) if began.elapsed() < QUEUE_PATIENCE => {
                thread::sleep(retry_after.min(Duration::from_secs(1)));
            }
            Err(source) => {
                return Err(RegistryError::PrefixRefused {
                    id: id.to_owned(),
                    source,
                });
            }
        }
    }
}

/// Computes and pins the prefixes of each guard's prompts: those with its own policy, and those with each of `policies`.
fn pin_prefixes(
    engine: &EngineHandle,
    entries: &[Arc<ModelEntry>],
    policies: &BTreeMap<String, Arc<Policy>>,
) -> Result<(), RegistryError> {
    let mut done: BTreeSet<(Option<AdapterIndex>, Vec<u32>)> = BTreeSet::new();
    for entry in entries {
        let Some(guard) = &entry.guard else { continue };
        let named = policies.values().map(|policy| Some(policy.as_ref()));
        let named = named.filter(|policy| policy.is_none_or(|policy| guard.takes(policy)));
        let mut prefixes = Vec::new();
        for policy in std::iter::once(None).chain(named) {
            let of_policy = guard.policy_prefixes(policy);
            prefixes.extend(of_policy.map_err(|source| RegistryError::Guard {
                id: entry.id.clone(),
                source,
            })?);
        }
        for prefix in prefixes {
            let prefix = (adapter_of(entry), prefix);
            if !prefix.1.is_empty() && !done.contains(&prefix) {
                pin(engine, entry, &prefix.1)?;
                done.insert(prefix);
            }
        }
    }
    Ok(())
}

fn adapter_of(entry: &ModelEntry) -> Option<AdapterIndex> {
    entry.adapter.as_ref().map(|adapter| adapter.index)
}

fn pin(engine: &EngineHandle, entry: &ModelEntry, prefix: &[u32]) -> Result<(), RegistryError> {
    let (sender, receiver) = mpsc::channel();
    let request = || SequenceRequest {
        model: entry.resident.index,
        adapter: adapter_of(entry),
        prompt: prefix.to_vec(),
        output: OutputSpec::pinned_prefix(),
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        deadline: None,
        cancel: CancelFlag::default(),
        events: {
            let sender = sender.clone();
            Box::new(move |event| sender.send(event).is_ok())
        },
        keeper: None,
        span: Span::current(),
    };
    submit(engine, request, &entry.id)?;
    // Only the engine holds a sender now, so that the loop ends if the engine drops the sequence.
    drop(sender);
    for event in receiver {
        match event {
            Event::Finished(_) => return Ok(()),
            Event::Failed(source) => {
                return Err(RegistryError::PrefixFailed {
                    id: entry.id.clone(),
                    source,
                });
            }
            Event::Started { .. } | Event::Probe(_) | Event::Score(_) | Event::Token(_) => {}
        }
    }
    Err(RegistryError::PrefixFailed {
        id: entry.id.clone(),
        source: SequenceError::ShuttingDown,
    })
}
