//! What is checked before a sequence is queued, and the ledger of open sequences and promised KV blocks that an
//! accepted sequence is entered in.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    error::SubmitError, prefix::Prefix, request::SequenceRequest, tenant::Tenant, verdict_pace::VerdictPlace,
};
use crate::backend::ModelLimits;

/// Checks everything that does not depend on other sequences.
pub(crate) fn validate(
    request: &SequenceRequest,
    limits: &ModelLimits,
    now: Instant,
) -> Result<(), SubmitError> {
    let tokens = request.prompt.len();
    if tokens == 0 {
        return Err(SubmitError::EmptyPrompt);
    }
    let room_for_answer = usize::from(request.output.max_new_tokens > 0);
    let limit = limits.context_length.saturating_sub(room_for_answer);
    if tokens > limit {
        return Err(SubmitError::PromptTooLong { tokens, limit });
    }
    let vocab_size = limits.vocab_size;
    let outside = request
        .prompt
        .iter()
        .position(|&token| token as usize >= vocab_size);
    if let Some(position) = outside {
        return Err(SubmitError::TokenOutOfRange {
            token: request.prompt[position],
            position,
            vocab_size,
        });
    }
    if request.deadline.is_some_and(|deadline| now >= deadline) {
        return Err(SubmitError::DeadlineExceeded);
    }
    Ok(())
}

/// KV blocks for the whole sequence if it runs to its end, whether or not it holds them all at the same time. The keys
/// and values of its last token are never computed.
pub(crate) fn blocks_needed(request: &SequenceRequest, limits: &ModelLimits) -> usize {
    let answer = request.output.max_new_tokens.saturating_sub(1);
    let tokens = request
        .prompt
        .len()
        .saturating_add(answer)
        .min(limits.context_length);
    tokens.div_ceil(limits.block_size)
}

/// Prompts that are pinned or will be, and the blocks they take from the pool. They are entered at submission, so that
/// no sequence is accepted that would no longer fit once they are resident.
#[derive(Debug, Default)]
pub(crate) struct PinLedger {
    prompts: Vec<(u64, Prefix)>,
    next_id: u64,
    reserved: usize,
}

impl PinLedger {
    /// Blocks that the pinned prompts take together.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Number of leading blocks of `prompt` that a pinned prompt has too.
    pub(crate) fn covered(&self, prompt: Prefix<&[u32]>, block_size: usize) -> usize {
        covered(self.prompts.iter().map(|(_, pinned)| pinned), &prompt, block_size)
    }

    /// Enters a prompt and returns the id of its entry.
    pub(crate) fn add(&mut self, prompt: Prefix, block_size: usize) -> u64 {
        self.next_id += 1;
        self.prompts.push((self.next_id, prompt));
        self.recount(block_size);
        self.next_id
    }

    /// Removes an entry.
    pub(crate) fn remove(&mut self, id: u64, block_size: usize) {
        self.prompts.retain(|(entry, _)| *entry != id);
        self.recount(block_size);
    }

    /// Counts the blocks in the union of the prompts: each prompt adds those that no earlier one covers.
    fn recount(&mut self, block_size: usize) {
        self.reserved = (0..self.prompts.len())
            .map(|i| {
                let (earlier, rest) = self.prompts.split_at(i);
                let prompt = &rest[0].1;
                let earlier = earlier.iter().map(|(_, prompt)| prompt);
                prompt.tokens.len() / block_size - covered(earlier, prompt, block_size)
            })
            .sum();
    }
}

fn covered<'a, T: AsRef<[u32]>>(
    pinned: impl Iterator<Item = &'a Prefix>,
    prompt: &Prefix<T>,
    block_size: usize,
) -> usize {
    pinned
        .map(|pinned| pinned.common_blocks(prompt, block_size))
        .max()
        .unwrap_or(0)
}

/// Open sequences and promised blocks of one model.
#[derive(Debug, Default)]
pub(crate) struct AdmissionLedger {
    /// Sequences that have been accepted and have not ended.
    pub open: usize,
    /// Open sequences that have not started.
    pub queued: usize,
    /// Pinned prompts.
    pub pins: PinLedger,
    /// How many open sequences need a given number of blocks beyond the pinned ones, by that number.
    needs: BTreeMap<usize, usize>,
}

/// What a queued sequence counts for in the queue's bounds.
#[derive(Debug)]
pub(crate) struct QueuedRequest {
    /// Prompt tokens.
    pub tokens: usize,
    /// The account that it is queued on.
    pub account: Tenant,
}

/// What the ledger holds for one open sequence.
#[derive(Debug)]
pub(crate) struct LedgerEntry {
    /// Blocks beyond the pinned ones.
    need: usize,
    /// Id of its entry in the [`PinLedger`].
    pin: Option<u64>,
}

impl AdmissionLedger {
    /// Enters a sequence that needs `needed` blocks and whose `pin` (the full blocks of its prompt) is to stay cached.
    /// It is accepted if it fits alone into what pinned prompts leave of the pool, and every open sequence still does.
    pub(crate) fn enter(
        &mut self,
        prompt: Prefix<&[u32]>,
        needed: usize,
        pin: Option<Prefix>,
        limits: &ModelLimits,
    ) -> Result<LedgerEntry, SubmitError> {
        let block_size = limits.block_size;
        let pin = pin.map(|pin| self.pins.add(pin, block_size));
        let available = limits.num_blocks.saturating_sub(self.pins.reserved());
        let most = limits.most_blocks();
        let need = needed
            .saturating_sub(self.pins.covered(prompt, block_size))
            .min(most);
        let largest = self.needs.keys().next_back().copied().unwrap_or(0);
        // Without a new pin the largest open sequence is known to fit.
        let too_much_pinned = self.pins.reserved() > limits.num_blocks;
        if too_much_pinned || need.max(largest) > available {
            if let Some(pin) = pin {
                self.pins.remove(pin, block_size);
            }
            let (needed, available) = if too_much_pinned {
                // The prompt that is to be pinned does not fit itself.
                let before = limits.num_blocks.saturating_sub(self.pins.reserved());
                (needed, before)
            } else {
                (needed.min(most).max(largest), available)
            };
            return Err(SubmitError::CannotFit { needed, available });
        }
        *self.needs.entry(need).or_default() += 1;
        self.open += 1;
        self.queued += 1;
        Ok(LedgerEntry { need, pin })
    }

    /// Removes an open sequence that was entered with `need` blocks.
    pub(crate) fn leave(&mut self, need: usize) {
        self.open -= 1;
        if let Some(count) = self.needs.get_mut(&need) {
            *count -= 1;
            if *count == 0 {
                self.needs.remove(&need);
            }
        }
    }
}

/// Gives back what the ledgers hold for open sequences. The inbox implements this, so that guards can outlive its lock
/// without knowing the inbox.
pub(crate) trait ReleaseAdmission: std::fmt::Debug + Send + Sync {
    /// A request has left the queue; `started` is the time if its first forward pass begins now.
    fn leave_queue(&self, model: usize, request: &QueuedRequest, started: Option<Instant>);

    /// A verdict of a model has ended. `ended` is when it was given, or when it was too late; otherwise it was given up.
    fn close_verdict(&self, model: usize, place: &VerdictPlace, ended: Option<Instant>);

    /// A sequence of a model has ended that was entered with `need` blocks.
    fn close_sequence(&self, model: usize, need: usize);

    /// The prompt with this id in a model's [`PinLedger`] is pinned no longer.
    fn unpin(&self, model: usize, id: u64);
}

/// Keeps an accepted sequence in the ledgers for as long as it exists.
#[derive(Debug)]
pub(crate) struct Admission {
    ledgers: Arc<dyn ReleaseAdmission>,
    model: usize,
    request: QueuedRequest,
    need: usize,
    queued: bool,
    pin: Option<PinReservation>,
    verdict: Option<VerdictPlace>,
    /// When the verdict was given, or when it was too late.
    verdict_ended: Option<Instant>,
}

impl Admission {
    /// The admission of a sequence of the model with this index.
    pub(crate) fn new(
        ledgers: Arc<dyn ReleaseAdmission>,
        model: usize,
        entry: LedgerEntry,
        request: QueuedRequest,
    ) -> Self {
        let pin = entry.pin.map(|id| PinReservation {
            ledgers: Arc::clone(&ledgers),
            model,
            id,
        });
        Self {
            ledgers,
            model,
            request,
            need: entry.need,
            queued: true,
            pin,
            verdict: None,
            verdict_ended: None,
        }
    }

    /// The same for a verdict that stands in this place.
    pub(crate) fn with_verdict(mut self, verdict: Option<VerdictPlace>) -> Self {
        self.verdict = verdict;
        self
    }

    /// Records when the sequence was answered, or was too late.
    pub(crate) fn set_ended(&mut self, now: Instant) {
        self.verdict_ended = Some(now);
    }

    /// Makes room in the queue. Only the first call has an effect; `started` is the time if the first forward pass
    /// begins now.
    pub(crate) fn leave_queue(&mut self, started: Option<Instant>) {
        if std::mem::take(&mut self.queued) {
            self.ledgers.leave_queue(self.model, &self.request, started);
        }
    }

    /// Takes the reservation of the prompt's blocks, which now are pinned: it outlives the sequence.
    pub(crate) fn take_pin(&mut self) -> Option<PinReservation> {
        self.pin.take()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave_queue(None);
        if let Some(place) = &self.verdict {
            self.ledgers.close_verdict(self.model, place, self.verdict_ended);
        }
        self.ledgers.close_sequence(self.model, self.need);
    }
}

/// Keeps a pinned prompt's blocks reserved until it is dropped.
#[derive(Debug)]
pub(crate) struct PinReservation {
    ledgers: Arc<dyn ReleaseAdmission>,
    model: usize,
    id: u64,
}

impl Drop for PinReservation {
    fn drop(&mut self) {
        self.ledgers.unpin(self.model, self.id);
    }
}

/// A sequence on its way to the engine's thread.
pub(crate) struct Submission {
    /// What the caller wants.
    pub request: SequenceRequest,
    /// When it was accepted.
    pub arrival: Instant,
    /// Its entries in the ledgers.
    pub admission: Admission,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::AdapterIndex;

    const LIMITS: ModelLimits = ModelLimits {
        vocab_size: 10,
        context_length: 100,
        block_size: 2,
        num_blocks: 10,
        window: None,
    };

    fn plain(tokens: &[u32]) -> Prefix<&[u32]> {
        Prefix {
            adapter: None,
            tokens,
        }
    }

    fn pin(tokens: &[u32]) -> Option<Prefix> {
        Some(plain(tokens).to_owned())
    }

    #[test]
    fn pinned_prompts_are_counted_as_a_union_of_paths() {
        let mut pins = PinLedger::default();
        let first = pins.add(plain(&[1, 1, 2, 2, 3, 3]).to_owned(), 2);
        assert_eq!(pins.reserved(), 3);
        let second = pins.add(plain(&[1, 1, 2, 2, 4, 4]).to_owned(), 2);
        assert_eq!(pins.reserved(), 4);
        assert_eq!(pins.covered(plain(&[1, 1, 2, 2, 4, 5]), 2), 2);
        let adapted = Prefix {
            adapter: Some(AdapterIndex(0)),
            ..plain(&[1, 1, 2, 2, 4, 5])
        };
        assert_eq!(
            pins.covered(adapted, 2),
            0,
            "an adapter shares nothing with its base"
        );
        pins.remove(first, 2);
        assert_eq!(pins.reserved(), 3);
        pins.remove(second, 2);
        assert_eq!(pins.reserved(), 0);
    }

    #[test]
    fn a_sequence_may_use_the_pinned_blocks_of_its_own_prefix() {
        let mut ledger = AdmissionLedger::default();
        ledger
            .enter(
                plain(&[1, 1, 2, 2, 3, 3, 4, 4]),
                4,
                pin(&[1, 1, 2, 2, 3, 3, 4, 4]),
                &LIMITS,
            )
            .unwrap();
        // 4 of 10 blocks are reserved; another prompt has 6, one that starts with the pinned one has 10.
        assert_eq!(
            ledger.enter(plain(&[9, 9]), 7, None, &LIMITS).unwrap_err(),
            SubmitError::CannotFit {
                needed: 7,
                available: 6
            }
        );
        assert!(ledger.enter(plain(&[9, 9]), 6, None, &LIMITS).is_ok());
        assert!(
            ledger
                .enter(plain(&[1, 1, 2, 2, 3, 3, 4, 4, 5]), 10, None, &LIMITS)
                .is_ok()
        );
    }

    #[test]
    fn a_pin_that_would_squeeze_out_an_open_sequence_is_refused_and_leaves_no_trace() {
        let mut ledger = AdmissionLedger::default();
        let open = ledger.enter(plain(&[9, 9]), 8, None, &LIMITS).unwrap();
        let prompt = [1, 1, 2, 2, 3, 3];
        assert_eq!(
            ledger
                .enter(plain(&prompt), 3, pin(&prompt), &LIMITS)
                .unwrap_err(),
            SubmitError::CannotFit {
                needed: 8,
                available: 7
            }
        );
        assert_eq!((ledger.open, ledger.pins.reserved()), (1, 0));
        ledger.leave(open.need);
        // A prompt that is larger than the pool is told the pool's size, not what it would leave itself.
        let long: Vec<u32> = (0..22).collect();
        assert_eq!(
            ledger.enter(plain(&long), 11, pin(&long), &LIMITS).unwrap_err(),
            SubmitError::CannotFit {
                needed: 11,
                available: 10
            }
        );
        assert!(ledger.enter(plain(&prompt), 3, pin(&prompt), &LIMITS).is_ok());
    }
}
