//! Encoders that score translations ([`EstimatorKind`](crate::model::estimator::EstimatorKind)): neural models that read a
//! whole sequence at once, so that every token attends to those before and behind it.
//!
//! To the engine an encoder is a model like any other, whose readout is a score: queues, deadlines, fairness, batching and
//! the memory budget are the same ([`scoring_model`]). What differs between encoders is in [`estimator`].

mod comet;
mod estimator;
mod info;
mod load;
mod metricx;
mod scoring_model;
mod tensor_reader;

pub(super) use self::load::{effective_precision, footprint, load};
