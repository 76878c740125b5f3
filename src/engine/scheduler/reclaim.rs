//! Takes running slots and KV blocks back from accounts that hold more than their share, so that a tenant with many
//! long answers cannot hold all of them while others wait.
//!
//! A sequence that has waited for one [`TIME_SLICE`] takes the slot of one whose account holds more than its share, if
//! its own account then holds no more than its share, or held nothing. So slots only move from accounts with too many
//! to accounts with too few, and then stay there; only where there are more accounts than slots do the accounts take
//! turns. A sequence that loses its slot has held it for a whole time slice and has written at least one token in it,
//! so every sequence makes progress. It is computed again later, with the same bits.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use super::{
    super::{
        sequence::{Sequence, handicap},
        waiting::QueueKey,
    },
    holdings::{Holdings, Resource},
    state::{ChunkLimit, ClassGroup, Scheduler},
};

/// How long a sequence waits before it may take a running slot, and how long it may then keep it.
pub(crate) const TIME_SLICE: Duration = Duration::from_secs(3);

/// The right of a queue's first sequence to what others hold too much of.
struct Claim {
    key: QueueKey,
    /// What the sequence lacks.
    resource: Resource,
    /// The classes whose holdings are shared out: those of its group, or all.
    among: ClassGroup,
}

/// A running sequence that may lose its slot.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    index: usize,
    sequence: &'a Sequence,
    decoding_since: Instant,
}

impl Scheduler {
    /// Lets one sequence of a group that has waited long enough run, on the slot and blocks of accounts that hold more
    /// than their share. `blocked` are the queues whose first sequence found too few blocks in the last step.
    pub(super) fn reclaim(&mut self, group: ClassGroup, blocked: &[QueueKey], now: Instant) {
        let Some(claim) = self.claim(group, blocked, now) else {
            return;
        };
        while let Some(index) = self.claim_victim(&claim, &self.holdings(claim.among, claim.resource), now) {
            let victim = self.running.remove(index);
            self.preempt(victim, now);
            let first = self.waiting.first(&claim.key);
            if claim.resource == Resource::Slots || first.is_none_or(|first| self.fits(first)) {
                break;
            }
        }
        // The slot is its own from now on, whoever else waits. Its chunk has no time: how fast it goes on is decided as
        // for all others.
        let limit = ChunkLimit {
            tokens: self.tokens_left,
            seconds: 0.0,
        };
        self.admit(&claim.key, limit, now);
    }

    /// The claim of the sequence that has waited longest, among those for which there is a slot to take.
    fn claim(&self, group: ClassGroup, blocked: &[QueueKey], now: Instant) -> Option<Claim> {
        let is_full = self.running.len() >= self.budget.sequences;
        let no_slot = !self.has_slot(group);
        let keys = self.waiting.heads().map(|(key, _)| key);
        let keys = keys.filter(|key| group.contains(key.class) && (no_slot || blocked.contains(key)));
        let mut oldest: Vec<(Instant, &QueueKey)> = keys
            .filter_map(|key| Some((self.waiting.first(key)?.waiting_since, key)))
            .filter(|(since, _)| now.saturating_duration_since(*since) >= TIME_SLICE)
            .collect();
        if oldest.is_empty() {
            return None;
        }
        oldest.sort_unstable();
        let resource = if no_slot {
            Resource::Slots
        } else {
            Resource::Blocks
        };
        let among = if no_slot && !is_full {
            group
        } else {
            ClassGroup::All
        };
        let holdings = self.holdings(among, resource);
        let mut claims = oldest.into_iter().map(|(_, key)| Claim {
            key: key.clone(),
            resource,
            among,
        });
        claims.find(|claim| self.claim_victim(claim, &holdings, now).is_some())
    }

    /// The running sequence that loses its slot to a claim: the last in rank, of the account that holds most for its
    /// weight. Of accounts that hold the same, it is the one whose sequence has decoded for longest.
    fn claim_victim(&self, claim: &Claim, holdings: &Holdings, now: Instant) -> Option<usize> {
        let first = self.waiting.first(&claim.key)?;
        let waited = now.saturating_duration_since(first.waiting_since);
        if waited < TIME_SLICE {
            return None;
        }
        let more = match claim.resource {
            Resource::Slots => 1,
            Resource::Blocks => self.kv.blocks_for(first.tokens.len()),
        };
        if !holdings.may_claim(&first.tenant, more) {
            return None;
        }
        let had_a_time_slice = |since: Instant| now.saturating_duration_since(since) >= TIME_SLICE;
        let candidates = self.running.iter().enumerate().filter_map(|(index, sequence)| {
            let decoding_since = sequence.decoding_since.filter(|since| had_a_time_slice(*since))?;
            // A sequence of an earlier class keeps its slot for as much longer as its class ranks earlier.
            let ahead = handicap(first.priority).saturating_sub(handicap(sequence.priority));
            let gives = claim.among.contains(sequence.priority)
                && sequence.tenant != first.tenant
                && holdings.is_over_share(&sequence.tenant)
                && waited >= TIME_SLICE + ahead;
            gives.then_some(Candidate {
                index,
                sequence,
                decoding_since,
            })
        });
        let account = candidates
            .clone()
            .max_by(|a, b| {
                let weighted = |candidate: &Candidate<'_>| holdings.weighted(&candidate.sequence.tenant);
                let age = |candidate: &Candidate<'_>| (Reverse(candidate.decoding_since), candidate.index);
                weighted(a)
                    .total_cmp(&weighted(b))
                    .then_with(|| age(a).cmp(&age(b)))
            })
            .map(|candidate| &candidate.sequence.tenant)?;
        candidates
            .filter(|candidate| candidate.sequence.tenant == *account)
            .map(|candidate| candidate.index)
            .next_back()
    }
}
