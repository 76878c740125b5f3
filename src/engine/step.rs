//! One model's steps: the scheduler's plan becomes a forward batch, and its logits become tokens and events.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    admission::{PinReservation, Submission},
    answer::{Read, next_token},
    error::SequenceError,
    event::FinishReason,
    kv_blocks::{KvBlocks, KvCounts},
    prefix::Prefix,
    prefix_cache::Parent,
    sampler::Sampler,
    scheduler::{Budget, Pace, Scheduler, StepForecast, TimeLedger, release_out_of_window},
    sequence::{Ending, Sequence},
    stats::{TokenTotals, record_step},
    step_time::StepShape,
    tenant::TenantWeights,
};
#[cfg(test)]
use super::{request::SequenceRequest, step_time::StepCosts};
use crate::{
    backend::{
        BatchSequence, CostPrior, ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput,
    },
    panics,
};

/// A prefix that stays in the cache.
struct PinnedPrefix {
    prompt: Prefix,
    /// Keeps its blocks reserved in the queue's ledger.
    _reservation: Option<PinReservation>,
}

/// A step that has been planned.
struct Step {
    began: Instant,
    shape: StepShape,
    pace: Pace,
    forecast: StepForecast,
    /// Whether the step succeeded. The time of one that failed is not learned from.
    succeeded: bool,
}

/// A model with its scheduler.
///
/// A step consists of [`ModelEngine::begin`], [`ModelEngine::launch`], [`ModelEngine::wait`], [`ModelEngine::complete`] and
/// [`ModelEngine::settle`], called in this order; a step that could not be launched is completed at once. The caller reads
/// the clock. Between launch and wait, the device reads and writes the KV blocks of the sequences that take part. Sequences
/// may arrive then, because that changes nothing of the running ones; whatever ends sequences waits for the step first.
pub(crate) struct ModelEngine {
    name: Arc<str>,
    model: Box<dyn LanguageModel>,
    limits: ModelLimits,
    scheduler: Scheduler,
    sampler: Sampler,
    batch: ForwardBatch,
    /// Entries of earlier batches, kept to reuse the memory of their block tables.
    spare: Vec<BatchSequence>,
    /// What the last step read. Its buffers are reused for the next step.
    output: StepOutput,
    current: Option<Step>,
    /// Whether the device may be computing the current step.
    under_way: bool,
    pinned: Vec<PinnedPrefix>,
    next_id: u64,
    /// Time that arrivals and planning took since the last step ended.
    scheduling: Duration,
    /// Since the model was loaded.
    tokens: TokenTotals,
}

impl ModelEngine {
    /// An idle engine for one model.
    pub(crate) fn new(
        name: Arc<str>,
        model: Box<dyn LanguageModel>,
        budget: Budget,
        cost_prior: CostPrior,
        weights: TenantWeights,
    ) -> Self {
        let limits = model.limits().clone();
        let kv = KvBlocks::new(limits.clone()).with_generated(model.generated_tokens());
        Self {
            name,
            model,
            limits,
            scheduler: Scheduler::new(budget, kv, cost_prior, weights),
            sampler: Sampler::default(),
            batch: ForwardBatch::default(),
            spare: Vec::new(),
            output: StepOutput::default(),
            current: None,
            under_way: false,
            pinned: Vec::new(),
            next_id: 0,
            scheduling: Duration::ZERO,
            tokens: TokenTotals::default(),
        }
    }

    /// Adds an accepted sequence, unless it cannot meet its deadline.
    pub(crate) fn submit(&mut self, submission: Submission, now: Instant) {
        let Submission {
            request,
            arrival,
            admission,
        } = submission;
        let id = self.take_id();
        self.scheduler
            .arrive(Sequence::new(request, arrival, id, Some(admission)), now);
    }

    /// Adds a sequence that is in no queue's ledger.
    #[cfg(test)]
    pub(crate) fn enqueue(&mut self, request: SequenceRequest, now: Instant) {
        let id = self.take_id();
        self.scheduler.enqueue(Sequence::new(request, now, id, None));
    }

    /// Whether any sequence is open.
    pub(crate) fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// Whether any urgent sequence is open.
    pub(crate) fn has_urgent(&self) -> bool {
        self.scheduler.has_urgent()
    }

    /// The counts of the KV pool.
    pub(crate) fn kv_counts(&self) -> KvCounts {
        self.scheduler.kv.counts()
    }

    /// Tokens since the model was loaded.
    pub(crate) fn tokens(&self) -> TokenTotals {
        self.tokens
    }

    /// The batch of the current step.
    #[cfg(test)]
    pub(crate) fn batch(&self) -> &ForwardBatch {
        &self.batch
    }

    /// What steps are predicted to cost.
    #[cfg(test)]
    pub(crate) fn costs(&self) -> StepCosts {
        self.scheduler.step_time.costs()
    }

    /// Blocks that are kept for growing texts.
    #[cfg(test)]
    pub(crate) fn kept_blocks(&self) -> usize {
        self.scheduler.kv.kept()
    }

    /// Preemptions since the start.
    #[cfg(test)]
    pub(crate) fn preemptions(&self) -> u64 {
        self.scheduler.preemptions
    }

    /// The model's name in metrics.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Plans a step and builds its batch. Returns `false` when there is nothing to compute.
    pub(crate) fn begin(&mut self, now: Instant, pace: Pace) -> bool {
        let forecast = self.scheduler.plan(now, pace);
        let mut shape = StepShape::default();
        self.batch.tokens.clear();
        self.spare.append(&mut self.batch.sequences);
        for sequence in self
            .scheduler
            .running
            .iter()
            .filter(|sequence| sequence.scheduled > 0)
        {
            let end = sequence.computed + sequence.scheduled;
            shape = shape.plus(sequence.shape(sequence.scheduled));
            self.batch
                .tokens
                .extend_from_slice(&sequence.tokens[sequence.computed..end]);
            let mut entry = self.spare.pop().unwrap_or_default();
            entry.new_tokens = sequence.scheduled;
            entry.context = sequence.computed;
            entry.kind = sequence.next_kind();
            entry.adapter = sequence.adapter;
            entry.block_table.clear();
            entry.block_table.extend_from_slice(&sequence.blocks);
            entry.readout = match end == sequence.tokens.len() {
                true => sequence.readout(),
                false => Readout::None,
            };
            self.batch.sequences.push(entry);
        }
        let record = &mut self.scheduler.record;
        record.batch_size = self.batch.sequences.len();
        record.batch_tokens = self.batch.tokens.len();
        let has_batch = !self.batch.sequences.is_empty();
        self.current = has_batch.then_some(Step {
            began: now,
            shape,
            pace,
            forecast,
            succeeded: false,
        });
        has_batch
    }

    /// Notes that taking an arrival, or planning a step, took this long.
    pub(crate) fn note_scheduling(&mut self, time: Duration) {
        self.scheduling += time;
    }

    /// Whether a step has been launched and not waited for.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Seconds of the time ledger's credit that the step under way is predicted to use.
    pub(crate) fn credit_in_use(&self) -> f64 {
        let step = self.current.as_ref();
        step.map_or(0.0, |step| step.forecast.credit_used(step.pace))
    }

    /// Submits the batch to the device.
    pub(crate) fn launch(&mut self) -> Result<(), StepError> {
        let output = std::mem::take(&mut self.output);
        // Also if the model panics, so that whoever fails its sequences waits for what the device has begun.
        self.under_way = true;
        let submitted = self.model.submit(&self.batch, output);
        self.under_way = submitted.is_ok();
        submitted
    }

    /// Waits until the device has computed the step.
    pub(crate) fn wait(&mut self) -> Result<(), StepError> {
        let waited = self.model.wait();
        self.under_way = false;
        self.output = waited?;
        let entries = self.batch.sequences.iter();
        let expected = entries.filter(|entry| entry.readout != Readout::None).count();
        let found = self.output.readings.len();
        if found != expected {
            return Err(StepError::InvalidBatch(format!(
                "{found} readings came back, not {expected}"
            )));
        }
        Ok(())
    }

    /// Applies the outcome of the step to its sequences.
    pub(crate) fn complete(&mut self, outcome: Result<(), StepError>, now: Instant) {
        if let Some(step) = &mut self.current {
            step.succeeded = outcome.is_ok();
        }
        let mut output = std::mem::take(&mut self.output);
        let mut readings = output.readings.iter();
        let (mut index, mut entry) = (0, 0);
        while let Some(sequence) = self.scheduler.running.get(index) {
            if sequence.scheduled == 0 {
                index += 1;
                continue;
            }
            let ending = match &outcome {
                Ok(()) => {
                    let reading = match self.batch.sequences[entry].readout {
                        Readout::None => None,
                        Readout::Logits
                        | Readout::Candidates { .. }
                        | Readout::Probe { .. }
                        | Readout::Score => readings.next(),
                    };
                    let width = self.limits.vocab_size;
                    let read = reading.map(|reading| Read::new(reading, &output, width));
                    self.advance(index, read.transpose(), now)
                }
                Err(StepError::DeviceLost(reason)) => {
                    Some(Ending::Failed(SequenceError::DeviceLost(reason.as_str().into())))
                }
                Err(error) => Some(Ending::Failed(SequenceError::ModelFailed(error.to_string()))),
            };
            entry += 1;
            match ending {
                Some(ending) => {
                    let sequence = self.scheduler.running.remove(index);
                    self.scheduler.retire(sequence, ending, now);
                }
                None => index += 1,
            }
        }
        output.clear();
        self.output = output;
    }

    /// Ends a step: learns from its time, accounts for it in the ledger, and records its metrics. A step without a batch
    /// only has metrics.
    pub(crate) fn settle(&mut self, ledger: &mut TimeLedger, now: Instant) {
        if let Some(step) = self.current.take() {
            let time = ledger.time_of_step(step.began, now);
            let scheduler = &mut self.scheduler;
            if step.succeeded {
                let error = scheduler.step_time.observe(step.shape, time, now);
                scheduler.record.forecast_error = Some(error);
            }
            scheduler.record.seconds = Some(time);
            scheduler.record.scheduling = std::mem::take(&mut self.scheduling);
            ledger.settle(step.pace, step.forecast, time.as_secs_f64());
        }
        for seconds in self.scheduler.finished_urgent_work.drain(..) {
            ledger.urgent_finished(seconds);
        }
        self.tokens.add(&self.scheduler.record);
        record_step(&self.name, &self.scheduler.record);
    }

    /// Fails all open sequences with `error`, after waiting for the step under way, whose outcome is dropped.
    pub(crate) fn fail_all(&mut self, error: &SequenceError, now: Instant) {
        if std::mem::take(&mut self.under_way) {
            // A model that panics is waited for no longer: there is nothing else to ask it.
            let _ = panics::catch(|| self.model.wait());
        }
        self.current = None;
        for sequence in self.scheduler.clear() {
            sequence.end(Ending::Failed(error.clone()), now);
        }
    }

    /// Advances the sequence at `index`, whose scheduled tokens have been computed. `read` is what was read after its last
    /// token, if it wants that.
    fn advance(
        &mut self,
        index: usize,
        read: Result<Option<Read<'_>>, SequenceError>,
        now: Instant,
    ) -> Option<Ending> {
        let sequence = &mut self.scheduler.running[index];
        sequence.computed += std::mem::take(&mut sequence.scheduled);
        sequence.counts.passes += 1;
        sequence.counts.max_batch = sequence.counts.max_batch.max(self.scheduler.record.batch_size);
        let read = match read {
            Ok(read) => read,
            // Checked before its blocks are cached, because such keys and values must not be found again.
            Err(error) => return Some(Ending::Failed(error)),
        };
        cache_full_blocks(&mut self.scheduler.kv, sequence);
        if sequence.remaining() > 0 {
            release_out_of_window(&mut self.scheduler.kv, sequence);
            return None;
        }
        if sequence.prompt_done.is_none() {
            sequence.prompt_done = Some(now);
            if sequence.output.pin_prompt {
                pin_prompt(&mut self.scheduler.kv, sequence, &mut self.pinned);
            }
            keep_prompt(&mut self.scheduler.kv, sequence);
            if read.is_some() {
                self.scheduler
                    .record
                    .first_tokens
                    .push(now.saturating_duration_since(sequence.arrival));
            }
        }
        release_out_of_window(&mut self.scheduler.kv, sequence);
        let Some(read) = read else {
            return Some(Ending::Finished(FinishReason::MaxTokens));
        };
        let before = sequence.counts.completion_tokens;
        let ending = next_token(sequence, &read, &mut self.sampler, self.limits.context_length);
        sequence.decoding_since.get_or_insert(now);
        self.scheduler.record.generated += (sequence.counts.completion_tokens - before) as u64;
        ending
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Puts the sequence's blocks that have become full into the prefix cache, where they are of use to other sequences.
fn cache_full_blocks(kv: &mut KvBlocks, sequence: &mut Sequence) {
    let size = kv.block_size();
    let reusable = sequence.reusable_tokens(kv.generated());
    while (sequence.cached_blocks + 1) * size <= sequence.computed.min(reusable) {
        let i = sequence.cached_blocks;
        let root = Parent::Root(sequence.adapter);
        let parent = i
            .checked_sub(1)
            .map_or(root, |parent| Parent::Block(sequence.blocks[parent]));
        let tokens = &sequence.tokens[i * size..(i + 1) * size];
        sequence.blocks[i] = kv.cache_block(parent, &sequence.owner, tokens, sequence.blocks[i]);
        sequence.cached_blocks += 1;
    }
}

/// Keeps the full blocks of the sequence's prompt for the next prompt of its growing text, if it is one of such a text.
fn keep_prompt(kv: &mut KvBlocks, sequence: &Sequence) {
    let full = sequence.prompt_len / kv.block_size();
    // The last block is held, whatever the attention window.
    let last = full.checked_sub(1).and_then(|last| sequence.blocks.get(last));
    if let (Some(keeper), Some(&last)) = (&sequence.keeper, last) {
        kv.keep(keeper, last);
    }
}

/// Pins the full blocks of the sequence's prompt.
fn pin_prompt(kv: &mut KvBlocks, sequence: &mut Sequence, pinned: &mut Vec<PinnedPrefix>) {
    let full = sequence.prompt_len / kv.block_size();
    if full == 0 {
        return;
    }
    kv.pin(&sequence.blocks[..full]);
    let prompt = sequence.prefix(full * kv.block_size()).to_owned();
    if pinned.iter().any(|pinned| pinned.prompt == prompt) {
        return;
    }
    let admission = sequence.admission.as_mut();
    pinned.push(PinnedPrefix {
        prompt,
        _reservation: admission.and_then(|admission| admission.take_pin()),
    });
}
