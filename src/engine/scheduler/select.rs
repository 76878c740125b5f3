//! Whose turn it is: decodes and prefill chunks, within the step's tokens and time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::{
    super::{
        Priority, Tenant,
        sequence::{Rank, Sequence},
        waiting::Line,
    },
    Group, Pace, Scheduler,
    room::Admitted,
};

/// What can be given prefill tokens next.
#[derive(Debug, Clone)]
enum Candidate {
    /// The running sequence at this index.
    Running(usize),
    /// The first of this line.
    Waiting(Line),
}

/// What a prompt gets of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// Tokens of it.
    pub(super) tokens: usize,
    /// Seconds that they are predicted to take.
    pub(super) seconds: f64,
    /// Whether it would have had more tokens if there were more time: what time is left is none for others either.
    pub(super) cut: bool,
}

/// The best candidate of a class so far.
struct Best {
    /// The first rank among the class's candidates.
    oldest: Rank,
    /// Service of the best candidate's tenant.
    service: f64,
    rank: Rank,
    candidate: Candidate,
}

impl Scheduler {
    /// Urgent work, then what the pace leaves for the rest.
    pub(super) fn plan_paced(&mut self, pace: Pace, now: Instant) {
        let rest_open = self.running.iter().any(is_rest)
            || self
                .waiting
                .heads()
                .any(|((class, _), _)| Group::Rest.holds(*class));
        // Tokens that urgent prompts leave to the rest, where it has credit.
        let reserve = match pace {
            Pace::Beside(credit) if rest_open && credit > 0.0 => (self.budget.tokens / 8).max(1),
            _ => 0,
        };
        let reserve = reserve.min(self.budget.tokens - 1);
        self.plan_decodes(Group::Urgent, f64::INFINITY, now);
        self.plan_prefills(Group::Urgent, f64::INFINITY, reserve, now);
        let beside = self.running.iter().any(|sequence| sequence.scheduled > 0);
        let allowance = pace.allowance(self.costs().base(), beside);
        self.plan_rest(allowance, now);
    }

    /// Shares `allowance` seconds between decodes and prefill. Where both fit, or only one of them is there,
    /// that is all there is to it; where they do not, each gets half of what such steps have.
    fn plan_rest(&mut self, allowance: f64, now: Instant) {
        if allowance <= 0.0 {
            return;
        }
        let costs = self.costs();
        let decodes = self.running.iter().filter(|s| is_rest(s) && s.remaining() == 1);
        let all_decodes: f64 = decodes.map(|sequence| costs.part(sequence.part(1))).sum();
        let half = allowance / 2.0;
        if all_decodes <= half || !self.rest_has_prefill() {
            self.scarce = (0.0, 0.0);
            let spent = self.plan_decodes(Group::Rest, allowance, now);
            self.plan_prefills(Group::Rest, allowance - spent, 0, now);
            return;
        }
        let (decoded, prefilled) = self.scarce;
        let (decode, prefill) = if decoded <= prefilled {
            let decode = self.plan_decodes(Group::Rest, half, now);
            (
                decode,
                self.plan_prefills(Group::Rest, allowance - decode, 0, now),
            )
        } else {
            let prefill = self.plan_prefills(Group::Rest, half, 0, now);
            (0.0, prefill)
        };
        // What the one has left is the other's.
        let more = self.plan_decodes(Group::Rest, allowance - decode - prefill, now);
        self.scarce = (decoded + decode + more, prefilled + prefill);
    }

    fn rest_has_prefill(&self) -> bool {
        let running = self.running.iter().any(|s| is_rest(s) && s.remaining() > 1);
        let waiting = || {
            self.waiting
                .heads()
                .any(|((class, _), _)| Group::Rest.holds(*class))
        };
        running || (self.has_place(Group::Rest) && waiting())
    }

    /// Puts decodes into the step, for up to `limit` seconds (the last one may exceed it). Where not all fit,
    /// the least served tenants' sequences that have waited longest come first. Returns the seconds.
    pub(super) fn plan_decodes(&mut self, group: Group, limit: f64, now: Instant) -> f64 {
        let costs = self.costs();
        let due = |s: &&Sequence| group.holds(s.priority) && s.remaining() == 1 && s.scheduled == 0;
        let ids: Vec<(Rank, f64)> = self
            .running
            .iter()
            .filter(due)
            .map(|sequence| (sequence.rank, costs.part(sequence.part(1))))
            .collect();
        let all: f64 = ids.iter().map(|(_, seconds)| seconds).sum();
        let (chosen, spent) = if all <= limit && ids.len() <= self.tokens_left {
            (ids.into_iter().map(|(rank, _)| rank).collect(), all)
        } else {
            self.choose_decodes(group, limit)
        };
        let mut index = 0;
        // In order of rank: only later ones lose their blocks to earlier ones.
        while let Some(sequence) = self.running.get(index) {
            let is_chosen = chosen.binary_search(&sequence.rank).is_ok() && sequence.scheduled == 0;
            // A sequence that preempts itself was the last of the list.
            if !is_chosen || self.schedule(index, 1, now) {
                index += 1;
            }
        }
        spent
    }

    /// Ranks of the decodes that fit, in order, and their seconds.
    fn choose_decodes(&self, group: Group, limit: f64) -> (Vec<Rank>, f64) {
        let costs = self.costs();
        let mut due: Vec<&Sequence> = self
            .running
            .iter()
            .filter(|s| group.holds(s.priority) && s.remaining() == 1 && s.scheduled == 0)
            .collect();
        due.sort_by_key(|sequence| (sequence.last_plan, sequence.rank));
        let mut lines: BTreeMap<(Priority, &Tenant), (f64, VecDeque<&Sequence>)> = BTreeMap::new();
        for sequence in due {
            let (class, tenant) = (sequence.priority, &sequence.tenant);
            let service = || (self.shares.service(class, tenant), VecDeque::new());
            lines
                .entry((class, tenant))
                .or_insert_with(service)
                .1
                .push_back(sequence);
        }
        let (mut chosen, mut spent) = (Vec::new(), 0.0);
        while spent < limit && chosen.len() < self.tokens_left {
            // Decodes of different classes are alike: the one that has waited longest tells which class.
            let first = |line: &VecDeque<&Sequence>| line.front().map(|s| (s.last_plan, s.rank));
            let oldest = lines
                .iter()
                .filter_map(|(key, (_, line))| Some((first(line)?, key.0)));
            let Some((_, class)) = oldest.min() else { break };
            let of_class = lines
                .iter_mut()
                .filter(|(key, (_, line))| key.0 == class && !line.is_empty());
            let Some((key, (service, line))) = of_class.min_by(|a, b| a.1.0.total_cmp(&b.1.0)) else {
                break;
            };
            let Some(sequence) = line.pop_front() else { break };
            let seconds = costs.part(sequence.part(1));
            *service += self.shares.weighted(key.1, charge(seconds, 1));
            spent += seconds;
            chosen.push(sequence.rank);
        }
        chosen.sort_unstable();
        (chosen, spent)
    }

    /// Puts prefill chunks into the step, for up to `limit` seconds and leaving `reserve` tokens, and takes
    /// waiting sequences in. Returns the seconds.
    pub(super) fn plan_prefills(&mut self, group: Group, limit: f64, reserve: usize, now: Instant) -> f64 {
        let mut spent = 0.0;
        while self.tokens_left > reserve && spent < limit {
            let (tokens, seconds) = (self.tokens_left - reserve, limit - spent);
            let chunk = match self.next_prefill(group) {
                None => break,
                Some(Candidate::Running(index)) => {
                    let chunk = self.chunk(&self.running[index], tokens, seconds);
                    self.schedule(index, chunk.tokens, now);
                    chunk
                }
                Some(Candidate::Waiting(line)) => match self.admit(&line, (tokens, seconds), now) {
                    Admitted::Scheduled(chunk) => chunk,
                    Admitted::Deferred | Admitted::Ended => continue,
                    Admitted::NoRoom => {
                        self.tight = true;
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

    /// Tokens for one prefill, at most so many and for at most so many seconds.
    pub(super) fn chunk(&self, sequence: &Sequence, tokens: usize, seconds: f64) -> Chunk {
        let longest = self.kv.limits().longest_chunk();
        let most = sequence.remaining().min(tokens).min(longest);
        let tokens = if seconds.is_infinite() {
            most
        } else {
            self.costs().affordable(seconds, sequence.seen(), most)
        };
        Chunk {
            tokens,
            seconds: self.costs().part(sequence.part(tokens)),
            cut: tokens < most,
        }
    }

    /// The class whose oldest candidate is first in rank; in it, the tenant that has been served least; of its
    /// sequences the first in rank.
    fn next_prefill(&self, group: Group) -> Option<Candidate> {
        let mut best: [Option<Best>; Priority::ALL.len()] = Default::default();
        let mut offer = |class: Priority, tenant: &Tenant, rank: Rank, candidate: &dyn Fn() -> Candidate| {
            let service = self.shares.service(class, tenant);
            let best = &mut best[class.index()];
            let oldest = best.as_ref().map_or(rank, |best| best.oldest.min(rank));
            match best {
                Some(known) if (known.service, known.rank) <= (service, rank) => known.oldest = oldest,
                _ => {
                    *best = Some(Best {
                        oldest,
                        service,
                        rank,
                        candidate: candidate(),
                    });
                }
            }
        };
        for (index, sequence) in self.running.iter().enumerate() {
            if group.holds(sequence.priority) && sequence.scheduled == 0 && sequence.remaining() > 1 {
                let running = || Candidate::Running(index);
                offer(sequence.priority, &sequence.tenant, sequence.rank, &running);
            }
        }
        if !self.tight && self.has_place(group) && self.deferred.len() < self.budget.sequences {
            let first = self.first_to_enter(group);
            for (line, rank) in self.waiting.heads() {
                if group.holds(line.0) && first.is_none_or(|first| rank < first) {
                    offer(line.0, &line.1, rank, &|| Candidate::Waiting(line.clone()));
                }
            }
        }
        let best = best.into_iter().flatten();
        best.min_by_key(|best| best.oldest).map(|best| best.candidate)
    }

    /// Whether one more may run.
    pub(super) fn has_place(&self, group: Group) -> bool {
        let most = match group {
            Group::All => self.budget.sequences,
            Group::Urgent | Group::Rest => self.budget.sequences - self.budget.reserved_places(),
        };
        let held = self.running.iter().filter(|s| group.holds(s.priority)).count();
        self.running.len() < self.budget.sequences && held < most
    }

    /// While nothing but urgent work runs, an urgent sequence must not enter before others that rank first:
    /// they would never find room.
    fn first_to_enter(&self, group: Group) -> Option<Rank> {
        if group != Group::Urgent || self.running.iter().any(is_rest) {
            return None;
        }
        let rest = self.waiting.heads().filter(|(line, _)| Group::Rest.holds(line.0));
        rest.map(|(_, rank)| rank).min()
    }

    /// Charges a sequence for its part of the step.
    pub(super) fn charge(&mut self, index: usize, tokens: usize) {
        let seconds = self.costs().part(self.running[index].part(tokens));
        let sequence = &mut self.running[index];
        sequence.work += seconds;
        sequence.last_plan = self.plans;
        self.shares
            .charge(sequence.priority, &sequence.tenant, charge(seconds, tokens));
    }
}

/// Where tokens cost next to nothing beside the step itself, they are counted.
fn charge(seconds: f64, tokens: usize) -> f64 {
    seconds.max(tokens as f64 * 1e-6)
}

fn is_rest(sequence: &Sequence) -> bool {
    Group::Rest.holds(sequence.priority)
}
