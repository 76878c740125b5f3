//! Accepts a sequence that has just arrived, or refuses it because it cannot meet its deadline.

use std::time::Instant;

use super::{
    super::{
        prefix::CacheOwner,
        prompt_blocks::PromptBlocks,
        sequence::{Ending, Sequence},
        step_time::{StepCosts, StepShape},
        wait_forecast::{EarlierSequence, check_deadline},
        waiting::QueueKey,
    },
    state::Scheduler,
};
use crate::backend::GeneratedTokens;

/// How much more than the sum of all work in a queue its sequences may seem to take when they are added one by one, because
/// each addition is rounded.
const ROUNDING: f64 = 1e-6;

impl Scheduler {
    /// Accepts a sequence that a caller has submitted, unless it cannot meet its deadline. Where no other sequence is
    /// open it is tried whatever the prediction, so that a wrong prediction is corrected.
    pub(crate) fn arrive(&mut self, mut sequence: Sequence, now: Instant) {
        self.find_shared_blocks(&mut sequence);
        if self.has_work()
            && let (Some(deadline), Some(costs)) = (sequence.deadline(), self.step_time.lower_bound(now))
            && deadline > now
        {
            let expected = sequence.prompt_blocks.expected();
            let own = costs.base() + self.least_prefill_seconds(&costs, &sequence, expected, usize::MAX);
            let remaining = deadline.saturating_duration_since(now).as_secs_f64();
            let most = (self.most_wait_seconds(&sequence, costs) + own) * (1.0 + ROUNDING);
            if most > remaining
                && let Err(error) = check_deadline(self.earlier_than(&sequence, costs), own, deadline, now)
            {
                return sequence.end(Ending::Failed(error), now);
            }
        }
        self.queue(sequence);
    }

    /// Accepts a sequence whatever its deadline.
    #[cfg(test)]
    pub(crate) fn enqueue(&mut self, mut sequence: Sequence) {
        self.find_shared_blocks(&mut sequence);
        self.queue(sequence);
    }

    fn queue(&mut self, mut sequence: Sequence) {
        if sequence.owner == CacheOwner::Everyone {
            self.tell_all_of(&sequence);
        }
        let number = self.open_prompts.enter(sequence.open_prompt());
        sequence.prompt_blocks.set_number(number);
        sequence.most_prefill = self.most_prefill(&sequence);
        sequence.report_stop_to(&self.stops);
        sequence.window = self.kv.limits().window.unwrap_or(usize::MAX);
        sequence.tenant = self.shares.open_sequence(sequence.priority, &sequence.tenant);
        self.waiting.insert(sequence);
    }

    /// Notes which leading blocks of the prompt are cached, or may be once the other open sequences have run.
    fn find_shared_blocks(&self, sequence: &mut Sequence) {
        let longest = self.most_cached_blocks(sequence);
        let cached = self
            .kv
            .cached_prefix(&sequence.owner, sequence.prefix(sequence.prompt_len));
        let prompt = &sequence.tokens[..sequence.prompt_len];
        sequence.prompt_blocks = PromptBlocks::new(prompt, self.kv.block_size(), longest).with_cached(cached);
        let shared = self.open_prompts.shared(sequence.open_prompt());
        sequence.prompt_blocks.expect(shared);
    }

    /// Notes with all open sequences which leading blocks a new one whose blocks everyone finds may compute for them. There are
    /// few such sequences, those of prefixes that are pinned when a model is loaded, so each open sequence is looked at. What
    /// tenants' sequences may compute for others is known without: [`Scheduler::expected_blocks`] asks for it.
    fn tell_all_of(&mut self, sequence: &Sequence) {
        for other in self.running.iter_mut().chain(self.waiting.iter_mut()) {
            // Within its class it runs after the sequences that are there already, so it computes nothing for them.
            if other.priority != sequence.priority && sequence.is_found_by(other) {
                let shared = other.prompt_blocks.shared_with(&sequence.prompt_blocks);
                other.prompt_blocks.expect(shared);
            }
        }
    }

    /// Leading blocks of an open sequence's prompt that are cached, or that others may compute before it does: those that were
    /// open when it arrived, and those of other classes that have arrived since. (In its own class they run after it.)
    fn expected_blocks(&self, sequence: &Sequence) -> usize {
        let since = self.open_prompts.shared_since(sequence.open_prompt());
        sequence.prompt_blocks.expected().max(since)
    }

    /// The most seconds for which the sequences that a new one cannot pass delay it: what [`Scheduler::earlier_than`] adds up
    /// to, if nothing else is computed for them and none ends before its deadline. It takes no longer however many wait.
    fn most_wait_seconds(&self, sequence: &Sequence, costs: StepCosts) -> f64 {
        let running = self
            .running_before(sequence, costs)
            .map(|earlier| earlier.seconds);
        let waiting = self.waiting.most_work(sequence.priority, &sequence.owner);
        running.sum::<f64>() + costs.part(waiting)
    }

    /// The sequences of the same tenant and class that a new one cannot pass, with the least time that each takes, the running
    /// ones first.
    fn earlier_than(&self, sequence: &Sequence, costs: StepCosts) -> impl Iterator<Item = EarlierSequence> {
        let longest = self.kv.limits().longest_chunk();
        let key = QueueKey {
            class: sequence.priority,
            tenant: self.shares.account(&sequence.tenant),
        };
        let waiting = self.waiting.of_owner(&key, &sequence.owner);
        let waiting = waiting.filter_map(move |other| {
            // One that may be deferred until another one has computed a common prefix can be passed by the new one.
            if other.started.is_some() || other.is_cancelled() || other.prompt_blocks.expects_more() {
                return None;
            }
            let expected = self.expected_blocks(other);
            (expected == other.prompt_blocks.cached()).then(|| EarlierSequence {
                seconds: self.least_prefill_seconds(&costs, other, expected, longest),
                deadline: other.deadline(),
            })
        });
        self.running_before(sequence, costs).chain(waiting)
    }

    /// The running sequences of the same tenant and class that are not writing yet.
    fn running_before(&self, sequence: &Sequence, costs: StepCosts) -> impl Iterator<Item = EarlierSequence> {
        let (longest, generated) = (self.kv.limits().longest_chunk(), self.kv.generated());
        let (class, owner) = (sequence.priority, sequence.owner.clone());
        let running = self.running.iter().filter(move |other| {
            let is_before = other.priority == class && other.owner == owner && other.remaining() > 1;
            is_before && !other.is_cancelled()
        });
        running.map(move |other| {
            // Only the next chunk counts: later chunks may be computed in the same steps as the sequences behind it.
            let tokens = other.remaining_in_step(generated).min(longest);
            EarlierSequence {
                seconds: costs.part(other.shape(tokens)),
                deadline: other.deadline(),
            }
        })
    }

    /// Least time, in seconds, for the first `most` tokens that must be computed of a prompt that has not begun, and of which
    /// this many leading blocks may not have to be computed.
    fn least_prefill_seconds(
        &self,
        costs: &StepCosts,
        sequence: &Sequence,
        expected: usize,
        most: usize,
    ) -> f64 {
        costs.part(self.least_prefill(sequence, expected, most))
    }

    /// The work whose time [`Scheduler::least_prefill_seconds`] tells.
    fn least_prefill(&self, sequence: &Sequence, expected: usize, most: usize) -> StepShape {
        let (length, limits) = (sequence.prompt_len, self.kv.limits());
        // The last token is always computed.
        let shared = (expected * limits.block_size).min(length - 1);
        let tokens = (length - shared).min(most);
        StepShape::of(tokens, limits.seen(shared), sequence.is_read())
    }

    /// The most work that [`Scheduler::earlier_than`] ever counts of a sequence that waits: nothing once other sequences may
    /// compute more of its prompt than is cached, and what is not cached until then.
    fn most_prefill(&self, sequence: &Sequence) -> StepShape {
        let blocks = &sequence.prompt_blocks;
        if blocks.expects_more() {
            return StepShape::default();
        }
        self.least_prefill(sequence, blocks.cached(), self.kv.limits().longest_chunk())
    }

    /// Most blocks that a sequence puts into the cache.
    fn most_cached_blocks(&self, sequence: &Sequence) -> usize {
        let answer = match self.kv.generated() {
            // No prompt is longer than the context window, so no more than this is ever shared.
            GeneratedTokens::AsInPrompts => {
                let context_length = self.kv.limits().context_length;
                sequence.output.max_new_tokens.min(context_length)
            }
            GeneratedTokens::Apart => 0,
        };
        (sequence.prompt_len + answer) / self.kv.block_size()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        backend::{AdapterIndex, CostPrior, ModelLimits},
        engine::{
            error::SequenceError,
            kv_blocks::KvBlocks,
            request::Priority,
            scheduler::{Budget, Pace},
            sequence::Rank,
            tenant::{Tenant, TenantWeights},
            testing::{Recorder, greedy, request},
        },
    };

    const BLOCK: usize = 2;
    const COSTS: StepCosts = StepCosts::planted([6e-3, 1.4e-3, 1.2e-3, 4e-4]);

    fn scheduler(sequences: usize, tokens: usize, window: Option<usize>) -> Scheduler {
        let limits = ModelLimits {
            vocab_size: 100,
            context_length: 64,
            block_size: BLOCK,
            num_blocks: 4096,
            window,
        };
        let budget = Budget::new(sequences, tokens);
        let weights = TenantWeights::default();
        Scheduler::new(budget, KvBlocks::new(limits), CostPrior::SMALL_MACHINE, weights)
    }

    /// Plans a step, as if nothing of the step before it had been computed.
    fn plan(scheduler: &mut Scheduler, now: Instant) {
        for sequence in &mut scheduler.running {
            sequence.scheduled = 0;
        }
        scheduler.plan(now, Pace::Unbounded);
    }

    /// What is expected of each open sequence's prompt.
    fn told(scheduler: &Scheduler) -> BTreeMap<Rank, usize> {
        let open = scheduler.running.iter().chain(scheduler.waiting.iter());
        open.map(|sequence| (sequence.rank, scheduler.expected_blocks(sequence)))
            .collect()
    }

    /// An open sequence that is compared with each other one.
    struct Compared {
        rank: Rank,
        owner: CacheOwner,
        adapter: Option<AdapterIndex>,
        class: Priority,
        blocks: PromptBlocks,
    }

    impl Compared {
        fn is_found_by(&self, other: &Self) -> bool {
            self.adapter == other.adapter && self.owner.is_found_by(&other.owner)
        }
    }

    /// Compares a new sequence with all open ones, in both directions.
    fn compare(open: &mut Vec<Compared>, mut new: Compared) {
        for other in open.iter() {
            if other.is_found_by(&new) {
                let shared = new.blocks.shared_with(&other.blocks);
                new.blocks.expect(shared);
            }
        }
        for other in open.iter_mut() {
            if other.class != new.class && new.is_found_by(other) {
                let shared = other.blocks.shared_with(&new.blocks);
                other.blocks.expect(shared);
            }
        }
        open.push(new);
    }

    /// Ends an open sequence, whether it runs or waits.
    fn end(scheduler: &mut Scheduler, rank: Rank, now: Instant) {
        let running = scheduler
            .running
            .iter()
            .position(|sequence| sequence.rank == rank);
        let ended = match running {
            Some(index) => vec![scheduler.running.remove(index)],
            None => scheduler.waiting.take_ending(&[rank.id()], now),
        };
        assert_eq!(ended.len(), 1);
        for sequence in ended {
            scheduler.retire(sequence, Ending::Closed, now);
        }
    }

    proptest! {
        /// The index tells each sequence what a look at all open ones would tell it, and no queue takes longer than its sum says.
        #[test]
        fn sequences_are_told_the_same_as_by_a_look_at_all_open_ones(
            window in prop::option::of(Just(8usize)),
            operations in prop::collection::vec(
                (
                    0u8..7,
                    prop::collection::vec(0u32..2, 1..12),
                    0usize..7,
                    (0usize..3, 0usize..2, 0usize..3),
                    any::<prop::sample::Index>(),
                ),
                1..60,
            ),
        ) {
            let mut scheduler = scheduler(3, 8, window);
            let mut now = Instant::now();
            let mut open: Vec<Compared> = Vec::new();
            for (id, (operation, prompt, answer, (owner, adapter, class), pick)) in operations.into_iter().enumerate() {
                now += Duration::from_millis(1);
                let (mut request, _) = request(&prompt, greedy(answer));
                request.priority = Priority::ALL[class];
                request.adapter = adapter.checked_sub(1).map(AdapterIndex);
                request.tenant = Tenant::named(["a", "b", "c"][owner]).unwrap();
                request.output.pin_prompt = owner == 2;
                let sequence = Sequence::new(request, now, id as u64, None);
                let added: f64 = scheduler.earlier_than(&sequence, COSTS).map(|earlier| earlier.seconds).sum();
                let is_before = |other: &&Sequence| other.priority == sequence.priority && other.owner == sequence.owner;
                let running = scheduler.running.iter().filter(is_before).filter(|other| other.remaining() > 1);
                let waiting = scheduler.waiting.iter().filter(is_before);
                // Nothing is in the cache, so what is expected may be waited for.
                let waiting = waiting
                    .filter(|other| other.started.is_none() && scheduler.expected_blocks(other) == 0);
                prop_assert_eq!(
                    scheduler.earlier_than(&sequence, COSTS).count(),
                    running.count() + waiting.count()
                );
                prop_assert!(added <= scheduler.most_wait_seconds(&sequence, COSTS) * (1.0 + ROUNDING));
                match operation {
                    0..=3 => {
                        compare(&mut open, Compared {
                            rank: sequence.rank,
                            owner: sequence.owner.clone(),
                            adapter: sequence.adapter,
                            class: sequence.priority,
                            blocks: PromptBlocks::new(&prompt, BLOCK, (prompt.len() + answer) / BLOCK),
                        });
                        scheduler.enqueue(sequence);
                    }
                    4 | 5 if !open.is_empty() => {
                        let ended = open.swap_remove(pick.index(open.len()));
                        end(&mut scheduler, ended.rank, now);
                    }
                    _ => plan(&mut scheduler, now),
                }
                let expected: BTreeMap<Rank, usize> =
                    open.iter().map(|open| (open.rank, open.blocks.expected())).collect();
                prop_assert_eq!(told(&scheduler), expected);
            }
        }
    }

    const MANY: u32 = 10_000;

    /// A prompt whose first block no smaller number than [`MANY`] has but its own.
    fn digits(number: u32) -> [u32; 4] {
        [number / 100, number % 100, 1, 1]
    }

    /// A request with this prompt, of a class that depends on its number.
    fn numbered(number: u32, prompt: &[u32], now: Instant) -> (Sequence, Recorder) {
        let (mut request, recorder) = request(prompt, greedy(8));
        request.priority = Priority::ALL[number as usize % Priority::ALL.len()];
        (Sequence::new(request, now, u64::from(number), None), recorder)
    }

    #[test]
    fn an_arrival_looks_along_its_own_prompt_however_many_wait() {
        let mut scheduler = scheduler(4, 32, None);
        let now = Instant::now();
        for number in 0..MANY {
            let prompt = [&[7; 8][..], &digits(number)].concat();
            let (sequence, _) = numbered(number, &prompt, now);
            let before = scheduler.open_prompts.looks();
            scheduler.enqueue(sequence);
            let looks = scheduler.open_prompts.looks() - before;
            // The start of all prompts, and its own blocks.
            assert!(looks <= 1 + prompt.len() / BLOCK, "{looks} looks at {number}");
        }
        assert_eq!(scheduler.waiting.looks.get(), 0);
    }

    #[test]
    fn planning_takes_out_what_ends_and_looks_at_no_other_that_waits() {
        let mut scheduler = scheduler(4, 32, None);
        let now = Instant::now();
        let (mut stopped, mut late) = (Vec::new(), Vec::new());
        for number in 0..MANY {
            let (mut asked, recorder) = request(&digits(number), greedy(8));
            asked.priority = Priority::ALL[number as usize % Priority::ALL.len()];
            let last = MANY - number;
            asked.deadline = Some(now + Duration::from_secs(if last <= 10 { 1 } else { 3600 }));
            match last {
                1..=10 => late.push(recorder),
                11..=20 => stopped.push((asked.cancel.clone(), recorder)),
                _ => {}
            }
            scheduler.enqueue(Sequence::new(asked, now, u64::from(number), None));
        }
        plan(&mut scheduler, now);
        let before = (told(&scheduler).len(), scheduler.waiting.looks.get());
        stopped.iter().for_each(|(flag, _)| flag.cancel());
        let later = now + Duration::from_secs(2);
        plan(&mut scheduler, later);
        let looks = scheduler.waiting.looks.get() - before.1;
        assert_eq!(looks, 0);
        assert_eq!(before.0 - told(&scheduler).len(), 20);
        for (_, recorder) in &stopped {
            assert_eq!(recorder.error(), Some(SequenceError::Cancelled));
        }
        let is_late =
            |recorder: &Recorder| matches!(recorder.error(), Some(SequenceError::DeadlineExceeded { .. }));
        assert!(late.iter().all(is_late));
    }

    #[test]
    fn whether_a_deadline_can_be_met_is_mostly_known_from_the_sum_of_what_waits() {
        let mut scheduler = scheduler(4, 32, None);
        let now = Instant::now();
        for _ in 0..40 {
            let shape = StepShape::of(50, 0, true);
            scheduler.step_time.observe(shape, Duration::from_secs(5), now);
        }
        for number in 0..MANY {
            let (mut asked, _) = request(&digits(number), greedy(1));
            asked.priority = Priority::Urgent;
            scheduler.enqueue(Sequence::new(asked, now, u64::from(number), None));
        }
        let mut arrive = |id: u64, timeout: u64| {
            let (mut asked, recorder) = request(&[1, 2, 3], greedy(1));
            asked.priority = Priority::Urgent;
            asked.deadline = Some(now + Duration::from_secs(timeout));
            let before = scheduler.waiting.looks.get();
            scheduler.arrive(Sequence::new(asked, now, id, None), now);
            let refused = matches!(recorder.error(), Some(SequenceError::DeadlineUnattainable(_)));
            (refused, scheduler.waiting.looks.get() - before)
        };
        assert_eq!(arrive(20_000, 1_000_000), (false, 0), "there is time for all");
        let (refused, looks) = arrive(20_001, 2);
        assert!(refused && (1..5000).contains(&looks), "{looks} looks");
    }

    #[test]
    fn a_beginning_that_all_prompts_share_is_in_the_sum_of_what_waits_once() {
        let mut scheduler = scheduler(4, 32, None);
        let now = Instant::now();
        for _ in 0..40 {
            let shape = StepShape::of(50, 0, true);
            scheduler.step_time.observe(shape, Duration::from_secs(5), now);
        }
        let urgent = |id: u32, prompt: &[u32], deadline: Option<Instant>| {
            let (mut asked, recorder) = request(prompt, greedy(1));
            asked.priority = Priority::Urgent;
            asked.deadline = deadline;
            (Sequence::new(asked, now, u64::from(id), None), recorder)
        };
        for number in 0..MANY {
            let prompt = [&[7; 8][..], &digits(number)].concat();
            scheduler.enqueue(urgent(number, &prompt, None).0);
        }
        let (sequence, recorder) = urgent(MANY, &[9; 3], Some(now + Duration::from_secs(10)));
        scheduler.arrive(sequence, now);
        assert_eq!((recorder.error(), scheduler.waiting.looks.get()), (None, 0));
    }
}
