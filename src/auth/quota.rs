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

/// Most tenants that have buckets of their own: 4096 take less than a megabyte. Identity providers name tenants, so their
/// number is theirs. When there are more at the same time, the others share one account.
const MOST_ACCOUNTS: usize = 4096;

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

/// The quotas of all tenants. Clones share the accounts.
#[derive(Debug, Clone, Default)]
pub struct Quotas(Option<Arc<Accounts>>);

#[derive(Debug)]
struct Accounts {
    default: QuotaLimits,
    of_tenants: BTreeMap<Tenant, QuotaLimits>,
    open: Mutex<HashMap<Tenant, Account>>,
}

#[derive(Debug)]
struct Account {
    requests: Bucket,
    tokens: Bucket,
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
        self.fill(most, now);
        let amount = needed as f64;
        if amount <= self.left {
            self.left -= amount;
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
        let of_tenants: BTreeMap<_, _> = of_tenants.into_iter().collect();
        let is_off = default == QuotaLimits::default() && of_tenants.is_empty();
        Self((!is_off).then(|| {
            Arc::new(Accounts {
                default,
                of_tenants,
                open: Mutex::default(),
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
        let mut open = accounts.lock();
        let account = accounts.account(&mut open, tenant, now);
        account.requests.take(1, QuotaKind::Requests, most, now)
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
        let mut open = accounts.lock();
        let account = accounts.account(&mut open, tenant, now);
        let needed = tokens as u64;
        account.tokens.take(needed, QuotaKind::Tokens, most, now)?;
        drop(open);
        Ok(TokenReservation {
            left: needed,
            of: Some((Arc::clone(accounts), tenant.clone())),
        })
    }
}

impl Accounts {
    fn limits(&self, tenant: &Tenant) -> QuotaLimits {
        self.of_tenants.get(tenant).copied().unwrap_or(self.default)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Account>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of a tenant. A new one is full.
    fn account<'a>(
        &self,
        open: &'a mut HashMap<Tenant, Account>,
        tenant: &Tenant,
        now: Instant,
    ) -> &'a mut Account {
        if open.len() >= MOST_ACCOUNTS && !open.contains_key(tenant) {
            // A full account says no more than a new one.
            open.retain(|tenant, account| {
                let limits = self.limits(tenant);
                let is_full = |bucket: &mut Bucket, most: Option<u32>| {
                    most.is_none_or(|most| bucket.is_full(most, now))
                };
                !(is_full(&mut account.requests, limits.requests)
                    && is_full(&mut account.tokens, limits.tokens))
            });
        }
        let limits = self.limits(tenant);
        let has_room = open.len() < MOST_ACCOUNTS || open.contains_key(tenant);
        let name = if has_room {
            tenant.clone()
        } else {
            Tenant::default()
        };
        open.entry(name).or_insert_with(|| Account {
            requests: Bucket::full(limits.requests.unwrap_or_default(), now),
            tokens: Bucket::full(limits.tokens.unwrap_or_default(), now),
        })
    }
}

/// Tokens that are reserved for a prompt and its answer. Those that were not used are given back when this is dropped.
#[derive(Debug)]
pub struct TokenReservation {
    left: u64,
    of: Option<(Arc<Accounts>, Tenant)>,
}

impl TokenReservation {
    /// Uses some of them.
    pub fn use_tokens(&mut self, tokens: usize) {
        self.left = self.left.saturating_sub(tokens as u64);
    }
}

impl Drop for TokenReservation {
    fn drop(&mut self) {
        let Some((accounts, tenant)) = self.of.take() else {
            return;
        };
        let Some(most) = accounts.limits(&tenant).tokens else {
            return;
        };
        // An account that is no longer there was full. What was taken from the shared one stays taken.
        if let Some(account) = accounts.lock().get_mut(&tenant) {
            account.tokens.give_back(self.left, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::named(name).unwrap()
    }

    fn limits(requests: Option<u32>, tokens: Option<u32>) -> QuotaLimits {
        QuotaLimits { requests, tokens }
    }

    #[test]
    fn a_minutes_worth_of_requests_comes_back_in_a_minute() {
        let quotas = Quotas::new(limits(Some(6), None), [(tenant("large"), limits(Some(60), None))]);
        let begin = Instant::now();
        let take = |name: &str, at: Duration| quotas.take_request(&tenant(name), begin + at);
        for _ in 0..6 {
            take("a", Duration::ZERO).unwrap();
        }
        let refusal = take("a", Duration::ZERO).unwrap_err();
        assert_eq!((refusal.kind, refusal.per_minute), (QuotaKind::Requests, 6));
        let wait = refusal.retry_after.unwrap();
        assert_eq!(wait, Duration::from_millis(10_001));
        // Others have buckets of their own.
        for _ in 0..60 {
            take("large", Duration::ZERO).unwrap();
        }
        take("b", Duration::ZERO).unwrap();
        assert!(take("a", wait - Duration::from_millis(2)).is_err());
        take("a", wait).unwrap();
        assert!(take("a", wait).is_err());
        for _ in 0..6 {
            take("a", Duration::from_secs(600)).unwrap();
        }
        assert!(take("a", Duration::from_secs(600)).is_err());
    }

    #[test]
    fn tokens_of_an_answer_that_were_not_needed_are_given_back() {
        let quotas = Quotas::new(limits(None, Some(100)), []);
        let now = Instant::now();
        let reserve = |tokens| quotas.reserve_tokens(&tenant("a"), tokens, now);
        let mut answer = reserve(80).unwrap();
        let refusal = reserve(21).unwrap_err();
        assert_eq!((refusal.kind, refusal.needed), (QuotaKind::Tokens, 21));
        assert!(refusal.retry_after.is_some());
        answer.use_tokens(30);
        for _ in 0..10 {
            answer.use_tokens(1);
        }
        drop(answer);
        // 30 and 10 of 100 are used.
        assert!(reserve(61).is_err());
        drop(reserve(60).unwrap());
        let never = reserve(101).unwrap_err();
        assert_eq!(never.retry_after, None, "it is more than a whole minute's worth");
    }

    #[test]
    fn without_quotas_nothing_is_counted() {
        let quotas = Quotas::new(QuotaLimits::default(), []);
        assert!(quotas.0.is_none());
        let reserved = quotas.reserve_tokens(&tenant("a"), usize::MAX, Instant::now());
        assert!(reserved.is_ok());
    }

    #[test]
    fn memory_is_bounded_whatever_names_there_are() {
        let quotas = Quotas::new(limits(Some(2), None), []);
        let begin = Instant::now();
        for number in 0..2 * MOST_ACCOUNTS {
            // Those that have no room any more share one account, which is soon empty.
            let _ = quotas.take_request(&tenant(&format!("t{number}")), begin);
        }
        let accounts = quotas.0.as_ref().unwrap();
        assert!(accounts.lock().len() <= MOST_ACCOUNTS + 1);
        assert!(quotas.take_request(&tenant("late"), begin).is_err());
        // Once theirs are full again, there is room.
        let later = begin + Duration::from_secs(61);
        quotas.take_request(&tenant("late"), later).unwrap();
        assert_eq!(accounts.lock().len(), 1);
    }

    proptest! {
        /// In no schedule does a tenant get more than a bucket and what has flowed into it.
        #[test]
        fn nobody_gets_more_than_flows(steps in prop::collection::vec((0u64..20_000, 1usize..60), 1..200)) {
            let quotas = Quotas::new(limits(None, Some(60)), []);
            let begin = Instant::now();
            let (mut at, mut used) = (Duration::ZERO, 0.0);
            for (wait, tokens) in steps {
                at += Duration::from_millis(wait);
                if let Ok(mut reserved) = quotas.reserve_tokens(&tenant("a"), tokens, begin + at) {
                    reserved.use_tokens(tokens);
                    used += tokens as f64;
                    drop(reserved);
                }
                prop_assert!(used <= 60.0 + at.as_secs_f64() + 1e-6);
            }
        }
    }
}
