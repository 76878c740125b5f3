//! Self-tests for any device: checkpoints of every family must have the logits that transformers computes of them, and what a
//! made-up model computes of a prompt must not depend on what is beside it.

mod golden;
mod last_logits;
mod made_up;
mod verdict;

use super::{Backend, DeviceFinding};
use crate::model::spec::Precision;

/// The made-up model in each precision, by itself and beside the host's processor; and in each precision that
/// [changes how float weights are multiplied](changes_float_weights), the golden checkpoints.
pub(super) fn beside(
    backend: &dyn Backend,
    processor: &dyn Backend,
    precisions: &[Precision],
) -> Vec<DeviceFinding> {
    let mut findings = Vec::new();
    for precision in precisions {
        if changes_float_weights(*precision) {
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
        if changes_float_weights(*precision) {
            findings.push(golden::of_checkpoints(backend, *precision, None));
        }
        findings.push(made_up::of_model(backend, *precision));
    }
    findings
}

/// Whether a precision changes how float weights are multiplied, which is all that the checkpoints have, and does not only
/// choose between two others.
fn changes_float_weights(precision: Precision) -> bool {
    match precision {
        Precision::Bf16 | Precision::F32 => true,
        Precision::Int8 | Precision::Mixed => false,
    }
}
