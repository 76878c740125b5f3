//! What kernels compute with.

use super::kernels::{Isa, PackError, ThreadPool};
use crate::model::{ResourceProblem, TensorProblem};

/// The threads of one model, and the instruction set that they compute with.
pub(super) struct Compute {
    pub pool: ThreadPool,
    pub isa: Isa,
}

impl Compute {
    /// Starts so many threads, which compute with the best instruction set that the processor has.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub(super) fn new(threads: usize) -> Result<Self, ResourceProblem> {
        Ok(Self {
            pool: ThreadPool::new(threads).map_err(ResourceProblem::Threads)?,
            isa: Isa::detect(),
        })
    }
}

/// Why a tensor could not be repacked for the kernels.
impl From<PackError> for TensorProblem {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Memory(error) => Self::Memory(error),
            PackError::Read(error) => Self::Read(error),
        }
    }
}
