//! Scopes: what a credential allows.

use std::{fmt, str::FromStr};

/// A right that a credential may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Judge conversations.
    Classify,
    /// Let targets answer.
    Generate,
    /// Let targets answer and guards judge, and estimate the quality of translations.
    Score,
    /// Load, unload, pin and estimate models.
    Admin,
    /// Read the metrics.
    Metrics,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [
        Self::Classify,
        Self::Generate,
        Self::Score,
        Self::Admin,
        Self::Metrics,
    ];

    /// The name in files, tokens and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Generate => "generate",
            Self::Score => "score",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Classify => 1,
            Self::Generate => 2,
            Self::Score => 4,
            Self::Admin => 8,
            Self::Metrics => 16,
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| "write classify, generate, score, admin or metrics".to_owned())
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether the set has any of these.
    pub fn has_any(self, of: &[Scope]) -> bool {
        of.iter().any(|scope| self.0 & scope.bit() != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes in the set.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.has_any(&[*scope]))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Scope::name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it_and_nothing_else() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
            let only: Scopes = [scope].into_iter().collect();
            for other in Scope::ALL {
                assert_eq!(only.has_any(&[other]), other == scope);
            }
        }
        assert!("Classify".parse::<Scope>().is_err());
        let two: Scopes = [Scope::Metrics, Scope::Classify].into_iter().collect();
        assert_eq!(two.to_string(), "classify,metrics");
        assert!(!two.has_any(&[]) && Scopes::default().is_empty());
    }
}
