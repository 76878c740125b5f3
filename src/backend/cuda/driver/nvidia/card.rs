//! Real cards.

use std::{
    ffi::c_int,
    sync::{Arc, Mutex},
};

use cudarc::driver::{result, sys::CUdevice_attribute};

use super::{context::Context, error::Call as _, queue::NvidiaQueue};
use crate::backend::{
    DeviceMemory,
    cuda::driver::{Architecture, Card, CardDescription, DriverError, Queue},
};

/// A card, with this process's state on it.
pub struct NvidiaCard(Arc<Context>);

/// Number of cards that this process can see. Call [`super::load`] first.
///
/// # Errors
/// When the driver does not say.
pub fn card_count() -> Result<u32, DriverError> {
    let count = result::device::get_count().of("cuDeviceGetCount")?;
    Ok(u32::try_from(count).unwrap_or(0))
}

impl NvidiaCard {
    /// Opens a card, counted as the driver counts them. It takes some hundred megabytes of its memory. Call
    /// [`super::load`] first.
    ///
    /// # Errors
    /// When there is no such card, or the driver fails.
    pub fn open(number: u32) -> Result<Self, DriverError> {
        let ordinal = c_int::try_from(number).unwrap_or(c_int::MAX);
        let device = result::device::get(ordinal).of("cuDeviceGet")?;
        // SAFETY: the driver has just named the device.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let attribute = |name| {
            attribute(name)
                .of("cuDeviceGetAttribute")
                .map(|value| value as u32)
        };
        use CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
        };
        let description = CardDescription {
            name: result::device::get_name(device).of("cuDeviceGetName")?,
            architecture: Architecture {
                major: attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                minor: attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            },
            multiprocessors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_memory: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        // SAFETY: the driver has just named the device. The context is released when this value is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.of("cuDevicePrimaryCtxRetain")?;
        Ok(Self(Arc::new(Context {
            device,
            context,
            description,
            modules: Mutex::default(),
        })))
    }
}

impl Card for NvidiaCard {
    fn description(&self) -> &CardDescription {
        &self.0.description
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        self.0.enter()?;
        let (free, total) = result::mem_get_info().of("cuMemGetInfo")?;
        Ok(DeviceMemory {
            total: total as u64,
            free: free as u64,
        })
    }

    fn open_queue(&self) -> Result<Arc<dyn Queue>, DriverError> {
        Ok(Arc::new(NvidiaQueue::open(Arc::clone(&self.0))?))
    }
}
