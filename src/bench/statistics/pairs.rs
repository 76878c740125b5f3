//! Counts of paired outcomes.

use serde::{Deserialize, Serialize};

/// Counts of pairs of outcomes by which of the two sides had a success.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// Success on both sides.
    pub both: u64,
    /// Success on the first side only.
    pub first_only: u64,
    /// Success on the second side only.
    pub second_only: u64,
    /// Success on neither side.
    pub neither: u64,
}

impl PairCounts {
    /// The number of all pairs.
    pub fn total(&self) -> u64 {
        self.both + self.first_only + self.second_only + self.neither
    }

    /// Adds one pair.
    pub fn add(&mut self, first: bool, second: bool) {
        *match (first, second) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.first_only,
            (false, true) => &mut self.second_only,
            (false, false) => &mut self.neither,
        } += 1;
    }
}
