//! Tenants: on whose account a sequence runs, and how large each account's share of the device is.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The caller on whose account a sequence runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The tenant of this name. A name has 1 to 64 letters, digits, `.`, `_` and `-`; any other text gives `None`.
    pub fn named(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=Self::MAX_BYTES).contains(&name.len()) && name.bytes().all(plain);
        fits.then(|| Self(Arc::from(name)))
    }

    /// Whether this is the tenant without a name: all callers who name none, and all names that are not listed in
    /// [`TenantWeights`], share its account.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tenants that have an account of their own, and the weights of their shares. Callers choose their names and may
/// invent any number of them, so all names that are not listed here share one account of weight 1.
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

    /// The account that a tenant's sequences are charged to: its own if it is listed, else the account without a name.
    pub fn account(&self, tenant: &Tenant) -> Tenant {
        let listed = self.0.contains_key(tenant);
        if listed { tenant.clone() } else { Tenant::default() }
    }

    /// An account's weight.
    pub fn of(&self, account: &Tenant) -> u32 {
        self.0.get(account).copied().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
