//! The time, as services read it.

use std::time::Instant;

/// The present moment by the clock of the runtime, which in a simulation is not the machine's.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
