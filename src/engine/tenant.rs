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

    /// Whether this is the tenant without a name: all callers who name none share its account.
    pub fn is_unnamed(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where tenants' names come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TenantNames {
    /// Callers choose their names, and may invent any number of them.
    #[default]
    Claimed,
    /// Each name is proven by a credential.
    Proven,
}

/// Which tenants have an account of their own, and the weights of their shares. Listed tenants have one, and all whose names
/// are proven, with weight 1 unless they are listed. Names that are only claimed share one account, also of weight 1:
/// otherwise whoever invented a new name for each call would get a new share with each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantWeights {
    weights: BTreeMap<Tenant, u32>,
    names: TenantNames,
}

impl TenantWeights {
    /// These tenants' weights; zero counts as one. Names are claimed.
    pub fn new(weights: impl IntoIterator<Item = (Tenant, u32)>) -> Self {
        let weights = weights
            .into_iter()
            .map(|(tenant, weight)| (tenant, weight.max(1)));
        Self {
            weights: weights.collect(),
            names: TenantNames::Claimed,
        }
    }

    /// These weights, for names that come from there.
    pub fn with_names(self, names: TenantNames) -> Self {
        Self { names, ..self }
    }

    /// The account that a tenant's sequences are charged to.
    pub fn account(&self, tenant: &Tenant) -> Tenant {
        let own = self.names == TenantNames::Proven || self.weights.contains_key(tenant);
        if own { tenant.clone() } else { Tenant::default() }
    }

    /// An account's weight.
    pub fn of(&self, account: &Tenant) -> u32 {
        self.weights.get(account).copied().unwrap_or(1)
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

    #[test]
    fn proven_names_have_accounts_and_claimed_ones_share_one() {
        let [listed, other] = ["listed", "other"].map(|name| Tenant::named(name).unwrap());
        let weights = |names| TenantWeights::new([(listed.clone(), 3)]).with_names(names);
        let claimed = weights(TenantNames::Claimed);
        assert_eq!(claimed.account(&listed), listed);
        assert_eq!(claimed.account(&other), Tenant::default());
        let proven = weights(TenantNames::Proven);
        assert_eq!(proven.account(&other), other);
        assert_eq!((proven.of(&listed), proven.of(&other)), (3, 1));
    }
}
