//! Compiles kernels with NVRTC for the architecture of a card. No card is needed for that.

use std::ffi::{CStr, CString, c_char, c_int};

use cudarc::nvrtc::sys::{self, nvrtcProgram, nvrtcResult};

use super::{
    super::{Architecture, Consequence, DriverError},
    error::Call as _,
};
use crate::backend::cuda::kernels::{HEADER, KernelFile};

/// The machine code of a source for cards of this architecture.
///
/// # Errors
/// When the compiler fails; with its messages.
pub fn compile(file: KernelFile, architecture: Architecture) -> Result<Vec<u8>, DriverError> {
    let text = |text: &str| {
        CString::new(text).map_err(|_| failure("nvrtcCreateProgram", "a source has a zero byte".to_owned()))
    };
    let (source, name) = (text(file.source())?, text(file.name())?);
    let (header, header_name) = (text(HEADER.1)?, text(HEADER.0)?);
    let mut options = file.options();
    options.push(format!("--gpu-architecture={}", target(architecture)?));
    let options = options
        .iter()
        .map(|option| text(option))
        .collect::<Result<Vec<_>, _>>()?;
    let option_pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let mut program: nvrtcProgram = std::ptr::null_mut();
    let (headers, header_names) = ([header.as_ptr()], [header_name.as_ptr()]);
    // SAFETY: all pointers are to strings that end with a zero and outlive the call.
    unsafe {
        sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            1,
            headers.as_ptr(),
            header_names.as_ptr(),
        )
    }
    .of("nvrtcCreateProgram")?;
    let program = Program(program);
    // SAFETY: the program was created, and the options outlive the call.
    let compiled = unsafe {
        sys::nvrtcCompileProgram(
            program.0,
            option_pointers.len() as c_int,
            option_pointers.as_ptr(),
        )
    };
    if compiled != nvrtcResult::NVRTC_SUCCESS {
        let log = program.log();
        return Err(failure("nvrtcCompileProgram", format!("{}: {log}", file.name())));
    }
    program.cubin()
}

/// The compiler's version, as major and minor number.
pub(super) fn version() -> (i32, i32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the numbers are there to be written. Where the call fails they stay zero.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) };
    (major, minor)
}

/// The newest architecture that the compiler knows whose code runs on cards of this one.
fn target(card: Architecture) -> Result<Architecture, DriverError> {
    let mut count = 0;
    // SAFETY: the number is there to be written.
    unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) }.of("nvrtcGetNumSupportedArchs")?;
    let mut known = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: there is room for as many numbers as were just counted.
    unsafe { sys::nvrtcGetSupportedArchs(known.as_mut_ptr()) }.of("nvrtcGetSupportedArchs")?;
    let known = known.into_iter().map(|number| Architecture {
        major: number as u32 / 10,
        minor: number as u32 % 10,
    });
    // Code of a lower minor version runs too.
    let runs = |known: &Architecture| known.major == card.major && known.minor <= card.minor;
    known.filter(runs).max().ok_or_else(|| {
        let reason = format!("this NVRTC does not know cards of {card}; a newer CUDA 13 does");
        failure("nvrtcGetSupportedArchs", reason)
    })
}

struct Program(nvrtcProgram);

impl Program {
    fn log(&self) -> String {
        let mut size = 0;
        // SAFETY: the number is there to be written.
        unsafe { sys::nvrtcGetProgramLogSize(self.0, &mut size) };
        let mut log = vec![0u8; size.max(1)];
        // SAFETY: there is room for as many bytes as the log has.
        unsafe { sys::nvrtcGetProgramLog(self.0, log.as_mut_ptr().cast()) };
        let text = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy);
        text.map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    fn cubin(&self) -> Result<Vec<u8>, DriverError> {
        let mut size = 0;
        // SAFETY: the number is there to be written.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut size) }.of("nvrtcGetCUBINSize")?;
        let mut cubin = vec![0u8; size];
        // SAFETY: there is room for as many bytes as the code has.
        unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) }.of("nvrtcGetCUBIN")?;
        Ok(cubin)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created, and is used no more.
        unsafe { sys::nvrtcDestroyProgram(&mut self.0) };
    }
}

fn failure(call: &'static str, reason: String) -> DriverError {
    DriverError {
        call,
        reason,
        consequence: Consequence::ThisCall,
    }
}
