//! Translation quality estimation: what estimators read of a source and its translation.

mod pair;

pub use self::pair::PairEncoder;
pub use crate::model::estimator::EstimatorKind;
