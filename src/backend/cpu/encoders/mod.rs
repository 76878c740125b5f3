//! Encoders ([`EncoderKind`](crate::model::EncoderKind)), which score translations or label texts: neural models that read a
//! whole sequence at once, so that every token attends to those before and behind it.
//!
//! To the engine an encoder is a model like any other, whose readout is a score, or a probe of its labels: queues, deadlines, fairness, batching and
//! the memory budget are the same ([`scoring_model`]). What differs between encoders is in [`encoder_model`].

mod bert_encoder;
mod classifier;
mod comet;
mod dense;
mod encoder_model;
mod info;
mod load;
mod metricx;
mod relative_positions;
mod scoring_model;
mod tensor_reader;

pub(super) use self::load::{effective_precision, footprint, load};
