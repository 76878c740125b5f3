//! Starts what kernels compute with, and says why weights could not be repacked for them.

pub(super) use super::kernels::Compute;
use super::kernels::{Isa, PackError, ThreadPool};
use crate::model::{ResourceProblem, TensorProblem};

impl Compute {
    /// Starts `threads` threads, which compute with the best instruction set that the processor has.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub(super) fn start(threads: usize) -> Result<Self, ResourceProblem> {
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
