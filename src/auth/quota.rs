//! How much each tenant may ask for: requests and tokens in a minute, as buckets that fill evenly.
//!
//! A tenant may use a minute's worth at once after a quiet minute. A request's tokens are reserved before any is computed,
//! those of its prompt and the most that its answer may have; what the answer did not need is given back. So a tenant
//! never gets more than its bucket holds, however many requests it sends at the same time.
//!
//! We keep buckets of our own, because the libraries for this cannot give tokens back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::engine::Tenant;

/// Most tenants without quotas of their own in the configuration that have an account of their own: 4096 take less than a
/// megabyte. Identity providers name tenants, so their number is theirs. When there are more at the same time, the others
/// share one account.
const MOST_ACCOUNTS: usize = 4096;

/// Time between two searches for accounts that can be closed. One search looks at all of them while other calls wait.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Seconds in which an empty bucket is full.
const MINUTE: f64 = 60.0;

/// What a tenant may use in a minute. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct QuotaLimits {
    /// Requests; each item of a batch or stream counts as one.
    pub requests: Option<u32>,
    /// Tokens, of prompts and answers together.
    pub tokens: Option<u32>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotaKind {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
}

impl QuotaKind {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// A request that is beyond a tenant's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaRefusal {
    /// What there is too little of.
    pub kind: QuotaKind,
    /// What the tenant may use in a minute.
    pub per_minute: u32,
    /// What the request needs.
    pub needed: u64,
    /// When there will be enough; `None` when the request needs more than a whole minute's worth.
    pub retry_after: Option<Duration>,
}

/// What is left of a tenant's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokensLeft {
    /// Tokens that it may use now.
    pub tokens: usize,
    /// Tokens that it may use in a minute.
    pub per_minute: u32,
}

/// The quotas of all tenants. Clones share the accounts.
#[derive(Debug, Clone, Default)]
pub struct Quotas(Option<Arc<Accounts>>);

#[derive(Debug)]
struct Accounts {
    default: QuotaLimits,
    /// The tenants that the configuration names. They always have an account of their own.
    named: BTreeMap<Tenant, NamedAccount>,
    others: Mutex<OtherAccounts>,
}

#[derive(Debug)]
struct NamedAccount {
    limits: QuotaLimits,
    /// Full until its first use.
    account: Mutex<Option<Account>>,
}

/// The accounts of tenants that the configuration does not name.
#[derive(Debug, Default)]
struct OtherAccounts {
    open: HashMap<Tenant, Account>,
    /// Of those for whom there was no room.
    shared: Option<Account>,
    /// When accounts that can be closed were last looked for.
    swept: Option<Instant>,
}

/// Which account a tenant's requests are charged to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Charged {
    Own(Tenant),
    Shared,
}

#[derive(Debug)]
struct Account {
    requests: Bucket,
    tokens: Bucket,
}

impl Account {
    fn full(limits: QuotaLimits, now: Instant) -> Self {
        Self {
            requests: Bucket::full(limits.requests.unwrap_or_default(), now),
            tokens: Bucket::full(limits.tokens.unwrap_or_default(), now),
        }
    }

    /// Whether it says no more than a new one.
    fn is_full(&mut self, limits: QuotaLimits, now: Instant) -> bool {
        let is_full =
            |bucket: &mut Bucket, most: Option<u32>| most.is_none_or(|most| bucket.is_full(most, now));
        is_full(&mut self.requests, limits.requests) && is_full(&mut self.tokens, limits.tokens)
    }
}

/// What is left of a minute's worth.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(most: u32, at: Instant) -> Self {
        let left = f64::from(most);
        Self { left, at }
    }

    fn fill(&mut self, most: u32, now: Instant) {
        let most = f64::from(most);
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * most / MINUTE).min(most);
        self.at = self.at.max(now);
    }

    fn is_full(&mut self, most: u32, now: Instant) -> bool {
        self.fill(most, now);
        self.left >= f64::from(most)
    }

    /// Takes this much. Otherwise, says when there will be enough.
    fn take(&mut self, needed: u64, kind: QuotaKind, most: u32, now: Instant) -> Result<(), QuotaRefusal> {
        self.check(needed, kind, most, now)?;
        self.left -= needed as f64;
        Ok(())
    }

    /// Whether there is this much. Otherwise, says when there will be enough.
    fn check(&mut self, needed: u64, kind: QuotaKind, most: u32, now: Instant) -> Result<(), QuotaRefusal> {
        self.fill(most, now);
        let amount = needed as f64;
        if amount <= self.left {
            return Ok(());
        }
        let wait = (amount - self.left) * MINUTE / f64::from(most);
        Err(QuotaRefusal {
            kind,
            per_minute: most,
            needed,
            // A millisecond more, so that whoever comes back then is not a rounding error too early.
            retry_after: (needed <= u64::from(most))
                .then(|| Duration::from_secs_f64(wait) + Duration::from_millis(1)),
        })
    }

    fn give_back(&mut self, amount: u64, most: u32) {
        self.left = (self.left + amount as f64).min(f64::from(most));
    }
}

impl Quotas {
    /// Quotas of each tenant that `of_tenants` does not name, and of those that it names.
    pub fn new(default: QuotaLimits, of_tenants: impl IntoIterator<Item = (Tenant, QuotaLimits)>) -> Self {
        let named = of_tenants.into_iter().map(|(tenant, limits)| {
            let account = Mutex::default();
            (tenant, NamedAccount { limits, account })
        });
        let named: BTreeMap<_, _> = named.collect();
        let is_off = default == QuotaLimits::default() && named.is_empty();
        Self((!is_off).then(|| {
            Arc::new(Accounts {
                default,
                named,
                others: Mutex::default(),
            })
        }))
    }

    /// Counts a request of the tenant.
    ///
    /// # Errors
    /// When it is beyond the tenant's quota.
    pub fn take_request(&self, tenant: &Tenant, now: Instant) -> Result<(), QuotaRefusal> {
        let Some(accounts) = &self.0 else { return Ok(()) };
        let Some(most) = accounts.limits(tenant).requests else {
            return Ok(());
        };
        let (_, taken) = accounts.with_account(tenant, now, |account| {
            account.requests.take(1, QuotaKind::Requests, most, now)
        });
        taken
    }

    /// Whether the tenant has as many tokens as a text has at least, before work is done to find out how many it has. Takes
    /// none.
    ///
    /// # Errors
    /// When they are beyond the tenant's quota.
    pub fn check_tokens(&self, tenant: &Tenant, least: usize, now: Instant) -> Result<(), QuotaRefusal> {
        let Some(accounts) = &self.0 else { return Ok(()) };
        let Some(most) = accounts.limits(tenant).tokens else {
            return Ok(());
        };
        let (_, there) = accounts.with_account(tenant, now, |account| {
            account.tokens.check(least as u64, QuotaKind::Tokens, most, now)
        });
        there
    }

    /// How many tokens the tenant has now; `None` if it has no quota.
    pub fn tokens_left(&self, tenant: &Tenant, now: Instant) -> Option<TokensLeft> {
        let accounts = self.0.as_ref()?;
        let per_minute = accounts.limits(tenant).tokens?;
        let (_, left) = accounts.with_account(tenant, now, |account| {
            account.tokens.fill(per_minute, now);
            account.tokens.left
        });
        Some(TokensLeft {
            tokens: left as usize,
            per_minute,
        })
    }

    /// Reserves tokens of the tenant.
    ///
    /// # Errors
    /// When they are beyond the tenant's quota.
    pub fn reserve_tokens(
        &self,
        tenant: &Tenant,
        tokens: usize,
        now: Instant,
    ) -> Result<TokenReservation, QuotaRefusal> {
        let none = TokenReservation { left: 0, of: None };
        let Some(accounts) = &self.0 else { return Ok(none) };
        let Some(most) = accounts.limits(tenant).tokens else {
            return Ok(none);
        };
        let needed = tokens as u64;
        let (charged, taken) = accounts.with_account(tenant, now, |account| {
            account.tokens.take(needed, QuotaKind::Tokens, most, now)
        });
        taken?;
        Ok(TokenReservation {
            left: needed,
            of: Some((Arc::clone(accounts), charged)),
        })
    }
}

impl Accounts {
    fn limits(&self, tenant: &Tenant) -> QuotaLimits {
        let named = self.named.get(tenant);
        named.map_or(self.default, |named| named.limits)
    }

    /// Uses the account that a tenant's requests are charged to, and says which one it is. A new one is full.
    fn with_account<T>(
        &self,
        tenant: &Tenant,
        now: Instant,
        using: impl FnOnce(&mut Account) -> T,
    ) -> (Charged, T) {
        let new = |limits| move || Account::full(limits, now);
        if let Some(named) = self.named.get(tenant) {
            let mut account = lock(&named.account);
            let used = using(account.get_or_insert_with(new(named.limits)));
            return (Charged::Own(tenant.clone()), used);
        }
        let mut others = lock(&self.others);
        if !others.has_room_for(tenant) {
            others.sweep(self.default, now);
        }
        if others.has_room_for(tenant) {
            let account = others.open.entry(tenant.clone());
            let used = using(account.or_insert_with(new(self.default)));
            return (Charged::Own(tenant.clone()), used);
        }
        let used = using(others.shared.get_or_insert_with(new(self.default)));
        (Charged::Shared, used)
    }

    fn give_back(&self, charged: &Charged, tokens: u64) {
        let back = |account: Option<&mut Account>, limits: QuotaLimits| {
            // An account that is no longer there was full.
            if let (Some(account), Some(most)) = (account, limits.tokens) {
                account.tokens.give_back(tokens, most);
            }
        };
        match charged {
            Charged::Shared => back(lock(&self.others).shared.as_mut(), self.default),
            Charged::Own(tenant) => match self.named.get(tenant) {
                Some(named) => back(lock(&named.account).as_mut(), named.limits),
                None => back(lock(&self.others).open.get_mut(tenant), self.default),
            },
        }
    }
}

impl OtherAccounts {
    fn has_room_for(&self, tenant: &Tenant) -> bool {
        self.open.len() < MOST_ACCOUNTS || self.open.contains_key(tenant)
    }

    /// Closes accounts that are full, unless that was done a moment ago.
    fn sweep(&mut self, limits: QuotaLimits, now: Instant) {
        let since = self.swept.map(|swept| now.saturating_duration_since(swept));
        if since.is_some_and(|since| since < SWEEP_PAUSE) {
            return;
        }
        self.swept = Some(now);
        self.open.retain(|_, account| !account.is_full(limits, now));
    }
}

fn lock<T>(account: &Mutex<T>) -> MutexGuard<'_, T> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tokens that are reserved for a prompt and its answer. Those that were not used are given back when this is dropped.
#[derive(Debug)]
pub struct TokenReservation {
    left: u64,
    of: Option<(Arc<Accounts>, Charged)>,
}

impl TokenReservation {
    /// Uses some of them.
    pub fn use_tokens(&mut self, tokens: usize) {
        self.left = self.left.saturating_sub(tokens as u64);
    }
}

impl Drop for TokenReservation {
    fn drop(&mut self) {
        if let Some((accounts, charged)) = self.of.take() {
            accounts.give_back(&charged, self.left);
        }
    }
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
