//! The account of the memory for models: what each takes, how large its KV pool becomes, and which models are evicted for
//! another. This is plain synchronous code; its clock is a counter of uses.

use crate::{backend::Footprint, config::LoadPolicy};

/// The automatic budget leaves this part of the available memory, an eighth, to everything that is not accounted for:
/// tokenizers, requests, the allocator, and the file that is being read.
const HEADROOM_DIVISOR: u64 = 8;

/// Least tokens of a KV pool; a model whose context window is shorter has a pool for one window at least.
const MIN_POOL_TOKENS: usize = 4096;

/// Most tokens of a KV pool for each sequence of a full batch. A pool may always have one whole context window.
const MAX_TOKENS_PER_SEQUENCE: usize = 2048;

/// The memory budget in bytes when the configuration names none.
pub fn automatic_budget(available: u64) -> u64 {
    available - available / HEADROOM_DIVISOR
}

/// The size of a KV pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvSize {
    /// What the budget leaves, between the minimum and the maximum of the model.
    Auto,
    /// This many bytes.
    Fixed(u64),
}

/// What the sizes of KV pools depend on, besides the model.
#[derive(Debug, Clone, Copy)]
pub struct KvSizing {
    /// The configured size.
    pub size: KvSize,
    /// Sequences of a full batch.
    pub batch_sequences: usize,
}

/// The memory that a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of buffers for the largest batch.
    pub scratch: u64,
    /// Bytes of the smallest KV pool that it is served with.
    pub kv_min: u64,
    /// Bytes of the largest KV pool that it can use.
    pub kv_max: u64,
}

impl MemoryNeed {
    /// The need of a model with this footprint.
    pub fn new(footprint: &Footprint, kv: KvSizing) -> Self {
        let blocks = |tokens: usize| tokens.div_ceil(footprint.block_tokens.max(1)).max(2) as u64;
        let bytes = |tokens| blocks(tokens).saturating_mul(footprint.kv_block_bytes);
        let window = footprint.held_tokens;
        let full_batch = kv
            .batch_sequences
            .saturating_mul(window.min(MAX_TOKENS_PER_SEQUENCE));
        let (kv_min, kv_max) = match kv.size {
            KvSize::Auto => (bytes(window.min(MIN_POOL_TOKENS)), bytes(full_batch.max(window))),
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

    /// Bytes without the KV pool.
    pub fn fixed(&self) -> u64 {
        self.weights.saturating_add(self.scratch)
    }

    /// Bytes with the smallest KV pool.
    pub fn least(&self) -> u64 {
        self.fixed().saturating_add(self.kv_min)
    }
}

/// When a model is loaded, whether it may be evicted, and what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResidencyTerms {
    /// When it is loaded.
    pub policy: LoadPolicy,
    /// Whether it is never evicted.
    pub pinned: bool,
    /// What it needs; `None` while its file has not been read.
    pub need: Option<MemoryNeed>,
}

/// How room can be made for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EvictionPlan {
    /// Bytes of its KV pool.
    pub kv_bytes: u64,
    /// Models to evict first, the least recently used one first.
    pub evict: Vec<usize>,
}

/// Why a model cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Bytes that it needs at least.
    pub needed: u64,
    /// Bytes that are free.
    pub available: u64,
    /// Bytes of the budget.
    pub budget: u64,
    /// Models in memory that are not pinned. Unloading some of them makes room.
    pub unpinned: Vec<usize>,
    /// Whether there would be room if the models that may be evicted were idle.
    pub is_temporary: bool,
}

/// What the ledger knows of one model.
struct ModelAccount {
    terms: ResidencyTerms,
    /// Bytes of the KV pool that it gets when all models that fit together are in memory.
    kv_share: u64,
    /// Bytes that are reserved for it.
    taken: u64,
    /// Whether it is READY: loaded, and not being unloaded.
    ready: bool,
    /// Number of leases on it.
    in_use: usize,
    /// The ledger's count of uses when it was last used.
    last_used: u64,
}

/// The memory budget for models, of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes of the budget.
    pub budget: u64,
    /// Bytes of the budget that are free.
    pub available: u64,
}

/// The account of a device's memory, with one entry for each model.
pub(crate) struct MemoryLedger {
    budget: u64,
    accounts: Vec<ModelAccount>,
    /// Number of uses of all models, which serves as a clock.
    uses: u64,
}

impl MemoryLedger {
    /// A ledger of models that are not in memory. KV pools are planned so that all eager models, and all others if there
    /// is room for them, can be in memory at the same time.
    pub(crate) fn new(budget: u64, terms: Vec<ResidencyTerms>) -> Self {
        let account = |terms| ModelAccount {
            terms,
            kv_share: 0,
            taken: 0,
            ready: false,
            in_use: 0,
            last_used: 0,
        };
        let mut ledger = Self {
            budget,
            accounts: terms.into_iter().map(account).collect(),
            uses: 0,
        };
        ledger.plan_kv_shares();
        ledger
    }

    /// Divides what the budget leaves after the least need of every model between the KV pools, in proportion to how much
    /// more each could use. When not all models fit together, the models that are not eager take turns in memory that is
    /// large enough for the most demanding one of them.
    fn plan_kv_shares(&mut self) {
        let known = |eager: bool| {
            let accounts = self.accounts.iter().enumerate();
            accounts
                .filter(move |(_, account)| (account.terms.policy == LoadPolicy::Eager) == eager)
                .filter_map(|(index, account)| Some((index, account.terms.need?)))
                .collect::<Vec<_>>()
        };
        let (eager, others) = (known(true), known(false));
        let least = |needs: &[(usize, MemoryNeed)]| {
            let least = needs.iter().map(|(_, need)| need.least());
            least.fold(0u64, u64::saturating_add)
        };
        let after_eager = self.budget.saturating_sub(least(&eager));
        let all_fit = least(&others) <= after_eager;
        let concurrent: Vec<(usize, MemoryNeed)> = if all_fit {
            [eager, others.clone()].concat()
        } else {
            let largest = others.iter().filter(|(_, need)| need.least() <= after_eager);
            let largest = largest.max_by_key(|(_, need)| need.least()).copied();
            eager.into_iter().chain(largest).collect()
        };
        let rest = self.budget.saturating_sub(least(&concurrent));
        let extra = |need: &MemoryNeed| need.kv_max.saturating_sub(need.kv_min);
        let extras: u128 = concurrent.iter().map(|(_, need)| u128::from(extra(need))).sum();
        let share = |need: &MemoryNeed| {
            let part = u128::from(rest) * u128::from(extra(need)) / extras.max(1);
            need.kv_min + u64::try_from(part).unwrap_or(u64::MAX).min(extra(need))
        };
        for (index, need) in &concurrent {
            self.accounts[*index].kv_share = share(need);
        }
        if !all_fit {
            // The memory in which the models that are not eager take turns.
            let turn_bytes = concurrent
                .iter()
                .filter(|(index, _)| self.accounts[*index].terms.policy != LoadPolicy::Eager)
                .map(|(_, need)| need.fixed().saturating_add(share(need)))
                .max()
                .unwrap_or(0);
            for (index, need) in others {
                let room = turn_bytes.saturating_sub(need.fixed());
                self.accounts[index].kv_share = room.clamp(need.kv_min, need.kv_max);
            }
        }
    }

    /// Bytes of the budget.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes that are reserved for models.
    pub(crate) fn taken(&self) -> u64 {
        self.accounts.iter().map(|account| account.taken).sum()
    }

    /// Bytes that are free.
    pub(crate) fn available(&self) -> u64 {
        self.budget.saturating_sub(self.taken())
    }

    /// Sets what a model needs, which its file says now.
    pub(crate) fn set_need(&mut self, model: usize, need: MemoryNeed) {
        let is_first = self.accounts[model].terms.need.replace(need).is_none();
        if is_first {
            self.plan_kv_shares();
        }
    }

    /// Sets whether a model is pinned.
    pub(crate) fn set_pinned(&mut self, model: usize, pinned: bool) {
        self.accounts[model].terms.pinned = pinned;
    }

    /// Whether a model is pinned.
    pub(crate) fn is_pinned(&self, model: usize) -> bool {
        self.accounts[model].terms.pinned
    }

    /// How room can be made now for a model with this need. Bytes that are reserved for it already count as free.
    pub(crate) fn plan(&self, model: usize, need: MemoryNeed) -> Result<EvictionPlan, Shortage> {
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
            // Small models that were chosen first are kept if a later, larger one makes enough room.
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
        let share = self.accounts[model].kv_share.clamp(need.kv_min, need.kv_max);
        Ok(EvictionPlan {
            kv_bytes: share.min(free - need.fixed()),
            evict,
        })
    }

    /// Idle models that may be evicted, except `except`; the least recently used first.
    fn evictable(&self, except: usize) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.accounts.len())
            .filter(|&index| {
                index != except && self.may_be_evicted(index) && self.accounts[index].in_use == 0
            })
            .collect();
        found.sort_by_key(|&index| self.accounts[index].last_used);
        found
    }

    /// Whether a model is READY, lazy and not pinned.
    fn may_be_evicted(&self, index: usize) -> bool {
        let account = &self.accounts[index];
        account.ready && account.terms.policy == LoadPolicy::Lazy && !account.terms.pinned
    }

    fn shortage(&self, model: usize, needed: u64) -> Shortage {
        let others = || (0..self.accounts.len()).filter(|&index| index != model);
        let available = self.available().saturating_add(self.accounts[model].taken);
        let evictable = others()
            .filter(|&index| self.may_be_evicted(index))
            .map(|index| self.accounts[index].taken)
            .sum::<u64>();
        Shortage {
            needed,
            available,
            budget: self.budget,
            unpinned: others()
                .filter(|&index| self.accounts[index].ready && !self.accounts[index].terms.pinned)
                .collect(),
            is_temporary: available.saturating_add(evictable) >= needed,
        }
    }

    /// Reserves these bytes for a model, in place of those that were reserved before.
    pub(crate) fn reserve(&mut self, model: usize, bytes: u64) -> Result<(), Shortage> {
        let others = self.taken() - self.accounts[model].taken;
        if bytes > self.budget.saturating_sub(others) {
            return Err(self.shortage(model, bytes));
        }
        self.accounts[model].taken = bytes;
        Ok(())
    }

    /// Records that a model is READY.
    pub(crate) fn mark_ready(&mut self, model: usize) {
        self.uses += 1;
        let account = &mut self.accounts[model];
        (account.ready, account.last_used) = (true, self.uses);
    }

    /// Records that a model accepts no new requests.
    pub(crate) fn mark_unready(&mut self, model: usize) {
        self.accounts[model].ready = false;
    }

    /// Records that a model has left memory.
    pub(crate) fn release(&mut self, model: usize) {
        let account = &mut self.accounts[model];
        (account.taken, account.ready, account.in_use) = (0, false, 0);
    }

    /// Counts a new lease on a model.
    pub(crate) fn begin_use(&mut self, model: usize) {
        self.uses += 1;
        let account = &mut self.accounts[model];
        account.in_use += 1;
        account.last_used = self.uses;
    }

    /// Records that a lease on a model has ended.
    pub(crate) fn end_use(&mut self, model: usize) {
        let account = &mut self.accounts[model];
        account.in_use = account.in_use.saturating_sub(1);
    }

    /// Number of leases on a model.
    pub(crate) fn in_use(&self, model: usize) -> usize {
        self.accounts[model].in_use
    }

    /// Least bytes that all eager models need together.
    pub(crate) fn eager_least(&self) -> u64 {
        let eager = self
            .accounts
            .iter()
            .filter(|account| account.terms.policy == LoadPolicy::Eager);
        let least = eager.filter_map(|account| Some(account.terms.need?.least()));
        least.fold(0, u64::saturating_add)
    }
}
