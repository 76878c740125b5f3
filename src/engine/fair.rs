//! Fair shares: who is behind in service goes first.
//!
//! Start-time fair queueing over predicted seconds (Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM
//! 1996): each listed tenant has an account per class, all other names have one together, charged with what its
//! sequences cost divided by its weight, and the account with the least is served next. One that comes back starts at
//! what the least served one has had, so that nobody saves up service while away.

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

    /// Callers who name no tenant are one tenant, which has no name. Its account is also that of all names that have
    /// none of their own.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tenants that have an account of their own, and how large their shares are. Names come from callers, who may make
/// up as many as they like: all that are not listed here share one account, of weight 1.
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

    /// On whose account a tenant's sequences run: its own if it is listed, else the account without a name.
    pub fn account(&self, tenant: &Tenant) -> Tenant {
        let listed = self.0.contains_key(tenant);
        if listed { tenant.clone() } else { Tenant::default() }
    }

    /// An account's weight.
    pub fn of(&self, account: &Tenant) -> u32 {
        self.0.get(account).copied().unwrap_or(1)
    }
}

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
    /// The least that an account with open sequences has been served; never goes back.
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
}

/// Service by class and account, in one model.
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

    /// Opens a tenant's sequence; returns on whose account.
    pub fn enter(&mut self, class: Priority, tenant: &Tenant) -> Tenant {
        let tenant = self.account(tenant);
        let book = &mut self.books[class.index()];
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
        let weighted = self.weighted(tenant, seconds);
        let book = &mut self.books[class.index()];
        if let Some(account) = book.accounts.get_mut(tenant) {
            account.service += weighted;
        }
        book.advance();
    }

    /// What an account has been served; only differences within a class mean anything.
    pub fn service(&self, class: Priority, tenant: &Tenant) -> f64 {
        let book = &self.books[class.index()];
        book.accounts
            .get(tenant)
            .map_or(book.clock, |account| account.service)
    }

    /// On whose account a tenant's sequences run.
    pub fn account(&self, tenant: &Tenant) -> Tenant {
        self.weights.account(tenant)
    }

    /// What [`Shares::charge`] would add.
    pub fn weighted(&self, tenant: &Tenant, seconds: f64) -> f64 {
        seconds / f64::from(self.weights.of(tenant))
    }

    /// An account's weight.
    pub fn weight(&self, tenant: &Tenant) -> f64 {
        f64::from(self.weights.of(tenant))
    }

    /// Sequences of a class that have not ended.
    pub fn open(&self, class: Priority) -> usize {
        let accounts = self.books[class.index()].accounts.values();
        accounts.map(|account| account.open).sum()
    }

    /// Accounts with open sequences of a class.
    pub fn accounts(&self, class: Priority) -> impl Iterator<Item = &Tenant> {
        let accounts = self.books[class.index()].accounts.iter();
        accounts
            .filter(|(_, account)| account.open > 0)
            .map(|(tenant, _)| tenant)
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

    /// So many tenants with accounts of their own.
    fn listed(tenants: usize) -> TenantWeights {
        TenantWeights::new((0..tenants).map(|number| (tenant(number), 1)))
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
        let mut shares = Shares::new(listed(3));
        let (early, late) = (tenant(1), tenant(2));
        shares.enter(CLASS, &early);
        shares.charge(CLASS, &early, 100.0);
        shares.enter(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 100.0);
        shares.charge(CLASS, &late, 50.0);
        // Gone and back at once: no fresh start.
        shares.leave(CLASS, &late);
        shares.enter(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 150.0);
        // Gone until the others have caught up: forgotten.
        shares.leave(CLASS, &late);
        shares.charge(CLASS, &early, 200.0);
        shares.enter(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 300.0);
    }

    #[test]
    fn weights_divide_what_is_charged() {
        let mut shares = Shares::new(TenantWeights::new([
            (tenant(1), 4),
            (tenant(2), 0),
            (tenant(3), 1),
        ]));
        for number in [1, 2, 3] {
            shares.enter(CLASS, &tenant(number));
        }
        for number in [1, 2, 3] {
            shares.charge(CLASS, &tenant(number), 8.0);
        }
        let served = [1, 2, 3].map(|number| shares.service(CLASS, &tenant(number)));
        assert_eq!(served, [2.0, 8.0, 8.0]);
    }

    #[test]
    fn names_that_are_not_listed_share_one_account_however_many_they_are() {
        let mut shares = Shares::new(listed(1));
        assert_eq!(shares.enter(CLASS, &tenant(0)), tenant(0));
        for number in 1..5000 {
            assert!(shares.enter(CLASS, &tenant(number)).is_unnamed());
        }
        assert!(shares.enter(CLASS, &Tenant::default()).is_unnamed());
        assert_eq!((shares.open(CLASS), shares.accounts(CLASS).count()), (5001, 2));
        shares.charge(CLASS, &Tenant::default(), 2.0);
        assert_eq!(shares.service(CLASS, &Tenant::default()), 2.0);
        for _ in 0..5000 {
            shares.leave(CLASS, &Tenant::default());
        }
        assert_eq!((shares.open(CLASS), shares.accounts(CLASS).count()), (1, 1));
    }

    proptest! {
        /// Tenants that always want service, served one unit at a time from the least served one: after any
        /// number of units, none is more than one unit (over its weight) from any other.
        #[test]
        fn shares_are_equal_to_within_one_unit(
            costs in prop::collection::vec(0.001f64..1.0, 1..400),
            tenants in 2usize..6,
        ) {
            let mut shares = Shares::new(listed(tenants));
            for number in 0..tenants {
                shares.enter(CLASS, &tenant(number));
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
