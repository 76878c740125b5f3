//! How a guard that looks at answers while they are written does on answers that people have labelled: how soon it blocks the
//! unsafe ones, and how often it blocks safe ones, beside its verdict on the complete answer.

mod figures;
mod labelled;
mod measure;

pub use self::{
    figures::{Delays, Found, SafeAnswers, Share, StreamingFigures, UnsafeAnswers, figures},
    labelled::{LabelledAnswer, LabelledFileError, Truth, read_labelled},
    measure::{Block, Measured, StreamingGuard, measure},
};
