//! Receipts: what is needed to check a verdict later, or to compute it again. A receipt has no text of the conversation unless
//! the caller asks for it; it names the conversation by its digest.
//!
//! This module knows the protocol and no server: it makes receipts of answers, holds them against each other and finds what is
//! wrong in one. Who asks again is the command line's matter (`cli::replay`).

mod body;
mod changes;
mod exact;
#[cfg(test)]
mod tests;

pub use body::{
    Asked, ComputedBy, DecisionReceipt, InputReceipt, KeptMessage, ReasonReceipt, Receipt, ReceiptBody,
    ReceiptError, RemoteReceipt, Unexplained, VerdictReceipt, input_digest,
};
pub use changes::{Change, changes};
pub use exact::Exact;
