//! Plans one step from beginning to end.

use std::time::Instant;

use super::{
    super::{request::Priority, sequence::Ending, step_time::StepShape},
    pace::{Pace, StepForecast},
    state::{ClassGroup, Scheduler},
};

impl Scheduler {
    /// Plans a step: ends the sequences that must stop, and sets [`scheduled`](super::super::sequence::Sequence::scheduled) on
    /// the running sequences that take part, which then have the KV blocks for these tokens.
    ///
    /// Sequences with one token to compute (decodes) come first, then prefill chunks, for which waiting sequences are
    /// admitted where it is their turn. At a bounded pace, urgent work comes before all other work.
    pub(crate) fn plan(&mut self, now: Instant, pace: Pace) -> StepForecast {
        self.record.reset();
        self.end_stopped(now);
        self.kv.release_ended();
        self.planned_steps += 1;
        self.tokens_left = self.budget.tokens;
        self.out_of_blocks = false;
        let blocked = std::mem::take(&mut self.blocked_queues);
        if pace == Pace::Unbounded {
            self.reclaim(ClassGroup::All, &blocked, now);
            self.plan_decodes(ClassGroup::All, f64::INFINITY, now);
            self.plan_prefills(ClassGroup::All, f64::INFINITY, 0, now);
        } else {
            self.reclaim(ClassGroup::Urgent, &blocked, now);
            self.reclaim(ClassGroup::NonUrgent, &blocked, now);
            self.plan_paced(pace, now);
        }
        for sequence in self.deferred.drain(..) {
            self.waiting.insert(sequence);
        }
        self.start_new(now);
        self.forecast()
    }

    /// What the planned step contains.
    fn forecast(&self) -> StepForecast {
        let scheduled = || self.running.iter().filter(|sequence| sequence.scheduled > 0);
        let costs = self.costs();
        let shapes = scheduled().map(|sequence| sequence.shape(sequence.scheduled));
        StepForecast {
            seconds: costs.step(shapes.fold(StepShape::default(), StepShape::plus)),
            has_urgent: scheduled().any(|sequence| sequence.priority == Priority::Urgent),
            non_urgent_seconds: scheduled()
                .filter(|sequence| sequence.priority != Priority::Urgent)
                .map(|sequence| costs.part(sequence.shape(sequence.scheduled)))
                .sum(),
        }
    }

    /// Ends the sequences that their callers have stopped, and those whose deadline has passed. It looks at each running
    /// sequence, and of those that wait only at the ones that have to end.
    fn end_stopped(&mut self, now: Instant) {
        // Taken first: a sequence that is stopped from now on, and has begun to run, is found when the next step is planned.
        let stopped = self.stops.take();
        let mut index = 0;
        while let Some(sequence) = self.running.get(index) {
            match sequence.stopped(now) {
                Some(ending) => {
                    let sequence = self.running.remove(index);
                    self.retire(sequence, ending, now);
                }
                None => index += 1,
            }
        }
        for sequence in self.waiting.take_ending(&stopped, now) {
            match sequence.stopped(now) {
                Some(ending) => self.retire(sequence, ending, now),
                None => self.waiting.insert(sequence),
            }
        }
    }

    /// Sends the start event of sequences that run for the first time, and ends those whose caller listens no more.
    fn start_new(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(sequence) = self.running.get_mut(index) {
            if sequence.started.is_none() && sequence.scheduled > 0 {
                let cached = sequence.counts.cached_tokens;
                let wait = now.saturating_duration_since(sequence.arrival);
                self.record.queue_waits.push((sequence.priority, wait));
                self.record.cached_tokens += cached as u64;
                self.record.prompt_tokens += (sequence.prompt_len - cached) as u64;
                if !sequence.start(now) {
                    let sequence = self.running.remove(index);
                    self.retire(sequence, Ending::Closed, now);
                    continue;
                }
            }
            index += 1;
        }
    }
}
