//! What is checked before a sequence is queued, and the books that a queued sequence is entered in.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{SequenceRequest, SubmitError, Tenant, inbox::Inbox, prefix::Prefix};
use crate::backend::ModelLimits;

/// Checks all that does not depend on other sequences.
pub fn validate(request: &SequenceRequest, limits: &ModelLimits, now: Instant) -> Result<(), SubmitError> {
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

/// KV blocks of the sequence when it runs to its end, whether it holds them all at a time or not. Its last token is
/// never computed.
pub fn blocks_needed(request: &SequenceRequest, limits: &ModelLimits) -> usize {
    let answer = request.output.max_new_tokens.saturating_sub(1);
    let tokens = request
        .prompt
        .len()
        .saturating_add(answer)
        .min(limits.context_length);
    tokens.div_ceil(limits.block_size)
}

/// Prompts that are pinned or will be, and what that takes from the pool. Entered at submission, so that
/// nothing is accepted that would no longer fit once they are resident.
#[derive(Debug, Default)]
pub struct PinBook {
    prompts: Vec<(u64, Prefix)>,
    next_id: u64,
    reserved: usize,
}

impl PinBook {
    /// Blocks that the pinned prompts take together.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Leading blocks of `prompt` that are among the pinned ones.
    pub fn covered(&self, prompt: Prefix<&[u32]>, block_size: usize) -> usize {
        covered(self.prompts.iter().map(|(_, pinned)| pinned), &prompt, block_size)
    }

    /// Enters a prompt; returns the entry's name.
    pub fn add(&mut self, prompt: Prefix, block_size: usize) -> u64 {
        self.next_id += 1;
        self.prompts.push((self.next_id, prompt));
        self.recount(block_size);
        self.next_id
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: u64, block_size: usize) {
        self.prompts.retain(|(entry, _)| *entry != id);
        self.recount(block_size);
    }

    /// Blocks in the union of the prompts' paths: each adds what no earlier one covers.
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
pub struct Book {
    /// Sequences that have been accepted and have not ended.
    pub open: usize,
    /// Those of them that have not started.
    pub queued: usize,
    /// Pinned prompts.
    pub pins: PinBook,
    /// Blocks that open sequences need beyond the pinned ones: size -> how many sequences.
    needs: BTreeMap<usize, usize>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place {
    /// Prompt tokens, as counted in the queue's bound.
    pub tokens: usize,
    /// On whose account.
    pub account: Tenant,
}

/// What a sequence is entered with.
#[derive(Debug)]
pub struct Entry {
    /// Blocks beyond the pinned ones.
    need: usize,
    /// Its entry in the [`PinBook`].
    pin: Option<u64>,
}

impl Book {
    /// Enters a sequence of `needed` blocks, and whose `pin` (full blocks of its prompt) is to stay,
    /// if it fits alone in what pinned prompts leave of the pool, and every open sequence still does.
    pub fn enter(
        &mut self,
        prompt: Prefix<&[u32]>,
        needed: usize,
        pin: Option<Prefix>,
        limits: &ModelLimits,
    ) -> Result<Entry, SubmitError> {
        let block_size = limits.block_size;
        let pin = pin.map(|pin| self.pins.add(pin, block_size));
        let available = limits.num_blocks.saturating_sub(self.pins.reserved());
        let most = limits.most_blocks();
        let need = needed
            .saturating_sub(self.pins.covered(prompt, block_size))
            .min(most);
        let largest = self.needs.keys().next_back().copied().unwrap_or(0);
        // Without a pin the largest open need fits already.
        let too_much_pinned = self.pins.reserved() > limits.num_blocks;
        if too_much_pinned || need.max(largest) > available {
            if let Some(pin) = pin {
                self.pins.remove(pin, block_size);
            }
            let (needed, available) = if too_much_pinned {
                // The prompt that is to stay is itself what does not fit.
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
        Ok(Entry { need, pin })
    }

    fn leave(&mut self, need: usize) {
        self.open -= 1;
        if let Some(count) = self.needs.get_mut(&need) {
            *count -= 1;
            if *count == 0 {
                self.needs.remove(&need);
            }
        }
    }
}

/// A sequence's place in the books, given back when it is dropped.
#[derive(Debug)]
pub struct Admission {
    inbox: Arc<Inbox>,
    model: usize,
    place: Place,
    need: usize,
    queued: bool,
    pin: Option<PinHold>,
}

impl Admission {
    /// The place of an entered sequence of the `model`-th model.
    pub fn new(inbox: &Arc<Inbox>, model: usize, entry: Entry, place: Place) -> Self {
        let pin = entry.pin.map(|id| PinHold {
            inbox: Arc::clone(inbox),
            model,
            id,
        });
        Self {
            inbox: Arc::clone(inbox),
            model,
            place,
            need: entry.need,
            queued: true,
            pin,
        }
    }

    /// Makes room in the queue, once; `started` is there if the first forward pass begins then.
    pub fn leave_queue(&mut self, started: Option<Instant>) {
        if std::mem::take(&mut self.queued) {
            self.inbox.left_queue(self.model, &self.place, started);
        }
    }

    /// The prompt is pinned now: its reservation outlives the sequence.
    pub fn take_pin(&mut self) -> Option<PinHold> {
        self.pin.take()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.leave_queue(None);
        let need = self.need;
        self.inbox.with_book(self.model, |book, _| book.leave(need));
    }
}

/// Keeps a pinned prompt's blocks reserved; gives them back when it is dropped.
#[derive(Debug)]
pub struct PinHold {
    inbox: Arc<Inbox>,
    model: usize,
    id: u64,
}

impl Drop for PinHold {
    fn drop(&mut self) {
        let id = self.id;
        self.inbox
            .with_book(self.model, |book, block_size| book.pins.remove(id, block_size));
    }
}

/// Recent speed at which sequences leave the queue: exponentially decaying counts.
#[derive(Debug, Default)]
pub struct StartRate {
    since: Option<Instant>,
    updated: Option<Instant>,
    sequences: f64,
    tokens: f64,
}

impl StartRate {
    const WINDOW_SECONDS: f64 = 10.0;
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);

    /// A sequence with this many prompt tokens started.
    pub fn record(&mut self, tokens: usize, now: Instant) {
        let decay = self.decay(now);
        self.sequences = self.sequences * decay + 1.0;
        self.tokens = self.tokens * decay + tokens as f64;
        self.since.get_or_insert(now);
        self.updated = Some(now);
    }

    /// How long until this many sequences and prompt tokens have left the queue. One second while nothing is
    /// known.
    pub fn time_for(&self, sequences: usize, tokens: usize, now: Instant) -> Duration {
        let Some(since) = self.since else {
            return Duration::from_secs(1);
        };
        let decay = self.decay(now);
        let age = now.saturating_duration_since(since).as_secs_f64().max(0.1);
        // A decaying count of a steady stream that began `age` ago is rate * window * (1 - e^(-age/window)).
        let window = Self::WINDOW_SECONDS * -(-age / Self::WINDOW_SECONDS).exp_m1();
        let seconds = |count: usize, recent: f64| count as f64 * window / (recent * decay).max(1e-9);
        let wait = seconds(sequences, self.sequences).max(seconds(tokens, self.tokens));
        Duration::try_from_secs_f64(wait)
            .unwrap_or(Self::LONGEST)
            .clamp(Self::SHORTEST, Self::LONGEST)
    }

    fn decay(&self, now: Instant) -> f64 {
        let idle = self
            .updated
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (-idle / Self::WINDOW_SECONDS).exp()
    }
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
        let mut pins = PinBook::default();
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
        let mut book = Book::default();
        book.enter(
            plain(&[1, 1, 2, 2, 3, 3, 4, 4]),
            4,
            pin(&[1, 1, 2, 2, 3, 3, 4, 4]),
            &LIMITS,
        )
        .unwrap();
        // 4 of 10 blocks are reserved; another prompt has 6, one that starts with the pinned one has 10.
        assert_eq!(
            book.enter(plain(&[9, 9]), 7, None, &LIMITS).unwrap_err(),
            SubmitError::CannotFit {
                needed: 7,
                available: 6
            }
        );
        assert!(book.enter(plain(&[9, 9]), 6, None, &LIMITS).is_ok());
        assert!(
            book.enter(plain(&[1, 1, 2, 2, 3, 3, 4, 4, 5]), 10, None, &LIMITS)
                .is_ok()
        );
    }

    #[test]
    fn a_pin_that_would_squeeze_out_an_open_sequence_is_refused_and_leaves_no_trace() {
        let mut book = Book::default();
        let open = book.enter(plain(&[9, 9]), 8, None, &LIMITS).unwrap();
        let prompt = [1, 1, 2, 2, 3, 3];
        assert_eq!(
            book.enter(plain(&prompt), 3, pin(&prompt), &LIMITS).unwrap_err(),
            SubmitError::CannotFit {
                needed: 8,
                available: 7
            }
        );
        assert_eq!((book.open, book.pins.reserved()), (1, 0));
        book.leave(open.need);
        // A prompt that is larger than the pool is told the pool's size, not what it would leave itself.
        let long: Vec<u32> = (0..22).collect();
        assert_eq!(
            book.enter(plain(&long), 11, pin(&long), &LIMITS).unwrap_err(),
            SubmitError::CannotFit {
                needed: 11,
                available: 10
            }
        );
        assert!(book.enter(plain(&prompt), 3, pin(&prompt), &LIMITS).is_ok());
    }

    #[test]
    fn retry_after_follows_the_recent_speed() {
        let start = Instant::now();
        let mut rate = StartRate::default();
        assert_eq!(rate.time_for(1, 1, start), Duration::from_secs(1));
        for i in 0..200u32 {
            rate.record(50, start + i * Duration::from_millis(100));
        }
        let now = start + Duration::from_secs(20);
        let wait = rate.time_for(20, 1, now).as_secs_f64();
        assert!(
            (1.8..2.2).contains(&wait),
            "10 sequences per second, 20 to go: {wait}"
        );
        let wait = rate.time_for(1, 5000, now).as_secs_f64();
        assert!(
            (9.0..11.0).contains(&wait),
            "500 tokens per second, 5000 to go: {wait}"
        );
        assert_eq!(
            rate.time_for(1, 1, now + Duration::from_secs(3600)),
            Duration::from_secs(60)
        );
    }
}
