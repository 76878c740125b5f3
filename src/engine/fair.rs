//! Fair shares: who is behind in service goes first.
//!
//! Start-time fair queueing over predicted seconds (Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM
//! 1996): each tenant has an account per class, charged with what its sequences cost divided by its weight, and
//! the tenant with the least is served next. A tenant that comes back starts at what the least served one has
//! had, so that nobody saves up service while away.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::Priority;

/// On whose account a sequence runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Longest name in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The tenant of this name: 1 to 64 letters, digits, `.`, `_` and `-`; `None` for any other text.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=Self::MAX_BYTES).contains(&name.len()) && name.bytes().all(plain);
        fits.then(|| Self(Arc::from(name)))
    }

    /// Those whose tenant is not known, and those beyond the number of tenants that are told apart, are one
    /// tenant, which has no name.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much larger than others' a tenant's share is; 1 for tenants that are not listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantWeights(BTreeMap<Tenant, u32>);

impl TenantWeights {
    /// These tenants' weights; zero counts as one.
    pub fn new(weights: impl IntoIterator<Item = (Tenant, u32)>) -> Self {
        Self(
            weights
                .into_iter()
                .map(|(tenant, weight)| (tenant, weight.max(1)))
                .collect(),
        )
    }

    /// One tenant's weight.
    pub fn of(&self, tenant: &Tenant) -> u32 {
        self.0.get(tenant).copied().unwrap_or(1)
    }
}

/// Most tenants that are told apart at a time in one class of one model.
const MAX_ACCOUNTS: usize = 1024;

#[derive(Debug, Default)]
struct Account {
    /// Sequences that have not ended.
    open: usize,
    /// Weighted seconds of service, on the class's clock.
    service: f64,
}

/// One class's accounts.
#[derive(Debug, Default)]
struct Book {
    accounts: BTreeMap<Tenant, Account>,
    /// The least that a tenant with open sequences has been served; never goes back.
    clock: f64,
}

impl Book {
    fn advance(&mut self) {
        let open = self.accounts.values().filter(|account| account.open > 0);
        let least = open.map(|account| account.service).fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            self.clock = self.clock.max(least);
        }
    }

    /// Forgets tenants that are away and owe nothing; when that is not enough, the one that owes least.
    fn prune(&mut self) {
        let clock = self.clock;
        self.accounts
            .retain(|_, account| account.open > 0 || account.service > clock);
        if self.accounts.len() < MAX_ACCOUNTS {
            return;
        }
        let away = self.accounts.iter().filter(|(_, account)| account.open == 0);
        let least = away.min_by(|a, b| a.1.service.total_cmp(&b.1.service));
        if let Some(tenant) = least.map(|(tenant, _)| tenant.clone()) {
            self.accounts.remove(&tenant);
        }
    }
}

/// Service by class and tenant, in one model.
#[derive(Debug, Default)]
pub struct Shares {
    books: [Book; Priority::ALL.len()],
    weights: TenantWeights,
}

impl Shares {
    /// Nobody has been served yet.
    pub fn new(weights: TenantWeights) -> Self {
        Self {
            books: Default::default(),
            weights,
        }
    }

    /// Opens a sequence; returns on whose account, which is the unnamed tenant's when too many are open.
    pub fn enter(&mut self, class: Priority, tenant: Tenant) -> Tenant {
        let book = &mut self.books[class.index()];
        let mut tenant = tenant;
        if !book.accounts.contains_key(&tenant) && book.accounts.len() >= MAX_ACCOUNTS {
            book.prune();
            if book.accounts.len() >= MAX_ACCOUNTS {
                tenant = Tenant::default();
            }
        }
        let clock = book.clock;
        let account = book.accounts.entry(tenant.clone()).or_default();
        if account.open == 0 {
            account.service = account.service.max(clock);
        }
        account.open += 1;
        tenant
    }

    /// A sequence has ended.
    pub fn leave(&mut self, class: Priority, tenant: &Tenant) {
        let book = &mut self.books[class.index()];
        if let Some(account) = book.accounts.get_mut(tenant) {
            account.open = account.open.saturating_sub(1);
            if account.open == 0 {
                book.advance();
                let clock = book.clock;
                book.accounts
                    .retain(|_, account| account.open > 0 || account.service > clock);
            }
        }
    }

    /// A sequence was given service.
    pub fn charge(&mut self, class: Priority, tenant: &Tenant, seconds: f64) {
        let weighted = seconds / f64::from(self.weights.of(tenant));
        let book = &mut self.books[class.index()];
        if let Some(account) = book.accounts.get_mut(tenant) {
            account.service += weighted;
        }
        book.advance();
    }

    /// What a tenant has been served; only differences within a class mean anything.
    pub fn service(&self, class: Priority, tenant: &Tenant) -> f64 {
        let book = &self.books[class.index()];
        book.accounts
            .get(tenant)
            .map_or(book.clock, |account| account.service)
    }

    /// What [`Shares::charge`] would add.
    pub fn weighted(&self, tenant: &Tenant, seconds: f64) -> f64 {
        seconds / f64::from(self.weights.of(tenant))
    }

    /// Sequences of a class that have not ended.
    pub fn open(&self, class: Priority) -> usize {
        let accounts = self.books[class.index()].accounts.values();
        accounts.map(|account| account.open).sum()
    }

    #[cfg(test)]
    fn accounts(&self) -> usize {
        self.books.iter().map(|book| book.accounts.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLASS: Priority = Priority::Interactive;

    fn tenant(number: usize) -> Tenant {
        Tenant::named(&format!("tenant-{number}")).unwrap()
    }

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "team-7.eu_west", &"x".repeat(64)] {
            assert_eq!(Tenant::named(name).unwrap().to_string(), name);
        }
        for name in ["", " ", "a b", "ü", "a/b", "a\n", &"x".repeat(65)] {
            assert_eq!(Tenant::named(name), None, "{name:?}");
        }
        assert!(Tenant::default().is_unnamed());
    }

    #[test]
    fn who_comes_back_has_saved_nothing_up_and_still_owes_what_it_owed() {
        let mut shares = Shares::default();
        let (early, late) = (tenant(1), tenant(2));
        shares.enter(CLASS, early.clone());
        shares.charge(CLASS, &early, 100.0);
        shares.enter(CLASS, late.clone());
        assert_eq!(shares.service(CLASS, &late), 100.0);
        shares.charge(CLASS, &late, 50.0);
        // Gone and back at once: no fresh start.
        shares.leave(CLASS, &late);
        shares.enter(CLASS, late.clone());
        assert_eq!(shares.service(CLASS, &late), 150.0);
        // Gone until the others have caught up: forgotten.
        shares.leave(CLASS, &late);
        shares.charge(CLASS, &early, 200.0);
        shares.enter(CLASS, late.clone());
        assert_eq!(shares.service(CLASS, &late), 300.0);
    }

    #[test]
    fn weights_divide_what_is_charged() {
        let mut shares = Shares::new(TenantWeights::new([(tenant(1), 4), (tenant(2), 0)]));
        for number in [1, 2, 3] {
            shares.enter(CLASS, tenant(number));
        }
        for number in [1, 2, 3] {
            shares.charge(CLASS, &tenant(number), 8.0);
        }
        let served = [1, 2, 3].map(|number| shares.service(CLASS, &tenant(number)));
        assert_eq!(served, [2.0, 8.0, 8.0]);
    }

    #[test]
    fn tenants_beyond_the_limit_share_one_account_and_the_idle_are_forgotten() {
        let mut shares = Shares::default();
        for number in 0..MAX_ACCOUNTS {
            assert_eq!(shares.enter(CLASS, tenant(number)), tenant(number));
        }
        assert!(shares.enter(CLASS, tenant(MAX_ACCOUNTS)).is_unnamed());
        assert_eq!(shares.open(CLASS), MAX_ACCOUNTS + 1);
        for number in 0..MAX_ACCOUNTS {
            shares.leave(CLASS, &tenant(number));
        }
        shares.leave(CLASS, &Tenant::default());
        assert_eq!((shares.open(CLASS), shares.accounts()), (0, 0));
    }

    proptest! {
        /// Tenants that always want service, served one unit at a time from the least served one: after any
        /// number of units, none is more than one unit (over its weight) from any other.
        #[test]
        fn shares_are_equal_to_within_one_unit(
            costs in prop::collection::vec(0.001f64..1.0, 1..400),
            tenants in 2usize..6,
        ) {
            let mut shares = Shares::default();
            for number in 0..tenants {
                shares.enter(CLASS, tenant(number));
            }
            for cost in costs {
                let least = (0..tenants)
                    .map(tenant)
                    .min_by(|a, b| shares.service(CLASS, a).total_cmp(&shares.service(CLASS, b)))
                    .unwrap();
                shares.charge(CLASS, &least, cost);
                let served: Vec<f64> = (0..tenants).map(|n| shares.service(CLASS, &tenant(n))).collect();
                let spread = served.iter().fold(0.0f64, |m, s| m.max(*s))
                    - served.iter().fold(f64::INFINITY, |m, s| m.min(*s));
                prop_assert!(spread <= 1.0 + 1e-9, "{served:?}");
            }
        }
    }
}
