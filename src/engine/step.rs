//! One model's steps: a plan becomes a forward batch, its logits become tokens and events.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};

use super::{
    CancelFlag, Event, FinishReason, ModelIndex, OutputSpec, Priority, SequenceError, SequenceRequest,
    Tenant, TenantWeights,
    admission::PinHold,
    answer::{Read, next_token},
    forecast::Shape,
    inbox::{KvCounts, Submission},
    kv_blocks::KvBlocks,
    prefix::Prefix,
    prefix_cache::Parent,
    sampler::Sampler,
    scheduler::{Budget, Ledger, Pace, Planned, Scheduler, let_go_of_unseen},
    sequence::{Ending, Sequence},
    stats::{StepRecord, record_step},
};
use crate::backend::{
    BatchSequence, CostPrior, ForwardBatch, LanguageModel, ModelLimits, Readout, StepError, StepOutput,
};

/// How often a lost pinned prefix is computed again before it is given up.
const MAX_PIN_ATTEMPTS: u32 = 3;

/// A prefix that is to stay in the cache.
struct Pinned {
    prompt: Prefix,
    /// Whether its blocks are pinned now.
    resident: bool,
    /// Computations that failed since it was last resident.
    failures: u32,
    _hold: Option<PinHold>,
}

/// A step under way.
struct Step {
    began: Instant,
    shape: Shape,
    pace: Pace,
    planned: Planned,
    /// Whether the forward pass did what it was to do, so that its time says something.
    sound: bool,
}

/// A model with its scheduler.
///
/// A step is [`ModelEngine::begin`], [`ModelEngine::forward`], [`ModelEngine::complete`],
/// [`ModelEngine::settle`]; the caller reads the clock.
pub struct ModelEngine {
    name: Arc<str>,
    model: Box<dyn LanguageModel>,
    limits: ModelLimits,
    scheduler: Scheduler,
    sampler: Sampler,
    batch: ForwardBatch,
    /// Entries of earlier batches, kept for their block tables' memory.
    spare: Vec<BatchSequence>,
    /// What the last step read; its buffers go into the next.
    output: StepOutput,
    record: StepRecord,
    current: Option<Step>,
    pinned: Vec<Pinned>,
    /// Pinned prompts whose computation failed: said by the sequences' sinks, heard after each step.
    lost_pins: Receiver<Prefix>,
    lose_pin: Sender<Prefix>,
    next_id: u64,
}

impl ModelEngine {
    /// An idle engine for one model.
    pub fn new(
        name: Arc<str>,
        model: Box<dyn LanguageModel>,
        budget: Budget,
        prior: CostPrior,
        weights: TenantWeights,
    ) -> Self {
        let limits = model.limits().clone();
        let kv = KvBlocks::new(limits.clone());
        let (lose_pin, lost_pins) = channel();
        Self {
            name,
            model,
            limits,
            scheduler: Scheduler::new(budget, kv, prior, weights),
            sampler: Sampler::default(),
            batch: ForwardBatch::default(),
            spare: Vec::new(),
            output: StepOutput::default(),
            record: StepRecord::default(),
            current: None,
            pinned: Vec::new(),
            lost_pins,
            lose_pin,
            next_id: 0,
        }
    }

    /// Adds an accepted sequence, unless its deadline is hopeless.
    pub fn submit(&mut self, submission: Submission, now: Instant) {
        let Submission {
            request,
            arrival,
            admission,
        } = submission;
        let id = self.take_id();
        self.scheduler
            .arrive(Sequence::new(request, arrival, id, Some(admission)), now);
    }

    /// Adds a sequence that is in no queue's books.
    pub fn enqueue(&mut self, request: SequenceRequest, now: Instant) {
        let id = self.take_id();
        self.scheduler.enqueue(Sequence::new(request, now, id, None));
    }

    /// Whether there is anything to do.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work()
    }

    /// Whether there is anything urgent to do.
    pub fn has_urgent(&self) -> bool {
        self.scheduler.has_urgent()
    }

    /// The pool's state.
    pub fn kv_counts(&self) -> KvCounts {
        KvCounts {
            available: self.scheduler.kv.available(),
            pinned: self.scheduler.kv.pinned(),
            touched: self.scheduler.kv.touched(),
        }
    }

    /// The batch of the current step.
    #[cfg(test)]
    pub fn batch(&self) -> &ForwardBatch {
        &self.batch
    }

    /// Preemptions since the start.
    #[cfg(test)]
    pub fn preemptions(&self) -> u64 {
        self.scheduler.preemptions
    }

    /// The model's name in metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Plans a step and builds its batch; `false` when there is nothing to compute.
    pub fn begin(&mut self, now: Instant, pace: Pace) -> bool {
        let planned = self.scheduler.plan(now, pace);
        let mut shape = Shape::default();
        self.batch.tokens.clear();
        self.spare.append(&mut self.batch.sequences);
        for sequence in self
            .scheduler
            .running
            .iter()
            .filter(|sequence| sequence.scheduled > 0)
        {
            let end = sequence.computed + sequence.scheduled;
            shape = shape.plus(sequence.part(sequence.scheduled));
            self.batch
                .tokens
                .extend_from_slice(&sequence.tokens[sequence.computed..end]);
            let mut entry = self.spare.pop().unwrap_or_default();
            entry.new_tokens = sequence.scheduled;
            entry.context = sequence.computed;
            entry.adapter = sequence.adapter;
            entry.block_table.clear();
            entry.block_table.extend_from_slice(&sequence.blocks);
            entry.readout = match end == sequence.tokens.len() {
                true => sequence.readout(),
                false => Readout::None,
            };
            self.batch.sequences.push(entry);
        }
        self.record.batch_size = self.batch.sequences.len();
        self.record.batch_tokens = self.batch.tokens.len();
        self.record.generated = 0;
        self.record.first_tokens.clear();
        self.record.forecast_error = None;
        self.record.seconds = None;
        let anything = !self.batch.sequences.is_empty();
        self.current = anything.then_some(Step {
            began: now,
            shape,
            pace,
            planned,
            sound: false,
        });
        anything
    }

    /// Runs the model on the batch.
    pub fn forward(&mut self) -> Result<(), StepError> {
        let output = std::mem::take(&mut self.output);
        self.output = self.model.forward(&self.batch, output)?;
        let asked = self.batch.sequences.iter();
        let asked = asked.filter(|entry| entry.readout != Readout::None).count();
        let found = self.output.readings.len();
        if found != asked {
            return Err(StepError::InvalidBatch(format!(
                "{found} readouts came back, not {asked}"
            )));
        }
        Ok(())
    }

    /// Takes the outcome of the forward pass to the sequences.
    pub fn complete(&mut self, outcome: Result<(), StepError>, now: Instant) {
        if let Some(step) = &mut self.current {
            step.sound = outcome.is_ok();
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
                        Readout::Logits | Readout::Probe { .. } | Readout::Score => readings.next(),
                    };
                    let width = self.limits.vocab_size;
                    match reading
                        .map(|reading| Read::new(reading, &output, width))
                        .transpose()
                    {
                        Ok(read) => self.advance(index, read, now),
                        // Before anything is cached: such keys and values must not be found again.
                        Err(error) => self.fail(index, error),
                    }
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
        self.recompute_lost_pins(now);
    }

    /// Learns from the step that has just been completed, tells the ledger what it took, and records its
    /// metrics, or those of a plan without a batch.
    pub fn settle(&mut self, ledger: &mut Ledger, now: Instant) {
        if let Some(step) = self.current.take() {
            let time = now.saturating_duration_since(step.began);
            if step.sound {
                self.record.forecast_error = Some(self.scheduler.forecast.observe(step.shape, time, now));
            }
            self.record.seconds = Some(time);
            ledger.settle(step.pace, step.planned, time.as_secs_f64());
        }
        for seconds in self.scheduler.urgent_work.drain(..) {
            ledger.urgent_finished(seconds);
        }
        record_step(&self.name, &self.scheduler.record, &self.record);
    }

    /// Ends everything that is open with `error`.
    pub fn fail_all(&mut self, error: &SequenceError, now: Instant) {
        for sequence in self.scheduler.clear() {
            sequence.end(Ending::Failed(error.clone()), now);
        }
    }

    /// After a panic: everything open fails, the pool and the cache start anew, and pinned prefixes are
    /// computed again.
    pub fn restart(&mut self, now: Instant) {
        self.current = None;
        self.fail_all(&SequenceError::EnginePanicked, now);
        // What the failed computations of pins have said is said by `resident` as well.
        while self.lost_pins.try_recv().is_ok() {}
        for pinned in &mut self.pinned {
            pinned.failures += u32::from(!pinned.resident);
            pinned.resident = false;
        }
        let prompts: Vec<_> = self.pinned.iter().map(|pinned| pinned.prompt.clone()).collect();
        for prompt in prompts {
            self.recompute_pin(prompt, now);
        }
    }

    /// The sequence at `index` has computed what was scheduled.
    fn count_pass(&mut self, index: usize) {
        let sequence = &mut self.scheduler.running[index];
        sequence.computed += std::mem::take(&mut sequence.scheduled);
        sequence.counts.passes += 1;
        sequence.counts.max_batch = sequence.counts.max_batch.max(self.record.batch_size);
    }

    /// Ends the sequence at `index`, which computed something that is no number.
    fn fail(&mut self, index: usize, error: SequenceError) -> Option<Ending> {
        self.count_pass(index);
        Some(Ending::Failed(error))
    }

    /// Takes the sequence at `index` on, which has computed what was scheduled; `read` is what was read after its last
    /// token, where it wanted that.
    fn advance(&mut self, index: usize, read: Option<Read<'_>>, now: Instant) -> Option<Ending> {
        self.count_pass(index);
        let sequence = &mut self.scheduler.running[index];
        publish_full_blocks(&mut self.scheduler.kv, sequence);
        if sequence.remaining() > 0 {
            let_go_of_unseen(&mut self.scheduler.kv, sequence);
            return None;
        }
        if sequence.prompt_done.is_none() {
            sequence.prompt_done = Some(now);
            if sequence.output.pin_prompt {
                pin_prompt(&mut self.scheduler.kv, sequence, &mut self.pinned);
            }
            if read.is_some() {
                self.record
                    .first_tokens
                    .push(now.saturating_duration_since(sequence.arrival));
            }
        }
        let_go_of_unseen(&mut self.scheduler.kv, sequence);
        let Some(read) = read else {
            return Some(Ending::Finished(FinishReason::MaxTokens));
        };
        let before = sequence.counts.completion_tokens;
        let ending = next_token(sequence, &read, &mut self.sampler, self.limits.context_length);
        sequence.writes_since.get_or_insert(now);
        self.record.generated += (sequence.counts.completion_tokens - before) as u64;
        ending
    }

    fn recompute_lost_pins(&mut self, now: Instant) {
        while let Ok(prompt) = self.lost_pins.try_recv() {
            if let Some(pinned) = self.pinned.iter_mut().find(|pinned| pinned.prompt == prompt) {
                pinned.failures += 1;
            }
            self.recompute_pin(prompt, now);
        }
    }

    /// Queues a prefill of the engine's own for a pinned prefix, or gives the prefix up.
    fn recompute_pin(&mut self, prompt: Prefix, now: Instant) {
        let given_up = |pinned: &Pinned| pinned.prompt == prompt && pinned.failures >= MAX_PIN_ATTEMPTS;
        if self.pinned.iter().any(given_up) {
            tracing::warn!(model = %self.name, tokens = prompt.tokens.len(), "gave up on a pinned prefix");
            self.pinned.retain(|pinned| pinned.prompt != prompt);
            return;
        }
        let (adapter, tokens) = (prompt.adapter, prompt.tokens.to_vec());
        let lost = self.lose_pin.clone();
        let request = SequenceRequest {
            model: ModelIndex(0),
            adapter,
            prompt: tokens,
            output: OutputSpec::pinned_prefix(),
            priority: Priority::Interactive,
            tenant: Tenant::default(),
            deadline: None,
            cancel: CancelFlag::default(),
            events: Box::new(move |event| {
                if matches!(event, Event::Failed(_)) {
                    // The receiver lives as long as the engine.
                    return lost.send(prompt.clone()).is_ok();
                }
                true
            }),
        };
        self.enqueue(request, now);
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn publish_full_blocks(kv: &mut KvBlocks, sequence: &mut Sequence) {
    let size = kv.block_size();
    while (sequence.published + 1) * size <= sequence.computed {
        let i = sequence.published;
        let root = Parent::Root(sequence.adapter);
        let parent = i
            .checked_sub(1)
            .map_or(root, |parent| Parent::Block(sequence.blocks[parent]));
        let tokens = &sequence.tokens[i * size..(i + 1) * size];
        sequence.blocks[i] = kv.publish(parent, &sequence.owner, tokens, sequence.blocks[i]);
        sequence.published += 1;
    }
}

fn pin_prompt(kv: &mut KvBlocks, sequence: &mut Sequence, pinned: &mut Vec<Pinned>) {
    let full = sequence.prompt_len / kv.block_size();
    if full == 0 {
        return;
    }
    kv.pin(&sequence.blocks[..full]);
    let prompt = sequence.prefix(full * kv.block_size()).to_owned();
    match pinned.iter_mut().find(|pinned| pinned.prompt == prompt) {
        Some(known) => {
            known.resident = true;
            known.failures = 0;
        }
        None => pinned.push(Pinned {
            prompt,
            resident: true,
            failures: 0,
            _hold: sequence
                .admission
                .as_mut()
                .and_then(|admission| admission.take_pin()),
        }),
    }
}
