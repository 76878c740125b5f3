//! Fair shares of the device's time between tenants.
//!
//! This is start-time fair queueing over predicted seconds (Goyal, Vin and Cheng, "Start-time fair queuing", SIGCOMM
//! 1996). Each tenant that [`TenantWeights`] gives an account has one per class, and all others share one. An account is charged with the
//! cost of its sequences divided by its weight, and the account with the least service is served next. An account that
//! comes back starts at the service of the least served one, so that nobody saves up service while away.

use std::collections::BTreeMap;

use super::{
    request::Priority,
    tenant::{Tenant, TenantWeights},
};

/// What one tenant has open, and has been served, in one class.
#[derive(Debug, Default)]
struct TenantAccount {
    /// Sequences that have not ended.
    open: usize,
    /// Weighted seconds of service, on the class's virtual time.
    service: f64,
}

/// The accounts of one class.
#[derive(Debug, Default)]
struct ClassAccounts {
    accounts: BTreeMap<Tenant, TenantAccount>,
    /// Least service of the accounts with open sequences, in weighted seconds. It never decreases.
    virtual_time: f64,
}

impl ClassAccounts {
    fn advance(&mut self) {
        let open = self.accounts.values().filter(|account| account.open > 0);
        let least = open.map(|account| account.service).fold(f64::INFINITY, f64::min);
        if least.is_finite() {
            self.virtual_time = self.virtual_time.max(least);
        }
    }
}

/// Service by class and account, in one model.
#[derive(Debug, Default)]
pub(crate) struct FairShare {
    classes: [ClassAccounts; Priority::ALL.len()],
    weights: TenantWeights,
}

impl FairShare {
    /// Accounts without any service.
    pub(crate) fn new(weights: TenantWeights) -> Self {
        Self {
            classes: Default::default(),
            weights,
        }
    }

    /// Opens a sequence of a tenant, and returns the account that it is charged to.
    pub(crate) fn open_sequence(&mut self, class: Priority, tenant: &Tenant) -> Tenant {
        let tenant = self.account(tenant);
        let class = &mut self.classes[class.index()];
        let virtual_time = class.virtual_time;
        let account = class.accounts.entry(tenant.clone()).or_default();
        if account.open == 0 {
            account.service = account.service.max(virtual_time);
        }
        account.open += 1;
        tenant
    }

    /// Closes a sequence that has ended. An account without open sequences is forgotten unless it has had more service
    /// than the others.
    pub(crate) fn close_sequence(&mut self, class: Priority, tenant: &Tenant) {
        let class = &mut self.classes[class.index()];
        if let Some(account) = class.accounts.get_mut(tenant) {
            account.open = account.open.saturating_sub(1);
            if account.open == 0 {
                class.advance();
                let virtual_time = class.virtual_time;
                class
                    .accounts
                    .retain(|_, account| account.open > 0 || account.service > virtual_time);
            }
        }
    }

    /// Charges an account with so many seconds of service.
    pub(crate) fn charge(&mut self, class: Priority, tenant: &Tenant, seconds: f64) {
        let weighted = self.weighted(tenant, seconds);
        let class = &mut self.classes[class.index()];
        if let Some(account) = class.accounts.get_mut(tenant) {
            account.service += weighted;
        }
        class.advance();
    }

    /// Service of an account in weighted seconds. Only differences within a class have a meaning.
    pub(crate) fn service(&self, class: Priority, tenant: &Tenant) -> f64 {
        let class = &self.classes[class.index()];
        class
            .accounts
            .get(tenant)
            .map_or(class.virtual_time, |account| account.service)
    }

    /// The account that a tenant's sequences are charged to.
    pub(crate) fn account(&self, tenant: &Tenant) -> Tenant {
        self.weights.account(tenant)
    }

    /// What [`FairShare::charge`] would add to the service of an account, in weighted seconds.
    pub(crate) fn weighted(&self, tenant: &Tenant, seconds: f64) -> f64 {
        seconds / f64::from(self.weights.of(tenant))
    }

    /// An account's weight.
    pub(crate) fn weight(&self, tenant: &Tenant) -> f64 {
        f64::from(self.weights.of(tenant))
    }

    /// Sequences of a class that have not ended.
    pub(crate) fn open_sequences(&self, class: Priority) -> usize {
        let accounts = self.classes[class.index()].accounts.values();
        accounts.map(|account| account.open).sum()
    }

    /// Accounts with open sequences of a class.
    pub(crate) fn accounts(&self, class: Priority) -> impl Iterator<Item = &Tenant> {
        let accounts = self.classes[class.index()].accounts.iter();
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

    /// This many tenants with accounts of their own.
    fn listed(tenants: usize) -> TenantWeights {
        TenantWeights::new((0..tenants).map(|number| (tenant(number), 1)))
    }

    #[test]
    fn a_tenant_that_comes_back_has_saved_nothing_up_and_keeps_its_service() {
        let mut shares = FairShare::new(listed(3));
        let (early, late) = (tenant(1), tenant(2));
        shares.open_sequence(CLASS, &early);
        shares.charge(CLASS, &early, 100.0);
        shares.open_sequence(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 100.0);
        shares.charge(CLASS, &late, 50.0);
        // Away for no time at all: its service is kept.
        shares.close_sequence(CLASS, &late);
        shares.open_sequence(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 150.0);
        // Away until the others have caught up: its service is forgotten.
        shares.close_sequence(CLASS, &late);
        shares.charge(CLASS, &early, 200.0);
        shares.open_sequence(CLASS, &late);
        assert_eq!(shares.service(CLASS, &late), 300.0);
    }

    #[test]
    fn weights_divide_what_is_charged() {
        let mut shares = FairShare::new(TenantWeights::new([
            (tenant(1), 4),
            (tenant(2), 0),
            (tenant(3), 1),
        ]));
        for number in [1, 2, 3] {
            shares.open_sequence(CLASS, &tenant(number));
        }
        for number in [1, 2, 3] {
            shares.charge(CLASS, &tenant(number), 8.0);
        }
        let served = [1, 2, 3].map(|number| shares.service(CLASS, &tenant(number)));
        assert_eq!(served, [2.0, 8.0, 8.0]);
    }

    #[test]
    fn names_that_are_not_listed_share_one_account_however_many_they_are() {
        let mut shares = FairShare::new(listed(1));
        assert_eq!(shares.open_sequence(CLASS, &tenant(0)), tenant(0));
        for number in 1..5000 {
            assert!(shares.open_sequence(CLASS, &tenant(number)).is_unnamed());
        }
        assert!(shares.open_sequence(CLASS, &Tenant::default()).is_unnamed());
        assert_eq!(
            (shares.open_sequences(CLASS), shares.accounts(CLASS).count()),
            (5001, 2)
        );
        shares.charge(CLASS, &Tenant::default(), 2.0);
        assert_eq!(shares.service(CLASS, &Tenant::default()), 2.0);
        for _ in 0..5000 {
            shares.close_sequence(CLASS, &Tenant::default());
        }
        assert_eq!(
            (shares.open_sequences(CLASS), shares.accounts(CLASS).count()),
            (1, 1)
        );
    }

    proptest! {
        /// Tenants that always want service are served one unit at a time, the least served one first. After any
        /// number of units, no two differ by more than one unit.
        #[test]
        fn shares_are_equal_to_within_one_unit(
            costs in prop::collection::vec(0.001f64..1.0, 1..400),
            tenants in 2usize..6,
        ) {
            let mut shares = FairShare::new(listed(tenants));
            for number in 0..tenants {
                shares.open_sequence(CLASS, &tenant(number));
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
