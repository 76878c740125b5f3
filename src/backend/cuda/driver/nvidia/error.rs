//! What errors of CUDA's libraries mean.

use cudarc::{
    cublaslt::result::CublasError,
    driver::{
        result::DriverError as CudaError,
        sys::CUresult::{self, *},
    },
    nvrtc::sys::nvrtcResult,
};

use super::super::{Consequence, DriverError};

/// Names the call that failed.
pub(super) trait Call<T> {
    fn of(self, call: &'static str) -> Result<T, DriverError>;
}

impl<T> Call<T> for Result<T, CudaError> {
    fn of(self, call: &'static str) -> Result<T, DriverError> {
        self.map_err(|error| DriverError {
            call,
            reason: described(error),
            consequence: consequence(error.0),
        })
    }
}

impl<T> Call<T> for Result<T, CublasError> {
    fn of(self, call: &'static str) -> Result<T, DriverError> {
        self.map_err(|CublasError(status)| DriverError {
            call,
            reason: format!("{status:?}"),
            consequence: Consequence::ThisCall,
        })
    }
}

impl Call<()> for nvrtcResult {
    fn of(self, call: &'static str) -> Result<(), DriverError> {
        match self {
            nvrtcResult::NVRTC_SUCCESS => Ok(()),
            failed => Err(DriverError {
                call,
                reason: format!("{failed:?}"),
                consequence: Consequence::ThisCall,
            }),
        }
    }
}

fn described(error: CudaError) -> String {
    let code = error.0;
    let text = error.error_string().ok().and_then(|text| text.to_str().ok());
    match text {
        Some(text) => format!("{text} ({code:?})"),
        None => format!("{code:?}"),
    }
}

fn consequence(code: CUresult) -> Consequence {
    match code {
        CUDA_ERROR_OUT_OF_MEMORY => Consequence::OutOfMemory,
        // After these the process's state on the card is broken; a new process may use it.
        CUDA_ERROR_ILLEGAL_ADDRESS
        | CUDA_ERROR_LAUNCH_FAILED
        | CUDA_ERROR_LAUNCH_TIMEOUT
        | CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUDA_ERROR_MISALIGNED_ADDRESS
        | CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUDA_ERROR_INVALID_PC
        | CUDA_ERROR_ASSERT
        | CUDA_ERROR_TENSOR_MEMORY_LEAK
        | CUDA_ERROR_CONTAINED
        | CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUDA_ERROR_DEINITIALIZED
        | CUDA_ERROR_ECC_UNCORRECTABLE
        | CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUDA_ERROR_EXTERNAL_DEVICE
        | CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUDA_ERROR_NO_DEVICE
        | CUDA_ERROR_SYSTEM_NOT_READY
        | CUDA_ERROR_MPS_CLIENT_TERMINATED
        | CUDA_ERROR_UNKNOWN => Consequence::Lasting,
        _ => Consequence::ThisCall,
    }
}
