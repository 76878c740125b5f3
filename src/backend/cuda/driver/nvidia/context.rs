//! This process's state on a card: the driver's context, and the kernels that are loaded there.

use std::{
    collections::HashMap,
    ffi::{CString, c_int, c_void},
    sync::{Mutex, PoisonError},
};

use cudarc::driver::{result, sys};

use super::{error::Call as _, kernel_cache};
use crate::backend::cuda::{
    driver::{CardDescription, DriverError},
    kernels::{Kernel, KernelFile, attention_shared_bytes},
};

/// The process's state on a card. All queues share it.
pub(super) struct Context {
    pub device: sys::CUdevice,
    pub context: sys::CUcontext,
    pub description: CardDescription,
    pub modules: Mutex<HashMap<KernelFile, Module>>,
}

#[derive(Clone, Copy)]
pub(super) struct Module(sys::CUmodule);

// SAFETY: the driver's handles may be used by any thread that has made the context its own, as all calls do first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver synchronises its calls.
unsafe impl Sync for Context {}

impl Context {
    /// Makes the context the calling thread's.
    pub(super) fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as this value lives.
        unsafe { result::ctx::set_current(self.context) }.of("cuCtxSetCurrent")
    }

    /// A kernel, which is compiled and loaded if it was not before.
    pub(super) fn function(&self, kernel: Kernel) -> Result<sys::CUfunction, DriverError> {
        self.enter()?;
        let file = kernel.file();
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(&file) {
            Some(module) => *module,
            None => {
                let code = kernel_cache::machine_code(file, self.description.architecture)?;
                // SAFETY: the code is a whole module, which the driver copies.
                let loaded = unsafe { result::module::load_data(code.as_ptr().cast::<c_void>()) };
                *modules
                    .entry(file)
                    .or_insert(Module(loaded.of("cuModuleLoadData")?))
            }
        };
        let name = CString::new(kernel.name()).unwrap_or_default();
        // SAFETY: the module stays loaded as long as this value lives.
        let function = unsafe { result::module::get_function(module.0, name) }.of("cuModuleGetFunction")?;
        if let KernelFile::Attention { head } = file {
            let bytes = attention_shared_bytes(head as usize) as c_int;
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            let set = unsafe { result::function::set_function_attribute(function, attribute, bytes) };
            set.of("cuFuncSetAttribute")?;
        }
        Ok(function)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        for module in modules.values() {
            // SAFETY: all queues, which launch its kernels, are gone, for they hold this value.
            let _ = unsafe { result::module::unload(module.0) };
        }
        // SAFETY: it was retained once, when this value was made.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
