//! Shares a step's tokens and time between decodes and prefill chunks.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::{
    super::{
        request::Priority,
        sequence::{Rank, Sequence},
        tenant::Tenant,
        waiting::QueueKey,
    },
    admit::AdmitOutcome,
    pace::Pace,
    state::{ChunkLimit, ClassGroup, ContendedSeconds, Scheduler, charged_seconds},
};

/// A sequence that can be given prefill tokens next.
#[derive(Debug, Clone)]
enum Candidate {
    /// The running sequence at this index.
    Running(usize),
    /// The first sequence of this queue.
    Waiting(QueueKey),
}

/// The best candidate of a class so far.
struct BestOfClass {
    /// The first rank among all candidates of the class.
    oldest: Rank,
    /// Service of the best candidate's tenant, in weighted seconds.
    service: f64,
    /// Rank of the best candidate.
    rank: Rank,
    candidate: Candidate,
}

/// Decodes of one class and tenant that are due.
struct DueDecodes<'a> {
    /// Service of the tenant, in weighted seconds, with what this step adds.
    service: f64,
    /// The sequences, the one that has waited longest first.
    sequences: VecDeque<&'a Sequence>,
}

/// The decodes that fit into a step.
struct ChosenDecodes {
    /// Their ranks, in order.
    ranks: Vec<Rank>,
    /// Seconds that they are predicted to take.
    seconds: f64,
}

impl Scheduler {
    /// Plans urgent work, and then as much other work as the pace allows.
    pub(super) fn plan_paced(&mut self, pace: Pace, now: Instant) {
        let others_open = self.running.iter().any(is_non_urgent) || self.has_waiting_non_urgent();
        // Tokens that urgent prompts leave to other work, when that has credit.
        let reserve = match pace {
            Pace::BesideUrgent(credit) if others_open && credit > 0.0 => (self.budget.tokens / 8).max(1),
            _ => 0,
        };
        let reserve = reserve.min(self.budget.tokens - 1);
        self.plan_decodes(ClassGroup::Urgent, f64::INFINITY, now);
        self.plan_prefills(ClassGroup::Urgent, f64::INFINITY, reserve, now);
        let has_urgent = self.running.iter().any(|sequence| sequence.scheduled > 0);
        let allowance = pace.allowance(self.costs().base(), has_urgent);
        self.plan_non_urgent(allowance, now);
    }

    /// Shares `allowance` seconds between non-urgent decodes and prefills. Where both fit, or there is only one kind,
    /// decodes go first. Otherwise each kind gets half of the time of all steps in which they compete.
    fn plan_non_urgent(&mut self, allowance: f64, now: Instant) {
        if allowance <= 0.0 {
            return;
        }
        let costs = self.costs();
        let decodes = self
            .running
            .iter()
            .filter(|s| is_non_urgent(s) && s.remaining() == 1);
        let all_decodes: f64 = decodes.map(|sequence| costs.part(sequence.shape(1))).sum();
        let half = allowance / 2.0;
        if all_decodes <= half || !self.has_non_urgent_prefill() {
            self.contended = ContendedSeconds::default();
            let spent = self.plan_decodes(ClassGroup::NonUrgent, allowance, now);
            self.plan_prefills(ClassGroup::NonUrgent, allowance - spent, 0, now);
            return;
        }
        let before = self.contended;
        let (decode, prefill) = if before.decode <= before.prefill {
            let decode = self.plan_decodes(ClassGroup::NonUrgent, half, now);
            (
                decode,
                self.plan_prefills(ClassGroup::NonUrgent, allowance - decode, 0, now),
            )
        } else {
            let prefill = self.plan_prefills(ClassGroup::NonUrgent, half, 0, now);
            (0.0, prefill)
        };
        // Decodes get the time that is left.
        let more = self.plan_decodes(ClassGroup::NonUrgent, allowance - decode - prefill, now);
        self.contended = ContendedSeconds {
            decode: before.decode + decode + more,
            prefill: before.prefill + prefill,
        };
    }

    fn has_waiting_non_urgent(&self) -> bool {
        let mut keys = self.waiting.heads().map(|(key, _)| key);
        keys.any(|key| ClassGroup::NonUrgent.contains(key.class))
    }

    fn has_non_urgent_prefill(&self) -> bool {
        let running = self.running.iter().any(|s| is_non_urgent(s) && s.remaining() > 1);
        running || (self.has_slot(ClassGroup::NonUrgent) && self.has_waiting_non_urgent())
    }

    /// Puts decodes into the step, for up to `limit` seconds (the last one may exceed it). Where not all fit, the least
    /// served tenants go first, each with the sequences that have waited longest. Returns the seconds that they are
    /// predicted to take.
    pub(super) fn plan_decodes(&mut self, group: ClassGroup, limit: f64, now: Instant) -> f64 {
        let chosen = self.choose_decodes(group, limit);
        let mut index = 0;
        // In order of rank, so that only later sequences lose their blocks to earlier ones.
        while let Some(sequence) = self.running.get(index) {
            let is_chosen = chosen.ranks.binary_search(&sequence.rank).is_ok() && sequence.scheduled == 0;
            // A sequence that was preempted itself was the last of the list.
            if !is_chosen || self.schedule(index, 1, now) {
                index += 1;
            }
        }
        chosen.seconds
    }

    /// The decodes that fit into the tokens left and into `limit` seconds.
    fn choose_decodes(&self, group: ClassGroup, limit: f64) -> ChosenDecodes {
        let costs = self.costs();
        let mut due: Vec<&Sequence> = self
            .running
            .iter()
            .filter(|s| group.contains(s.priority) && s.remaining() == 1 && s.scheduled == 0)
            .collect();
        let all: f64 = due.iter().map(|sequence| costs.part(sequence.shape(1))).sum();
        if all <= limit && due.len() <= self.tokens_left {
            return ChosenDecodes {
                ranks: due.into_iter().map(|sequence| sequence.rank).collect(),
                seconds: all,
            };
        }
        due.sort_by_key(|sequence| (sequence.last_step, sequence.rank));
        let mut queues: BTreeMap<(Priority, &Tenant), DueDecodes<'_>> = BTreeMap::new();
        for sequence in due {
            let (class, tenant) = (sequence.priority, &sequence.tenant);
            let queue = queues.entry((class, tenant)).or_insert_with(|| DueDecodes {
                service: self.shares.service(class, tenant),
                sequences: VecDeque::new(),
            });
            queue.sequences.push_back(sequence);
        }
        let (mut ranks, mut spent) = (Vec::new(), 0.0);
        while spent < limit && ranks.len() < self.tokens_left {
            // Decodes of all classes cost the same, so the class of the one that has waited longest is served.
            let oldest = queues.iter().filter_map(|(key, due)| {
                let first = due.sequences.front()?;
                Some(((first.last_step, first.rank), key.0))
            });
            let Some((_, class)) = oldest.min() else { break };
            let of_class = queues
                .iter_mut()
                .filter(|(key, due)| key.0 == class && !due.sequences.is_empty());
            let Some((key, due)) = of_class.min_by(|a, b| a.1.service.total_cmp(&b.1.service)) else {
                break;
            };
            let Some(sequence) = due.sequences.pop_front() else {
                break;
            };
            let seconds = costs.part(sequence.shape(1));
            due.service += self.shares.weighted(key.1, charged_seconds(seconds, 1));
            spent += seconds;
            ranks.push(sequence.rank);
        }
        ranks.sort_unstable();
        ChosenDecodes {
            ranks,
            seconds: spent,
        }
    }

    /// Puts prefill chunks into the step, for up to `limit` seconds and leaving `reserve` tokens, and admits waiting
    /// sequences. Returns the seconds that the chunks are predicted to take.
    pub(super) fn plan_prefills(
        &mut self,
        group: ClassGroup,
        limit: f64,
        reserve: usize,
        now: Instant,
    ) -> f64 {
        let mut spent = 0.0;
        while self.tokens_left > reserve && spent < limit {
            let left = ChunkLimit {
                tokens: self.tokens_left - reserve,
                seconds: limit - spent,
            };
            let chunk = match self.next_prefill(group) {
                None => break,
                Some(Candidate::Running(index)) => {
                    let chunk = self.chunk(&self.running[index], left);
                    self.schedule(index, chunk.tokens, now);
                    chunk
                }
                Some(Candidate::Waiting(key)) => match self.admit(&key, left, now) {
                    AdmitOutcome::Scheduled(chunk) => chunk,
                    AdmitOutcome::Deferred | AdmitOutcome::Ended => continue,
                    AdmitOutcome::NoRoom => {
                        self.out_of_blocks = true;
                        continue;
                    }
                },
            };
            spent += chunk.seconds;
            if chunk.cut {
                break;
            }
        }
        spent
    }

    /// Chooses the class whose oldest candidate is first in rank, in that class the tenant that has been served least,
    /// and of that tenant's sequences the first in rank.
    fn next_prefill(&self, group: ClassGroup) -> Option<Candidate> {
        let mut best: [Option<BestOfClass>; Priority::ALL.len()] = Default::default();
        let mut offer = |class: Priority, tenant: &Tenant, rank: Rank, candidate: &dyn Fn() -> Candidate| {
            let service = self.shares.service(class, tenant);
            let best = &mut best[class.index()];
            let oldest = best.as_ref().map_or(rank, |best| best.oldest.min(rank));
            match best {
                Some(known) if (known.service, known.rank) <= (service, rank) => known.oldest = oldest,
                _ => {
                    *best = Some(BestOfClass {
                        oldest,
                        service,
                        rank,
                        candidate: candidate(),
                    });
                }
            }
        };
        for (index, sequence) in self.running.iter().enumerate() {
            if group.contains(sequence.priority) && sequence.scheduled == 0 && sequence.remaining() > 1 {
                let running = || Candidate::Running(index);
                offer(sequence.priority, &sequence.tenant, sequence.rank, &running);
            }
        }
        if !self.out_of_blocks && self.has_slot(group) && self.deferred.len() < self.budget.sequences {
            let before = self.must_rank_before(group);
            for (key, rank) in self.waiting.heads() {
                if group.contains(key.class) && before.is_none_or(|before| rank < before) {
                    offer(key.class, &key.tenant, rank, &|| Candidate::Waiting(key.clone()));
                }
            }
        }
        let best = best.into_iter().flatten();
        best.min_by_key(|best| best.oldest).map(|best| best.candidate)
    }

    /// The rank that a waiting sequence must be before to be admitted. While only urgent sequences run, an urgent
    /// sequence must not be admitted before non-urgent ones that rank earlier, because they would never find room.
    fn must_rank_before(&self, group: ClassGroup) -> Option<Rank> {
        if group != ClassGroup::Urgent || self.running.iter().any(is_non_urgent) {
            return None;
        }
        let others = self
            .waiting
            .heads()
            .filter(|(key, _)| ClassGroup::NonUrgent.contains(key.class));
        others.map(|(_, rank)| rank).min()
    }
}

fn is_non_urgent(sequence: &Sequence) -> bool {
    ClassGroup::NonUrgent.contains(sequence.priority)
}
