//! What accounts hold of places and blocks, and giving them back: a tenant with many long answers must not hold all
//! of them while others wait.
//!
//! A sequence that has waited for a [`TURN`] takes the place of one whose account holds more than its share, if its
//! own account then holds no more than its share, or held nothing. So places go one way, from those with too many to
//! those with too few, and stay there; only where there are more accounts than places do these take turns. Who loses
//! its place has written at least one token since it had it, and for a whole turn, so everybody gets on; it is
//! computed again later, with the same bits.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    super::{
        Priority, Tenant,
        sequence::{Sequence, handicap},
        waiting::Line,
    },
    Group, Scheduler,
};

/// So long a sequence waits before it may take a place, and so long it then has it.
pub const TURN: Duration = Duration::from_secs(3);

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Short {
    Places,
    Blocks,
}

/// A sequence that has waited long enough.
struct Claim {
    line: Line,
    short: Short,
    /// Whose places and blocks are shared: its group's, or all.
    among: Group,
}

/// What accounts with open sequences hold.
struct Holdings {
    /// Of each account, and its weight.
    accounts: BTreeMap<Tenant, (usize, f64)>,
    /// To be shared.
    total: usize,
}

impl Holdings {
    fn held(&self, account: &Tenant) -> usize {
        self.accounts.get(account).map_or(0, |(held, _)| *held)
    }

    fn share(&self, account: &Tenant) -> f64 {
        let weight = self.accounts.get(account).map_or(0.0, |(_, weight)| *weight);
        let all: f64 = self.accounts.values().map(|(_, weight)| weight).sum();
        self.total as f64 * weight / all.max(weight).max(1.0)
    }

    fn is_over(&self, account: &Tenant) -> bool {
        self.held(account) as f64 > self.share(account)
    }

    /// Whether it may take `more` from others.
    fn may_claim(&self, account: &Tenant, more: usize) -> bool {
        let held = self.held(account);
        held == 0 || (held + more) as f64 <= self.share(account)
    }

    /// What it holds, in its weights.
    fn weighted(&self, account: &Tenant) -> f64 {
        self.accounts
            .get(account)
            .map_or(0.0, |(held, weight)| *held as f64 / weight)
    }
}

impl Scheduler {
    /// Gives one sequence of a group that has waited long enough a place, and blocks, of accounts that hold more than
    /// their share.
    pub(super) fn give_back(&mut self, group: Group, no_room: &[Line], now: Instant) {
        let Some(claim) = self.claim(group, no_room, now) else {
            return;
        };
        while let Some(index) = self.gives_way(&claim, now) {
            let victim = self.running.remove(index);
            self.preempt(victim, now);
            let fits = self.waiting.line(&claim.line).next();
            if claim.short == Short::Places || fits.is_none_or(|first| self.fits(first)) {
                break;
            }
        }
        // The place is its own from now on, whoever else waits; how fast it goes on is decided as for all others.
        self.admit(&claim.line, (self.tokens_left, 0.0), now);
    }

    /// The sequence that may take a place, if there is one for it to take.
    fn claim(&self, group: Group, no_room: &[Line], now: Instant) -> Option<Claim> {
        let full = self.running.len() >= self.budget.sequences;
        let no_place = !self.has_place(group);
        let lines = self.waiting.heads().map(|(line, _)| line);
        let lines = lines.filter(|line| group.holds(line.0) && (no_place || no_room.contains(line)));
        let mut claims: Vec<(Instant, &Line)> = lines
            .filter_map(|line| Some((self.waiting.line(line).next()?.waits_since, line)))
            .collect();
        claims.sort_unstable();
        let claims = claims.into_iter().map(|(_, line)| Claim {
            line: line.clone(),
            short: if no_place { Short::Places } else { Short::Blocks },
            among: if no_place && !full { group } else { Group::All },
        });
        let mut claims = claims.filter(|claim| self.gives_way(claim, now).is_some());
        claims.next()
    }

    /// The running sequence that gives its place to a claim: of the account that holds most for its weight, the last
    /// in rank. Where accounts hold the same, the one that has written for longest.
    fn gives_way(&self, claim: &Claim, now: Instant) -> Option<usize> {
        let first = self.waiting.line(&claim.line).next()?;
        let waits = now.saturating_duration_since(first.waits_since);
        if waits < TURN {
            return None;
        }
        let holdings = self.holdings(claim.among, claim.short);
        let more = match claim.short {
            Short::Places => 1,
            Short::Blocks => self.kv.blocks_for(first.tokens.len()),
        };
        if !holdings.may_claim(&first.tenant, more) {
            return None;
        }
        let had_a_turn = |since: Instant| now.saturating_duration_since(since) >= TURN;
        let candidates = self.running.iter().enumerate().filter_map(|(index, sequence)| {
            let since = sequence.writes_since.filter(|since| had_a_turn(*since))?;
            // A class that comes first keeps its places as much longer as its sequences may be younger.
            let ahead = handicap(first.priority).saturating_sub(handicap(sequence.priority));
            let other = sequence.tenant != first.tenant && holdings.is_over(&sequence.tenant);
            let gives = claim.among.holds(sequence.priority) && other && waits >= TURN + ahead;
            gives.then_some((index, sequence, since))
        });
        let key = |(index, sequence, since): &(usize, &Sequence, Instant)| {
            (holdings.weighted(&sequence.tenant), Reverse(*since), *index)
        };
        let account = candidates
            .clone()
            .max_by(|a, b| {
                let (a, b) = (key(a), key(b));
                a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
            })
            .map(|(_, sequence, _)| &sequence.tenant)?;
        candidates
            .filter(|(_, sequence, _)| sequence.tenant == *account)
            .map(|(index, ..)| index)
            .next_back()
    }

    /// Who loses its blocks when the sequence at `index` needs one and there is none: the last in rank of those whose
    /// accounts hold more than their share, else the last of all. Never the first, unless it is alone, and never one
    /// before `index`.
    pub(super) fn loses_blocks(&self, index: usize) -> usize {
        let last = self.running.len() - 1;
        let first = self.running.first().map(|sequence| &sequence.tenant);
        if self
            .running
            .iter()
            .all(|sequence| Some(&sequence.tenant) == first)
        {
            return last;
        }
        let holdings = self.holdings(Group::All, Short::Blocks);
        (index.max(1)..=last)
            .rev()
            .find(|&other| holdings.is_over(&self.running[other].tenant))
            .unwrap_or(last)
    }

    fn holdings(&self, group: Group, short: Short) -> Holdings {
        let classes = Priority::ALL.into_iter().filter(|class| group.holds(*class));
        let open = classes.flat_map(|class| self.shares.accounts(class));
        let mut accounts: BTreeMap<Tenant, (usize, f64)> = open
            .map(|account| (account.clone(), (0, self.shares.weight(account))))
            .collect();
        for sequence in self.running.iter().filter(|s| group.holds(s.priority)) {
            if let Some((held, _)) = accounts.get_mut(&sequence.tenant) {
                *held += match short {
                    Short::Places => 1,
                    Short::Blocks => self.kv.own(&sequence.blocks),
                };
            }
        }
        let free = match short {
            Short::Places => 0,
            Short::Blocks => self.kv.available(),
        };
        let held: usize = accounts.values().map(|(held, _)| held).sum();
        Holdings {
            accounts,
            total: held + free,
        }
    }
}
