//! The estimators behind the figures. They know nothing of the benchmark. `docs/statistics.md` names the source of
//! each.

pub mod bootstrap;

pub(crate) mod agreement;
pub(crate) mod calibration;
pub(crate) mod rank;
pub(crate) mod stratified;

mod beta;
mod choice;
mod clustered_kappa;
mod crossed;
mod difference;
mod holm;
mod interval;
mod macro_average;
mod mcnemar;
mod paired_difference;
mod pairs;
mod proportion;
mod sign_flip;
mod wilson;

pub(crate) use self::{
    agreement::kappa,
    bootstrap::Clusters,
    clustered_kappa::clustered_kappa,
    crossed::CrossedDesign,
    difference::cohens_h,
    holm::adjust_by_holm,
    macro_average::{MacroAverage, macro_average},
    mcnemar::mcnemar,
    paired_difference::{
        PairedDifference, TestedChange, disjoint_difference, macro_difference, paired_difference,
    },
};
pub use self::{
    agreement::{BinaryCounts, Kappa},
    bootstrap::Bootstrap,
    calibration::{Calibration, ReliabilityBin},
    choice::Choice,
    crossed::{CochranQ, VarianceComponents},
    difference::{Change, Difference},
    interval::Interval,
    mcnemar::McNemar,
    pairs::PairCounts,
    proportion::Proportion,
    rank::RankCorrelation,
    sign_flip::SignFlipTest,
    wilson::wilson,
};
