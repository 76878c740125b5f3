//! How much of the port one tenant may hold: of its open calls, of its connections, and of the memory for requests. Without
//! this, one credential could keep everybody else out. It needs tenants that are proven by a credential, because callers who
//! choose their names could choose many.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{budget::RequestBudget, intake::Intake};
use crate::engine::Tenant;

/// One tenant may hold all but this part of each limit.
const LEFT_TO_OTHERS: usize = 8;

/// What all tenants hold on one listener.
pub(crate) struct TenantUses {
    most_calls: usize,
    most_connections: usize,
    most_bytes: usize,
    budget: Arc<RequestBudget>,
    /// Only tenants with open calls are here, so there are at most as many as calls.
    open: Mutex<HashMap<Tenant, Use>>,
}

/// What one tenant holds.
struct Use {
    calls: usize,
    /// Its open calls by the number of their connection.
    connections: HashMap<u64, usize>,
    bytes: Arc<RequestBudget>,
}

/// What a tenant has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// Open calls, or connections with open calls.
    Calls,
    /// Memory for requests.
    Bytes,
}

impl TenantUses {
    /// Uses of a listener that has these limits, with this budget for requests.
    pub(crate) fn new(connections: usize, calls: usize, budget: &Arc<RequestBudget>) -> Arc<Self> {
        let share = |limit: usize| (limit - limit / LEFT_TO_OTHERS).max(1);
        Arc::new(Self {
            most_calls: share(calls),
            most_connections: share(connections),
            most_bytes: share(budget.limit()),
            budget: Arc::clone(budget),
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, Use>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call on this connection until the result is dropped, and returns the tenant's part of the budget.
    fn begin(
        self: &Arc<Self>,
        tenant: &Tenant,
        connection: u64,
    ) -> Result<(TenantCall, Arc<RequestBudget>), Beyond> {
        let mut open = self.lock();
        if let Some(held) = open.get(tenant) {
            let is_new = !held.connections.contains_key(&connection);
            if held.calls >= self.most_calls || is_new && held.connections.len() >= self.most_connections {
                return Err(Beyond::Calls);
            }
        }
        let held = open.entry(tenant.clone()).or_insert_with(|| Use {
            calls: 0,
            connections: HashMap::new(),
            bytes: RequestBudget::part_of(&self.budget, self.most_bytes),
        });
        held.calls += 1;
        *held.connections.entry(connection).or_default() += 1;
        let call = TenantCall {
            uses: Arc::clone(self),
            tenant: tenant.clone(),
            connection,
        };
        Ok((call, Arc::clone(&held.bytes)))
    }
}

/// An open call of a tenant.
struct TenantCall {
    uses: Arc<TenantUses>,
    tenant: Tenant,
    connection: u64,
}

impl Drop for TenantCall {
    fn drop(&mut self) {
        let mut open = self.uses.lock();
        let Some(held) = open.get_mut(&self.tenant) else {
            return;
        };
        held.calls -= 1;
        if let Some(calls) = held.connections.get_mut(&self.connection) {
            *calls -= 1;
            if *calls == 0 {
                held.connections.remove(&self.connection);
            }
        }
        if held.calls == 0 {
            open.remove(&self.tenant);
        }
    }
}

/// The place of a call in the accounts of tenants. It travels with the request until it is known whose call it is.
#[derive(Clone)]
pub(crate) struct CallPlace {
    uses: Arc<TenantUses>,
    connection: u64,
    charged: Arc<Mutex<Option<Charged>>>,
}

/// What a call is charged to.
struct Charged {
    _call: TenantCall,
    /// The tenant's part of the budget.
    bytes: Arc<RequestBudget>,
}

impl CallPlace {
    /// A call on this connection that is nobody's yet.
    pub(super) fn new(uses: &Arc<TenantUses>, connection: u64) -> Self {
        Self {
            uses: Arc::clone(uses),
            connection,
            charged: Arc::default(),
        }
    }

    /// Charges the call to the tenant whose credential it has, until the call ends, and returns the tenant's part of the
    /// budget. A request of the HTTP port that becomes several calls is charged once.
    ///
    /// # Errors
    /// What the tenant has too much of already.
    pub(crate) fn charge(&self, tenant: &Tenant) -> Result<Arc<RequestBudget>, Beyond> {
        let mut charged = self.lock();
        if let Some(charged) = &*charged {
            return Ok(Arc::clone(&charged.bytes));
        }
        let (call, bytes) = self.uses.begin(tenant, self.connection)?;
        *charged = Some(Charged {
            _call: call,
            bytes: Arc::clone(&bytes),
        });
        Ok(bytes)
    }

    /// Charges the bytes of the call's request as well.
    ///
    /// # Errors
    /// What the tenant has too much of already.
    pub(crate) fn charge_request(&self, tenant: &Tenant, request: &Intake) -> Result<(), Beyond> {
        match request.charge_to(&self.charge(tenant)?) {
            true => Ok(()),
            false => Err(Beyond::Bytes),
        }
    }

    /// The part of the budget that belongs to the tenant which the call is charged to; `None` before that.
    pub(crate) fn part(&self) -> Option<Arc<RequestBudget>> {
        self.lock().as_ref().map(|charged| Arc::clone(&charged.bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Charged>> {
        self.charged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the call.
    pub(super) fn end(&self) {
        self.lock().take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::named(name).unwrap()
    }

    #[test]
    fn a_tenant_leaves_an_eighth_of_calls_and_connections_to_others() {
        let uses = TenantUses::new(8, 16, &RequestBudget::new(1 << 20));
        let (a, b) = (tenant("a"), tenant("b"));
        // Two calls on each of seven connections are both limits at once.
        let mut calls: Vec<_> = (0..14)
            .map(|call| uses.begin(&a, call / 2).ok().unwrap())
            .collect();
        assert!(matches!(uses.begin(&a, 0), Err(Beyond::Calls)));
        assert!(uses.begin(&b, 7).is_ok());
        calls.truncate(13);
        assert!(
            matches!(uses.begin(&a, 7), Err(Beyond::Calls)),
            "an eighth connection"
        );
        assert!(uses.begin(&a, 6).is_ok());
        calls.truncate(12);
        assert!(uses.begin(&a, 7).is_ok());
        drop(calls);
        assert!(uses.lock().is_empty(), "nothing is kept of tenants without calls");
    }

    #[test]
    fn a_tenant_leaves_an_eighth_of_the_memory_to_others() {
        use super::super::budget::HeldBytes;

        const KIB: usize = 1 << 10;
        let budget = RequestBudget::new(64 * KIB);
        let uses = TenantUses::new(8, 16, &budget);
        let (_call, of_a) = uses.begin(&tenant("a"), 0).ok().unwrap();
        let mut of_a: Vec<_> = (0..8).map(|_| HeldBytes::none(&of_a)).collect();
        let fit = of_a
            .iter_mut()
            .filter_map(|held| held.grow(8 * KIB).then_some(()))
            .count();
        assert_eq!(fit, 7);
        // What arrived before it was known whose it is moves to its tenant.
        let (_call, of_b) = uses.begin(&tenant("b"), 1).ok().unwrap();
        let mut early = HeldBytes::none(&budget);
        assert!(early.grow(8 * KIB));
        assert!(early.charge_to(&of_b));
        assert!(!HeldBytes::none(&budget).grow(1), "all of it is held");
        drop(early);
        drop(of_a);
        let mut all = HeldBytes::none(&budget);
        assert!(all.grow(64 * KIB), "everything was released");
    }
}
