//! The estimators behind the figures, free of any knowledge of the benchmark. `docs/statistics.md` names the
//! source of each.

pub mod agreement;
pub mod beta;
pub mod bootstrap;
pub mod calibration;
pub mod choice;
pub mod clustered_kappa;
pub mod crossed;
pub mod mean_share;
pub mod paired;
pub mod paired_share;
pub mod proportion;
pub mod rank;
pub mod share;
pub mod sign_flip;
pub mod stratified;

use serde::{Deserialize, Serialize};

pub use self::{
    agreement::{BinaryCounts, Kappa, kappa},
    bootstrap::{Bootstrap, Clusters},
    choice::Choice,
    clustered_kappa::clustered_kappa,
    crossed::{CochranQ, Components, Crossed},
    mean_share::{MeanShare, mean_of_shares},
    paired::{McNemar, adjust_by_holm, mcnemar},
    paired_share::{Change, PairedShare, disjoint_difference, mean_difference},
    proportion::{Difference, Pairs, cohens_h, paired_difference, wilson},
    share::Share,
    sign_flip::SignTest,
};

/// The 97.5 % point of the standard normal distribution: two-sided 95 %.
pub const Z95: f64 = 1.959_963_984_540_054;

/// A range: both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Both ends times `factor`, which must be positive: proportions to percent.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            low: self.low * factor,
            high: self.high * factor,
        }
    }

    /// Whether the value lies in it.
    pub fn holds(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}
