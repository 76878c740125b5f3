//! Self-tests for any device: checkpoints of every family must have the logits that transformers computes of them, and what a
//! made-up model computes of a prompt must not depend on what is beside it.

mod golden;
mod last_logits;
mod made_up;
mod verdict;

use super::{Backend, DeviceFinding};
use crate::model::spec::Precision;

/// The made-up model in each precision, by itself and beside the host's processor; and in each precision that does not only
/// change how quantised weights are computed, the golden checkpoints.
pub(super) fn beside(
    backend: &dyn Backend,
    processor: &dyn Backend,
    precisions: &[Precision],
) -> Vec<DeviceFinding> {
    let mut findings = Vec::new();
    for precision in precisions {
        if *precision != Precision::Int8 {
            findings.push(golden::of_checkpoints(backend, *precision, Some(processor)));
        }
        findings.push(made_up::of_model(backend, *precision));
        findings.push(made_up::against_processor(backend, *precision, processor));
    }
    findings
}

/// The same for the processor, beside which there is nothing to compare it with.
pub(super) fn of_processor(backend: &dyn Backend, precisions: &[Precision]) -> Vec<DeviceFinding> {
    let mut findings = Vec::new();
    for precision in precisions {
        if *precision != Precision::Int8 {
            findings.push(golden::of_checkpoints(backend, *precision, None));
        }
        findings.push(made_up::of_model(backend, *precision));
    }
    findings
}
