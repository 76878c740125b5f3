//! What kernels compute with.

use super::{isa::Isa, pool::ThreadPool};

/// The threads that kernels run on, and the instructions that they use.
pub struct Compute {
    /// The threads.
    pub pool: ThreadPool,
    /// The instruction set.
    pub isa: Isa,
}
