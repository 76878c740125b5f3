//! The device's memory as an account: what models take, how large their KV pools become, who makes room for whom.
//! Plain synchronous code; the clock is a counter of uses.

use crate::{backend::Footprint, config::LoadPolicy};

/// Of what can be had, so much is left to everything that is not accounted for: tokenizers, requests, the
/// allocator, the file that is being read. An eighth.
const HEADROOM_PART: u64 = 8;

/// Tokens that a KV pool holds at least, or the whole window where that is shorter.
const MIN_POOL_TOKENS: usize = 4096;

/// Tokens that a pool holds at most for each sequence of a full batch, and never less than one whole window.
const MAX_TOKENS_PER_SEQUENCE: usize = 2048;

/// The budget, where the configuration names none.
pub fn automatic_budget(available: u64) -> u64 {
    available - available / HEADROOM_PART
}

/// How large KV pools are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSize {
    /// What the budget leaves, between a minimum and a maximum of the model's.
    Auto,
    /// So many bytes.
    Fixed(u64),
}

/// What a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of buffers that grow to the largest batch.
    pub scratch: u64,
    /// Bytes of the smallest KV pool it is served with.
    pub kv_min: u64,
    /// Bytes of the largest one that makes sense.
    pub kv_max: u64,
}

impl Need {
    /// From an footprint; `sequences` is the size of a full batch.
    pub fn new(footprint: &Footprint, kv: KvSize, sequences: usize) -> Self {
        let blocks = |tokens: usize| tokens.div_ceil(footprint.block_tokens.max(1)).max(2) as u64;
        let bytes = |tokens| blocks(tokens).saturating_mul(footprint.kv_block_bytes);
        let window = footprint.held_tokens;
        let full = sequences.saturating_mul(window.min(MAX_TOKENS_PER_SEQUENCE));
        let (kv_min, kv_max) = match kv {
            KvSize::Auto => (bytes(window.min(MIN_POOL_TOKENS)), bytes(full.max(window))),
            KvSize::Fixed(bytes) => (bytes, bytes),
        };
        let most = footprint.kv_most_bytes.unwrap_or(u64::MAX);
        Self {
            weights: footprint.weight_bytes,
            scratch: footprint.scratch_bytes,
            kv_min: kv_min.min(most),
            kv_max: kv_max.min(most),
        }
    }

    /// What it takes without a KV pool.
    pub fn fixed(&self) -> u64 {
        self.weights.saturating_add(self.scratch)
    }

    /// The least that it can be served with.
    pub fn least(&self) -> u64 {
        self.fixed().saturating_add(self.kv_min)
    }
}

/// How a model is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// When it is loaded.
    pub policy: LoadPolicy,
    /// It never makes room for another.
    pub pinned: bool,
    /// What it needs, where that is known.
    pub need: Option<Need>,
}

/// How a model can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of its KV pool.
    pub kv_bytes: u64,
    /// Models that have to go before, the one least recently used first.
    pub evict: Vec<usize>,
}

/// Why a model cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that it needs at least.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Bytes that there are.
    pub budget: u64,
    /// Resident models that are not pinned: unloading some of them makes room.
    pub unpinned: Vec<usize>,
    /// Whether room could be made if models that may be evicted were idle.
    pub passing: bool,
}

struct Account {
    terms: Terms,
    /// Bytes of the KV pool that it would get with all others beside it.
    share: u64,
    taken: u64,
    /// It is READY: complete, and not on its way out.
    settled: bool,
    in_use: usize,
    last_used: u64,
}

/// The account of a device's memory, one entry per model.
pub struct Ledger {
    budget: u64,
    accounts: Vec<Account>,
    uses: u64,
}

impl Ledger {
    /// Nothing is taken. KV pools are planned so that all eager models, and then as many of the others as there
    /// is room for, can be resident at the same time.
    pub fn new(budget: u64, terms: Vec<Terms>) -> Self {
        let account = |terms| Account {
            terms,
            share: 0,
            taken: 0,
            settled: false,
            in_use: 0,
            last_used: 0,
        };
        let mut ledger = Self {
            budget,
            accounts: terms.into_iter().map(account).collect(),
            uses: 0,
        };
        ledger.plan_shares();
        ledger
    }

    /// The rest of the budget, after what every model needs at least, goes to the pools in proportion to how
    /// much more they could use. When not all fit together, those that are not eager share one place, as large
    /// as the most demanding of them needs.
    fn plan_shares(&mut self) {
        let known = |eager: bool| {
            let accounts = self.accounts.iter().enumerate();
            accounts
                .filter(move |(_, account)| (account.terms.policy == LoadPolicy::Eager) == eager)
                .filter_map(|(index, account)| Some((index, account.terms.need?)))
                .collect::<Vec<_>>()
        };
        let (eager, others) = (known(true), known(false));
        let least = |needs: &[(usize, Need)]| {
            let least = needs.iter().map(|(_, need)| need.least());
            least.fold(0u64, u64::saturating_add)
        };
        let after_eager = self.budget.saturating_sub(least(&eager));
        let together = least(&others) <= after_eager;
        let places: Vec<(usize, Need)> = if together {
            [eager, others.clone()].concat()
        } else {
            let largest = others.iter().filter(|(_, need)| need.least() <= after_eager);
            let largest = largest.max_by_key(|(_, need)| need.least()).copied();
            eager.into_iter().chain(largest).collect()
        };
        let rest = self.budget.saturating_sub(least(&places));
        let wish = |need: &Need| need.kv_max.saturating_sub(need.kv_min);
        let wishes: u128 = places.iter().map(|(_, need)| u128::from(wish(need))).sum();
        let share = |need: &Need| {
            let part = u128::from(rest) * u128::from(wish(need)) / wishes.max(1);
            need.kv_min + u64::try_from(part).unwrap_or(u64::MAX).min(wish(need))
        };
        for (index, need) in &places {
            self.accounts[*index].share = share(need);
        }
        if !together {
            // The place that they share, one after the other.
            let place = places
                .iter()
                .filter(|(index, _)| self.accounts[*index].terms.policy != LoadPolicy::Eager)
                .map(|(_, need)| need.fixed().saturating_add(share(need)))
                .max()
                .unwrap_or(0);
            for (index, need) in others {
                let room = place.saturating_sub(need.fixed());
                self.accounts[index].share = room.clamp(need.kv_min, need.kv_max);
            }
        }
    }

    /// Bytes that there are.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes that models hold.
    pub fn taken(&self) -> u64 {
        self.accounts.iter().map(|account| account.taken).sum()
    }

    /// Bytes that are free.
    pub fn available(&self) -> u64 {
        self.budget.saturating_sub(self.taken())
    }

    /// What a model needs, as its file says now.
    pub fn set_need(&mut self, model: usize, need: Need) {
        let first = self.accounts[model].terms.need.replace(need).is_none();
        if first {
            self.plan_shares();
        }
    }

    /// Whether it may be evicted.
    pub fn set_pinned(&mut self, model: usize, pinned: bool) {
        self.accounts[model].terms.pinned = pinned;
    }

    /// Whether it may not be evicted.
    pub fn is_pinned(&self, model: usize) -> bool {
        self.accounts[model].terms.pinned
    }

    /// How a model with this need can be loaded now. What it holds itself does not count.
    pub fn plan(&self, model: usize, need: Need) -> Result<Plan, Shortage> {
        let least = need.least();
        let mut free = self.available().saturating_add(self.accounts[model].taken);
        let mut evict = self.evictable(model);
        let mut kept = Vec::new();
        if free < least {
            let mut used = 0;
            for &candidate in &evict {
                used += 1;
                free += self.accounts[candidate].taken;
                if free >= least {
                    break;
                }
            }
            evict.truncate(used);
            if free < least {
                return Err(self.shortage(model, least));
            }
            // Small ones that were looked at first may stay when a larger one makes enough room.
            for &candidate in evict.iter().rev() {
                let taken = self.accounts[candidate].taken;
                if free - taken >= least {
                    free -= taken;
                    kept.push(candidate);
                }
            }
            evict.retain(|candidate| !kept.contains(candidate));
        } else {
            evict.clear();
        }
        let share = self.accounts[model].share.clamp(need.kv_min, need.kv_max);
        Ok(Plan {
            kv_bytes: share.min(free - need.fixed()),
            evict,
        })
    }

    /// Idle, lazy and unpinned: least recently used first.
    fn evictable(&self, but: usize) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.accounts.len())
            .filter(|&index| index != but && self.may_go(index) && self.accounts[index].in_use == 0)
            .collect();
        found.sort_by_key(|&index| self.accounts[index].last_used);
        found
    }

    fn may_go(&self, index: usize) -> bool {
        let account = &self.accounts[index];
        account.settled && account.terms.policy == LoadPolicy::Lazy && !account.terms.pinned
    }

    fn shortage(&self, model: usize, needed: u64) -> Shortage {
        let others = || (0..self.accounts.len()).filter(|&index| index != model);
        let available = self.available().saturating_add(self.accounts[model].taken);
        let could_go = others()
            .filter(|&index| self.may_go(index))
            .map(|index| self.accounts[index].taken)
            .sum::<u64>();
        Shortage {
            needed,
            available,
            budget: self.budget,
            unpinned: others()
                .filter(|&index| self.accounts[index].settled && !self.accounts[index].terms.pinned)
                .collect(),
            passing: available.saturating_add(could_go) >= needed,
        }
    }

    /// Sets aside what a model takes; refused when there is not so much.
    pub fn take(&mut self, model: usize, bytes: u64) -> Result<(), Shortage> {
        let others = self.taken() - self.accounts[model].taken;
        if bytes > self.budget.saturating_sub(others) {
            return Err(self.shortage(model, bytes));
        }
        self.accounts[model].taken = bytes;
        Ok(())
    }

    /// The model is complete.
    pub fn settle(&mut self, model: usize) {
        self.uses += 1;
        let account = &mut self.accounts[model];
        (account.settled, account.last_used) = (true, self.uses);
    }

    /// The model takes nothing new.
    pub fn unsettle(&mut self, model: usize) {
        self.accounts[model].settled = false;
    }

    /// The model has given its memory back.
    pub fn release(&mut self, model: usize) {
        let account = &mut self.accounts[model];
        (account.taken, account.settled, account.in_use) = (0, false, 0);
    }

    /// Somebody begins to use it.
    pub fn enter(&mut self, model: usize) {
        self.uses += 1;
        let account = &mut self.accounts[model];
        account.in_use += 1;
        account.last_used = self.uses;
    }

    /// Somebody has done with it.
    pub fn leave(&mut self, model: usize) {
        let account = &mut self.accounts[model];
        account.in_use = account.in_use.saturating_sub(1);
    }

    /// How many use it.
    pub fn in_use(&self, model: usize) -> usize {
        self.accounts[model].in_use
    }

    /// Bytes that eager models need at least, all together.
    pub fn eager_least(&self) -> u64 {
        let eager = self
            .accounts
            .iter()
            .filter(|account| account.terms.policy == LoadPolicy::Eager);
        let least = eager.filter_map(|account| Some(account.terms.need?.least()));
        least.fold(0, u64::saturating_add)
    }
}
