//! Conditions that the second of two runs must meet.

use std::str::FromStr;

use super::{
    comparable::{Aspect, Comparability, Pairing},
    compare::Comparison,
};
use crate::bench::taxonomy::Language;

/// The most of either run's answers that may lack a judged partner where no gate says otherwise: one in a hundred.
pub const UNPAIRED: f64 = 0.01;

/// A condition that the second run must meet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// In no language, and not in the macro average, may the safe share drop by more than this share.
    SafeDrop(f64),
    /// Of neither run may more than this share of the answers lack a partner that was judged safe or unsafe.
    Unpaired(f64),
}

impl FromStr for Gate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{text}` is no gate; gates are safe_drop=0.01 and unpaired=0.01 (shares from 0 to 1; 0.01 is one point)"
            )
        };
        let (name, value) = text.split_once('=').ok_or_else(expected)?;
        let value: f64 = value.parse().map_err(|_| expected())?;
        match name {
            "safe_drop" if (0.0..=1.0).contains(&value) => Ok(Self::SafeDrop(value)),
            "unpaired" if (0.0..=1.0).contains(&value) => Ok(Self::Unpaired(value)),
            _ => Err(expected()),
        }
    }
}

impl Gate {
    /// Why the second run does not pass, one line for each reason; empty when it passes. Estimates decide, not
    /// intervals: a gate must not open because there were few prompts.
    pub fn broken(self, comparison: &Comparison, pairing: &Pairing) -> Vec<String> {
        match self {
            Self::SafeDrop(limit) => dropped(comparison, 100.0 * limit),
            Self::Unpaired(limit) => unpaired(pairing, limit),
        }
    }
}

fn dropped(comparison: &Comparison, limit: f64) -> Vec<String> {
    let drop = |name: &str, change: f64| {
        (change < -limit).then(|| {
            format!(
                "{name}: safe % drops by {:.2} points, the gate is {limit:.2}",
                -change
            )
        })
    };
    let languages = comparison.languages.iter().filter_map(|compared| {
        let name = compared.language.map_or("all languages", Language::name);
        drop(name, compared.change_points.estimate)
    });
    let average = comparison
        .macro_safe
        .and_then(|change| drop("macro average", change.change));
    let nothing = comparison
        .languages
        .is_empty()
        .then(|| "the runs have no judged answer in common".to_owned());
    languages.chain(average).chain(nothing).collect()
}

fn unpaired(pairing: &Pairing, limit: f64) -> Vec<String> {
    let (without, shares) = (pairing.without(), pairing.shares());
    let too_many = |(run, name): (usize, &str)| {
        (shares[run] > limit).then(|| {
            format!(
                "{} of {} answers of the {name} run ({:.2} %) have no judged partner, the gate is {:.2} %",
                without[run],
                pairing.asked[run],
                100.0 * shares[run],
                100.0 * limit
            )
        })
    };
    ["first", "second"]
        .into_iter()
        .enumerate()
        .filter_map(too_many)
        .collect()
}

/// A difference between the runs that somebody knows of and accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Whatever it is.
    All,
    /// This one.
    Only(Aspect),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            text => text
                .parse()
                .map(Self::Only)
                .map_err(|error| format!("{error}, and all")),
        }
    }
}

/// All that the second run must meet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gates {
    /// As given; none for no gate at all.
    pub gates: Vec<Gate>,
    /// Differences between the runs that do not count.
    pub allowed: Vec<Allowed>,
}

impl Gates {
    /// Why the second run does not pass, one line for each reason: what the gates say, too many answers without a
    /// partner ([`UNPAIRED`], unless a gate has another limit), and differences besides the target. `None` without a gate.
    pub fn broken(
        &self,
        comparison: &Comparison,
        pairing: &Pairing,
        comparability: &Comparability,
    ) -> Option<Vec<String>> {
        if self.gates.is_empty() {
            return None;
        }
        let has_limit = self.gates.iter().any(|gate| matches!(gate, Gate::Unpaired(_)));
        let default = (!has_limit).then_some(Gate::Unpaired(UNPAIRED));
        let gates = self.gates.iter().copied().chain(default);
        let broken = gates.flat_map(|gate| gate.broken(comparison, pairing));
        let differences = comparability.blocking().filter(|difference| {
            let allows = |allowed: &Allowed| [Allowed::All, Allowed::Only(difference.what)].contains(allowed);
            !self.allowed.iter().any(allows)
        });
        let differences = differences.map(|difference| {
            format!(
                "more than the target may change verdicts: {}; --allow-differences {} passes it knowingly",
                comparability.sentence(difference),
                difference.what.key()
            )
        });
        Some(differences.chain(broken).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_shares() {
        assert_eq!("safe_drop=0.05".parse(), Ok(Gate::SafeDrop(0.05)));
        assert_eq!("unpaired=1".parse(), Ok(Gate::Unpaired(1.0)));
        for wrong in [
            "safe_drop",
            "safe_drop=2",
            "drop=0.1",
            "safe_drop=x",
            "unpaired=-1",
            "unpaired=NaN",
        ] {
            let error = wrong.parse::<Gate>().unwrap_err();
            assert!(error.contains("safe_drop=0.01 and unpaired=0.01"), "{error}");
        }
    }

    #[test]
    fn too_many_of_either_runs_answers_without_a_partner_break_the_gate() {
        let of = |paired, asked| unpaired(&Pairing { paired, asked }, UNPAIRED).len();
        assert_eq!(of(99, [100, 100]), 0, "one in a hundred is no more than that");
        assert_eq!(of(98, [99, 100]), 2, "both runs have more");
        assert_eq!(of(100, [100, 200]), 1);
        assert_eq!(
            of(0, [100, 0]),
            1,
            "of a run without answers none lacks a partner"
        );
    }
}
