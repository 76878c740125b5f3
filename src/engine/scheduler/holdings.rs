//! How many running slots and KV blocks each account holds, compared with its share of them.

use std::collections::BTreeMap;

use super::{
    super::{request::Priority, tenant::Tenant},
    state::{ClassGroup, Scheduler},
};

/// What accounts compete for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// Running slots.
    Slots,
    /// KV blocks.
    Blocks,
}

/// What one account holds.
struct AccountHoldings {
    held: usize,
    weight: f64,
}

/// What the accounts with open sequences hold of one resource.
pub(super) struct Holdings {
    accounts: BTreeMap<Tenant, AccountHoldings>,
    /// Amount of the resource that is shared between the accounts.
    total: usize,
    /// Sum of the accounts' weights.
    weights: f64,
}

impl Holdings {
    fn held(&self, account: &Tenant) -> usize {
        self.accounts.get(account).map_or(0, |account| account.held)
    }

    /// An account's share of the total, by weight.
    fn share(&self, account: &Tenant) -> f64 {
        let weight = self.accounts.get(account).map_or(0.0, |account| account.weight);
        self.total as f64 * weight / self.weights.max(weight).max(1.0)
    }

    /// Whether an account holds more than its share.
    pub(super) fn is_over_share(&self, account: &Tenant) -> bool {
        self.held(account) as f64 > self.share(account)
    }

    /// Whether an account may take `more` from others: when it holds nothing, or still within its share.
    pub(super) fn may_claim(&self, account: &Tenant, more: usize) -> bool {
        let held = self.held(account);
        held == 0 || (held + more) as f64 <= self.share(account)
    }

    /// What an account holds, divided by its weight.
    pub(super) fn weighted(&self, account: &Tenant) -> f64 {
        self.accounts
            .get(account)
            .map_or(0.0, |account| account.held as f64 / account.weight)
    }
}

impl Scheduler {
    /// What the accounts with open sequences of a group hold of a resource.
    pub(super) fn holdings(&self, group: ClassGroup, resource: Resource) -> Holdings {
        let classes = Priority::ALL.into_iter().filter(|class| group.contains(*class));
        let open = classes.flat_map(|class| self.shares.accounts(class));
        let mut accounts: BTreeMap<Tenant, AccountHoldings> = open
            .map(|account| {
                let weight = self.shares.weight(account);
                (account.clone(), AccountHoldings { held: 0, weight })
            })
            .collect();
        for sequence in self.running.iter().filter(|s| group.contains(s.priority)) {
            if let Some(account) = accounts.get_mut(&sequence.tenant) {
                account.held += match resource {
                    Resource::Slots => 1,
                    Resource::Blocks => self.kv.held_alone(&sequence.blocks),
                };
            }
        }
        let free = match resource {
            Resource::Slots => 0,
            Resource::Blocks => self.kv.available(),
        };
        let held: usize = accounts.values().map(|account| account.held).sum();
        Holdings {
            weights: accounts.values().map(|account| account.weight).sum(),
            accounts,
            total: held + free,
        }
    }
}
